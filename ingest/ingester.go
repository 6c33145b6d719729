package ingest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// IdempotencyKeyBytesMax is the longest idempotency key.
const IdempotencyKeyBytesMax = 1024

// ErrBadRequest is in the chain of errors that only the client can mend: the
// body as a whole cannot be read, or what came with it is out of bounds. Nothing
// was counted and no verdict given. All other errors of Events are the store's, a
// *RateError or an *overload.Error, and the same request may succeed later.
var ErrBadRequest = errors.New("bad request")

// Store keeps tenants and their increments.
type Store interface {
	// Tenant returns the tenant's profile, creating the tenant where it does
	// not exist.
	Tenant(id tenant.ID) (tenant.Profile, error)
	// Reserve looks up the ids of a batch's events, as hashes that are keyed by the
	// tenant. The reservation is put into the batch or settled.
	Reserve(ids [][16]byte) (increment.Reservation, error)
	// Append applies the batch durably and settles its reservation; duplicate reports
	// that b.Key was applied before, and then nothing was applied. Increments that can
	// never be stored are left out and in b.Refused.
	Append(ctx context.Context, id tenant.ID, b *increment.Batch) (duplicate bool, err error)
}

// Usage counts what tenants send.
type Usage interface {
	// Events counts a batch by the verdicts of its events.
	Events(id tenant.ID, accepted, duplicate, filtered, rejected int)
}

// Options of New. Store and Registerer are required.
type Options struct {
	Store      Store
	Registerer prometheus.Registerer
	Rules      RuleSource   // nil: all tenants have the default rules
	Stored     Stored       // nil: rules are not compared with what is stored
	Logger     *slog.Logger // nil: none
	// Now is the present of requests whose context carries no scope; nil: the
	// system's clock.
	Now func() time.Time
	// Enricher finds what events do not say; nil: one without a database of places.
	Enricher *enrich.Enricher
	// Slots are where bodies are decoded; nil: as many at once as there are.
	Slots *overload.Slots
	// Usage is told of every batch; nil: nobody is.
	Usage Usage
	// TenantLabelsMax is how many tenants the metrics tell apart; 0: 100.
	TenantLabelsMax int
}

