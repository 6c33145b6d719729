package promql

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"
)

const (
	defaultMaxSamples    = 50_000_000
	defaultTimeout       = 2 * time.Minute
	defaultLookbackDelta = 5 * time.Minute
	defaultSubqueryStep  = time.Minute
)

// EngineOptions are what an Engine is made of.
type EngineOptions struct {
	// Distinct is where distinct_over_time and count_distinct read. Required.
	Distinct DistinctSource
	// Logger and Reg may be nil: no log, no metrics of the engine's own.
	Logger *slog.Logger
	Reg    prometheus.Registerer
	// MaxSamples is the most samples that one query may hold in memory, 0 for
	// 50 million. It bounds the values of each planned call too.
	MaxSamples int
	// Timeout is the most time that one query may take, 0 for 2 minutes.
	Timeout time.Duration
	// LookbackDelta is the age past which a sample no longer shows, 0 for 5
	// minutes.
	LookbackDelta time.Duration
}

// Engine is upstream's engine with the planner in front. It implements
// upstream's QueryEngine. Safe for concurrent use.
type Engine struct {
	engine     *upstream.Engine
	parser     checkedParser
	distinct   DistinctSource
	maxSamples int
}

var _ upstream.QueryEngine = (*Engine)(nil)

// NewEngine returns an engine. It panics where Distinct is nil.
func NewEngine(o EngineOptions) *Engine {
	opts := upstream.EngineOpts{
		Logger:             o.Logger,
		Reg:                o.Reg,
		MaxSamples:         o.MaxSamples,
		Timeout:            o.Timeout,
		LookbackDelta:      o.LookbackDelta,
		EnablePerStepStats: true,
	}
	if opts.MaxSamples == 0 {
		opts.MaxSamples = defaultMaxSamples
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.LookbackDelta == 0 {
		opts.LookbackDelta = defaultLookbackDelta
	}
	return newEngine(opts, language(), o.Distinct)
}

// newEngine completes opts by what the planner depends on.
func newEngine(opts upstream.EngineOpts, language parser.Options, distinct DistinctSource) *Engine {
	if distinct == nil {
		panic("promql: an engine needs a source of distinct series")
	}
	p := newParser(language)
	opts.Parser = planParser{p}
	opts.EnableAtModifier, opts.EnableNegativeOffset = true, true
	opts.NoStepSubqueryIntervalFn = subqueryStep
	return &Engine{upstream.NewEngine(opts), p, distinct, opts.MaxSamples}
}

// subqueryStep is the step in milliseconds of a subquery that names none.
func subqueryStep(int64) int64 { return defaultSubqueryStep.Milliseconds() }

// NewInstantQuery returns the query qs at ts over the series of q. What
// upstream's engine refuses, it refuses with upstream's error.
func (e *Engine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	return e.plan(q, qs, func(q storage.Queryable) (upstream.Query, error) {
		return e.engine.NewInstantQuery(ctx, q, opts, qs, ts)
	})
}

// NewRangeQuery returns the query qs at start, then every interval up to end.
func (e *Engine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	return e.plan(q, qs, func(q storage.Queryable) (upstream.Query, error) {
		return e.engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
}

// plan makes the query qs over q with what build makes of a Queryable.
func (e *Engine) plan(q storage.Queryable, qs string, build func(storage.Queryable) (upstream.Query, error)) (upstream.Query, error) {
	// A function's name has one spelling, so most queries end here unparsed (I1).
	if !strings.Contains(qs, distinctOverTime) && !strings.Contains(qs, countDistinct) {
		return build(q)
	}
	shown, err := e.parser.ParseExpr(qs)
	if err != nil {
		return nil, err
	}
	if callsIn(shown) == nil {
		return build(q)
	}
	pq := &plannedQueryable{Queryable: q, distinct: e.distinct, maxSamples: e.maxSamples, calls: make(map[string]*call)}
	inner, err := build(pq)
	if err != nil {
		return nil, err
	}
	stmt := *inner.Statement().(*parser.EvalStmt)
	times := evaluationTimes(&stmt, subqueryStep)
	// The statement as written, prepared as the engine prepares one.
	if stmt.Expr, err = upstream.PreprocessExpr(shown, stmt.Start, stmt.End, stmt.Interval); err != nil {
		return nil, err
	}
	for _, c := range callsIn(stmt.Expr) {
		name := syntheticName(c)
		pq.calls[name] = newCall(c, &stmt)
		pq.calls[name].times = times[name]
	}
	return &plannedQuery{inner, &stmt}, nil
}

// plannedQuery is a query whose expression was rewritten; it shows the one that
// was written.
type plannedQuery struct {
	upstream.Query
	stmt *parser.EvalStmt
}

// Statement returns the query as written.
func (q *plannedQuery) Statement() parser.Statement { return q.stmt }

// Exec runs the query, once.
func (q *plannedQuery) Exec(ctx context.Context) *upstream.Result {
	res := q.Query.Exec(ctx)
	if e, ok := errors.AsType[*evaluationError](res.Err); ok {
		res.Err = e.err
	}
	return res
}

// evaluationError is an error of evaluating a call. The engine takes it for one
// of reading series and says so in front of it; Exec takes that away again.
type evaluationError struct{ err error }

func (e *evaluationError) Error() string { return e.err.Error() }
func (e *evaluationError) Unwrap() error { return e.err }
