package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	// step is the width of a window, and Prometheus's scrape interval.
	step = 15_000 // ms
	// windowsPerDay and windowsPerRange are how many of them a day and the time
	// span of a memtable have.
	windowsPerDay   = 24 * 60 * 60 * 1000 / step
	windowsPerRange = windowsPerDay / 12
	// batchSize is how many increments one batch has.
	batchSize = 1000
)

// start is where all data begins: a midnight UTC.
var start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

func windowTime(i int) int64 { return start.UnixMilli() + int64(i)*step }

// seriesLabels are those of the i-th series: a name and five labels, of 1,000
// series a page.
func seriesLabels(i int) labels.Labels {
	return labels.FromStrings(
		model.MetricNameLabel, fmt.Sprintf("page_views_%d_total", i%10),
		"browser", []string{"chrome", "edge", "firefox", "opera", "safari", "samsung", "brave", "other"}[i%8],
		"country", fmt.Sprintf("C%d", i/10%25),
		"device", []string{"desktop", "mobile", "tablet"}[i%3],
		"page", fmt.Sprintf("/articles/%05d", i/1000),
		"plan", []string{"free", "basic", "pro", "team"}[i/250%4],
	)
}

// manyLabels are the labels of n series, in memory of their own.
func manyLabels(n int) []labels.Labels {
	out := make([]labels.Labels, n)
	for i := range out {
		out[i] = seriesLabels(i)
	}
	return out
}

// batchesOf cuts series into batches of one increment each.
func batchesOf(series []labels.Labels) []increment.Batch {
	var out []increment.Batch
	for len(series) > 0 {
		n := min(batchSize, len(series))
		b := increment.Batch{Increments: make([]increment.Increment, n)}
		for i := range b.Increments {
			b.Increments[i] = increment.Increment{Series: increment.NewSeries(series[i], increment.Counter, nil), Value: 1}
		}
		out, series = append(out, b), series[n:]
	}
	return out
}

// setWindow moves the increments of a batch to a window; counts are small, and
// not all the same.
func setWindow(b *increment.Batch, window int) {
	t := windowTime(window)
	for i := range b.Increments {
		b.Increments[i].Time = t
		b.Increments[i].Value = countOf(window, i)
	}
}

// countOf is the increment of the i-th series of a batch in a window.
func countOf(window, i int) float64 { return float64(1 + (window+i)%4) }

// denseRates are the rates of n series, events a window: the quantiles of a
// lognormal distribution with median 1 and mean 3.
func denseRates(n int) []float64 {
	sigma := math.Sqrt(2 * math.Log(3))
	out := make([]float64, n)
	for i := range out {
		p := (float64(i) + 0.5) / float64(n)
		out[i] = math.Exp(sigma * math.Sqrt2 * math.Erfinv(2*p-1))
	}
	return out
}

// poisson draws how many events a window has at a rate, by counting exponential
// gaps.
func poisson(r *rand.Rand, rate float64) int {
	n := 0
	for t := r.ExpFloat64(); t < rate; t += r.ExpFloat64() {
		n++
	}
	return n
}

// newRand is the random source of a workload: the same for both storages.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(3, 14)) }
