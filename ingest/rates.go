package ingest

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// RateError says that a tenant sends more than its limits allow. The batch had no
// effect: no verdict was given, and no key and no id of it counts as seen.
type RateError struct {
	Tenant    tenant.ID
	Unit      string // events or bytes
	PerSecond int64
	Wait      time.Duration // until the tenant's batches are taken again
}

// Limit is the field of the tenant's limits.
func (e *RateError) Limit() string { return e.Unit + "_per_second" }

// RetryAfter is Wait in whole seconds, at least one.
func (e *RateError) RetryAfter() int64 {
	return max(1, int64(math.Ceil(e.Wait.Seconds())))
}

func (e *RateError) Error() string {
	return fmt.Sprintf("tenant %s sends more than %d %s a second (limits.%s): send the batch again in %d s", e.Tenant, e.PerSecond, e.Unit, e.Limit(), e.RetryAfter())
}

// rates bound what tenants send over time, by a bucket for each and unit that holds a
// second's worth. A batch is taken whole while the bucket is not overdrawn and what it
// takes may overdraw it: so a batch larger than the bucket passes too, and over time
// the rate holds exactly. Safe for concurrent use.
type rates struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[bucketKey]*bucket // that are not full
	sweepAt int                   // how many there are when the full ones go
}

// The units that rates count.
const (
	unitEvents = "events"
	unitBytes  = "bytes"
)

type bucketKey struct {
	tenant tenant.ID
	unit   string
}

// bucket is what is left of a second's worth: what was there at a time, and what has
// flowed in since.
type bucket struct {
	level     float64
	at        time.Time
	perSecond int64
}

// bucketsMin is how many buckets there may be before full ones are looked for.
const bucketsMin = 64

func newRates(now func() time.Time) *rates {
	return &rates{now: now, buckets: map[bucketKey]*bucket{}, sweepAt: bucketsMin}
}

// take takes n of a unit from the tenant's bucket, or says that it is overdrawn. With
// an n of 0 it only says so. A perSecond of 0 is no limit.
func (r *rates) take(id tenant.ID, unit string, perSecond, n int64) error {
	if perSecond == 0 {
		return nil
	}
	now, key := r.now(), bucketKey{id, unit}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[key]
	switch {
	case b != nil:
		b.flow(now)
	case n == 0:
		return nil
	default:
		r.sweep(now)
		b = &bucket{level: float64(perSecond), at: now, perSecond: perSecond}
		r.buckets[key] = b
	}
	if b.level < 0 {
		wait := time.Duration(-b.level / float64(perSecond) * float64(time.Second))
		return &RateError{Tenant: id, Unit: unit, PerSecond: perSecond, Wait: wait}
	}
	b.level -= float64(n)
	return nil
}

// giveBack undoes take.
func (r *rates) giveBack(id tenant.ID, unit string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.buckets[bucketKey{id, unit}]; b != nil {
		b.level += float64(n)
	}
}

// flow fills the bucket with what came since it was looked at.
func (b *bucket) flow(now time.Time) {
	if since := now.Sub(b.at).Seconds(); since > 0 {
		b.level = min(b.level+since*float64(b.perSecond), float64(b.perSecond))
	}
	b.at = now // where the clock was set back too: nobody waits for it to catch up
}

// sweep drops the buckets that are full again, where there are twice as many as it left
// the last time: tenants that are idle cost nothing.
//
// REQUIRES: r.mu
func (r *rates) sweep(now time.Time) {
	if len(r.buckets) < r.sweepAt {
		return
	}
	for key, b := range r.buckets {
		if b.flow(now); b.level >= float64(b.perSecond) {
			delete(r.buckets, key)
		}
	}
	r.sweepAt = max(bucketsMin, 2*len(r.buckets))
}

// charge is what one batch took of its tenant's buckets.
type charge struct {
	rates         *rates
	tenant        tenant.ID
	limits        *tenant.Limits
	bytes, events int64
}

// body takes the bytes of a batch, and refuses it too where events are overdrawn:
// reading what is refused then is work for nothing.
func (c *charge) body(bytes int) error {
	if err := c.rates.take(c.tenant, unitEvents, c.limits.EventsPerSecond, 0); err != nil {
		return err
	}
	if err := c.rates.take(c.tenant, unitBytes, c.limits.BytesPerSecond, int64(bytes)); err != nil {
		return err
	}
	c.bytes = int64(bytes)
	return nil
}

// counted takes the events of the batch.
func (c *charge) counted(events int) error {
	if err := c.rates.take(c.tenant, unitEvents, c.limits.EventsPerSecond, int64(events)); err != nil {
		return err
	}
	c.events = int64(events)
	return nil
}

// undo gives back what a batch took that had no effect.
func (c *charge) undo() {
	c.rates.giveBack(c.tenant, unitBytes, c.bytes)
	c.rates.giveBack(c.tenant, unitEvents, c.events)
}

// forget drops the buckets of a tenant.
func (r *rates) forget(id tenant.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.buckets, bucketKey{id, unitEvents})
	delete(r.buckets, bucketKey{id, unitBytes})
}
