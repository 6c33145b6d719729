package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	twinStart = 1_699_998_000_000 // 40 minutes before a midnight UTC
	twinSpan  = 3 * 3_600_000
	twinGrid  = 15_000
)

// twin is one set of data in our storage and, as the samples that our storage shows, in
// upstream's.
type twin struct {
	t      *testing.T
	r      *rand.Rand
	db     *tsdb.DB
	theirs *teststorage.TestStorage
	now    int64 // the present of queries
	// dataEnd is the present after all data.
	dataEnd int64
	incs    []increment.Increment
	coarse  bool // what is in blocks is downsampled
	open    func(now time.Time, maintain time.Duration) *prometheus.Registry
}

// newTwin fills both with series of all kinds: dense and sparse, with gaps, resets,
// markers of staleness, births and deaths; late and out of order; in memory and in
// blocks.
func newTwin(t *testing.T, r *rand.Rand) *twin {
	tw := &twin{t: t, r: r, dataEnd: twinStart + twinSpan + 7*twinGrid, theirs: teststorage.New(t)}
	tw.now = tw.dataEnd
	settings := tenant.DefaultSettings()
	if r.IntN(2) == 0 { // shorter and longer than what the others have
		settings.IdleTimeouts = tenant.IdleTimeouts{
			"clicks": tenant.Duration(3 * time.Minute), "temperature": tenant.Duration(2 * time.Minute), "size": tenant.Duration(150 * time.Second),
			"views_total": tenant.Duration(3 * time.Hour), "latency": tenant.Duration(24 * time.Hour),
		}
	}
	if tw.coarse = r.IntN(2) == 0; tw.coarse {
		settings.Downsample = tenant.DownsampleRules{{After: tenant.Duration(24 * time.Hour), To: tenant.Duration(time.Minute)}, {After: tenant.Duration(48 * time.Hour), To: tenant.Duration(5 * time.Minute)}}
	}
	tw.start(settings)
	for i, page := range []string{"/", "/a", "/b", "/c"} {
		for j, country := range []string{"DE", "FR", "PE"} {
			set := func(name string) labels.Labels {
				return labels.FromStrings(model.MetricNameLabel, name, "page", page, "country", country)
			}
			if r.IntN(8) > 0 {
				tw.counter(set("views_total"), []int64{twinGrid, 40_000, 300_000, 2_400_000}[i], j == 1)
			}
			tw.gauge(set("temperature"))
			tw.samples(set("requests_total"), true)
			tw.samples(set("load"), false)
			if i < 2 {
				tw.counter(set("clicks"), 60_000, false)
				tw.histograms(set("latency"), nil)
				tw.histograms(set("size"), []float64{0.1, 0.5, 1, 5})
				tw.natives(set("native"), i == 1 && j == 0)
				tw.distinct(set("visitors"))
			}
		}
	}
	tw.append()
	tw.fillTheirs()
	return tw
}

// start opens storage with the tenant's settings.
func (tw *twin) start(settings tenant.Settings) {
	dir := tw.t.TempDir()
	tw.open = func(now time.Time, maintain time.Duration) *prometheus.Registry {
		reg := prometheus.NewRegistry()
		db, err := tsdb.Open(tsdb.Options{
			Dir: dir, Logger: slog.New(slog.DiscardHandler), Defaults: settings, MaintainInterval: maintain, Registerer: reg,
			Now: func() time.Time { return now }, WALSyncEvery: time.Hour,
		})
		if err != nil {
			tw.t.Fatal(err)
		}
		tw.db = db
		return reg
	}
	tw.open(time.UnixMilli(tw.dataEnd), time.Hour)
	tw.t.Cleanup(func() {
		if err := tw.db.Close(); err != nil {
			tw.t.Error(err)
		}
	})
}

func (tw *twin) add(ls labels.Labels, kind increment.Kind, inc increment.Increment) {
	inc.Series = increment.NewSeries(ls, kind, nil)
	tw.incs = append(tw.incs, inc)
}

