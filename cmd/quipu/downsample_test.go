package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
)

// newCoarseTwin has series of all kinds in our storage alone, whose tenant has them
// downsampled to a step when they are a day old.
func newCoarseTwin(t *testing.T, r *rand.Rand, to time.Duration) *twin {
	tw := &twin{t: t, r: r, dataEnd: twinStart + twinSpan + 7*twinGrid}
	tw.now = tw.dataEnd
	settings := tenant.DefaultSettings()
	settings.Downsample = tenant.DownsampleRules{{After: tenant.Duration(24 * time.Hour), To: tenant.Duration(to)}}
	tw.start(settings)
	for i, page := range []string{"/", "/a", "/b"} {
		set := func(name string) labels.Labels { return labels.FromStrings(model.MetricNameLabel, name, "page", page) }
		tw.counter(set("views_total"), []int64{twinGrid, 40_000, 300_000}[i], false)
		tw.histograms(set("latency"), nil)
		tw.histograms(set("size"), []float64{0.1, 0.5, 1, 5})
		tw.distinct(set("visitors"))
		tw.gauge(set("temperature"))
		tw.samples(set("requests_total"), true)
	}
	tw.append()
	return tw
}

// What is counted in whole coarse windows, and what a bare selector shows at their ends, is
// the same before data is downsampled and after.
func TestDownsampleKeepsCounts(t *testing.T) {
	exprs := []string{
		"views_total", "latency", "size", "size_bucket", "size_count", "requests_total", "temperature",
		"min_over_time(temperature[%s])", "max_over_time(temperature[%s])", "last_over_time(temperature[%s])",
		"increase(requests_total[%s] anchored)", `distinct_over_time(visitors[%s])`, `count_distinct(visitors[%s])`,
	}
	for _, name := range []string{"views_total", "latency", "size", "size_bucket", "size_sum", "size_count"} {
		exprs = append(exprs, "increase("+name+"[%s] anchored)", "sum(increase("+name+"[%s] anchored))", "resets("+name+"[%s])")
	}
	for seed := range uint64(3) {
		for _, to := range []time.Duration{5 * time.Minute, time.Hour} {
			tw := newCoarseTwin(t, rand.New(rand.NewPCG(seed, 41)), to)
			step := to.Milliseconds()
			ask := func() (out []*result, queries []asked) {
				engine := promql.NewEngine(promql.EngineOptions{Distinct: tw.db})
				for _, expr := range exprs {
					for _, width := range []time.Duration{to, 2 * to} {
						q := asked{strings.ReplaceAll(expr, "%s", model.Duration(width).String()), twinStart/step*step + 2*step, tw.dataEnd / step * step, to}
						out, queries = append(out, tw.ask(engine, tw.db, q)), append(queries, q)
					}
				}
				return out, queries
			}
			before, queries := ask()
			tw.downsample()
			after, _ := ask()
			for i, q := range queries {
				if len(before[i].values) == 0 || before[i].err != nil {
					t.Errorf("seed %d: %s has no values, %v", seed, q.expr, before[i].err)
				}
				if diff := after[i].differs(before[i], false, 0); diff != "" {
					t.Errorf("seed %d, in windows of %s: %s is another than before\n%s", seed, to, q.expr, diff)
				}
			}
			if t.Failed() {
				return
			}
		}
	}
}
