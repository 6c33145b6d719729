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
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

func bucketsInc(s *increment.Series, ts int64, bounds []float64, vals ...float64) increment.Increment {
	h := &increment.Hist{Bounds: bounds}
	for _, v := range vals {
		h.Observe(v)
	}
	return increment.Increment{Series: s, Time: floorTo(ts, g), Hist: h}
}

// A change of bounds ends the run: what it had shows up to where the next begins, which
// starts from nothing a millisecond later. A bucket that the new bounds lack goes stale.
func TestViewEndsRunsWhereBoundsChange(t *testing.T) {
	s := series(increment.Buckets, "load")
	p := &points{kind: increment.Buckets}
	for _, inc := range []increment.Increment{
		bucketsInc(s, at("10:00:00"), []float64{1, 2}, 0.5, 1.5),
		bucketsInc(s, at("10:01:00"), []float64{1, 2}, 3),
		bucketsInc(s, at("10:02:00"), []float64{1, 5}, 0.1, 4),
	} {
		if err := p.add(&inc); err != nil {
			t.Fatal(err)
		}
	}
	v := present(never)
	v.idle = 5 * minute
	view := func(part classicPart, bound float64) string {
		return samples(newClassicView(p, v, part, bound, 0, never))
	}
	for _, tc := range []struct {
		part  classicPart
		bound float64
		want  string
	}{
		{classicCount, 0, "10:00:00 0; 10:00:15 2 ... 10:01:00; 10:01:15 3 ... 10:02:00; 10:02:00.001 0; 10:02:15 2 ... 10:07:15; 10:07:30 stale"},
		{classicSum, 0, "10:00:00 0; 10:00:15 2 ... 10:01:00; 10:01:15 5 ... 10:02:00; 10:02:00.001 0; 10:02:15 4.1 ... 10:07:15; 10:07:30 stale"},
		{classicBucket, 1, "10:00:00 0; 10:00:15 1 ... 10:02:00; 10:02:00.001 0; 10:02:15 1 ... 10:07:15; 10:07:30 stale"},
		{classicBucket, 2, "10:00:00 0; 10:00:15 2 ... 10:02:00; 10:02:00.001 stale"},
		{classicBucket, 5, "10:02:00.001 0; 10:02:15 2 ... 10:07:15; 10:07:30 stale"},
		{classicBucket, math.Inf(1), "10:00:00 0; 10:00:15 2 ... 10:01:00; 10:01:15 3 ... 10:02:00; 10:02:00.001 0; 10:02:15 2 ... 10:07:15; 10:07:30 stale"},
	} {
		if got := view(tc.part, tc.bound); got != tc.want {
			t.Errorf("%s %v is\n %s\nwant\n %s", classicSuffixes[tc.part], tc.bound, got, tc.want)
		}
	}
	// The native view has the same times, and each run's own bounds.
	var native []string
	for it := newView(p, v, 0, never); it.Next() == chunkenc.ValFloatHistogram; {
		ts, h := it.AtFloatHistogram(nil)
		if err := h.Validate(); err != nil && !value.IsStaleNaN(h.Sum) {
			t.Errorf("at %s: %v", clock(ts), err)
		}
		if c := clock(ts); c == "10:02:00" || c == "10:02:00.001" || c == "10:02:15" {
			native = append(native, fmt.Sprintf("%s %v of %v", c, h.Count, h.CustomValues))
		}
	}
	if got, want := strings.Join(native, "; "), "10:02:00 3 of [1 2]; 10:02:00.001 0 of [1 5]; 10:02:15 2 of [1 5]"; got != want {
		t.Errorf("native view: %s, want %s", got, want)
	}
}

