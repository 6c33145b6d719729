package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/grafana/regexp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/httputil"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	bodyBytesMaxDefault    = 32 << 20
	decodedBytesMaxDefault = 128 << 20
	heldBytesMaxDefault    = 256 << 20
)

// Tenants knows what a tenant has.
type Tenants interface {
	// DataRange returns the time of the tenant's oldest data and the end of its
	// newest, in milliseconds since 1970; ok is false where it has none.
	DataRange(ctx context.Context, id tenant.ID) (mint, maxt int64, ok bool, err error)
	// Metrics returns the tenant's metrics.
	Metrics(ctx context.Context, id tenant.ID) ([]Metric, error)
}

// Options of New. All are required unless they say otherwise.
type Options struct {
	Logger *slog.Logger // nil: none
	Events EventSink
	Rules  EventRules
	Engine promql.QueryEngine
	Parser parser.Parser
	// Storage finds the tenant in the scope of the context that its queriers
	// are called with.
	Storage storage.Queryable
	// Exemplars are those of the tenant in the scope of the context.
	Exemplars storage.ExemplarQueryable
	Tenants   Tenants
	// Inventory says what is stored of a tenant.
	Inventory Inventory
	// Admin changes what is stored of a tenant; nil: nothing does.
	Admin Admin
	// Backups are snapshots of what is stored; nil: there are none.
	Backups Backups
	// Features are those of the language, to which others are added; nil: none are said.
	Features features.Collector
	// Operator is what an operator does with tenants; nil: there is nobody who does.
	Operator TenantAdmin
	// Ruler has recording and alerting rules.
	Ruler Ruler // nil: there are none
	// Admission is for reads that do not go through the engine; nil: none waits.
	Admission Admission
	// Auth says who makes a request; nil: everybody may do everything.
	Auth *auth.Authenticator
	// Audit is where administrative acts are written; nil: nowhere.
	Audit *auth.AuditLog
	// TenantHeader is the request header that names the tenant where there is no Auth;
	// "": all requests are of the default tenant.
	TenantHeader string
	// Registry takes the metrics of this package and is what /metrics shows.
	Registry *prometheus.Registry
	Now      func() time.Time // nil: the system's clock
	// Ready returns why requests cannot be served yet, nil once they can.
	Ready func() error // nil: always ready
	// Reload reads the configuration again; nil: there is nothing to read. Where it
	// fails, the configuration before stays in force.
	Reload func() error
	// ConfigState says whether the configuration was right when it was read last, and when
	// it last was; nil: there is none, which is right since the start.
	ConfigState func() (good bool, goodAt time.Time)
	// UI answers GET requests for all paths that nothing else takes.
	UI                http.Handler // nil: none
	Version, Revision string       // of Quipu; "": unknown
	// BodyBytesMax bounds a posted body, 0: 32 MiB; DecodedBytesMax what it may
	// become when it is decompressed, 0: 128 MiB.
	BodyBytesMax, DecodedBytesMax int64
	// HeldBytesMax bounds the bytes of all bodies that are held, 0: 256 MiB. No body may
	// be larger than a quarter of it, nor become larger than half.
	HeldBytesMax int64
	// Proxies are the addresses of those whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
	// Slots are where bodies are decompressed, opened and explained; nil: as many at once as there are.
	Slots *overload.Slots
}

