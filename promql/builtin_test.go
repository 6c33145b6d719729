package promql

import (
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

// PromQL is what it was, with the planner in front.
func TestBuiltinSuite(t *testing.T) {
	builtinSuite(t, func(e *Engine) upstream.QueryEngine { return e })
}
