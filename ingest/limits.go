package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// checkLimits says which rules make series of more labels than a tenant may have, nil
// where none does. Rules are where all labels come from, so that no event need be
// asked. file is the name of the rules in the messages.
func (rs *ruleset) checkLimits(file string, l *tenant.Limits) error {
	var errs []error
	for i := range rs.rules {
		r := &rs.rules[i]
		n := len(r.labels)
		if r.session != nil {
			n++ // session.VisitorLabel
		}
		if n > l.LabelsPerSeries {
			errs = append(errs, fmt.Errorf("%s:%d: metrics[%d].labels: %d labels, at most %d are allowed (limits.labels_per_series)",
				file, r.line, i, n, l.LabelsPerSeries))
		}
	}
	return errors.Join(errs...)
}

// Admit returns a tenant's limits before a batch of its is read, or says why none is
// taken now: a *RateError where the tenant has sent too much.
func (g *Ingester) Admit(id tenant.ID) (tenant.Limits, error) {
	profile, err := g.store.Tenant(id)
	if err != nil {
		return tenant.Limits{}, fmt.Errorf("open tenant %s: %w", id, err)
	}
	c := charge{rates: g.rates, tenant: id, limits: &profile.Limits}
	return profile.Limits, g.refuse(&c, g.metrics.tenant(id), c.body(0))
}

// decode reads a post in a slot. The worker that it returns, with what the body held, is
// the caller's to put back: it waits for the disk outside of the slot.
func (g *Ingester) decode(ctx context.Context, rules *ruleset, p tenant.Profile, c *charge, post *Post) (*worker, error) {
	if err := c.body(post.Bytes()); err != nil {
		return nil, err
	}
	if err := g.slots.Acquire(ctx); err != nil {
		return nil, err
	}
	defer g.slots.Release()
	w, ok := g.workers.Get().(*worker)
	if !ok {
		panic("ingest: the pool holds something else than workers")
	}
	err := w.read(ctx, rules, p, g.present(ctx), post)
	if err == nil {
		err = c.counted(w.events)
	}
	if err == nil {
		err = w.reserve(g.store.Reserve)
	}
	if err != nil {
		w.giveUp()
		g.workers.Put(w)
		return nil, err
	}
	return w, nil
}

// refuse gives back what a batch took that had no effect, and counts it where its
// tenant's limits are why. It returns the error.
func (g *Ingester) refuse(c *charge, m *tenantMetrics, err error) error {
	if err == nil || errors.Is(err, ErrBadRequest) {
		return err
	}
	c.undo()
	if over := (*RateError)(nil); errors.As(err, &over) {
		m.overRate[over.Unit].Inc()
	}
	return err
}

func isOverload(err error) bool {
	over := (*overload.Error)(nil)
	return errors.As(err, &over)
}

// limits are the tenant's.
func (b *ruleBook) limits(id tenant.ID) (tenant.Limits, error) {
	if b.stored == nil {
		return tenant.DefaultLimits(), nil
	}
	limits, err := b.stored.Limits(id)
	if err != nil {
		err = fmt.Errorf("look up the limits of tenant %s: %w", id, err)
	}
	return limits, err
}

// checkLimits asks for the tenant's limits.
func (b *ruleBook) checkLimits(id tenant.ID, file string, rs *ruleset) error {
	limits, err := b.limits(id)
	if err != nil {
		return err
	}
	return rs.checkLimits(file, &limits)
}