func (o *Options) validate() error {
	if o.Events == nil || o.Rules == nil || o.Engine == nil || o.Parser == nil || o.Storage == nil || o.Exemplars == nil || o.Tenants == nil || o.Inventory == nil || o.Registry == nil {
		return errors.New("the api needs events, their rules, an engine, a parser, a storage, exemplars, tenants, an inventory and a registry")
	}
	if o.BodyBytesMax < 0 || o.DecodedBytesMax < 0 {
		return fmt.Errorf("bodies of at most %d bytes, %d decoded: neither can be negative", o.BodyBytesMax, o.DecodedBytesMax)
	}
	if o.HeldBytesMax != 0 && o.HeldBytesMax < heldBytesMin {
		return fmt.Errorf("bodies may take %d bytes together (--ingest.memory): that is too little, at least %d are needed", o.HeldBytesMax, heldBytesMin)
	}
	if o.HeldBytesMax == 0 {
		o.HeldBytesMax = heldBytesMaxDefault
	}
	if o.BodyBytesMax == 0 {
		o.BodyBytesMax = bodyBytesMaxDefault
	}
	if o.DecodedBytesMax == 0 {
		o.DecodedBytesMax = decodedBytesMaxDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Reload == nil {
		o.Reload = func() error { return nil }
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	return nil
}

// api is the state that handlers share; it does not change after New.
type api struct {
	logger       *slog.Logger
	sink         EventSink
	rules        EventRules
	storage      storage.Queryable
	parser       parser.Parser
	ruler        Ruler
	tenants      Tenants
	inventory    Inventory
	admin        Admin   // nil: none
	backups      Backups // nil: none
	admission    Admission
	auth         *auth.Authenticator // nil: everybody may do everything
	audit        *auth.AuditLog
	operator     TenantAdmin // nil: none
	tenantHeader string
	now          func() time.Time
	isReady      func() error
	reloadConfig func() error
	bodies       *bodyReader
	strangers    *bodyReader // of those whose key is in the body
	metrics      *requestMetrics
	corsOrigin   *regexp.Regexp
}

// Handler serves all routes. It is safe for concurrent use.
type Handler struct {
	proxies []netip.Prefix
	root    *mux.Router
	posts   map[string]http.Handler
	routes  []Route
}

// Route is where a Handler answers, at / and at /prometheus.
type Route struct {
	Path  string // with {name} for a segment of any text
	Below bool   // and every path that begins with Path
	// Methods that it takes; empty: it answers all, with an error those that it does not
	// take.
	Methods []string
}

// Routes are all but the user interface, in the order in which they are tried.
func (h *Handler) Routes() []Route { return h.routes }

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(h.proxies) > 0 {
		r = forwarded(r, h.proxies)
	}
	if r.Method == http.MethodPost {
		if post := h.posts[r.URL.Path]; post != nil {
			post.ServeHTTP(w, r)
			return
		}
	}
	h.root.ServeHTTP(w, r)
}

// New returns the handler of all routes.
func New(o Options) (*Handler, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	bodies := newBodyReader(&o)
	m, err := newRequestMetrics(o.Registry, bodies.budget)
	if err != nil {
		return nil, err
	}
	a := &api{
		logger: o.Logger, sink: o.Events, rules: o.Rules, ruler: o.Ruler, tenants: o.Tenants, admission: o.Admission, auth: o.Auth, audit: o.Audit, tenantHeader: o.TenantHeader, now: o.Now, isReady: o.Ready,
		reloadConfig: o.Reload,
		storage:      o.Storage, parser: o.Parser, inventory: o.Inventory, admin: o.Admin, backups: o.Backups, operator: o.Operator,
		bodies: bodies, strangers: bodies.forStrangers(),
		metrics: m,
		// Prometheus's default, in the very spelling that it answers with "*".
		corsOrigin: regexp.MustCompile("^(?:.*)$"),
	}
	routes := append(a.routes(a.newUpstream(o), o.Registry), a.ruleRoutes()...)
	root := mux.NewRouter()
	h := &Handler{proxies: o.Proxies, root: root, posts: postHandlers(routes)}
	for _, r := range routes {
		h.routes = append(h.routes, Route{r.path, r.below, r.methods})
	}
	for _, prefix := range []string{"/prometheus", ""} {
		for _, r := range routes {
			r.register(root, prefix)
		}
	}
	notFound := a.route("not_found", auth.Open, http.NotFoundHandler())
	root.NotFoundHandler, root.MethodNotAllowedHandler = notFound, notFound
	if o.UI != nil {
		root.Methods(http.MethodGet, http.MethodHead).PathPrefix("/").Handler(a.route("ui", auth.Open, o.UI))
	}
	return h, nil
}

// postHandlers are, by path, the handlers that root would find for a POST to it. Trying
// one route after the other, and all below /prometheus first, took a twentieth of what a
// request of one event does.
func postHandlers(routes []endpoint) map[string]http.Handler {
	out := map[string]http.Handler{}
	for _, r := range routes {
		if !r.below && len(r.methods) == 0 && !strings.Contains(r.path, "{") && out[r.path] == nil {
			out[r.path] = r.handler
		}
	}
	return out
}

// endpoint is a handler and where it is served below a prefix.
type endpoint struct {
	path    string // with {name} for a segment of any text
	below   bool   // and every path that begins with path
	methods []string
	// handler is given the path without the prefix.
	handler http.Handler
}

func (e endpoint) register(root *mux.Router, prefix string) {
	r := root.NewRoute()
	if e.below {
		r = r.PathPrefix(prefix + e.path)
	} else {
		r = r.Path(prefix + e.path)
	}
	if len(e.methods) > 0 {
		r = r.Methods(e.methods...)
	}
	r.Handler(http.StripPrefix(prefix, e.handler))
}

// routes are in the order in which they are tried.
func (a *api) routes(u *upstream, registry *prometheus.Registry) []endpoint {
	handlers := http.StripPrefix("/api/v1", u.router)
	get := []string{http.MethodGet, http.MethodHead}
	out := append(a.eventRoutes(), []endpoint{
		{path: "/-/healthy", methods: get, handler: a.route("/-/healthy", auth.Open, http.HandlerFunc(a.healthy))},
		{path: "/-/ready", methods: get, handler: a.route("/-/ready", auth.Open, http.HandlerFunc(a.readiness))},
		{path: "/-/reload", handler: a.route("/-/reload", auth.Operator, http.HandlerFunc(a.reload))},
		{path: "/metrics", methods: get, handler: a.route("/metrics", auth.Process, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))},
		{path: "/federate", methods: get, handler: a.scoped("/federate", auth.Any(auth.MetricsRead), a.governed(http.HandlerFunc(a.federate)))},
		{path: "/api/v1/", below: true, methods: []string{http.MethodOptions}, handler: a.route("/api/v1/*", auth.Open, handlers)},
		{path: "/api/v1/events/explain", handler: a.ours("/api/v1/events/explain", auth.Any(auth.MetricsRead), a.explainEvent)},
		{path: "/api/v1/event-rules", handler: a.byMethod("/api/v1/event-rules", auth.Any(auth.MetricsRead), auth.Any(auth.RulesWrite), a.eventRules)},
		{path: "/api/v1/event-rules/check", handler: a.ours("/api/v1/event-rules/check", auth.Any(auth.MetricsRead|auth.RulesWrite), a.checkEventRules)},
		{path: "/api/v1/explain", handler: a.ours("/api/v1/explain", auth.Any(auth.MetricsRead), a.explainQuery(handlers))},
		{path: "/api/v1/status/range", handler: a.ours("/api/v1/status/range", auth.Any(auth.MetricsRead), a.statusRange)},
	}...)
	out = append(out, a.keyRoutes()...)
	out = append(out, a.profileRoutes()...)

	out = append(out, a.adminRoutes()...)
	out = append(out, a.dataRoutes()...)
	out = append(out, a.backupRoutes()...)
	own := a.ownPaths()
	seen := map[string]bool{
		"/*path": true, // OPTIONS, which is above
		// Off, and the handlers' answer names options that Quipu has not.
		"/write": true, "/otlp/v1/metrics": true,
	}
	for _, path := range u.paths {
		if seen[path] {
			continue // off, or another method of one that is there
		}
		seen[path] = true
		need := upstreamNeed(path)
		if h := own[path]; h != nil {
			out = append(out, endpoint{path: "/api/v1" + path, handler: a.ours("/api/v1"+path, need, h)})
			continue
		}
		h := handlers
		if governedPaths[path] {
			h = a.governed(h)
		}
		switch path {
		case "/query":
			h = pinTime(h)
		case "/metadata":
			h = a.withMetadata(h)
		case "/read":
			h = a.sampledRead(h)
		case "/status/buildinfo":
			if a.ruler != nil {
				h = a.withFeatures(h)
			}
		}
		out = append(out, endpoint{path: "/api/v1" + pattern(path), handler: a.scoped("/api/v1"+path, need, h)})
	}
	return append(out, endpoint{path: "/api/", below: true, handler: a.route("not_found", auth.Open, http.HandlerFunc(a.unknown))})
}

