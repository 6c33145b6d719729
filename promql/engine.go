package promql

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"

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
	// Features is told what the language has; nil: nobody is.
	Features features.Collector
	// DropNamesLast and StartTimestamps are upstream's options EnableDelayedNameRemoval
	// and UseStartTimestamps. Language is what is parsed besides our own functions, nil for
	// what NewParser takes.
	DropNamesLast, StartTimestamps bool
	Language                       *parser.Options
}

// Engine is upstream's engine with the planner in front. It implements
// upstream's QueryEngine. Safe for concurrent use.
type Engine struct {
	engine     *upstream.Engine
	parser     checkedParser
	planner    planner
	distinct   DistinctSource
	maxSamples int
	startTimes bool
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
		FeatureRegistry:    o.Features,

		EnableDelayedNameRemoval: o.DropNamesLast,
		UseStartTimestamps:       o.StartTimestamps,
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
	if o.Language != nil {
		return newEngine(opts, *o.Language, o.Distinct)
	}
	return newEngine(opts, language(), o.Distinct)
}

// newEngine completes opts by what the planner depends on.
func newEngine(opts upstream.EngineOpts, language parser.Options, distinct DistinctSource) *Engine {
	if distinct == nil {
		panic("promql: an engine needs a source of distinct series")
	}
	p := newParser(language)
	plan := planner{
		namesLast: opts.EnableDelayedNameRemoval,
		off:       opts.EnableTypeAndUnitLabels || opts.EnableQueryCost, // ways of the engine's own
	}
	opts.Parser = planParser{p, plan}
	opts.EnableAtModifier, opts.EnableNegativeOffset = true, true
	opts.NoStepSubqueryIntervalFn = subqueryStep
	return &Engine{
		engine: upstream.NewEngine(opts), parser: p, planner: plan, distinct: distinct,
		maxSamples: opts.MaxSamples, startTimes: opts.UseStartTimestamps,
	}
}

// subqueryStep is the step in milliseconds of a subquery that names none.
func subqueryStep(int64) int64 { return defaultSubqueryStep.Milliseconds() }

// NewInstantQuery returns the query qs at ts over the series of q. What
// upstream's engine refuses, it refuses with upstream's error.
func (e *Engine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	query, err := e.plan(q, opts, qs, func(q storage.Queryable) (upstream.Query, error) {
		return e.engine.NewInstantQuery(ctx, q, opts, qs, ts)
	})
	if err != nil {
		return nil, err
	}
	return e.explained(ctx, query, qs, ts, ts, 0), nil
}

// NewRangeQuery returns the query qs at start, then every interval up to end.
func (e *Engine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	query, err := e.plan(q, opts, qs, func(q storage.Queryable) (upstream.Query, error) {
		return e.engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
	if err != nil {
		return nil, err
	}
	return e.explained(ctx, query, qs, start, end, interval), nil
}

// plan makes the query qs over q with what build makes of a Queryable.
func (e *Engine) plan(q storage.Queryable, opts upstream.QueryOpts, qs string, build func(storage.Queryable) (upstream.Query, error)) (upstream.Query, error) {
	shown, err := e.parser.ParseExpr(qs)
	if err != nil {
		return nil, err
	}
	taken := e.planner.plannedIn(shown)
	if taken == nil {
		return build(q)
	}
	pq := &plannedQueryable{Queryable: q, distinct: e.distinct, maxSamples: e.maxSamples, planned: make(map[string]planned)}
	inner, err := build(pq)
	if err != nil {
		return nil, err
	}
	stmt := *inner.Statement().(*parser.EvalStmt)
	places := evaluationPlaces(&stmt, subqueryStep)
	// The statement as written, prepared as the engine prepares one.
	if stmt.Expr, err = upstream.PreprocessExpr(shown, stmt.Start, stmt.End, stmt.Interval); err != nil {
		return nil, err
	}
	o := directOptions{namesLast: e.planner.namesLast, startTimes: e.startTimes, maxSamples: e.maxSamples}
	if opts != nil && opts.UseStartTimestamps() != nil {
		o.startTimes = *opts.UseStartTimestamps()
	}
	for _, expr := range taken {
		name := syntheticName(expr)
		if c, ok := expr.(*parser.Call); ok && isOwn(c) {
			pq.planned[name] = newCall(c, &stmt)
		} else {
			pq.planned[name] = newDirect(expr, &stmt, o)
		}
		pq.planned[name].setTimes(places[name].steps)
	}
	pq.mint, pq.maxt = upstream.FindMinMaxTime(&stmt)
	return &plannedQuery{Query: inner, stmt: &stmt, plan: pq, places: places}, nil
}

// plannedQuery is a query whose expression was rewritten; it shows the one that
// was written.
type plannedQuery struct {
	upstream.Query
	stmt   *parser.EvalStmt
	plan   *plannedQueryable
	places map[string]place // by the name of the selector
}

// Statement returns the query as written.
func (q *plannedQuery) Statement() parser.Statement { return q.stmt }

// Exec runs the query, once.
func (q *plannedQuery) Exec(ctx context.Context) *upstream.Result {
	res := q.Query.Exec(ctx)
	if res.Err == nil {
		for name, p := range q.plan.planned {
			if d, ok := p.(*direct); ok {
				d.account(q.Query.Stats().Samples, q.places[name])
			}
		}
	}
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
