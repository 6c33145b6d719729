package tsdb

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// sampleStorage is our storage as Prometheus's interface has it: what is appended are
// samples of one tenant.
type sampleStorage struct {
	*DB
	tb testing.TB
	// after is called after each commit: what is done to the data must not show.
	after func(*DB)
}

func newSampleStorage(tb testing.TB, after func(*DB)) *sampleStorage {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 1_000_000
	db, err := Open(Options{
		Dir: tb.TempDir(), FS: noSyncFS{}, Logger: slog.New(slog.DiscardHandler), Defaults: settings, MaintainInterval: time.Hour,
		Now: func() time.Time { return testStart },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return &sampleStorage{DB: db, tb: tb, after: after}
}

func (s *sampleStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.DB.Querier(mint, maxt)
	return scopedQuerier{q}, err
}

// scopedQuerier adds the scope that a request would have.
type scopedQuerier struct {
	storage.Querier
}

func (q scopedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(scope.With(ctx, scope.Scope{Tenant: tenant.Default, Now: testStart.UnixMilli()}), sorted, hints, ms...)
}

func (*sampleStorage) ChunkQuerier(int64, int64) (storage.ChunkQuerier, error) {
	return nil, errors.New("not asked for")
}
func (*sampleStorage) StartTime() (int64, error)                   { return 0, nil }
func (s *sampleStorage) Appender(context.Context) storage.Appender { panic("not asked for") }

func (s *sampleStorage) AppenderV2(context.Context) storage.AppenderV2 {
	return &sampleAppender{s: s}
}

type sampleAppender struct {
	s     *sampleStorage
	batch increment.Batch
}

func (a *sampleAppender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
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

func (a *sampleAppender) Commit() error {
	if _, err := a.s.DB.Append(context.Background(), tenant.Default, &a.batch); err != nil {
		return err
	}
	a.batch = increment.Batch{}
	if a.s.after != nil {
		a.s.after(a.s.DB)
	}
	return nil
}

func (a *sampleAppender) Rollback() error                   { a.batch = increment.Batch{}; return nil }
func (a *sampleAppender) SetOptions(*storage.AppendOptions) {}

// Upstream's own suite passes on our storage: from memory, and from blocks that are
// flushed and merged all the time.
func TestBuiltinSuiteOnOurStorage(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(*DB){
		"memory": nil,
		"blocks": func(db *DB) {
			if err := errors.Join(db.Flush(context.Background(), tenant.Default), db.maintainBlocks(context.Background())); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
				MaxSamples: 10_000, Timeout: 100 * time.Second, NoStepSubqueryIntervalFn: func(int64) int64 { return minute },
				EnableAtModifier: true, EnableNegativeOffset: true, EnableDelayedNameRemoval: true, UseStartTimestamps: true,
				Parser: parser.NewParser(promqltest.TestParserOpts),
			})
			promqltest.RunBuiltinTestsWithStorage(t, engine, func(tb testing.TB) storage.Storage { return newSampleStorage(tb, after) })
		})
	}
}

// The last written of one series and time stands, whatever came between and wherever
// it is: in memory, logged, logged again, in blocks, merged ones too.
func TestLastWrittenSampleStands(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 31))
		db := openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} })
		ls := []labels.Labels{labels.FromStrings("__name__", "up", "job", "a"), labels.FromStrings("__name__", "up", "job", "b")}
		want := map[string]float64{}
		for op := range 250 {
			var batch []increment.Increment
			for range 1 + r.IntN(4) {
				l := ls[r.IntN(2)]
				// Few times, over three days.
				ts := testStart.Add(-time.Duration(r.IntN(3)*24)*time.Hour).UnixMilli() + int64(r.IntN(12))*minute
				v := float64(seed*1000) + float64(op) + 1
				batch = append(batch, increment.Increment{Series: increment.NewSeries(l, increment.Sample, nil), Time: ts, Value: v})
				want[storedKey(l, ts)] = v + 1 // stored adds 1 to tell a zero from nothing
			}
			db.mustAppend(tenant.Default, batch...)
			ctx := context.Background()
			var err error
			switch r.IntN(14) {
			case 0, 1, 2:
				err = db.Flush(ctx, tenant.Default)
			case 3:
				db = db.reopen(func(o *Options) { o.FS = noSyncFS{} })
			case 4:
				var s *store
				if s, err = db.store(tenant.Default, false); err == nil {
					_, err = s.relog(ctx, nil)
				}
			case 5, 6:
				*db.now = testStart.Add(time.Duration(r.IntN(4)) * 24 * time.Hour)
				err = db.maintainBlocks(ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
			if op%20 == 19 {
				if err := diff(db.stored(tenant.Default), want); err != nil {
					t.Fatalf("seed %d, operation %d: %v", seed, op, err)
				}
			}
		}
	}
}