// ownPaths are those of Prometheus's router whose handlers are about its own storage,
// which knows no tenants.
func (a *api) ownPaths() map[string]http.HandlerFunc {
	read := func(h http.HandlerFunc) http.HandlerFunc { return a.withMethods(h, http.MethodGet, http.MethodHead) }
	change := func(h http.HandlerFunc) http.HandlerFunc {
		if a.admin == nil {
			return a.absent
		}
		return a.withMethods(h, http.MethodPost, http.MethodPut)
	}
	return map[string]http.HandlerFunc{
		"/status/tsdb":                 read(a.governed(http.HandlerFunc(a.statusTSDB)).ServeHTTP),
		"/status/tsdb/blocks":          read(a.statusBlocks),
		"/status/walreplay":            read(a.statusReplay),
		"/admin/tsdb/delete_series":    change(a.deleteSeries),
		"/admin/tsdb/clean_tombstones": change(a.cleanTombstones),
		"/admin/tsdb/snapshot":         change(a.snapshot),
	}
}

// pattern is a path of Prometheus's router in the form of ours.
func pattern(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if name, ok := strings.CutPrefix(s, ":"); ok {
			segments[i] = "{" + name + "}"
		}
	}
	return strings.Join(segments, "/")
}

func (a *api) unknown(w http.ResponseWriter, r *http.Request) {
	httputil.SetCORS(w, a.corsOrigin, r)
	respondError(w, a.logger, http.StatusNotFound, errorNotFound, fmt.Sprintf("there is nothing at %q", r.URL.Path))
}
