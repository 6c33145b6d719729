package promql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// concurrencyMin is how many queries run at once on the smallest machine: so many that
// a few tenants find a place.
const concurrencyMin = 8

// Usage counts what tenants ask.
type Usage interface {
	// Query counts a query and the samples that it read.
	Query(id tenant.ID, samples int64)
}

// GovernorOptions are what a Governor is made of.
type GovernorOptions struct {
	// Engine answers what is admitted. Required.
	Engine upstream.QueryEngine
	// Limits returns those of a tenant. Required.
	Limits func(tenant.ID) (tenant.Limits, error)
	// Usage is told of every query; nil: nobody is.
	Usage Usage
	// Concurrency is how many queries of all tenants run at once; 0: twice as many as
	// there are processors, at least 8. They compute, and where one tenant alone asks
	// half of that many keeps every processor busy.
	Concurrency int
	// LogSlowerThan is how long a query may take without being logged; 0 logs none.
	LogSlowerThan time.Duration
	Logger        *slog.Logger          // nil: none
	Reg           prometheus.Registerer // nil: no metrics
	Now           func() time.Time      // nil: the system's clock
}

// Governor is a QueryEngine that holds queries to the limits of their tenants, lets
// those of each have their turn, and logs slow ones. Safe for concurrent use.
type Governor struct {
	options GovernorOptions
	turns   *turns
	limited *prometheus.CounterVec
	queued  prometheus.Histogram
}

var _ upstream.QueryEngine = (*Governor)(nil)

// NewGovernor returns a governor in front of an engine.
func NewGovernor(o GovernorOptions) (*Governor, error) {
	if o.Engine == nil || o.Limits == nil {
		return nil, errors.New("a governor of queries needs an engine and the limits of tenants")
	}
	if o.Concurrency == 0 {
		o.Concurrency = max(concurrencyMin, 2*runtime.GOMAXPROCS(0))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Governor{options: o, turns: newTurns(o.Concurrency)}
	g.limited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "limited_queries_total", Help: "Queries that failed because of a limit of their tenant, by its name.",
	}, []string{"limit"})
	g.queued = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "query_queue_seconds", Help: "Time that queries waited for their turn.",
		Buckets: []float64{.001, .01, .1, 1, 10, 60},
	})
	for _, l := range []string{limitQueued, limitSeries, limitSamples, limitSteps, limitTime} {
		g.limited.WithLabelValues(l)
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	if o.Reg == nil {
		return g, nil
	}
	for _, c := range []prometheus.Collector{
		g.limited, g.queued,
		gauge("running_queries", "Queries that run.", func() int { n, _ := g.turns.counts(); return n }),
		gauge("waiting_queries", "Queries that wait for their turn.", func() int { _, n := g.turns.counts(); return n }),
	} {
		if err := o.Reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of queries: %w", err)
		}
	}
	return g, nil
}

// Names of limits in a tenant's settings.
const (
	limitQueued  = "queued_queries"
	limitSeries  = "query_series"
	limitSamples = "query_samples"
	limitSteps   = "query_steps"
	limitTime    = "query_time"
)

// unavailable is a limit that the API answers like a timeout of Prometheus's: with 503.
type unavailable struct{ *budget.LimitError }

// As makes it a timeout for upstream's handlers, which ask for that type.
func (u unavailable) As(target any) bool {
	t, ok := target.(*upstream.ErrQueryTimeout)
	if ok {
		*t = upstream.ErrQueryTimeout(u.Error())
	}
	return ok
}

func (u unavailable) Unwrap() error { return u.LimitError }

// Admit waits for the turn of a request that reads a tenant's data. The context that it
// returns carries the budget of the request and ends when its time is over; release
// ends both. What is refused is a limit, whose error says which.
func (g *Governor) Admit(ctx context.Context) (admitted context.Context, release func(), err error) {
	r, err := g.request(ctx)
	if err != nil {
		return nil, nil, err
	}
	g.used(r.tenant, 0)
	return g.admit(budget.With(ctx, r.budget), r)
}

func (g *Governor) used(id tenant.ID, samples int64) {
	if g.options.Usage != nil {
		g.options.Usage.Query(id, samples)
	}
}

// request is what is known of a query when it comes.
type request struct {
	tenant tenant.ID
	limits tenant.Limits
	budget *budget.Query
}

func (g *Governor) request(ctx context.Context) (*request, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil, errors.New("a query names no tenant")
	}
	l, err := g.options.Limits(sc.Tenant)
	if err != nil {
		return nil, err
	}
	b := &budget.Query{Tenant: sc.Tenant, SeriesMax: l.QuerySeries, SamplesMax: int(l.QuerySamples)}
	return &request{tenant: sc.Tenant, limits: l, budget: b}, nil
}

func (g *Governor) admit(ctx context.Context, r *request) (context.Context, func(), error) {
	out := unavailable{&budget.LimitError{
		Tenant: r.tenant, Field: limitTime, Limit: r.limits.QueryTime.String(), What: "the query took too long",
	}}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(r.limits.QueryTime), out)
	began := g.options.Now()
	ok, err := g.turns.acquire(ctx, r.tenant, r.limits.ConcurrentQueries, r.limits.QueuedQueries)
	g.queued.Observe(g.options.Now().Sub(began).Seconds())
	switch {
	case err != nil:
		err = g.explain(ctx, r, err)
		cancel()
		return nil, nil, err
	case !ok:
		cancel()
		g.limited.WithLabelValues(limitQueued).Inc()
		return nil, nil, unavailable{&budget.LimitError{
			Tenant: r.tenant, Field: limitQueued, Limit: fmt.Sprint(r.limits.QueuedQueries), What: "too many queries wait for their turn",
		}}
	}
	return ctx, func() {
		cancel()
		g.turns.release(r.tenant)
	}, nil
}