// Blocks with samples merge with their neighbours in the order of writing only.
func TestCompactionKeepsTheOrderOfSamples(t *testing.T) {
	block := func(n byte, seq uint64, samples bool, from, to int64) blockInfo {
		b := blockInfo{Seq: seq, Samples: samples, MinTime: from, MaxTime: to}
		b.ULID[0] = n
		return b
	}
	a, b, c := block(1, 1, true, 0, 10), block(2, 2, true, 5, 20), block(3, 3, true, 8, 30)
	other, counters := block(4, 2, true, 100, 110), block(5, 2, false, 0, 30)
	for _, tc := range []struct {
		name      string
		pick, all []blockInfo
		want      bool
	}{
		{"all", []blockInfo{a, b, c}, []blockInfo{a, b, c}, true},
		{"neighbours", []blockInfo{a, b}, []blockInfo{a, b, c}, true},
		{"over one between", []blockInfo{a, c}, []blockInfo{a, b, c}, false},
		{"over one of another time", []blockInfo{a, c}, []blockInfo{a, other, c}, true},
		{"over one without samples", []blockInfo{a, c}, []blockInfo{a, counters, c}, true},
		{"without samples over one with", []blockInfo{counters, other}, []blockInfo{counters, other, a, b, c}, true},
	} {
		if got := neighbours(tc.pick, tc.all); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// No two blocks have one place in the order: one that a flush wrote for another day may
// be merged without that of this day.
func TestBlocksOfAFlushAreInOrder(t *testing.T) {
	db := openTestDB(t, "", nil)
	for range 2 {
		for day := range 3 {
			ts := testStart.Add(-time.Duration(day) * 24 * time.Hour).UnixMilli()
			db.mustAppend(tenant.Default, increment.Increment{Series: series(increment.Sample, "up"), Time: ts, Value: 1})
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for _, b := range s.man.Blocks {
		if seen[b.Seq] || b.Seq == 0 || !b.Samples {
			t.Errorf("block of %d has the place %d, samples %v", b.MinTime, b.Seq, b.Samples)
		}
		seen[b.Seq] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d blocks", len(seen))
	}
}

// Samples and gauges past the limit are refused by index, with the limit in the
// message, and the rest of the batch counts; so are other kinds of a name.
func TestRefusedSamplesLeaveTheRest(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) {
		o.Defaults = tenant.DefaultSettings()
		o.Defaults.Limits.SeriesPerMetric = 10
	})
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	b := &increment.Batch{SkipRefused: true}
	for i := range 12 {
		b.Increments = append(b.Increments, increment.Increment{Series: series(increment.Sample, "up", "instance", string(rune('a'+i))), Time: testStart.UnixMilli() + int64(i), Value: 1})
	}
	b.Increments = append(b.Increments,
		increment.Increment{Series: series(increment.Sample, "c_total"), Time: 1, Value: 1},
		increment.Increment{Series: series(increment.Counter, "up"), Time: 0, Value: 1},
		increment.Increment{Series: series(increment.Sample, "down"), Time: testStart.UnixMilli(), Value: math.NaN()})
	if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
		t.Fatal(err)
	}
	if len(b.Refused) != 5 {
		t.Fatalf("%d are refused: %v", len(b.Refused), b.Refused)
	}
	var limit *LimitError
	var kind *KindError
	for i, r := range b.Refused {
		switch {
		case r.Index != 9+i:
			t.Errorf("refusal %d is of increment %d", i, r.Index)
		case i < 3 && (!errors.As(r.Err, &limit) || limit.Limit != 10):
			t.Errorf("increment %d: %v", r.Index, r.Err)
		case i >= 3 && !errors.As(r.Err, &kind):
			t.Errorf("increment %d: %v", r.Index, r.Err)
		}
	}
	if kind == nil || kind.Error() != `metric "up" is a sample, not a counter` {
		t.Errorf("the conflict reads %v", kind)
	}
	if got := len(db.stored(tenant.Default)); got != 1+9+1 {
		t.Errorf("%d series are stored, want 11", got)
	}
	if _, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{
		counterInc("good_total", testStart, 1), {Series: series(increment.Gauge, "up"), Time: floorTo(testStart.UnixMilli(), g), At: testStart.UnixMilli()},
	}}); !errors.As(err, &kind) {
		t.Errorf("a batch that says nothing of refusals: %v", err)
	}
	if got := len(db.stored(tenant.Default)); got != 11 {
		t.Errorf("a refused batch counts in part: %d series", got)
	}
}

