package tsdb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// randomSamples are those of one series: a counter with resets, a gauge with what
// floats can be, or a native histogram; with gaps, staleness markers and, for some,
// start timestamps.
func randomSamples(r *rand.Rand, ls labels.Labels, shape string, from, to time.Time) []increment.Increment {
	s := increment.NewSeries(ls, increment.Sample, nil)
	var out []increment.Increment
	total, n := 0.0, 1
	started := from.UnixMilli()
	for ts := from.UnixMilli() + r.Int64N(30_000); ts < to.UnixMilli(); ts += 15_000 + r.Int64N(50) {
		if r.IntN(60) == 0 {
			ts += r.Int64N(20 * minute)
		}
		inc := increment.Increment{Series: s, Time: ts}
		reset := r.IntN(50) == 0
		if reset {
			total, n, started = 0, 1, ts
		}
		switch shape {
		case "counter":
			total += float64(r.IntN(20))
			inc.Value = total
		case "gauge":
			inc.Value = []float64{r.NormFloat64(), 3, math.Inf(1), math.NaN(), -0.5}[min(4, r.IntN(40))]
		case "int histogram":
			n += r.IntN(2)
			inc.Native = &increment.Native{Int: tsdbutil.GenerateTestHistogram(int64(n))}
		case "float histogram":
			n += r.IntN(2)
			inc.Native = &increment.Native{Float: tsdbutil.GenerateTestFloatHistogram(int64(n))}
		case "gauge histogram":
			inc.Native = &increment.Native{Int: tsdbutil.GenerateTestGaugeHistogram(int64(1 + r.IntN(9)))}
		case "custom buckets":
			n += r.IntN(2)
			inc.Native = &increment.Native{Int: tsdbutil.GenerateTestCustomBucketsHistogram(int64(n))}
		}
		if ls.Get("job") == "started" && started < ts {
			inc.At = started
		}
		if r.IntN(80) == 0 {
			inc.Native, inc.Value = nil, math.Float64frombits(value.StaleNaN)
		}
		out = append(out, inc)
	}
	return out
}

// newSampleTwin fills a Prometheus TSDB and ours with the same samples, ours in no
// order, in parts, flushed and merged in between.
func newSampleTwin(t *testing.T, seed uint64) *twin {
	r := rand.New(rand.NewPCG(seed, 41))
	tw := &twin{
		t: t, ours: openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} }), engine: newTestEngine(),
		theirs: teststorage.New(t, func(o *promtsdb.Options) {
			o.EnableSTStorage, o.EnableHistogramSTEncoding, o.FloatChunkEncoding = true, true, chunkenc.EncXOR2
		}),
		from: testStart.Add(-3 * time.Hour), to: testStart, now: testStart.UnixMilli(),
	}
	var all []increment.Increment
	for i, shape := range []string{"counter", "counter", "counter", "gauge", "gauge", "int histogram", "int histogram", "float histogram", "gauge histogram", "custom buckets", "custom buckets"} {
		name := map[byte]string{'c': "requests_total", 'g': "level", 'i': "latency", 'f': "latency"}[shape[0]]
		switch shape {
		case "gauge histogram":
			name = "sizes"
		case "custom buckets":
			name = "buckets"
		}
		ls := labels.FromStrings(model.MetricNameLabel, name, "instance", fmt.Sprint(i), "job", []string{"started", "plain"}[i%2])
		all = append(all, randomSamples(r, ls, shape, tw.from, tw.to)...)
	}
	slices.SortStableFunc(all, func(a, b increment.Increment) int { return cmp.Compare(a.Time, b.Time) })
	app := tw.theirs.AppenderV2(context.Background())
	for i := range all {
		inc := &all[i]
		var h *histogram.Histogram
		var fh *histogram.FloatHistogram
		if inc.Native != nil {
			h, fh = inc.Native.Int, inc.Native.Float
		}
		if _, err := app.Append(0, inc.Labels, inc.At, inc.Time, inc.Value, h, fh, storage.AppendV2Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for len(all) > 0 {
		n := min(len(all), 1+r.IntN(900))
		tw.ours.mustAppend(tenant.Default, all[:n]...)
		all = all[n:]
		var err error
		switch r.IntN(6) {
		case 0:
			err = tw.ours.Flush(context.Background(), tenant.Default)
		case 1:
			err = tw.ours.maintainBlocks(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tw
}

func randomSampleQuery(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	selector := func(name string) string {
		return name + pick("", "", `{job="plain"}`, `{instance=~"[0-5]"}`, `{job!="started"}`)
	}
	modifier := func() string {
		return pick("", "", "", " offset 20m", " offset -3m", fmt.Sprintf(" @ %d", testStart.Unix()-r.Int64N(7200)))
	}
	rng := pick("1m", "5m", "17m", "1h")
	float := pick("requests_total", "level")
	native := pick("latency", "sizes", "buckets")
	switch r.IntN(9) {
	case 0:
		return selector(pick(float, native)) + modifier()
	case 1:
		return fmt.Sprintf("%s(%s[%s]%s)", pick("rate", "increase", "irate", "delta", "idelta", "resets", "changes", "deriv"), selector(float), rng, modifier())
	case 2:
		return fmt.Sprintf("%s(%s[%s] %s%s)", pick("rate", "increase"), selector("requests_total"), rng, pick("anchored", "smoothed"), modifier())
	case 3:
		return fmt.Sprintf("%s_over_time(%s[%s]%s)", pick("max", "min", "avg", "sum", "count", "last", "stddev", "present"), selector(pick(float, native)), rng, modifier())
	case 4:
		return fmt.Sprintf("quantile_over_time(0.%d, %s[%s]%s)", r.IntN(10), selector(float), rng, modifier())
	case 5:
		return fmt.Sprintf("%s(%s(%s[%s]%s))", pick("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev"), pick("rate", "increase", "sum_over_time"), selector(native), rng, modifier())
	case 6:
		return fmt.Sprintf("histogram_quantile(0.%d, sum by (job) (%s(%s[%s]%s)))", 1+r.IntN(9), pick("rate", "increase"), selector(native), rng, modifier())
	case 7:
		return fmt.Sprintf("max_over_time(sum(rate(%s[5m]))[%s:1m])", selector("requests_total"), rng)
	}
	return fmt.Sprintf("%s by (job) (%s%s)", pick("sum", "count", "avg", "max"), selector(pick(float, native)), modifier())
}

// Samples answer every query as Prometheus's own storage answers it.
func TestSamplesAgainstUpstream(t *testing.T) {
	t.Parallel()
	queries, answers := 0, 0
	for seed := range uint64(10) {
		tw := newSampleTwin(t, seed)
		r := rand.New(rand.NewPCG(seed, 42))
		for range 200 {
			expr := randomSampleQuery(r)
			start := tw.from.Add(time.Duration(r.Int64N(int64(3 * time.Hour))))
			end, step := start, time.Duration(0)
			if r.IntN(2) == 0 {
				step = []time.Duration{15 * time.Second, time.Minute, 7 * time.Minute}[r.IntN(3)]
				end = start.Add(step * time.Duration(r.IntN(40)))
			}
			queries++
			if tw.compare(seed, expr, start, end, step) {
				answers++
			}
		}
	}
	t.Logf("%d queries, %d with an answer", queries, answers)
	if answers < queries*2/3 {
		t.Errorf("only %d of %d queries have an answer", answers, queries)
	}
}