// newBucketsTwin has histograms with buckets in ours, and in a Prometheus TSDB what a
// scrape of them would store: native histograms and classic series.
func newBucketsTwin(t *testing.T, seed uint64) *twin {
	r := rand.New(rand.NewPCG(seed, 51))
	tw := &twin{
		t: t, ours: openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} }), theirs: teststorage.New(t), engine: newTestEngine(),
		from: testStart.Add(-20 * time.Hour), to: testStart,
	}
	tw.now = testStart.Add(time.Duration(r.IntN(4)) * time.Hour).UnixMilli()
	*tw.ours.now = time.UnixMilli(tw.now)
	var incs []increment.Increment
	var dense []denseSample
	for i := range 5 {
		name := []string{"load_seconds", "size_bytes"}[i%2]
		s := series(increment.Buckets, name, "page", fmt.Sprint("/", i), "country", []string{"DE", "PE"}[i/2%2])
		bounds := [][]float64{{0.5, 1, 2, 4}, {10, 100, 1000}}[i%2]
		p := &points{kind: increment.Buckets}
		mean := []float64{25_000, 200_000, 2_000_000}[i%3]
		for ts := tw.from.UnixMilli(); ts < tw.to.UnixMilli(); ts += int64(r.ExpFloat64() * mean) {
			inc := bucketsInc(s, ts, bounds, float64(r.IntN(int(2*bounds[len(bounds)-1]*4)))/4)
			incs = append(incs, inc)
			if err := p.add(&inc); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range oracle(p.win, viewParams{grid: g, idle: hour, now: tw.now, evalEnd: tw.now}) {
			sum := &increment.Hist{Bounds: bounds}
			for _, h := range p.hist[o.from:o.to] {
				sum.Merge(h)
			}
			dense = append(dense, scraped(s.Labels, o, sum)...)
		}
	}
	tw.fillTheirs(dense)
	r.Shuffle(len(incs), func(i, j int) { incs[i], incs[j] = incs[j], incs[i] })
	for len(incs) > 0 {
		n := min(len(incs), 1+r.IntN(900))
		tw.ours.mustAppend(tenant.Default, incs[:n]...)
		incs = incs[n:]
		if r.IntN(3) == 0 {
			if err := errors.Join(tw.ours.Flush(context.Background(), tenant.Default), tw.ours.maintainBlocks(context.Background())); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tw
}

// scraped is what Prometheus stores of one scrape of a histogram, native and classic.
func scraped(ls labels.Labels, o oracleSample, h *increment.Hist) []denseSample {
	b := labels.NewBuilder(ls)
	name := ls.Get(model.MetricNameLabel)
	stale := math.Float64frombits(value.StaleNaN)
	float := func(suffix, le string, v float64) denseSample {
		b.Set(model.MetricNameLabel, name+suffix)
		b.Set(model.BucketLabel, le)
		if le == "" {
			b.Del(model.BucketLabel)
		}
		if o.stale {
			v = stale
		}
		return denseSample{labels: b.Labels(), t: o.t, v: v}
	}
	native := denseSample{labels: ls, t: o.t, h: h.Float(nil)}
	if o.stale {
		native.h = &histogram.FloatHistogram{Schema: histogram.CustomBucketsSchema, CustomValues: h.Bounds, Sum: stale}
	}
	out := []denseSample{native, float("_sum", "", h.Sum), float("_count", "", float64(h.Count()))}
	for i, bound := range h.Bounds {
		out = append(out, float("_bucket", labels.FormatOpenMetricsFloat(bound), float64(h.UpTo(i))))
	}
	return append(out, float("_bucket", "+Inf", float64(h.Count())))
}

func randomBucketsQuery(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	name := pick("load_seconds", "size_bytes")
	ms := func(more ...string) string {
		var out []string
		if r.IntN(2) == 0 {
			out = append(out, pick(`page="/1"`, `page=~"/[0-2]"`, `country!="PE"`))
		}
		for _, m := range more {
			if r.IntN(2) == 0 {
				out = append(out, m)
			}
		}
		return "{" + strings.Join(out, ",") + "}"
	}
	le := pick(`le="1.0"`, `le="+Inf"`, `le=~"0.5|100.0"`, `le!="4.0"`, `le!~"1.*"`, `le=""`)
	rng := pick("1m", "5m", "1h", "6h")
	modifier := pick("", "", " offset 1h", " offset -7m")
	switch r.IntN(9) {
	case 0:
		return fmt.Sprintf("histogram_quantile(0.%d, sum by (le) (rate(%s_bucket%s[%s]%s)))", 1+r.IntN(9), name, ms(), rng, modifier)
	case 1:
		return fmt.Sprintf("histogram_quantile(0.%d, sum by (country) (rate(%s%s[%s]%s)))", 1+r.IntN(9), name, ms(), rng, modifier)
	case 2:
		return fmt.Sprintf("increase(%s%s%s[%s]%s)", name, pick("_count", "_sum"), ms(), rng, modifier)
	case 3:
		return name + "_bucket" + ms(le) + modifier
	case 4:
		return fmt.Sprintf("sum by (__name__, le) (%s)", fmt.Sprintf(`{__name__=~"%s"%s}`, pick("load_seconds_.*", "(load|size)_(seconds|bytes)_count", "size_bytes_bucket|load_seconds_sum"), pick("", `,country="DE"`, ","+le)))
	case 5:
		return fmt.Sprintf("sum(rate(%s_sum%s[%s])) / sum(rate(%s_count%s[%s]))", name, ms(), rng, name, ms(), rng)
	case 6:
		return fmt.Sprintf("%s(%s%s[%s] anchored%s)", pick("rate", "increase"), name, pick("_count", "_bucket"), rng, modifier)
	case 7:
		return fmt.Sprintf("histogram_%s(%s%s)", pick("count", "sum", "avg"), name, ms()+modifier)
	}
	return fmt.Sprintf("histogram_fraction(0, 1, rate(%s%s[%s]))", name, ms(), rng)
}

// Native and classic views of histograms with buckets answer as Prometheus does that
// scraped the same histogram in both forms.
func TestBucketsAgainstUpstream(t *testing.T) {
	t.Parallel()
	queries, answers := 0, 0
	for seed := range uint64(4 / seedsOf) {
		tw := newBucketsTwin(t, seed)
		r := rand.New(rand.NewPCG(seed, 52))
		for range 120 {
			expr := randomBucketsQuery(r)
			start := time.UnixMilli(min(tw.now, tw.from.Add(time.Duration(r.Int64N(int64(22*time.Hour)))).UnixMilli()))
			end, step := start, time.Duration(0)
			if r.IntN(2) == 0 {
				step = []time.Duration{15 * time.Second, 7 * time.Minute}[r.IntN(2)]
				end = time.UnixMilli(min(tw.now, start.Add(step*time.Duration(r.IntN(30))).UnixMilli()))
			}
			queries++
			if tw.compare(seed, expr, start, end, step) {
				answers++
			}
		}
	}
	t.Logf("%d queries, %d with an answer", queries, answers)
	if answers < queries/2 {
		t.Errorf("only %d of %d queries have an answer", answers, queries)
	}
}

// The index knows the classic series: where matchers name them, and nowhere else.
func TestClassicSeriesInTheIndex(t *testing.T) {
	db := openTestDB(t, "", nil)
	s := series(increment.Buckets, "load_seconds", "page", "/")
	db.mustAppend(tenant.Default, bucketsInc(s, testStart.UnixMilli(), []float64{0.5, 1}, 0.7), counterInc("c_total", testStart, 1, "page", "/"))
	matcher := func(m labels.MatchType, n, v string) *labels.Matcher { return labels.MustNewMatcher(m, n, v) }
	eq, ne, re, nre := labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp
	const nameLabel = model.MetricNameLabel
	for _, stage := range []string{"memory", "block", "opened again"} {
		switch stage {
		case "block":
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		case "opened again":
			db = db.reopen(nil)
		}
		q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour))
		for _, tc := range []struct {
			want string
			ms   []*labels.Matcher
		}{
			{"load_seconds", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds")}},
			{"load_seconds_bucket/+Inf load_seconds_bucket/0.5 load_seconds_bucket/1.0", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds_bucket")}},
			{"load_seconds_bucket/1.0", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds_bucket"), matcher(eq, "le", "1.0")}},
			{"load_seconds_bucket/+Inf load_seconds_bucket/0.5", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds_bucket"), matcher(ne, "le", "1.0")}},
			{"load_seconds_bucket/0.5", []*labels.Matcher{matcher(re, nameLabel, "load_seconds.*"), matcher(re, "le", "0.*")}},
			{"load_seconds_count load_seconds_sum", []*labels.Matcher{matcher(re, nameLabel, "load_seconds_(count|sum)")}},
			{"load_seconds load_seconds_count load_seconds_sum", []*labels.Matcher{matcher(re, nameLabel, "load.*"), matcher(eq, "le", "")}},
			{"load_seconds load_seconds_bucket/+Inf load_seconds_bucket/0.5 load_seconds_bucket/1.0 load_seconds_sum", []*labels.Matcher{matcher(re, nameLabel, "load_.*"), matcher(nre, nameLabel, ".*_count")}},
			{"c_total load_seconds", []*labels.Matcher{matcher(eq, "page", "/")}},
			{"c_total load_seconds", []*labels.Matcher{matcher(re, nameLabel, ".+")}},
			{"c_total load_seconds", []*labels.Matcher{matcher(ne, nameLabel, "")}},
			{"c_total load_seconds", []*labels.Matcher{matcher(re, nameLabel, `[a-zA-Z_:][a-zA-Z0-9_:]*`)}},
			{"c_total load_seconds", []*labels.Matcher{matcher(re, nameLabel, `\w+`)}},
			{"c_total load_seconds", []*labels.Matcher{matcher(re, nameLabel, `[a-z].*`)}},
			{"c_total load_seconds", []*labels.Matcher{matcher(re, nameLabel, `[a-z]+_[a-z]+(_[a-z]+)?`)}},
			{"c_total", []*labels.Matcher{matcher(ne, nameLabel, "load_seconds"), matcher(eq, "page", "/")}},
			{"", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds_bucket"), matcher(eq, "page", "/none")}},
			{"", []*labels.Matcher{matcher(eq, nameLabel, "c_total_bucket")}},
			{"", []*labels.Matcher{matcher(eq, nameLabel, "load_seconds_sum"), matcher(ne, "le", "")}},
		} {
			if got := seriesNames(t, q.Select(q.ctx, true, nil, tc.ms...)); got != tc.want {
				t.Errorf("%s: %v selects %q, want %q", stage, tc.ms, got, tc.want)
			}
		}
		values := func(name string, ms ...*labels.Matcher) string {
			t.Helper()
			out, _, err := q.LabelValues(q.ctx, name, nil, ms...)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(out, " ")
		}
		for _, tc := range []struct{ got, want string }{
			{values(nameLabel), "c_total load_seconds load_seconds_bucket load_seconds_count load_seconds_sum"},
			{values("le"), "+Inf 0.5 1.0"},
			{values("page"), "/"},
			{values("le", matcher(eq, nameLabel, "load_seconds_bucket")), "+Inf 0.5 1.0"},
			{values("le", matcher(eq, "page", "/")), ""},
			{values(nameLabel, matcher(re, nameLabel, "load.*")), "load_seconds load_seconds_bucket load_seconds_count load_seconds_sum"},
			{values("page", matcher(eq, nameLabel, "load_seconds_count")), "/"},
		} {
			if tc.got != tc.want {
				t.Errorf("%s: values %q, want %q", stage, tc.got, tc.want)
			}
		}
		names, _, err := q.LabelNames(q.ctx, nil)
		if err != nil || strings.Join(names, " ") != "__name__ le page" {
			t.Errorf("%s: label names %v, %v", stage, names, err)
		}
		names, _, err = q.LabelNames(q.ctx, nil, matcher(eq, nameLabel, "load_seconds"))
		if err != nil || strings.Join(names, " ") != "__name__ page" {
			t.Errorf("%s: label names of the histogram %v, %v", stage, names, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func seriesNames(t *testing.T, set storage.SeriesSet) string {
	t.Helper()
	var out []string
	prev := labels.EmptyLabels()
	for set.Next() {
		ls := set.At().Labels()
		if labels.Compare(prev, ls) >= 0 {
			t.Errorf("series %s follows %s", ls, prev)
		}
		prev = ls
		s := ls.Get(model.MetricNameLabel)
		if le := ls.Get("le"); le != "" {
			s += "/" + le
		}
		out = append(out, s)
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return strings.Join(out, " ")
}

// No metric has a name under which a histogram with buckets shows, whichever came
// first, also after it is only on disk.
func TestClassicNamesAreTaken(t *testing.T) {
	db := openTestDB(t, "", nil)
	hist := bucketsInc(series(increment.Buckets, "load_seconds"), testStart.UnixMilli(), []float64{1}, 0.5)
	db.mustAppend(tenant.Default, hist, counterInc("size_bytes_sum", testStart, 1), counterInc("requests_count", testStart, 1))
	for _, stage := range []string{"memory", "log", "block"} {
		for _, inc := range []increment.Increment{
			counterInc("load_seconds_bucket", testStart, 1),
			counterInc("load_seconds_count", testStart, 1),
			{Series: series(increment.Sample, "load_seconds_sum"), Time: 1},
			bucketsInc(series(increment.Buckets, "size_bytes"), testStart.UnixMilli(), []float64{1}, 0.5),
			bucketsInc(series(increment.Buckets, "requests"), testStart.UnixMilli(), []float64{1}, 0.5),
		} {
			_, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{inc}})
			var family *FamilyError
			if !errors.As(err, &family) || !strings.Contains(err.Error(), family.Metric) || !strings.Contains(err.Error(), family.Histogram) {
				t.Errorf("%s: %s: %v", stage, inc.Labels, err)
			}
		}
		var kind *KindError
		exponential := histInc(testStart, 1)
		exponential.Series = series(increment.Histogram, "load_seconds")
		if _, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{exponential}}); !errors.As(err, &kind) {
			t.Errorf("%s: buckets of another form: %v", stage, err)
		}
		if stage == "memory" {
			db = db.reopen(nil)
		} else if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		} else {
			db = db.reopen(nil)
		}
	}
}
