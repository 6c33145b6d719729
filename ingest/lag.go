package ingest

import (
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// lagBounds are in seconds: what a page sends at once, what a tracker keeps back, and
// what comes when a client is there again.
var lagBounds = [...]float64{1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}

// lagMax is the oldest that one event counts in the sum, in milliseconds: 49 days. Older
// ones are backfill.
const lagMax = math.MaxUint32

// lag is how old an event is, in milliseconds: 0 where the client's clock is ahead.
func lag(now, at int64) uint32 { return uint32(min(max(now-at, 0), lagMax)) }

// lagCounts is a histogram of one tenant's events. (Prometheus's own takes one
// observation at a time; a batch is tens of thousands.)
type lagCounts struct {
	buckets [len(lagBounds) + 1]atomic.Uint64 // not cumulative
	millis  atomic.Uint64
}

// add counts events that were taken.
func (l *lagCounts) add(events []countedEvent) {
	var buckets [len(lagBounds) + 1]uint64
	var millis uint64
	for i := range events {
		age := events[i].lag
		millis += uint64(age)
		at := 0
		for at < len(lagBounds) && float64(age) > lagBounds[at]*1000 {
			at++
		}
		buckets[at]++
	}
	for at, n := range buckets {
		if n > 0 {
			l.buckets[at].Add(n)
		}
	}
	l.millis.Add(millis)
}

// lagCollector shows the lag of all labels that metrics has.
type lagCollector struct {
	metrics *metrics
	desc    *prometheus.Desc
}

func newLagCollector(m *metrics) *lagCollector {
	return &lagCollector{m, prometheus.NewDesc("quipu_ingest_lag_seconds",
		"How old events were when they came, of those that were accepted; one counts at most 49 days in the sum.", []string{"tenant"}, nil)}
}

// Describe is part of prometheus.Collector.
func (c *lagCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect is part of prometheus.Collector.
func (c *lagCollector) Collect(ch chan<- prometheus.Metric) {
	c.metrics.mu.RLock()
	all := make([]*tenantMetrics, 0, len(c.metrics.tenants)+1)
	for _, t := range c.metrics.tenants {
		all = append(all, t)
	}
	if c.metrics.other != nil {
		all = append(all, c.metrics.other)
	}
	c.metrics.mu.RUnlock()
	for _, t := range all {
		upTo, count := make(map[float64]uint64, len(lagBounds)), uint64(0)
		for at := range t.lag.buckets {
			count += t.lag.buckets[at].Load()
			if at < len(lagBounds) {
				upTo[lagBounds[at]] = count
			}
		}
		ch <- prometheus.MustNewConstHistogram(c.desc, count, float64(t.lag.millis.Load())/1000, upTo, t.label)
	}
}
