package promql

import (
	"context"
	"sync"
	"time"

	upstream "github.com/prometheus/prometheus/promql"
)

// Explanation is how queries were answered: what the cache knew of them, and the plans
// by which the rest was computed. It is filled while they run, and safe for concurrent
// use until then.
type Explanation struct {
	// CachedSteps is how many steps the results cache knew.
	CachedSteps int `json:"cachedSteps"`
	// Runs are those of the engine: none where the cache knew all, two where it knew
	// what is in the middle.
	Runs []Run `json:"runs"`

	mu sync.Mutex
}

// Run is one run of the engine. Times are milliseconds since 1970; of an instant query
// Start and End are one and Step is 0.
type Run struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	Step  int64 `json:"step"`
	Plan  *Plan `json:"plan"`
}

type explanationKey struct{}

// WithExplanation returns a context whose queries are explained, once they have run.
func WithExplanation(ctx context.Context) (context.Context, *Explanation) {
	x := &Explanation{Runs: []Run{}}
	return context.WithValue(ctx, explanationKey{}, x), x
}

// explanationFrom returns what explains the queries of ctx, nil where nothing does.
func explanationFrom(ctx context.Context) *Explanation {
	x, _ := ctx.Value(explanationKey{}).(*Explanation)
	return x
}

// cached notes that the cache knew n steps.
func (x *Explanation) cached(n int) {
	if x != nil {
		x.mu.Lock()
		x.CachedSteps += n
		x.mu.Unlock()
	}
}

// explainedQuery is a query of an engine that is explained when it has run.
type explainedQuery struct {
	upstream.Query
	engine *Engine
	to     *Explanation
	run    Run
	text   string
}

// explained is query, or where ctx wants it explained what does that.
func (e *Engine) explained(ctx context.Context, query upstream.Query, qs string, start, end time.Time, step time.Duration) upstream.Query {
	x := explanationFrom(ctx)
	if x == nil {
		return query
	}
	return &explainedQuery{query, e, x, Run{start.UnixMilli(), end.UnixMilli(), step.Milliseconds(), nil}, qs}
}

// Exec runs the query, once.
func (q *explainedQuery) Exec(ctx context.Context) *upstream.Result {
	res := q.Query.Exec(ctx)
	plan, err := q.engine.planOf(q.Query, q.text)
	if err != nil { // it was parsed before
		return &upstream.Result{Err: err}
	}
	q.run.Plan = plan
	q.to.mu.Lock()
	q.to.Runs = append(q.to.Runs, q.run)
	q.to.mu.Unlock()
	return res
}