// explain makes an error that comes of a limit say which, and counts it. An end of the
// context becomes upstream's error for it, wherever it was noticed.
func (g *Governor) explain(ctx context.Context, r *request, err error) error {
	if limit, ok := errors.AsType[unavailable](context.Cause(ctx)); ok && ctx.Err() != nil {
		g.limited.WithLabelValues(limitTime).Inc()
		return limit
	}
	if limit, ok := errors.AsType[*budget.LimitError](err); ok {
		g.limited.WithLabelValues(limit.Field).Inc()
		return limit
	}
	if _, ok := errors.AsType[upstream.ErrTooManySamples](err); ok {
		g.limited.WithLabelValues(limitSamples).Inc()
		return fmt.Errorf("%w: limits.%s of tenant %s is %d", err, limitSamples, r.tenant, r.limits.QuerySamples)
	}
	_, timeout := errors.AsType[upstream.ErrQueryTimeout](err)
	_, canceled := errors.AsType[upstream.ErrQueryCanceled](err)
	switch {
	case timeout || canceled:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return upstream.ErrQueryTimeout(where)
	case errors.Is(err, context.Canceled):
		return upstream.ErrQueryCanceled(where)
	}
	return err
}

// NewInstantQuery returns the engine's query, which waits for its turn when it is run.
func (g *Governor) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	r, err := g.request(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := g.options.Engine.NewInstantQuery(budget.With(ctx, r.budget), q, opts, qs, ts)
	if err != nil {
		return nil, err
	}
	return &governedQuery{Query: inner, governor: g, request: r, start: ts, end: ts}, nil
}

// NewRangeQuery returns the engine's query, which waits for its turn when it is run.
func (g *Governor) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	r, err := g.request(ctx)
	if err != nil {
		return nil, err
	}
	// Counted as the API of Prometheus counts them: without the first one.
	if interval > 0 && int64(end.Sub(start)/interval) > r.limits.QuerySteps {
		g.limited.WithLabelValues(limitSteps).Inc()
		return nil, &budget.LimitError{
			Tenant: r.tenant, Field: limitSteps, Limit: fmt.Sprint(r.limits.QuerySteps),
			What: fmt.Sprintf("the range has %d steps, which is too many", end.Sub(start)/interval),
		}
	}
	inner, err := g.options.Engine.NewRangeQuery(budget.With(ctx, r.budget), q, opts, qs, start, end, interval)
	if err != nil {
		return nil, err
	}
	return &governedQuery{Query: inner, governor: g, request: r, start: start, end: end, step: interval}, nil
}

// governedQuery is a query that waits for its turn.
type governedQuery struct {
	upstream.Query
	governor *Governor
	request  *request

	start, end time.Time
	step       time.Duration // 0: an instant query

	queue stats.Timer // how long it waited
}

// Exec runs the query, once.
func (q *governedQuery) Exec(ctx context.Context) *upstream.Result {
	g := q.governor
	began := g.options.Now()
	res := &upstream.Result{}
	q.queue.Start()
	ctx, release, err := g.admit(budget.With(ctx, q.request.budget), q.request)
	q.queue.Stop()
	if err != nil {
		res.Err = err
	} else {
		defer release()
		if res = q.Query.Exec(ctx); res.Err != nil {
			res.Err = g.explain(ctx, q.request, res.Err)
		}
	}
	samples := int64(0)
	if st := q.Query.Stats(); st != nil && st.Samples != nil {
		samples = st.Samples.TotalSamples
	}
	g.used(q.request.tenant, samples)
	q.log(g.options.Now().Sub(began), res.Err)
	return res
}

// Stats are the engine's, with the time that the query waited.
func (q *governedQuery) Stats() *stats.Statistics {
	st := q.Query.Stats()
	if st != nil && st.Timers != nil {
		*st.Timers.GetTimer(stats.ExecQueueTime) = q.queue
	}
	return st
}

// Statement returns the query as written.
func (q *governedQuery) Statement() parser.Statement { return q.Query.Statement() }

// queryLogMax is how much of a query's text is logged.
const queryLogMax = 1000

// log writes what a slow query was and what it took.
func (q *governedQuery) log(took time.Duration, err error) {
	g := q.governor
	if g.options.LogSlowerThan <= 0 || took < g.options.LogSlowerThan {
		return
	}
	text := q.String()
	if len(text) > queryLogMax {
		text = fmt.Sprintf("%s... (%d bytes)", text[:queryLogMax], len(text))
	}
	st := q.Stats()
	attrs := []any{
		"tenant", q.request.tenant, "query", text,
		"start", q.start.UTC().Format(time.RFC3339Nano), "end", q.end.UTC().Format(time.RFC3339Nano), "step", model.Duration(q.step),
		"took", took.Round(time.Millisecond), "waited", time.Duration(q.queue.Duration() * float64(time.Second)).Round(time.Millisecond),
		"series", q.request.budget.Series(), "cached_steps", q.request.budget.Cached(),
	}
	if st != nil && st.Samples != nil {
		attrs = append(attrs, "samples", st.Samples.TotalSamples)
	}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	g.options.Logger.Warn("a query was slow", attrs...)
}
