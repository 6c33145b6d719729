package usage

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// chooseEvery is how often it is decided anew which tenants have a label of their own.
const chooseEvery = time.Hour

// Stored is what a tenant has in storage.
type Stored struct {
	Series                  int
	BlockBytes, MemoryBytes int64
}

// Collector shows the tenants that did the most, each under its own label, and all others
// under one. What a tenant does is counted under the label that it has at that time, so
// that no counter goes back when another tenant becomes one of the largest.
type Collector struct {
	book   *Book
	max    int
	stored func(func(tenant.ID, Stored))

	events, queries, samples, series, blocks, memory *prometheus.Desc

	mu     sync.Mutex
	chosen time.Time
	seen   map[tenant.ID]Counts // that are in own or other
	own    map[tenant.ID]Counts // by tenants that have a label
	past   map[tenant.ID]Counts // the same of tenants that had one, which go on from there
	other  Counts
}

// NewCollector shows at most n tenants by name. stored calls its argument with each
// tenant in memory.
func NewCollector(b *Book, n int, stored func(func(tenant.ID, Stored))) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("quipu_tenant_"+name, help+" The largest tenants are named, the others are (other).", append([]string{"tenant"}, labels...), nil)
	}
	return &Collector{
		book: b, max: n, stored: stored, seen: map[tenant.ID]Counts{}, own: map[tenant.ID]Counts{}, past: map[tenant.ID]Counts{},
		events:  desc("events_total", "Events of a tenant by verdict.", "verdict"),
		queries: desc("queries_total", "Queries of a tenant."),
		samples: desc("query_samples_total", "Samples that queries of a tenant read."),
		series:  desc("series", "Series that a tenant has."),
		blocks:  desc("block_bytes", "Bytes of a tenant's blocks on disk."),
		memory:  desc("memory_bytes", "Bytes of a tenant's increments in memory, about."),
	}
}

// Describe is part of prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.events, c.queries, c.samples, c.series, c.blocks, c.memory} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	totals := c.book.totals()
	c.settle(totals)
	if now := c.book.now(); c.chosen.IsZero() || len(c.own) < c.max || now.Sub(c.chosen) >= chooseEvery {
		c.choose(totals)
		c.chosen = now
	}
	stored, others := map[tenant.ID]Stored{}, Stored{}
	c.stored(func(id tenant.ID, s Stored) {
		if _, ok := c.own[id]; ok {
			stored[id] = s
			return
		}
		others.Series += s.Series
		others.BlockBytes += s.BlockBytes
		others.MemoryBytes += s.MemoryBytes
	})
	for id, n := range c.own {
		c.send(ch, id.String(), n, stored[id])
	}
	c.send(ch, increment.Other, c.other, others)
}

// settle counts what was done since it was last called under the labels of that time.
//
// REQUIRES: c.mu
func (c *Collector) settle(totals map[tenant.ID]Counts) {
	for id := range c.seen {
		if _, ok := totals[id]; !ok { // deleted
			delete(c.seen, id)
			delete(c.own, id)
			delete(c.past, id)
		}
	}
	for _, id := range bySize(totals) {
		n := totals[id]
		more := n.minus(c.seen[id])
		if min(more.Accepted, more.Duplicate, more.Filtered, more.Rejected, more.Queries, more.Samples) < 0 {
			more = n // deleted and made again
		}
		c.seen[id] = n
		if own, ok := c.own[id]; ok {
			own.add(&more)
			c.own[id] = own
			continue
		}
		// The first tenants, and the largest of them, have their labels from their first
		// event on.
		if len(c.own) < c.max {
			c.own[id] = more
			continue
		}
		c.other.add(&more)
	}
}

// choose gives the labels to the tenants that did the most.
//
// REQUIRES: c.mu
func (c *Collector) choose(totals map[tenant.ID]Counts) {
	if len(totals) <= c.max {
		return // all have one
	}
	own := make(map[tenant.ID]Counts, c.max)
	for _, id := range bySize(totals)[:c.max] {
		if n, ok := c.own[id]; ok {
			own[id] = n
		} else {
			own[id] = c.past[id]
		}
	}
	for id, n := range c.own {
		c.past[id] = n
	}
	c.own = own
}

// bySize are the tenants, those that did the most first.
func bySize(totals map[tenant.ID]Counts) []tenant.ID {
	size := func(id tenant.ID) int64 {
		n := totals[id]
		return n.Accepted + n.Duplicate + n.Filtered + n.Rejected + n.Queries
	}
	ids := make([]tenant.ID, 0, len(totals))
	for id := range totals {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b tenant.ID) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a.String(), b.String()))
	})
	return ids
}

func (c *Collector) send(ch chan<- prometheus.Metric, label string, n Counts, s Stored) {
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{label}, labels...)...)
	}
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), label)
	}
	counter(c.events, n.Accepted, "accepted")
	counter(c.events, n.Duplicate, "duplicate")
	counter(c.events, n.Filtered, "filtered")
	counter(c.events, n.Rejected, "rejected")
	counter(c.queries, n.Queries)
	counter(c.samples, n.Samples)
	gauge(c.series, int64(s.Series))
	gauge(c.blocks, s.BlockBytes)
	gauge(c.memory, s.MemoryBytes)
}
