package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// Upstream's own suite passes on our storage with the planner in front: on what is in
// memory and what is in blocks.
func TestBuiltinSuite(t *testing.T) {
	for name, flush := range map[string]bool{"memory": false, "blocks": true} {
		t.Run(name, func(t *testing.T) {
			if raceDetector && !flush {
				t.Skip("the race detector takes long, and one storage is enough for it")
			}
			// The suite opens a storage for each of its files, and the engine one DB: it
			// is asked only for distinct series, of which there are none.
			engine := promql.NewEngine(promql.EngineOptions{
				Distinct: openSamples(t, false).DB, MaxSamples: 10_000, DropNamesLast: true, StartTimestamps: true, Language: &promqltest.TestParserOpts,
			})
			promqltest.RunBuiltinTestsWithStorage(t, scoped{engine}, func(tb testing.TB) storage.Storage { return openSamples(tb, flush) })
		})
	}
}

var samplesNow = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// samplesStorage is our storage as Prometheus's interface has it: what is appended are
// samples of one tenant.
type samplesStorage struct {
	*tsdb.DB
	tb    testing.TB
	flush bool
}

// unsynced is the operating system's file system without fsync.
type unsynced struct{ vfs.OS }

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error { return nil }

func (fs unsynced) Create(name string) (vfs.File, error) {
	f, err := fs.OS.Create(name)
	return unsyncedFile{f}, err
}

func (unsynced) SyncDir(string) error { return nil }

func openSamples(tb testing.TB, flush bool) *samplesStorage {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 1_000_000
	db, err := tsdb.Open(tsdb.Options{
		Dir: tb.TempDir(), FS: unsynced{}, Defaults: settings, MaintainInterval: time.Hour, WALSyncEvery: time.Hour,
		Now: func() time.Time { return samplesNow },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return &samplesStorage{db, tb, flush}
}

// scoped adds the scope that a request would have.
type scoped struct{ upstream.QueryEngine }

type scopedQuery struct{ upstream.Query }

func (e scoped) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	query, err := e.QueryEngine.NewInstantQuery(ctx, q, opts, qs, ts)
	if err != nil {
		return nil, err
	}
	return scopedQuery{query}, nil
}

func (e scoped) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, step time.Duration) (upstream.Query, error) {
	query, err := e.QueryEngine.NewRangeQuery(ctx, q, opts, qs, start, end, step)
	if err != nil {
		return nil, err
	}
	return scopedQuery{query}, nil
}

func (q scopedQuery) Exec(ctx context.Context) *upstream.Result {
	return q.Query.Exec(scope.With(ctx, scope.Scope{Tenant: tenant.Default, Now: samplesNow.UnixMilli()}))
}

func (*samplesStorage) ChunkQuerier(int64, int64) (storage.ChunkQuerier, error) {
	return nil, errors.New("not asked for")
}
func (*samplesStorage) StartTime() (int64, error)                 { return 0, nil }
func (*samplesStorage) Appender(context.Context) storage.Appender { panic("not asked for") }

func (s *samplesStorage) AppenderV2(context.Context) storage.AppenderV2 {
	return &samplesAppender{s: s}
}

type samplesAppender struct {
	s     *samplesStorage
	batch increment.Batch
}

func (a *samplesAppender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	inc := increment.Increment{Series: increment.NewSeries(ls, increment.Sample, nil), Time: t, At: st, Value: v}
	switch {
	case h != nil:
		inc.Native = &increment.Native{Int: h.Copy()}
	case fh != nil:
		inc.Native = &increment.Native{Float: fh.Copy()}
	}
	a.batch.Increments = append(a.batch.Increments, inc)
	return 1, nil
}

func (a *samplesAppender) Commit() error {
	if _, err := a.s.DB.Append(context.Background(), tenant.Default, &a.batch); err != nil {
		return err
	}
	a.batch = increment.Batch{}
	if a.s.flush {
		return a.s.DB.Flush(context.Background(), tenant.Default)
	}
	return nil
}

func (a *samplesAppender) Rollback() error                   { a.batch = increment.Batch{}; return nil }
func (a *samplesAppender) SetOptions(*storage.AppendOptions) {}
