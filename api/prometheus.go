package api

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api/auth"
)

const (
	// prometheusVersion is the version of Prometheus whose engine and handlers
	// these are: module v0.316.0 is Prometheus 3.16.0. Grafana reads it from
	// status/buildinfo to decide what it may ask for, so it cannot be Quipu's
	// own, which stands in the branch.
	prometheusVersion = "3.16.0"

	lookbackDelta = 5 * time.Minute

	// Prometheus's defaults for remote read.
	readSamplesMax     = 50_000_000
	readConcurrencyMax = 10
	readFrameBytesMax  = 1 << 20
)

// upstream is Prometheus's handlers and the paths, below /api/v1, that they are
// registered for.
type upstream struct {
	router *route.Router
	paths  []string
}

func (a *api) newUpstream(o Options) *upstream {
	build := &v1.PrometheusVersion{
		Version:   prometheusVersion,
		Revision:  o.Revision,
		Branch:    "quipu-" + o.Version,
		GoVersion: runtime.Version(),
	}
	handlers := v1.NewAPI(
		o.Engine, samplesOnly{o.Storage},
		nil, // nothing is appended through these handlers
		o.Exemplars,
		func(context.Context) v1.ScrapePoolsRetriever { return noTargets{} },
		targets,
		a.alertmanagersOf,
		func() config.Config { return config.Config{} }, // nothing is scraped, by no default either
		map[string]string{},
		v1.GlobalURLOptions{},
		a.ready,
		nil, "", false, // no TSDB of Prometheus's: see ownPaths
		false, 0, // no search: it keeps metadata of one tenant for the next that asks
		o.Logger,
		a.rulesOf,
		readSamplesMax, readConcurrencyMax, readFrameBytesMax,
		false, // not an agent
		a.corsOrigin,
		a.runtimeInfo(o.ConfigState),
		build,
		noNotifications, noSubscription,
		prometheus.NewRegistry(), // I2
		prometheus.WrapRegistererWithPrefix("quipu_api_", o.Registry),
		nil,        // the usual statistics
		false, nil, // no remote write
		false, false, false, // no OTLP
		lookbackDelta,
		false, false, // no labels for types and units, no metadata appended
		nil, // the usual status codes
		addFeatures(o.Features, o.Admin != nil),
		v1.OpenAPIOptions{Version: prometheusVersion},
		o.Parser,
		false, 0, // no cost of queries
	)
	u := &upstream{}
	u.router = route.New().WithInstrumentation(func(path string, h http.HandlerFunc) http.HandlerFunc {
		u.paths = append(u.paths, path)
		return h
	})
	handlers.Register(u.router)
	return u
}

// upstreamNeed is what a path of Prometheus's router needs. One that is not known here
// panics: whoever adds a version of Prometheus with a new path has to say.
func upstreamNeed(path string) auth.Need {
	switch path {
	case "/query", "/query_range", "/query_exemplars", "/query_cost", "/query_range_cost", "/format_query", "/parse_query",
		"/labels", "/label/:name/values", "/series", "/metadata", "/read", "/alerts", "/rules", "/alertmanagers",
		"/search/metric_names", "/search/label_names", "/search/label_values",
		"/scrape_pools", "/scrape_pools/config", "/targets", "/targets/metadata", "/targets/relabel_steps",
		"/status/buildinfo", "/status/tsdb", "/status/tsdb/blocks", "/status/walreplay", "/features", "/openapi.yaml":
		return auth.Any(auth.MetricsRead)
	case "/write", "/otlp/v1/metrics":
		return auth.Any(auth.MetricsWrite)
	case "/admin/tsdb/delete_series", "/admin/tsdb/clean_tombstones":
		return auth.Any(auth.Admin)
	case "/admin/tsdb/snapshot": // writes to the disk of the server
		return auth.Operator
	case "/status/config", "/status/flags", "/status/runtimeinfo", "/status/self_metrics",
		"/notifications", "/notifications/live":
		return auth.Process
	}
	panic(fmt.Sprintf("api: it is not known what the path %s of Prometheus's API needs", path))
}

// runtimeInfo returns what answers status/runtimeinfo.
func (a *api) runtimeInfo(config func() (good bool, goodAt time.Time)) func() (v1.RuntimeInfo, error) {
	start := a.now().UTC()
	if config == nil {
		config = func() (bool, time.Time) { return true, start }
	}
	return func() (v1.RuntimeInfo, error) {
		good, goodAt := config()
		hostname, err := os.Hostname()
		if err != nil {
			return v1.RuntimeInfo{}, fmt.Errorf("read the host's name: %w", err)
		}
		return v1.RuntimeInfo{
			StartTime:           start,
			Hostname:            hostname,
			ServerTime:          a.now().UTC(),
			ReloadConfigSuccess: good,
			LastConfigTime:      goodAt.UTC(),
			GoroutineCount:      runtime.NumGoroutine(),
			GOMAXPROCS:          runtime.GOMAXPROCS(0),
			GOMEMLIMIT:          debug.SetMemoryLimit(-1),
			GOGC:                os.Getenv("GOGC"),
			GODEBUG:             os.Getenv("GODEBUG"),
		}, nil
	}
}
