package ruler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// evaluate evaluates a group at ts, milliseconds since 1970.
func (r *Ruler) evaluate(ctx context.Context, g *group, ts int64) {
	g.evaluating.Lock()
	defer g.evaluating.Unlock()
	// A tenant that was deleted must not come to be again by what its rules record.
	if g.gone || ctx.Err() != nil || !r.options.Files.exist(g.tenant.id) {
		return
	}
	if r.suspended(g) {
		return
	}
	began := time.Now()
	e := &evaluation{ruler: r, tenant: g.tenant.id, group: g.rules}
	ctx = e.context(ctx, max(ts, r.options.Now().UnixMilli()))
	ctx = upstream.NewOriginContext(ctx, map[string]any{
		"ruleGroup": map[string]string{"file": g.namespace, "name": g.rules.Name()},
	})
	mark := r.mark(ctx, g, ts-g.offset)
	rules.DefaultEvalIterationFunc(ctx, g.rules, time.UnixMilli(ts).UTC())
	e.flush(ctx)
	if g.restore && ctx.Err() == nil {
		// As if evaluated one interval ago: where none was missed, nothing is added to the
		// time that an alert waits before it fires.
		g.rules.RestoreForState(time.UnixMilli(ts - g.offset - g.interval))
		g.restore = false
	}
	g.last = ts
	r.metrics.count(g, time.Since(began))
	r.replay(ctx, g, ts-g.offset, mark)
}

// suspended reports whether the tenant is: then nothing of it is read or stored, and its
// rules' health says so.
func (r *Ruler) suspended(g *group) bool {
	settings, err := r.options.Store.Settings(g.tenant.id)
	if err != nil || !settings.Suspended {
		return false // whoever needs a tenant that failed says how
	}
	why := fmt.Errorf("not evaluated: tenant %s %w", g.tenant.id, tenant.ErrSuspended)
	for _, rule := range g.rules.Rules() {
		rule.SetHealth(rules.HealthBad)
		rule.SetLastError(why)
	}
	return true
}

// evaluation is one of a group: what its rules give goes to storage in as few batches as
// can be, one where no rule reads what another one records.
type evaluation struct {
	ruler  *Ruler
	tenant tenant.ID
	group  *rules.Group
	live   map[string]bool // where not nil: metrics of which no stale markers are written

	detail  *rules.RuleDetail // of the rule that asked last
	pending increment.Batch
	owners  []*rules.RuleDetail // of what is pending, by position
}

type evaluationKey struct{}

// context is what the group is evaluated in: the tenant's, with its present.
func (e *evaluation) context(ctx context.Context, now int64) context.Context {
	ctx = scope.With(ctx, scope.Scope{Tenant: e.tenant, Now: now})
	return context.WithValue(ctx, evaluationKey{}, e)
}

// query is the QueryFunc of all groups. What the group has recorded so far is stored
// first where the rule may read it.
func (r *Ruler) query(ctx context.Context, text string, t time.Time) (upstream.Vector, error) {
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok {
		detail := rules.FromOriginContext(ctx)
		e.detail = &detail
		if !detail.NoDependencyRules || len(e.pending.Increments) >= batchMax {
			e.flush(ctx)
		}
	}
	return rules.EngineQueryFunc(r.options.Engine, r.options.Queryable)(ctx, text, t)
}

// batchMax is how many samples are kept before they are stored: a batch has to fit into
// a record of the log.
const batchMax = 20_000

// appendable is the AppendableV2 of all groups: it finds the evaluation in the context.
type appendable struct{}

// AppenderV2 returns one that keeps its samples in the evaluation of ctx once they are
// committed.
func (appendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	e, ok := ctx.Value(evaluationKey{}).(*evaluation)
	if !ok {
		panic("ruler: an appender outside an evaluation")
	}
	return &appender{evaluation: e}
}

// appender has the samples of one rule.
type appender struct {
	evaluation *evaluation
	samples    []increment.Increment
}

