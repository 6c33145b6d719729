package promql

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"
)

// Upstream's own suite, with the options that it wants of an engine.
func builtinSuite(t *testing.T, wrap func(*Engine) upstream.QueryEngine) {
	e := newEngine(upstream.EngineOpts{
		MaxSamples:               10_000,
		Timeout:                  100 * time.Second,
		EnableDelayedNameRemoval: true,
		UseStartTimestamps:       true,
	}, promqltest.TestParserOpts, smallWorld())
	promqltest.RunBuiltinTestsWithStorage(t, wrap(e), func(tb testing.TB) storage.Storage {
		return promqltest.NewBuiltinTestStorage(tb)
	})
}

// Ordinary PromQL is what it was.
func TestBuiltinSuite(t *testing.T) {
	builtinSuite(t, func(e *Engine) upstream.QueryEngine { return e })
}

// So is what stands next to a call in a planned query: here each query runs as a
// planned one does.
func TestBuiltinSuiteThroughPlannedQueryable(t *testing.T) {
	builtinSuite(t, func(e *Engine) upstream.QueryEngine { return alwaysPlanned{e} })
}

type alwaysPlanned struct{ *Engine }

func (e alwaysPlanned) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	return e.engine.NewInstantQuery(ctx, e.planned(q), opts, qs, ts)
}

func (e alwaysPlanned) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	return e.engine.NewRangeQuery(ctx, e.planned(q), opts, qs, start, end, interval)
}

func (e alwaysPlanned) planned(q storage.Queryable) storage.Queryable {
	return &plannedQueryable{Queryable: q, distinct: e.distinct, maxSamples: e.maxSamples, calls: map[string]*call{}}
}
