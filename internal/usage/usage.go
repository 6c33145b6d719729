// Package usage counts what each tenant does: its events by verdict, its queries and the
// samples they read, since the process started and since midnight UTC.
//
//   - usage.go: the counts
//   - collector.go: the process's metrics of the largest tenants
package usage

import (
	"sync"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// Counts are what a tenant did in some time.
type Counts struct {
	Accepted  int64 `json:"accepted_events"`
	Duplicate int64 `json:"duplicate_events"`
	Filtered  int64 `json:"filtered_events"`
	Rejected  int64 `json:"rejected_events"`
	// Queries are those of PromQL, and other requests that read series.
	Queries int64 `json:"queries"`
	// Samples are those that PromQL read, as Prometheus counts them.
	Samples int64 `json:"samples_read"`
}

func (c *Counts) add(o *Counts) {
	c.Accepted += o.Accepted
	c.Duplicate += o.Duplicate
	c.Filtered += o.Filtered
	c.Rejected += o.Rejected
	c.Queries += o.Queries
	c.Samples += o.Samples
}

// minus is what was counted since o.
func (c Counts) minus(o Counts) Counts {
	return Counts{c.Accepted - o.Accepted, c.Duplicate - o.Duplicate, c.Filtered - o.Filtered, c.Rejected - o.Rejected, c.Queries - o.Queries, c.Samples - o.Samples}
}

// Book has the counts of all tenants that did something. It is safe for concurrent use.
type Book struct {
	now   func() time.Time
	start time.Time

	mu      sync.RWMutex
	tenants map[tenant.ID]*page
}

// page is one tenant's: about 200 bytes.
type page struct {
	mu    sync.Mutex
	total Counts
	day   int64 // days since 1970 that today is
	today Counts
}

// NewBook returns an empty book that starts now.
func NewBook(now func() time.Time) *Book {
	return &Book{now: now, start: now(), tenants: map[tenant.ID]*page{}}
}

// Start is when the book began.
func (b *Book) Start() time.Time { return b.start }

// Events counts a batch of a tenant's events by their verdicts.
func (b *Book) Events(id tenant.ID, accepted, duplicate, filtered, rejected int) {
	b.count(id, &Counts{Accepted: int64(accepted), Duplicate: int64(duplicate), Filtered: int64(filtered), Rejected: int64(rejected)})
}

// Query counts a query of a tenant and the samples that it read.
func (b *Book) Query(id tenant.ID, samples int64) {
	b.count(id, &Counts{Queries: 1, Samples: samples})
}

func (b *Book) count(id tenant.ID, c *Counts) {
	p, day := b.page(id), b.day()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(day)
	p.total.add(c)
	p.today.add(c)
}

func (b *Book) day() int64 { return b.now().Unix() / int64((24 * time.Hour).Seconds()) }

// turn begins a new day where there is one.
//
// REQUIRES: p.mu
func (p *page) turn(day int64) {
	if p.day != day {
		p.day, p.today = day, Counts{}
	}
}

func (b *Book) page(id tenant.ID) *page {
	b.mu.RLock()
	p := b.tenants[id]
	b.mu.RUnlock()
	if p != nil {
		return p
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p = b.tenants[id]; p == nil {
		p = &page{}
		b.tenants[id] = p
	}
	return p
}

// Of returns what a tenant did since the book began and since midnight UTC, where that
// was later.
func (b *Book) Of(id tenant.ID) (total, today Counts) {
	b.mu.RLock()
	p := b.tenants[id]
	b.mu.RUnlock()
	if p == nil {
		return Counts{}, Counts{}
	}
	day := b.day()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(day)
	return p.total, p.today
}

// Forget drops the counts of a tenant that is deleted.
func (b *Book) Forget(id tenant.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.tenants, id)
}

// totals returns what each tenant did since the book began.
func (b *Book) totals() map[tenant.ID]Counts {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make(map[tenant.ID]Counts, len(b.tenants))
	for id, p := range b.tenants {
		p.mu.Lock()
		out[id] = p.total
		p.mu.Unlock()
	}
	return out
}