// times are window starts with gaps of about mean between them, sometimes long ones.
func (tw *twin) times(mean int64) []int64 {
	var out []int64
	t := int64(twinStart)
	if tw.r.IntN(3) == 0 {
		t += tw.r.Int64N(twinSpan/2/twinGrid) * twinGrid // born late
	}
	end := int64(twinStart + twinSpan)
	if tw.r.IntN(4) == 0 {
		end -= tw.r.Int64N(twinSpan / 2) // dies early
	}
	for t < end {
		out = append(out, t)
		step := twinGrid
		if mean > twinGrid {
			step = int(tw.r.ExpFloat64() * float64(mean))
		}
		if tw.r.IntN(200) == 0 {
			step += 5_000_000
		}
		t += max(int64(step)/twinGrid, 1) * twinGrid
	}
	return out
}

func (tw *twin) counter(ls labels.Labels, mean int64, fractions bool) {
	for _, t := range tw.times(mean) {
		v := float64(1 + tw.r.IntN(9))
		if fractions {
			v += tw.r.Float64()
		}
		tw.add(ls, increment.Counter, increment.Increment{Time: t, Value: v})
	}
}

func (tw *twin) gauge(ls labels.Labels) {
	for _, t := range tw.times(90_000) {
		tw.add(ls, increment.Gauge, increment.Increment{Time: t, At: t + tw.r.Int64N(twinGrid), Value: float64(tw.r.IntN(60)) - 20})
	}
}

func (tw *twin) distinct(ls labels.Labels) {
	for _, t := range tw.times(60_000) {
		tw.add(ls, increment.Distinct, increment.Increment{Time: t, IDs: []uint64{tw.r.Uint64N(30), tw.r.Uint64N(30)}})
	}
}

func (tw *twin) histograms(ls labels.Labels, bounds []float64) {
	kind := increment.Histogram
	if bounds != nil {
		kind = increment.Buckets
	}
	for i, t := range tw.times(45_000) {
		if bounds != nil && i == 100 && tw.r.IntN(3) == 0 {
			bounds = []float64{0.1, 1, 10}
		}
		h := &increment.Hist{Bounds: bounds}
		for range 1 + tw.r.IntN(5) {
			h.Observe(tw.r.ExpFloat64())
		}
		tw.add(ls, kind, increment.Increment{Time: t, Hist: h})
	}
}

// samples are a scraped counter's or gauge's: off the grid, with jitter.
func (tw *twin) samples(ls labels.Labels, counter bool) {
	v := tw.r.Float64() * 100
	jitter := int64(0)
	if tw.r.IntN(2) == 0 {
		jitter = 500
	}
	for _, t := range tw.times(twinGrid) {
		switch {
		case tw.r.IntN(60) == 0:
			tw.add(ls, increment.Sample, increment.Increment{Time: t + 3_000, Value: math.Float64frombits(value.StaleNaN)})
			continue
		case tw.r.IntN(80) == 0:
			v = tw.r.Float64()
		case counter:
			v += float64(tw.r.IntN(50)) / 8
		case tw.r.IntN(300) == 0:
			v = math.NaN()
		default:
			v = tw.r.NormFloat64() * 10
		}
		tw.add(ls, increment.Sample, increment.Increment{Time: t + 3_000 + tw.r.Int64N(jitter+1), Value: v})
	}
}

// natives are Prometheus's histograms, some of integers and some of floats; mixed ones
// have floats among them.
func (tw *twin) natives(ls labels.Labels, mixed bool) {
	sum := &increment.Hist{}
	for i, t := range tw.times(twinGrid) {
		if tw.r.IntN(100) == 0 {
			sum = &increment.Hist{}
		}
		for range tw.r.IntN(4) {
			sum.Observe(tw.r.ExpFloat64() * 3)
		}
		inc := increment.Increment{Time: t + 1_000, Native: &increment.Native{Float: sum.Float(nil).Copy()}}
		if mixed && i/40%2 == 1 {
			inc.Native, inc.Value = nil, float64(i)
		}
		tw.add(ls, increment.Sample, inc)
	}
}

