package api

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/util/httputil"

	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// requestMetrics count requests by the route that took them, of which there are
// a few dozen.
type requestMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	shed     *prometheus.CounterVec
}

func newRequestMetrics(reg prometheus.Registerer, budget *heldBudget) (*requestMetrics, error) {
	m := &requestMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_api_requests_total",
			Help: "HTTP requests by the route that answered and the status.",
		}, []string{"handler", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "quipu_api_request_seconds",
			Help:    "Time that HTTP requests took by the route that answered.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120},
		}, []string{"handler"}),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_shed_requests_total",
			Help: "Requests refused with 503 because the server is overloaded, by what there was too little of.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{overload.ReasonMemory, overload.ReasonBusy, overload.ReasonLog, overload.ReasonMemtables} {
		m.shed.WithLabelValues(reason)
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "quipu_ingest_held_bytes", Help: "Bytes of bodies that are held until their requests are answered.",
	}, func() float64 { return float64(budget.held.Load()) })
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.shed, held} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the api: %w", err)
		}
	}
	return m, nil
}

// route is what every request passes on its way to h; name is how its metrics
// call it.
func (a *api) route(name string, h http.Handler) http.Handler {
	m := &routeMetrics{
		requests: a.metrics.requests.MustCurryWith(prometheus.Labels{"handler": name}),
		seconds:  a.metrics.seconds.WithLabelValues(name),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		tracked := &trackedWriter{ResponseWriter: w}
		a.recovered(h, tracked, r)
		m.count(tracked.code, time.Since(began))
	})
}

// routeMetrics are those of one route. promhttp's handlers look their labels up in maps
// for each request, which took as long as reading an event.
type routeMetrics struct {
	requests *prometheus.CounterVec // by code
	seconds  prometheus.Observer
	ok       atomic.Pointer[prometheus.Counter] // of code 200, once there was one
}

func (m *routeMetrics) count(code int, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if code != 0 && code != http.StatusOK {
		m.requests.WithLabelValues(strconv.Itoa(code)).Inc()
		return
	}
	ok := m.ok.Load()
	if ok == nil {
		c := m.requests.WithLabelValues("200") // also where nothing was written
		ok = &c
		m.ok.Store(ok)
	}
	(*ok).Inc()
}

// scoped is a route under /api/.
func (a *api) scoped(name string, h http.Handler) http.Handler {
	h = a.unlessRefused(h)
	return a.route(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := a.authenticate(r, "")
		if err != nil {
			httputil.SetCORS(w, a.corsOrigin, r)
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
			return
		}
		h.ServeHTTP(w, r.WithContext(scope.With(r.Context(), s)))
	}))
}

// ours is a scoped route that Prometheus does not have, with what Prometheus
// does around its own.
func (a *api) ours(name string, h http.HandlerFunc) http.Handler {
	return a.scoped(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httputil.SetCORS(w, a.corsOrigin, r)
		a.ready(h)(w, r)
	}))
}

// authenticate says whose request r is, and reads the clock (I1). Every request for a
// tenant's data comes here, with the key that its events carry, "" where there is none.
// There are no credentials yet, so a key says nothing. None may ever be a cookie: pages
// of any origin may post events with those that they have (setPostCORS).
func (a *api) authenticate(r *http.Request, _ string) (scope.Scope, error) {
	s := scope.Scope{Tenant: tenant.Default, Now: a.now().UnixMilli()}
	if a.tenantHeader == "" {
		return s, refuseTenants(r)
	}
	values := r.Header.Values(a.tenantHeader)
	switch len(values) {
	case 0:
		return s, nil
	case 1:
		id, err := tenant.Parse(values[0])
		if err != nil {
			return s, fmt.Errorf("header %s: %w", a.tenantHeader, err)
		}
		s.Tenant = id
		return s, nil
	}
	return s, fmt.Errorf("the request has %d headers %s, it may have one", len(values), a.tenantHeader)
}

// usualTenantHeader is how clients of Prometheus-compatible servers name a tenant.
const usualTenantHeader = "X-Scope-OrgID"

// refuseTenants fails a request that names a tenant where nothing reads the
// name: what it is answered would be another tenant's.
func refuseTenants(r *http.Request) error {
	for _, value := range r.Header.Values(usualTenantHeader) {
		if value != "" && value != tenant.Default.String() {
			return fmt.Errorf("this server has no tenants, so there is no %q: start it with --tenant.header=%s", value, usualTenantHeader)
		}
	}
	return nil
}

// pinTime makes the present of the request the time of an instant query that
// names none, where Prometheus's handler would read the clock again (I1).
func pinTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// FormValue parses the request as the handler after it would.
		if s, ok := scope.From(r.Context()); ok && r.FormValue("time") == "" && r.Form != nil {
			r.Form.Set("time", strconv.FormatFloat(float64(s.Now)/1000, 'f', 3, 64))
		}
		next.ServeHTTP(w, r)
	})
}

// recovered turns a panic of h into a status 500 and a line in the log; where
// the answer has begun, into a broken connection, so that no client takes half
// an answer for a whole one.
func (a *api) recovered(h http.Handler, w *trackedWriter, r *http.Request) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if err, ok := cause.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			a.logger.Error("a request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		}
		if w.code != 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Del("Content-Encoding")
		respondError(w, a.logger, http.StatusInternalServerError, errorInternal, "the request failed inside the server, its log says how")
	}()
	h.ServeHTTP(w, r)
}

// trackedWriter knows the status of an answer once it has begun.
type trackedWriter struct {
	http.ResponseWriter
	code int // 0: it has not
}

func (w *trackedWriter) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *trackedWriter) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *trackedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
