package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	step       = 15_000 // ms
	hour       = 3600 / 15
	day        = 24 * hour
	histograms = 1000
)

// start is where all data begins: a midnight UTC.
var start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// bounds are those of the histograms: twelve buckets with the last.
var bounds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// data is a set of series.
type data struct {
	series  int // at full scale
	windows int
	perDay  int // windows with an increment; 0: all
	labels  func(i int) labels.Labels
	buckets bool
}

var datasets = map[string]data{
	"dense":   {series: 100_000, windows: hour, labels: denseLabels},
	"buckets": {series: histograms, windows: hour, labels: histogramLabels, buckets: true},
	"sparse":  {series: 20_000, windows: 30 * day, perDay: 200, labels: pageLabels},
	// A hundredth of sparse: as many samples as upstream can be asked for.
	"sparse100": {series: 200, windows: 30 * day, perDay: 200, labels: pageLabels},
}

// end is the present of queries over d: its last window has just ended.
func (d data) end() time.Time { return start.Add(time.Duration(d.windows) * step * time.Millisecond) }

func denseLabels(i int) labels.Labels {
	return labels.FromStrings(
		model.MetricNameLabel, "m_total",
		"browser", []string{"chrome", "edge", "firefox", "opera", "safari"}[i%5],
		"country", fmt.Sprintf("C%d", i/5%20),
		"page", fmt.Sprintf("/articles/%04d", i/100),
	)
}

func histogramLabels(i int) labels.Labels {
	return labels.FromStrings(model.MetricNameLabel, "h", "country", fmt.Sprintf("C%d", i%20), "page", fmt.Sprintf("/articles/%04d", i/20))
}

func pageLabels(i int) labels.Labels {
	return labels.FromStrings(model.MetricNameLabel, "m_total", "page", fmt.Sprintf("/articles/%05d", i))
}

// counts yields the increments of the i-th series, by window.
func (d data) counts(i int, yield func(window int, n float64)) {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	if d.perDay == 0 {
		for w := range d.windows {
			yield(w, float64(1+r.IntN(4)))
		}
		return
	}
	mean := float64(day) / float64(d.perDay)
	for w := int(r.ExpFloat64() * mean); w < d.windows; w += max(1, int(r.ExpFloat64()*mean+0.5)) {
		yield(w, float64(1+r.IntN(3)))
	}
}
