package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/promql"
)

var (
	upstreamQueries = flag.Int("queries", queriesDefault, "queries of TestAgainstUpstream")
	upstreamSeed    = flag.Uint64("seed", 0, "seed of TestAgainstUpstream; 0: of the clock")
)

// A query gives what upstream's engine gives, over what our storage shows and over
// upstream's storage that was given the same samples: values, errors and annotations.
func TestAgainstUpstream(t *testing.T) {
	seed := *upstreamSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	const perTwin = 1000
	tally := map[string]int{}
	for first := 0; first < *upstreamQueries; first += perTwin {
		r := rand.New(rand.NewPCG(seed, uint64(first)))
		tw := newTwin(t, r)
		ours := promql.NewEngine(promql.EngineOptions{Distinct: tw.db})
		theirs := upstream.NewEngine(upstream.EngineOpts{
			MaxSamples: 50_000_000, Timeout: 2 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, EnablePerStepStats: true,
			Parser: promql.NewParser(), NoStepSubqueryIntervalFn: func(int64) int64 { return 60_000 },
		})
		w := queryWriter{r}
		for i := range min(perTwin, *upstreamQueries-first) {
			q := w.query()
			tw.now = tw.dataEnd
			if r.IntN(4) == 0 { // in the middle of a window: what is open shows by when it is asked
				tw.now = twinStart + r.Int64N(twinSpan)
			}
			got := tw.ask(ours, tw.db, q)
			tally[got.what()]++
			// A deviation of what is all the same is nothing but what additions round off.
			slack := 0.0
			if strings.Contains(q.expr, "std") {
				slack = 1e-9
			}
			if diff := got.differs(tw.ask(theirs, tw.db, q), true, slack); diff != "" {
				t.Fatalf("seed %d, query %d: %s\nfrom %d to %d by %s: not as upstream's engine over our storage\n%s", seed, first+i, q.expr, q.start, q.end, q.step, diff)
			}
			if ofLayout(q.expr) || tw.now != tw.dataEnd {
				continue
			}
			if diff := got.differs(tw.ask(theirs, sorted{tw.theirs}, q), false, slack); diff != "" {
				t.Fatalf("seed %d, query %d: %s\nfrom %d to %d by %s: not as upstream's engine over upstream's storage\n%s", seed, first+i, q.expr, q.start, q.end, q.step, diff)
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d queries: %v", *upstreamQueries, tally)
	if tally["values"] < *upstreamQueries*2/5 {
		t.Errorf("only %d of %d queries have a result", tally["values"], *upstreamQueries)
	}
}

// ofLayout reports whether a query compares histograms bucket by bucket: those that are
// equal can have other empty buckets in upstream's storage.
func ofLayout(expr string) bool {
	if !strings.Contains(expr, "changes(") && !strings.Contains(expr, "==") && !strings.Contains(expr, "count_values") {
		return false
	}
	return slices.ContainsFunc([]string{"latency", "size", "native"}, func(name string) bool { return strings.Contains(expr, name) })
}

// result is what a query gave.
type result struct {
	values      map[string]upstream.Sample // by labels and time
	err         error
	annotations []string
	samples     []int64 // looked at: in all, new, then by step
	series      int64
}

func (a *result) what() string {
	switch {
	case a.err != nil:
		return "errors"
	case len(a.values) > 0:
		return "values"
	}
	return "empty"
}

func (tw *twin) ask(e upstream.QueryEngine, q storage.Queryable, a asked) *result {
	var query upstream.Query
	var err error
	opts := upstream.NewPrometheusQueryOpts(true, 0, nil)
	if a.step == 0 {
		query, err = e.NewInstantQuery(context.Background(), q, opts, a.expr, time.UnixMilli(a.start))
	} else {
		query, err = e.NewRangeQuery(context.Background(), q, opts, a.expr, time.UnixMilli(a.start), time.UnixMilli(a.end), a.step)
	}
	if err != nil {
		return &result{err: err}
	}
	defer query.Close()
	res := query.Exec(tw.context())
	out := &result{values: map[string]upstream.Sample{}, err: res.Err}
	warnings, infos := res.Warnings.AsStrings(a.expr, 0, 0)
	out.annotations = append(warnings, infos...)
	slices.Sort(out.annotations)
	s := query.Stats().Samples
	out.series = s.TotalSeries
	out.samples = append([]int64{s.TotalSamples, s.SamplesRead}, append(slices.Clone(s.TotalSamplesPerStep), s.SamplesReadPerStep...)...)
	put := func(ls labels.Labels, t int64, s upstream.Sample) {
		key := fmt.Sprint(ls, t)
		if _, twice := out.values[key]; twice {
			tw.t.Fatalf("%s: %s twice", a.expr, key)
		}
		out.values[key] = s
	}
	switch v := res.Value.(type) {
	case upstream.Vector:
		for _, s := range v {
			put(s.Metric, s.T, s)
		}
	case upstream.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				put(s.Metric, p.T, upstream.Sample{F: p.F})
			}
			for _, p := range s.Histograms {
				put(s.Metric, p.T, upstream.Sample{H: p.H.Copy()})
			}
		}
	case upstream.Scalar:
		put(labels.EmptyLabels(), v.T, upstream.Sample{F: v.V})
	case nil:
	default:
		tw.t.Fatalf("%s: unexpected %s", a.expr, parser.DocumentedType(v.Type()))
	}
	for k, s := range out.values {
		if s.H != nil {
			s.H = s.H.Copy()
			out.values[k] = s
		}
	}
	return out
}

// differs says where two answers differ; "" where they do not. Hints of counter resets
// are the storage's, so that what is said of them is compared only where both answers
// are of one. Floats may differ by slack.
func (a *result) differs(b *result, oneStorage bool, slack float64) string {
	if (a.err == nil) != (b.err == nil) || a.err != nil && message(a.err) != message(b.err) {
		return fmt.Sprintf(" got error %v\nwant error %v", a.err, b.err)
	}
	if a.err != nil {
		return ""
	}
	for k, want := range b.values {
		got, ok := a.values[k]
		if !ok {
			return fmt.Sprintf("no value for %s, want %s", k, shown(want))
		}
		if !sameSample(got, want) && (got.H != nil || want.H != nil || math.Abs(got.F-want.F) > slack || slack == 0) {
			return fmt.Sprintf("%s:\n got %s\nwant %s", k, shown(got), shown(want))
		}
	}
	for k, got := range a.values {
		if _, ok := b.values[k]; !ok {
			return fmt.Sprintf("%s has %s, want nothing", k, shown(got))
		}
	}
	if oneStorage && (!slices.Equal(a.samples, b.samples) || a.series != b.series) {
		return fmt.Sprintf(" got %d series, samples %d\nwant %d series, samples %d", a.series, a.samples, b.series, b.samples)
	}
	x, y := orderless(a.annotations), orderless(b.annotations)
	if !oneStorage {
		x, y = withoutHints(x), withoutHints(y)
	}
	if !slices.Equal(x, y) {
		return fmt.Sprintf(" got annotations %q\nwant annotations %q", x, y)
	}
	return ""
}

// message is that of an error, but for the two series that it gives as an example: in a
// range query the engine takes them in the order of its maps.
func message(err error) string {
	before, _, _ := strings.Cut(err.Error(), "for the match group")
	return before
}

// nameOfMixed is the name in a warning about histograms that do not mix: that of whichever
// series comes first.
var nameOfMixed = regexp.MustCompile(`(contains a mix of histograms .* for metric name) "[^"]*"`)

// orderless leaves out what is said or not by which comes first, a histogram or a float:
// the engine takes the series of an operator between vectors in the order of its maps.
func orderless(annotations []string) []string {
	annotations = slices.Clone(annotations)
	for i, text := range annotations {
		annotations[i] = nameOfMixed.ReplaceAllString(text, "$1")
	}
	const mixed, reconciled = "encountered a mix of histograms and floats", "mismatched custom buckets were reconciled"
	if !slices.ContainsFunc(annotations, func(s string) bool { return strings.Contains(s, mixed) }) {
		return annotations
	}
	return slices.DeleteFunc(annotations, func(s string) bool { return strings.Contains(s, reconciled) })
}

func withoutHints(annotations []string) []string {
	return slices.DeleteFunc(slices.Clone(annotations), func(s string) bool { return strings.Contains(s, "conflicting counter resets") })
}

func shown(s upstream.Sample) string {
	if s.H != nil {
		return s.H.String()
	}
	return fmt.Sprint(s.F)
}

func sameSample(a, b upstream.Sample) bool {
	if (a.H == nil) != (b.H == nil) {
		return false
	}
	if a.H == nil {
		return nearly(a.F, b.F)
	}
	return nearly(a.H.Count, b.H.Count) && nearly(a.H.Sum, b.H.Sum) && a.H.Schema == b.H.Schema && sameBuckets(a.H, b.H)
}

func sameBuckets(a, b *histogram.FloatHistogram) bool {
	read := func(h *histogram.FloatHistogram) (out []histogram.Bucket[float64]) {
		for it := h.AllBucketIterator(); it.Next(); {
			// An infinity times an empty bucket is NaN, where a storage has the bucket.
			if c := it.At(); c.Count != 0 && !math.IsNaN(c.Count) {
				out = append(out, c)
			}
		}
		return out
	}
	return slices.EqualFunc(read(a), read(b), func(x, y histogram.Bucket[float64]) bool {
		return nearly(x.Upper, y.Upper) && nearly(x.Lower, y.Lower) && nearly(x.Count, y.Count)
	})
}

// nearly is equal within 1e-9 of the larger.
func nearly(a, b float64) bool {
	switch {
	case a == b, math.IsNaN(a) && math.IsNaN(b):
		return true
	case math.IsInf(a, 0), math.IsInf(b, 0), math.IsNaN(a), math.IsNaN(b):
		return false
	}
	return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b))
}