// Append keeps a sample. What storage thinks of it is known when it is flushed.
func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AOptions) (storage.SeriesRef, error) {
	if a.evaluation.live[ls.Get(model.MetricNameLabel)] {
		return 0, nil
	}
	inc := increment.Increment{Series: increment.NewSeries(ls, increment.Sample, nil), Time: t, At: st, Value: v}
	if h != nil || fh != nil {
		inc.Native = (&increment.Native{Int: h, Float: fh}).Clone()
	}
	a.samples = append(a.samples, inc)
	return 0, nil
}

// Commit hands the samples to the evaluation.
func (a *appender) Commit() error {
	e := a.evaluation
	e.pending.Increments = append(e.pending.Increments, a.samples...)
	for range a.samples {
		e.owners = append(e.owners, e.detail)
	}
	a.samples = nil
	return nil
}

// Rollback forgets the samples.
func (a *appender) Rollback() error {
	a.samples = nil
	return nil
}

// flush stores what is pending. What storage refuses, and why, becomes the health of the
// rule that it is of.
func (e *evaluation) flush(ctx context.Context) {
	incs, owners := e.pending.Increments, e.owners
	if len(incs) == 0 {
		return
	}
	markers := make([]bool, len(incs)) // Append moves increments about
	for i := range incs {
		markers[i] = incs[i].Native == nil && value.IsStaleNaN(incs[i].Value)
	}
	batch := increment.Batch{Increments: incs, SkipRefused: true, Derived: true}
	e.pending, e.owners = increment.Batch{}, nil
	_, err := e.ruler.options.Store.Append(ctx, e.tenant, &batch)
	if err != nil {
		for i := range owners {
			if i == 0 || owners[i] != owners[i-1] {
				e.fail(owners[i], fmt.Errorf("store the results: %w", err))
			}
		}
		return
	}
	var told *rules.RuleDetail
	for _, refused := range batch.Refused {
		if owner := owners[refused.Index]; !markers[refused.Index] && owner != told {
			e.fail(owner, fmt.Errorf("store the result: %w", refused.Err))
			told = owner
		}
	}
}

// fail makes err the health of a rule.
func (e *evaluation) fail(owner *rules.RuleDetail, err error) {
	if owner == nil {
		return // markers of rules that are no more
	}
	for _, rule := range e.group.Rules() {
		if !sameRule(rules.NewRuleDetail(rule), *owner) {
			continue
		}
		rule.SetHealth(rules.HealthBad)
		rule.SetLastError(err)
		if !errors.Is(err, context.Canceled) {
			e.ruler.options.Logger.Warn("the result of a rule cannot be stored", "tenant", e.tenant,
				"namespace", e.group.File(), "group", e.group.Name(), "rule", rule.Name(), "err", err)
		}
		return
	}
}

func sameRule(a, b rules.RuleDetail) bool {
	return a.Kind == b.Kind && a.Name == b.Name && a.Query == b.Query && labels.Equal(a.Labels, b.Labels)
}

// retire ends the series of a group that is no more, but for those of metrics that are
// recorded by others.
func (r *Ruler) retire(ctx context.Context, g *group, live map[string]bool) {
	if g.last == 0 || !r.options.Files.exist(g.tenant.id) {
		return // it has recorded nothing since the start, or the tenant is no more
	}
	empty := rules.NewGroup(rules.GroupOptions{Name: g.rules.Name(), File: g.namespace, Interval: g.rules.Interval(), Opts: r.managerOptions(g.tenant.id, 0)})
	empty.CopyState(g.rules)
	e := &evaluation{ruler: r, tenant: g.tenant.id, group: empty, live: live}
	at := g.last - g.offset + g.grid
	ctx = e.context(ctx, max(at, r.options.Now().UnixMilli()))
	empty.Eval(ctx, time.UnixMilli(at).UTC())
	e.flush(ctx)
}