// A block without samples lends a merged block no place among those with samples: what
// was overwritten stays overwritten.
func TestMergedBlockKeepsThePlaceOfItsSamples(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} })
	flush := func(incs ...increment.Increment) {
		t.Helper()
		db.mustAppend(tenant.Default, incs...)
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	sample := func(v float64) increment.Increment {
		return increment.Increment{Series: series(increment.Sample, "up"), Time: testStart.UnixMilli(), Value: v}
	}
	// What overwrites comes in a block too large to be merged with the others.
	big := []increment.Increment{sample(2)}
	for i := range 4000 {
		big = append(big, increment.Increment{Series: series(increment.Sample, "wide", "i", strconv.Itoa(i)), Time: testStart.UnixMilli(), Value: 1})
	}
	flush(sample(1))
	flush(big...)
	flush(counterInc("events_total", testStart, 1))
	*db.now = testStart.Add(72 * time.Hour)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.man.Blocks); n != 2 {
		t.Fatalf("%d blocks, the two small ones should be one", n)
	}
	up := labels.MustNewMatcher(labels.MatchEqual, "__name__", "up")
	if got := total(db.stored(tenant.Default, up)) - 1; got != 2 {
		t.Errorf("the sample is %v, 2 was written last", got)
	}
}

// Whether a histogram is a reset is asked of the one before it of the merged series,
// not of the one before it in its memtable that the query does not read.
func TestResetsDoNotDependOnTheRange(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} })
	hist := func(after time.Duration, n uint64) increment.Increment {
		return increment.Increment{Series: series(increment.Sample, "latency"), Time: testStart.Add(after).UnixMilli(), Native: &increment.Native{Int: &histogram.Histogram{
			Count: n, Sum: float64(n), PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{int64(n)},
		}}}
	}
	db.mustAppend(tenant.Default, hist(2*time.Minute, 5))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	db.mustAppend(tenant.Default, hist(time.Minute, 1), hist(3*time.Minute, 2))
	tw := &twin{t: t, ours: db, now: testStart.Add(time.Hour).UnixMilli(), engine: newTestEngine()}
	at := testStart.Add(3 * time.Minute)
	for rng, want := range map[string]string{"150s": "1", "90s": "1"} {
		got, err := tw.run(db, "resets(latency["+rng+"])", at, at, 0)
		if want := "{} " + strconv.FormatInt(at.UnixMilli(), 10) + " " + want; err != nil || got != want {
			t.Errorf("over %s: %q, %v; want %q", rng, got, err, want)
		}
	}
}
