package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/util/httputil"

	"github.com/quipudb/quipu/api/auth"
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
	for _, reason := range []string{overload.ReasonMemory, overload.ReasonBusy, overload.ReasonLog, overload.ReasonMemtables, overload.ReasonDeletions, overload.ReasonRestore} {
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
// call it. A request gets to h if who asks has what need says.
func (a *api) route(name string, need auth.Need, h http.Handler) http.Handler {
	switch {
	case !need.Declared():
		panic(fmt.Sprintf("api: the route %s does not say what it needs (auth.Need)", name))
	case !need.IsOpen():
		h = a.guarded(name, need, h, a.identify)
	}
	return a.measured(name, h)
}

// measured counts requests to h and survives its panics.
func (a *api) measured(name string, h http.Handler) http.Handler {
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

// passage returns the context of a request that has what is needed.
type passage func(r *http.Request, route string, need auth.Need, key string) (context.Context, error)

// guarded lets requests pass to h, with the context that pass returns, and writes to the
// audit log what was done where only administrators may do it.
func (a *api) guarded(name string, need auth.Need, h http.Handler, pass passage) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, err := pass(r, name, need, "")
		if err != nil {
			httputil.SetCORS(w, a.corsOrigin, r)
			a.respondRefused(w, err)
			return
		}
		finished := false
		defer func() { // also where h panics, which is answered further out
			tracked, ok := w.(*trackedWriter)
			if !ok || !need.Administrative() || r.Method == http.MethodGet || r.Method == http.MethodHead {
				return
			}
			code := tracked.code
			if !finished {
				code = http.StatusInternalServerError
			}
			auth.AuditAnswer(ctx, r.Method, code, mux.Vars(r)["id"])
		}()
		h.ServeHTTP(w, r.WithContext(ctx))
		finished = true
	})
}

// respondRefused says why a request is not served for who made it.
func (a *api) respondRefused(w http.ResponseWriter, err error) {
	refusal, ok := auth.AsRefusal(err)
	if !ok {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	errorType := errorBadData
	switch refusal.Status {
	case http.StatusUnauthorized:
		errorType = errorUnauthorized
	case http.StatusForbidden:
		errorType = errorForbidden
	case http.StatusTooManyRequests:
		errorType = errorTooMany
	case http.StatusServiceUnavailable:
		errorType = errorUnavailable
	}
	if challenge := refusal.Challenge(); challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if refusal.RetryAfter > 0 {
		seconds := (refusal.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	respondError(w, a.logger, refusal.Status, errorType, refusal.Message)
}

// scoped is a route under /api/, of the data of the request's tenant.
func (a *api) scoped(name string, need auth.Need, h http.Handler) http.Handler {
	if !need.Declared() || need.IsOpen() {
		panic(fmt.Sprintf("api: the route %s has a tenant, so it has to say what it needs (auth.Need)", name))
	}
	return a.measured(name, a.guarded(name, need, a.unlessRefused(h), a.authenticate))
}

// ours is a scoped route that Prometheus does not have, with what Prometheus
// does around its own.
func (a *api) ours(name string, need auth.Need, h http.HandlerFunc) http.Handler {
	return a.scoped(name, need, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httputil.SetCORS(w, a.corsOrigin, r)
		a.ready(h)(w, r)
	}))
}

// byMethod is ours where reading needs something else than writing.
func (a *api) byMethod(name string, read, write auth.Need, h http.HandlerFunc) http.Handler {
	reading, writing := a.ours(name, read, h), a.ours(name, write, h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			reading.ServeHTTP(w, r)
			return
		}
		writing.ServeHTTP(w, r)
	})
}

// identify returns a context that says who asks, where whoever asks has what is needed.
func (a *api) identify(r *http.Request, route string, need auth.Need, key string) (context.Context, error) {
	who, _, err := a.subject(r, need, key)
	if err != nil {
		return nil, err
	}
	return auth.With(r.Context(), &auth.Request{Subject: who, Client: auth.ClientOf(r), Route: route, Log: a.audit}), nil
}

// subject is who makes a request and of which tenant, where there are credentials;
// otherwise it is everybody, of the zero tenant.
func (a *api) subject(r *http.Request, need auth.Need, key string) (*auth.Subject, tenant.ID, error) {
	if a.auth == nil {
		return &auth.Everybody, tenant.ID{}, nil
	}
	return a.auth.Identify(r, need, key)
}

// authenticate returns a context that says who asks and of which tenant, with the
// present (I1), where whoever asks has what is needed. Every request for a tenant's data
// comes here, with the key that its events carry, "" where there is none. No credential
// may ever be a cookie: pages of any origin may post events with those that they have
// (setPostCORS).
func (a *api) authenticate(r *http.Request, route string, need auth.Need, key string) (context.Context, error) {
	who, id, err := a.subject(r, need, key)
	if err != nil {
		return nil, err
	}
	s := scope.Scope{Tenant: id, Now: a.now().UnixMilli()}
	if a.auth == nil {
		if s, err = a.scopeOf(r); err != nil {
			return nil, err
		}
	}
	ctx := auth.With(r.Context(), &auth.Request{Subject: who, Client: auth.ClientOf(r), Route: route, Log: a.audit})
	return scope.With(ctx, s), nil
}

// scopeOf is the tenant that the headers name, which is right where there are no
// credentials, and the present.
func (a *api) scopeOf(r *http.Request) (scope.Scope, error) {
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