// append applies what there is out of order, in batches, and flushes now and then.
func (tw *twin) append() {
	slices.SortStableFunc(tw.incs, func(a, b increment.Increment) int { return cmp.Compare(a.Time, b.Time) })
	late := tw.incs[:0:0]
	var batch increment.Batch
	flush := func() {
		if _, err := tw.db.Append(context.Background(), tenant.Default, &batch); err != nil {
			tw.t.Fatal(err)
		}
		batch = increment.Batch{}
	}
	for _, inc := range tw.incs {
		if tw.r.IntN(15) == 0 {
			late = append(late, inc)
			continue
		}
		if batch.Increments = append(batch.Increments, inc); len(batch.Increments) == 3000 {
			flush()
			if tw.r.IntN(2) == 0 {
				if err := tw.db.Flush(context.Background(), tenant.Default); err != nil {
					tw.t.Fatal(err)
				}
			}
		}
	}
	if tw.coarse {
		flush()
		tw.downsample()
	}
	batch.Increments = append(batch.Increments, late...)
	flush()
	tw.incs = nil
}

// downsample flushes all, and opens storage when it is months old, until that is on a
// coarser grid.
func (tw *twin) downsample() {
	reopen := func(now time.Time, maintain time.Duration) *prometheus.Registry {
		if err := tw.db.Close(); err != nil {
			tw.t.Fatal(err)
		}
		return tw.open(now, maintain)
	}
	if err := tw.db.Flush(context.Background(), tenant.Default); err != nil {
		tw.t.Fatal(err)
	}
	reg := reopen(time.UnixMilli(tw.dataEnd).Add(60*24*time.Hour), time.Millisecond)
	deadline := time.Now().Add(time.Minute)
	for n, same := 0.0, 0; n == 0 || same < 10; same++ {
		if time.Now().After(deadline) {
			tw.t.Fatal("nothing is downsampled")
		}
		time.Sleep(5 * time.Millisecond)
		if now := gaugeOf(tw.t, reg, "quipu_tsdb_downsampled_blocks_total"); now != n {
			n, same = now, 0
		}
	}
	reopen(time.UnixMilli(tw.dataEnd), time.Hour)
}

// Querier is that of our storage with the scope of a request.
func (tw *twin) context() context.Context {
	return scope.With(tw.t.Context(), scope.Scope{Tenant: tenant.Default, Now: tw.now})
}

// fillTheirs gives upstream's storage every sample that ours shows.
func (tw *twin) fillTheirs() {
	type sample struct {
		ls labels.Labels
		t  int64
		v  float64
		h  *histogram.FloatHistogram
	}
	q, err := tw.db.Querier(twinStart-twinSpan, tw.now)
	if err != nil {
		tw.t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(tw.context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel,
		"views_total|clicks|temperature|requests_total|load|latency|size|size_bucket|size_sum|size_count|native|visitors"))
	var all []sample
	for set.Next() {
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			s := sample{ls: set.At().Labels()}
			if vt == chunkenc.ValFloat {
				s.t, s.v = it.At()
			} else {
				s.t, s.h = it.AtFloatHistogram(nil)
			}
			all = append(all, s)
		}
		if err := it.Err(); err != nil {
			tw.t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		tw.t.Fatal(err)
	}
	slices.SortStableFunc(all, func(a, b sample) int { return cmp.Compare(a.t, b.t) })
	app := tw.theirs.AppenderV2(context.Background())
	for _, s := range all {
		if _, err := app.Append(0, s.ls, 0, s.t, s.v, nil, s.h, storage.AppendV2Options{}); err != nil {
			tw.t.Fatal(fmt.Errorf("%s at %d: %w", s.ls, s.t, err))
		}
	}
	if err := app.Commit(); err != nil {
		tw.t.Fatal(err)
	}
}

// sorted makes upstream's storage hand out series by their labels, as ours does: equals
// of topk are chosen by order.
type sorted struct{ storage.Queryable }

func (s sorted) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return sortedQuerier{q}, err
}

type sortedQuerier struct{ storage.Querier }

func (q sortedQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, hints, ms...)
}
