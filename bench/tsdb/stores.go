package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb"
)

// present is when everything happens: after all data.
var present = start.Add(26 * time.Hour)

// withoutSync is the operating system's file system without fsync, for what fills
// a directory before something is measured (I4). A killed process loses nothing
// by it, only a killed machine.
type withoutSync struct{ vfs.OS }

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error { return nil }

func (fs withoutSync) Create(name string) (vfs.File, error) {
	f, err := fs.OS.Create(name)
	return unsyncedFile{f}, err
}

func (withoutSync) SyncDir(string) error { return nil }

// options are those of our storage here: nothing is flushed unless asked for.
func (e env) options() tsdb.Options {
	defaults := tenant.DefaultSettings()
	defaults.Limits.SeriesPerMetric, defaults.Limits.Series = 10_000_000, 0
	return tsdb.Options{
		Dir:      filepath.Join(e.dir, "ours"),
		Now:      func() time.Time { return present },
		Defaults: defaults,
		// The segments of a server, whose log they are an eighth of.
		WALSegmentBytesMax: 64 << 20,
		WALBytesMax:        64 << 30,
		MemtableBytesMax:   64 << 30,
		MaintainInterval:   24 * time.Hour,
	}
}

// fillOptions are options without fsync.
func (e env) fillOptions() tsdb.Options {
	o := e.options()
	o.FS = withoutSync{}
	return o
}

// withOurs opens our storage, runs f and closes it.
func withOurs(o tsdb.Options, f func(db *tsdb.DB) error) error {
	db, err := tsdb.Open(o)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// appendRounds appends every batch once a window, in windows [from, to).
func appendRounds(db *tsdb.DB, batches []increment.Batch, from, to int) error {
	for w := from; w < to; w++ {
		for i := range batches {
			setWindow(&batches[i], w)
			if _, err := db.Append(context.Background(), tenant.Default, &batches[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// selectOurs calls f with every series that matchers select in the whole workload.
func selectOurs(db *tsdb.DB, f func(storage.Series) error, matchers ...*labels.Matcher) (err error) {
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: present.UnixMilli()})
	q, err := db.Querier(start.UnixMilli(), start.Add(24*time.Hour).UnixMilli()-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(ctx, true, nil, matchers...)
	for set.Next() {
		if err := f(set.At()); err != nil {
			return err
		}
	}
	return set.Err()
}

// everySeries selects all of the workload.
var everySeries = labels.MustNewMatcher(labels.MatchNotEqual, model.MetricNameLabel, "")

// lastValue is the last value of a series that is not stale.
func lastValue(s storage.Series) (float64, error) {
	it := s.Iterator(nil)
	last := math.NaN()
	for it.Next() != chunkenc.ValNone {
		if _, v := it.At(); !math.IsNaN(v) {
			last = v
		}
	}
	return last, it.Err()
}

// upstream is Prometheus's storage with its write-ahead log, fed as its scraper
// does: a reference for each series from its first append on.
type upstream struct {
	*promtsdb.DB
	refs   []storage.SeriesRef
	totals []float64
	// forgetRefs appends by labels alone.
	forgetRefs bool
}

func openUpstream(e env, series int) (*upstream, error) {
	db, err := promtsdb.Open(filepath.Join(e.dir, "upstream"), nil, nil, promtsdb.DefaultOptions(), nil)
	if err != nil {
		return nil, fmt.Errorf("open upstream's storage: %w", err)
	}
	db.DisableCompactions()
	return &upstream{DB: db, refs: make([]storage.SeriesRef, series), totals: make([]float64, series)}, nil
}

// withUpstream opens upstream's storage, runs f and closes it.
func withUpstream(e env, series int, f func(db *upstream) error) error {
	db, err := openUpstream(e, series)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// appendRounds appends one sample to every series and window in [from, to), in
// batches.
func (u *upstream) appendRounds(series []labels.Labels, from, to int) error {
	for w := from; w < to; w++ {
		for i := 0; i < len(series); i += batchSize {
			if err := u.appendBatch(series[i:min(i+batchSize, len(series))], i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendBatch appends the totals of a window to some series, the first of which is
// number first.
func (u *upstream) appendBatch(series []labels.Labels, first, window int) error {
	app := u.AppenderV2(context.Background())
	// A sample shows what its window added: it is at the window's end.
	t := windowTime(window) + step
	for i, ls := range series {
		n := first + i
		u.totals[n] += countOf(window, i)
		if u.forgetRefs {
			u.refs[n] = 0
		}
		ref, err := app.Append(u.refs[n], ls, 0, t, u.totals[n], nil, nil, storage.AOptions{})
		if err != nil {
			return errors.Join(err, app.Rollback())
		}
		u.refs[n] = ref
	}
	return app.Commit()
}
