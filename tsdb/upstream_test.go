package tsdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// twin is the same increments in our storage, where the view is computed, and in
// a real Prometheus TSDB as the dense samples that the view is defined as.
type twin struct {
	t        *testing.T
	ours     *testDB
	theirs   *teststorage.TestStorage
	engine   *promql.Engine
	now      int64 // the present of every query
	from, to time.Time
}

func newTestEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e8, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		Parser:                   parser.NewParser(parser.Options{EnableExperimentalFunctions: true}),
		NoStepSubqueryIntervalFn: func(int64) int64 { return minute },
	})
}

// newTwin fills both: counters that are dense, sparse, idle for hours, across
// midnight, and histograms; part of it late, part in blocks.
func newTwin(t *testing.T, seed uint64) *twin {
	r := rand.New(rand.NewPCG(seed, 5))
	tw := &twin{
		t: t, ours: openTestDB(t, "", nil), theirs: teststorage.New(t), engine: newTestEngine(),
		from: testStart.Add(-30 * time.Hour), to: testStart,
	}
	tw.now = testStart.Add(time.Duration(r.IntN(10)) * time.Hour).UnixMilli()
	*tw.ours.now = time.UnixMilli(tw.now)
	var incs []increment.Increment
	var dense []denseSample
	for i := range 14 {
		kind, name := increment.Counter, "events_total"
		if i >= 10 {
			kind, name = increment.Histogram, "latency"
		}
		ls := labels.FromStrings(model.MetricNameLabel, name, "page", fmt.Sprint("/", i%5), "country", []string{"DE", "PE"}[i%2])
		more, samples := tw.randomSeries(r, kind, ls, i)
		incs = append(incs, more...)
		dense = append(dense, samples...)
	}
	tw.fillTheirs(dense)
	r.Shuffle(len(incs), func(i, j int) { incs[i], incs[j] = incs[j], incs[i] })
	for len(incs) > 0 {
		n := min(len(incs), 400)
		tw.ours.mustAppend(tenant.Default, incs[:n]...)
		incs = incs[n:]
		if r.IntN(4) == 0 {
			if err := tw.ours.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tw
}

// denseSample is one sample for the Prometheus TSDB.
type denseSample struct {
	labels labels.Labels
	t      int64
	v      float64
	h      *histogram.FloatHistogram
}

// randomSeries makes the increments of one series and the samples that its view
// is defined as.
func (tw *twin) randomSeries(r *rand.Rand, kind increment.Kind, ls labels.Labels, i int) ([]increment.Increment, []denseSample) {
	var incs []increment.Increment
	all := points{kind: kind}
	mean := []float64{20_000, 120_000, 1_500_000, 3_000_000}[i%4]
	for ts := tw.from.UnixMilli(); ts < tw.to.UnixMilli(); ts += int64(r.ExpFloat64() * mean) {
		inc := increment.Increment{Series: increment.NewSeries(ls, kind, nil), Time: floorTo(ts, g), Value: float64(1 + r.IntN(5))}
		if kind == increment.Histogram {
			inc.Hist = &increment.Hist{}
			for range int(inc.Value) {
				inc.Hist.Observe(float64(r.IntN(400)))
			}
		}
		incs = append(incs, inc)
		if err := all.add(&inc); err != nil {
			tw.t.Fatal(err)
		}
	}
	var dense []denseSample
	for _, s := range oracle(all.win, viewParams{grid: g, idle: hour, now: tw.now, evalEnd: tw.now}) {
		d := denseSample{labels: ls, t: s.t}
		switch {
		case kind == increment.Histogram:
			sum := &increment.Hist{}
			for _, h := range all.hist[s.from:s.to] {
				sum.Merge(h)
			}
			if d.h = sum.Float(nil); s.stale {
				d.h.Sum = math.Float64frombits(value.StaleNaN)
			}
		case s.stale:
			d.v = math.Float64frombits(value.StaleNaN)
		default:
			for _, n := range all.value[s.from:s.to] {
				d.v += n
			}
		}
		dense = append(dense, d)
	}
	return incs, dense
}

// fillTheirs appends in order of time, as Prometheus wants it.
func (tw *twin) fillTheirs(dense []denseSample) {
	slices.SortStableFunc(dense, func(a, b denseSample) int { return cmp.Compare(a.t, b.t) })
	app := tw.theirs.AppenderV2(context.Background())
	for _, d := range dense {
		if _, err := app.Append(0, d.labels, 0, d.t, d.v, nil, d.h, storage.AppendV2Options{}); err != nil {
			tw.t.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		tw.t.Fatal(err)
	}
}

// randomQuery makes an expression over the twin's metrics.
func randomQuery(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	selector := func(name string) string {
		return name + pick("", "", `{page="/1"}`, `{page=~"/[123]"}`, `{country!="PE"}`, `{page="/9"}`)
	}
	modifier := func() string { return pick("", "", "", " offset 1h", " offset 7m", " offset -5m") }
	rng := pick("1m", "5m", "17m", "1h", "3h", "1d")
	counterRate := func() string {
		return fmt.Sprintf("%s(%s[%s]%s%s)", pick("rate", "increase", "increase", "delta", "irate", "resets", "changes"),
			selector("events_total"), rng, "", modifier())
	}
	anchored := func() string {
		return fmt.Sprintf("%s(%s[%s] anchored%s)", pick("rate", "increase"), selector("events_total"), rng, modifier())
	}
	over := func() string {
		return fmt.Sprintf("%s_over_time(%s[%s]%s)", pick("max", "min", "avg", "sum", "count", "last", "stddev"),
			selector("events_total"), pick("5m", "1h"), modifier())
	}
	latency := func() string {
		return fmt.Sprintf("%s(%s[%s]%s)", pick("rate", "increase"), selector("latency"), pick("5m", "1h", "6h"), modifier())
	}
	by := func() string {
		return pick("sum by (page)", "sum without (page)", "sum", "max by (country)", "avg by (page)", "count by (country)", "sum by (country) (topk by (country) (2,", "sum(bottomk(3,")
	}
	aggregate := func(expr string) string {
		op := by()
		if strings.HasSuffix(op, ",") {
			return op + expr + "))" // summed, because among equals either may be chosen
		}
		return op + "(" + expr + ")"
	}
	switch r.IntN(9) {
	case 0:
		return selector("events_total") + modifier()
	case 1:
		return counterRate()
	case 2:
		return anchored()
	case 3:
		return aggregate(counterRate())
	case 4:
		return aggregate(anchored())
	case 5:
		return fmt.Sprintf("histogram_quantile(%s, sum by (country)(%s))", pick("0.5", "0.95", "0.99"), latency())
	case 6:
		return fmt.Sprintf("%s(%s)", pick("histogram_count", "histogram_sum", "histogram_avg"), latency())
	case 7:
		return aggregate(over())
	}
	return fmt.Sprintf("%s - %s offset %s", selector("events_total"), "events_total", pick("5m", "1h", "1d"))
}

func (tw *twin) run(q storage.Queryable, expr string, start, end time.Time, step time.Duration) (string, error) {
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: tw.now})
	var query promql.Query
	var err error
	if step == 0 {
		query, err = tw.engine.NewInstantQuery(ctx, q, nil, expr, start)
	} else {
		query, err = tw.engine.NewRangeQuery(ctx, q, nil, expr, start, end, step)
	}
	if err != nil {
		return "", err
	}
	defer query.Close()
	res := query.Exec(ctx)
	if res.Err != nil {
		return "", res.Err
	}
	var lines []string
	point := func(m labels.Labels, t int64, v float64, h fmt.Stringer) {
		s := fmt.Sprintf("%s %d ", m, t)
		if h != nil {
			s += h.String()
		} else {
			// 12 digits: sums over series are added in no particular order.
			s += fmt.Sprintf("%.12g", v)
		}
		lines = append(lines, s)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		for _, s := range v {
			if s.H != nil {
				point(s.Metric, s.T, 0, s.H)
			} else {
				point(s.Metric, s.T, s.F, nil)
			}
		}
	case promql.Matrix:
		for _, s := range v {
			for _, f := range s.Floats {
				point(s.Metric, f.T, f.F, nil)
			}
			for _, h := range s.Histograms {
				point(s.Metric, h.T, 0, h.H)
			}
		}
	default:
		return fmt.Sprint(v), nil
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// compare fails where ours and upstream's answers to a query differ, and reports
// whether there is an answer.
func (tw *twin) compare(seed uint64, expr string, start, end time.Time, step time.Duration) bool {
	tw.t.Helper()
	want, err := tw.run(tw.theirs, expr, start, end, step)
	if err != nil {
		tw.t.Fatalf("seed %d: upstream: %s: %v", seed, expr, err)
	}
	got, err := tw.run(tw.ours, expr, start, end, step)
	if err != nil {
		tw.t.Fatalf("seed %d: %s: %v", seed, expr, err)
	}
	if got != want {
		tw.t.Fatalf("seed %d: %s from %d to %d by %s: %s", seed, expr, start.UnixMilli(), end.UnixMilli(), step, firstDifference(got, want))
	}
	return want != ""
}

// The view over increments answers every query as upstream's engine answers it
// over a Prometheus TSDB that holds the dense samples.
func TestViewAgainstUpstream(t *testing.T) {
	t.Parallel()
	queries, answers := 0, 0
	for seed := range uint64(4 / seedsOf) {
		tw := newTwin(t, seed)
		r := rand.New(rand.NewPCG(seed, 6))
		for range 90 {
			expr := randomQuery(r)
			start := tw.from.Add(time.Duration(r.Int64N(int64(40 * time.Hour)))).Truncate([]time.Duration{time.Millisecond, 15 * time.Second, time.Hour}[r.IntN(3)])
			if start.UnixMilli() > tw.now {
				start = time.UnixMilli(tw.now)
			}
			end, step := start, time.Duration(0)
			if r.IntN(2) == 0 {
				step = []time.Duration{15 * time.Second, time.Minute, 7 * time.Minute}[r.IntN(3)]
				end = start.Add(step * time.Duration(r.IntN(50)))
				if end.UnixMilli() > tw.now {
					end = time.UnixMilli(tw.now)
				}
				start = min2(start, end)
			}
			queries++
			if tw.compare(seed, expr, start, end, step) {
				answers++
			}
		}
	}
	t.Logf("%d queries, %d with an answer", queries, answers)
	if queries < 90 || answers < queries/2 {
		t.Errorf("only %d queries, %d with an answer", queries, answers)
	}
}

// firstDifference names a line that only one of two answers has.
func firstDifference(got, upstream string) string {
	g, u := strings.Split(got, "\n"), strings.Split(upstream, "\n")
	for _, l := range g {
		if !slices.Contains(u, l) {
			return fmt.Sprintf("%d lines, upstream %d: only ours has %q", len(g), len(u), l)
		}
	}
	for _, l := range u {
		if !slices.Contains(g, l) {
			return fmt.Sprintf("%d lines, upstream %d: only upstream has %q", len(g), len(u), l)
		}
	}
	return "the same lines, some repeated"
}

func min2(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// A bare selector at one instant has one value: by an instant query, by ranges
// that start elsewhere, and before and after a flush and a merge of blocks.
func TestSelectorHasOneValueAtAnInstant(t *testing.T) {
	t.Parallel()
	tw := newTwin(t, 99)
	r := rand.New(rand.NewPCG(99, 7))
	for range 40 {
		ts := tw.from.Add(time.Duration(r.Int64N(int64(32 * time.Hour))))
		if ts.UnixMilli() > tw.now {
			continue
		}
		expr := []string{"events_total", "latency"}[r.IntN(2)]
		want, err := tw.run(tw.ours, expr, ts, ts, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			step := time.Duration(1+r.IntN(600)) * time.Second
			start := ts.Add(-step * time.Duration(r.IntN(200)))
			all, err := tw.run(tw.ours, expr, start, ts, step)
			if err != nil {
				t.Fatal(err)
			}
			if got := linesAt(all, ts.UnixMilli()); got != want {
				t.Fatalf("at %s from %s by %s:\n%s\ninstant:\n%s", ts, start, step, got, want)
			}
		}
		if r.IntN(8) == 0 {
			tw.ours.mustAppend(tenant.Default, counterInc("unrelated_total", ts, 1))
			if err := errors.Join(tw.ours.Flush(context.Background(), tenant.Default), tw.ours.maintainBlocks(context.Background())); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := tw.run(tw.ours, expr, ts, ts, 0); err != nil || got != want {
			t.Fatalf("at %s after a flush and a merge: %v\n%s\nbefore:\n%s", ts, err, got, want)
		}
	}
}

// linesAt keeps the points at one time.
func linesAt(lines string, ts int64) string {
	var out []string
	for _, l := range strings.Split(lines, "\n") {
		if strings.Contains(l, fmt.Sprintf("} %d ", ts)) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// increase(... anchored) over whole hours is the integer number of events posted
// in them, whatever the idle gaps, midnights and flushes between.
func TestAnchoredIncreaseCountsExactly(t *testing.T) {
	t.Parallel()
	tw := newTwin(t, 7)
	stored := tw.ours.stored(tenant.Default, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "events_total"))
	checked := 0
	for h := range 32 {
		end := tw.from.Truncate(time.Hour).Add(time.Duration(h+1) * time.Hour)
		if end.UnixMilli() > tw.now {
			break
		}
		want := 0.0
		for key, n := range stored {
			var win int64
			if _, err := fmt.Sscan(key[strings.LastIndexByte(key, ' ')+1:], &win); err != nil {
				t.Fatal(err)
			}
			if win >= end.Add(-time.Hour).UnixMilli() && win < end.UnixMilli() {
				want += n
			}
		}
		got, err := tw.run(tw.ours, "sum(increase(events_total[1h] anchored))", end, end, 0)
		if err != nil {
			t.Fatal(err)
		}
		if want > 0 {
			checked++
			if s := fmt.Sprintf("{} %d %.12g", end.UnixMilli(), want); got != s {
				t.Errorf("the hour before %s: %q, want %q", end, got, s)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d hours had events", checked)
	}
}