func (o *Options) validate() error {
	if o.Store == nil || o.Registerer == nil {
		return errors.New("ingest needs a store and a registerer")
	}
	if o.TenantLabelsMax < 0 {
		return fmt.Errorf("tenant labels max is %d, it cannot be negative", o.TenantLabelsMax)
	}
	if o.TenantLabelsMax == 0 {
		o.TenantLabelsMax = 100
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Result counts a batch's events by verdict. Every event is in one of the four.
type Result struct {
	Accepted  int `json:"accepted"`
	Duplicate int `json:"duplicate"`
	Filtered  int `json:"filtered"`
	Rejected  int `json:"rejected"`
	// Errors describe the rejected events by ascending Index, at most 10,000.
	Errors []EventError `json:"errors"`
	// ErrorsOmitted is how many more there were.
	ErrorsOmitted int `json:"errors_omitted,omitempty"`
	// Warnings say what is not stored of events that were accepted.
	Warnings []string `json:"warnings,omitempty"`

	at int64 // the present, in milliseconds since 1970
}

// EventError says why the event at Index was rejected. Events count from 0 in
// the order of the body; of lines, the blank ones do not count.
type EventError struct {
	Index  int    `json:"index"`
	Reason string `json:"reason"`

	kind reason // of Reason
}

// Ingester takes batches of events. Safe for concurrent use.
type Ingester struct {
	store    Store
	logger   *slog.Logger
	now      func() time.Time
	metrics  *metrics
	book     *ruleBook
	rates    *rates
	enricher *enrich.Enricher
	slots    *overload.Slots // nil: no bound
	usage    Usage           // nil: nobody counts
	workers  sync.Pool       // *worker
}

// New returns an Ingester.
func New(o Options) (*Ingester, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	book, err := newRuleBook(o)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer, o.TenantLabelsMax)
	if err != nil {
		return nil, err
	}
	if o.Enricher == nil {
		if o.Enricher, err = enrich.New(enrich.Options{Registerer: o.Registerer, Logger: o.Logger, Now: o.Now}); err != nil {
			return nil, err
		}
	}
	g := &Ingester{enricher: o.Enricher, store: o.Store, logger: o.Logger, now: o.Now, metrics: m, book: book, rates: newRates(o.Now), slots: o.Slots, usage: o.Usage}
	g.workers.New = func() any { return newWorker(g.enricher) }
	return g, nil
}

// Events counts the events of a post for the tenant. An idempotencyKey that is not
// empty makes the batch count once. The present is that of ctx's scope.
//
// The error is nil where the body could be read and what it held is stored, be it
// that every event was rejected; see ErrBadRequest for what else there is. With
// an error of the store the Result's events are all rejected or filtered.
func (g *Ingester) Events(ctx context.Context, id tenant.ID, post *Post, idempotencyKey string) (Result, error) {
	m := g.metrics.tenant(id)
	m.batches.WithLabelValues(post.format.Name).Inc()
	m.bytes.Add(float64(post.Bytes()))
	if n := len(idempotencyKey); n > IdempotencyKeyBytesMax {
		return Result{}, fmt.Errorf("%w: the idempotency key is %d bytes long, at most %d are allowed", ErrBadRequest, n, IdempotencyKeyBytesMax)
	}
	profile, err := g.store.Tenant(id)
	if err != nil {
		return Result{}, fmt.Errorf("open tenant %s: %w", id, err)
	}
	rules, err := g.book.get(id)
	if err != nil {
		return Result{}, fmt.Errorf("tenant %s: %w", id, err)
	}

	c := charge{rates: g.rates, tenant: id, limits: &profile.Limits}
	w, err := g.decode(ctx, rules, profile, &c, post)
	if err != nil {
		return Result{}, g.refuse(&c, m, err) // I3
	}
	defer g.workers.Put(w)
	batch := increment.Batch{Reservation: w.reserved, SkipRefused: true, Generation: profile.Generation}
	w.coalescer.take(&batch)
	if idempotencyKey != "" {
		sum := sha256.Sum256([]byte(idempotencyKey))
		batch.HasKey = true
		copy(batch.Key[:], sum[:])
	}
	switch err = g.append(ctx, id, &batch, w); {
	case tenant.IsRefusal(err):
		return Result{}, g.refuse(&c, m, err) // since the profile was looked up
	case isOverload(err):
		return Result{}, g.refuse(&c, m, err)
	case errors.Is(err, increment.ErrTooLarge):
		return Result{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	m.refused.Add(float64(len(batch.Refused)))
	w.count(m)
	w.countLag(m)
	if r := &w.result; g.usage != nil {
		g.usage.Events(id, r.Accepted, r.Duplicate, r.Filtered, r.Rejected)
	}
	return w.result, err
}

// present is in milliseconds since 1970.
func (g *Ingester) present(ctx context.Context) int64 {
	if s, ok := scope.From(ctx); ok {
		return s.Now
	}
	return g.now().UnixMilli()
}

// append stores the batch and gives its good events their verdict (I1).
func (g *Ingester) append(ctx context.Context, id tenant.ID, b *increment.Batch, w *worker) error {
	v := &w.verdicts
	if v.good == 0 {
		if b.Reservation != nil {
			b.Reservation.Settle(false)
		}
		return nil
	}
	duplicate, err := g.store.Append(ctx, id, b)
	switch {
	case isOverload(err), errors.Is(err, increment.ErrTooLarge), tenant.IsRefusal(err):
		return err // no verdict: the client is to send the batch again, or smaller ones
	case err != nil:
		v.result.Rejected += v.good
		v.rejected[reasonStorage] += v.good
		g.logger.Error("a batch of events was not stored", "tenant", id.String(), "events", v.good, "err", err)
		return fmt.Errorf("store %d events of tenant %s: %w", v.good, id, err)
	case duplicate:
		v.result.Duplicate += v.good
	default:
		if n := len(b.Refused); n > 0 {
			w.refuse(b.Refused)
			g.logger.Error("storage refused increments of a batch", "tenant", id.String(), "increments", n, "err", b.Refused[0].Err)
		}
		v.result.Accepted = v.good
	}
	return nil
}
