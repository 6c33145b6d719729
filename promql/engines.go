package promql

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/budget"
)

// Engines is a QueryEngine that holds each query to the samples of its budget: an
// engine has one bound for all of its queries, so there is one for each bound. Safe for
// concurrent use.
type Engines struct {
	options EngineOptions

	mu    sync.Mutex
	byMax map[int]*Engine
}

var _ upstream.QueryEngine = (*Engines)(nil)

// NewEngines returns engines that differ from what NewEngine makes of the options in
// their bound of samples, which is a label of their metrics. The options' bound is that
// of queries without a budget.
func NewEngines(o EngineOptions) *Engines {
	if o.MaxSamples == 0 {
		o.MaxSamples = defaultMaxSamples
	}
	e := &Engines{options: o, byMax: map[int]*Engine{}}
	e.forBudget(nil) // so that its metrics are there
	return e
}

func (e *Engines) forBudget(b *budget.Query) *Engine {
	o := e.options
	if b != nil && b.SamplesMax > 0 {
		o.MaxSamples = b.SamplesMax
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	engine := e.byMax[o.MaxSamples]
	if engine == nil {
		if o.Reg != nil {
			o.Reg = prometheus.WrapRegistererWith(prometheus.Labels{"max_samples": strconv.Itoa(o.MaxSamples)}, o.Reg)
		}
		engine = NewEngine(o)
		e.byMax[o.MaxSamples] = engine
	}
	return engine
}

// NewInstantQuery returns the query of the engine for the budget of ctx.
func (e *Engines) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	return e.forBudget(budget.From(ctx)).NewInstantQuery(ctx, q, opts, qs, ts)
}

// NewRangeQuery returns the query of the engine for the budget of ctx.
func (e *Engines) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	return e.forBudget(budget.From(ctx)).NewRangeQuery(ctx, q, opts, qs, start, end, interval)
}
