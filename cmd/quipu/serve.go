package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/model"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/features"
	"golang.org/x/net/http/httpguts"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/usage"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler"
	"github.com/quipudb/quipu/tsdb"
	"github.com/quipudb/quipu/web"
)

// stopTimeMax bounds how long requests under way may hold up a stop.
const stopTimeMax = 20 * time.Second

// slotWaitMax is how long a batch waits for a processor before its client is told to
// come again. It is longer than what a few large batches before it take: under 64
// clients with bodies of 10 MiB, 1 s counted a quarter to a half fewer events.
const slotWaitMax = 5 * time.Second

type serveCmd struct {
	serveDefaults `embed:""`
	serveAuth     `embed:""`

	DataDir        string         `name:"data.dir" default:"./data" help:"Directory of the data; made if it does not exist."`
	Listen         string         `default:"127.0.0.1:9480" help:"Address to listen on."`
	ConfigFile     string         `name:"config.file" type:"path" placeholder:"FILE" help:"Configuration in YAML: settings of tenants, and more; read again when it changes. \"quipu config check FILE\" says what is wrong with one."`
	TenantHeader   string         `name:"tenant.header" placeholder:"X-Scope-OrgID" help:"Request header that names the tenant. Without --auth=required only on a loopback address, because it is no credential; without the header all requests are then of the tenant \"default\". With it X-Scope-OrgID, unless this says another."`
	WALBudget      sizeFlag       `name:"wal.budget" default:"512MiB" help:"Size of the write-ahead log past which it is flushed to blocks; bounds disk and the time a restart takes."`
	WALFsync       string         `name:"wal.fsync" default:"always" enum:"always,interval" help:"When the write-ahead log is synced: always, before a batch is acknowledged; or at an interval, which is faster and lets a power loss take what was acknowledged since."`
	WALInterval    model.Duration `name:"wal.fsync-interval" default:"1s" help:"With --wal.fsync=interval: how often."`
	CPUProfile     string         `name:"debug.cpuprofile" hidden:"" type:"path" help:"File to write a CPU profile of the whole run to."`
	IngestMemory   sizeFlag       `name:"ingest.memory" default:"256MiB" help:"Memory for the bodies of requests that are under way. What does not fit is refused with 503; no body may be larger than a quarter of it, nor become larger than half when it is decompressed."`
	Places         string         `name:"enrich.places" type:"path" placeholder:"FILE" help:"Database of MaxMind's form (.mmdb), of cities or countries, by which events get a country and a city; read again when it changes."`
	Proxies        []netip.Prefix `name:"trusted-proxies" placeholder:"CIDR,..." help:"Addresses of proxies in front of this server, whose X-Forwarded-For says where a request comes from."`
	QueryCache     cacheFlag      `name:"query.cache" default:"64MiB" help:"Memory for answers of range queries that can no longer change, of all tenants; at least 32MiB. 0: none are kept."`
	QueryLog       model.Duration `name:"query.log-slower-than" default:"10s" help:"Time past which a query is written to the log, with what it took; 0 writes none."`
	SessionsQuiet  time.Duration  `name:"sessions.quiet" hidden:"" default:"1m" help:"For how long no event may have come for a session that is counted."`
	MetricsTenants int            `name:"metrics.tenants" default:"100" help:"How many tenants, the largest, the process's metrics name; the others are together under (other)."`
	ExternalURL    string         `name:"web.external-url" placeholder:"URL" help:"Where people reach this server, for the links in alerts (default: http:// or https:// and the address it listens on)."`
	LogLevel       slog.Level     `name:"log.level" default:"info" help:"debug, info, warn or error."`
}

// serveDefaults are settings of tenants where neither the configuration nor their own
// say.
type serveDefaults struct {
	Grid      model.Duration `default:"15s" help:"Width of a window for tenants made from now on."`
	Retention model.Duration `default:"0s" help:"Age at which data is dropped, for tenants whose settings do not say; 0 keeps all."`
}

// sizeFlag is a number of bytes as people write it: 64KiB, 512MiB, 1GiB.
type sizeFlag int64

func (s *sizeFlag) UnmarshalText(text []byte) error {
	n, err := units.ParseBase2Bytes(string(text))
	if err == nil && n < 64<<10 {
		err = fmt.Errorf("%s is too little, at least 64KiB are needed", text)
	}
	*s = sizeFlag(n)
	return err
}

// cacheFlag is a number of bytes, or 0 for no cache. (A cache below 32MiB would take
// that much all the same.)
type cacheFlag int64

func (s *cacheFlag) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		*s = 0
		return nil
	}
	n, err := units.ParseBase2Bytes(string(text))
	if err == nil && n < 32<<20 {
		err = fmt.Errorf("%s is too little, at least 32MiB are needed, or 0 for none", text)
	}
	*s = cacheFlag(n)
	return err
}

// settings are those of new tenants. The idle timeout has no flag, so it follows
// the grid: the least multiple of it that is not below the default.
func (c *serveDefaults) settings() (tenant.Settings, error) {
	s := tenant.DefaultSettings()
	s.Grid = c.Grid
	s.IdleTimeout = tenant.IdleTimeoutFor(c.Grid)
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("--grid: %w", err)
	}
	s.Retention = c.Retention
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("--retention: %w", err)
	}
	return s, nil
}

// walSyncEvery is 0 where every batch is to be synced.
func (c *serveCmd) walSyncEvery() (time.Duration, error) {
	switch every := time.Duration(c.WALInterval); {
	case c.WALFsync != "interval":
		return 0, nil
	case every <= 0 || every > time.Minute:
		return 0, fmt.Errorf("--wal.fsync-interval is %s, it must be more than 0 and at most 1m", c.WALInterval)
	default:
		return every, nil
	}
}

// checkTenantHeader refuses a name that no request can have, because every
// request would be of the tenant "default".
func (c *serveCmd) checkTenantHeader() error {
	switch name := c.TenantHeader; {
	case name == "":
		return nil
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("--tenant.header=%q is not the name of a header: it has only letters, digits and - _ . and the like, as X-Scope-OrgID", name)
	case strings.EqualFold(name, "Host"):
		return fmt.Errorf("--tenant.header=%s: the host is a part of the request's address and not read as a header; name another, as X-Scope-OrgID", name)
	}
	return nil
}

// Run serves until the console's context ends, then finishes the requests under
// way.
func (c *serveCmd) Run(con *console) error {
	logger := slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: c.LogLevel}))
	settings, err := c.settings()
	if err != nil {
		return err
	}
	if c.MetricsTenants < 1 {
		return fmt.Errorf("--metrics.tenants is %d, it must be at least 1", c.MetricsTenants)
	}
	_, err = c.walSyncEvery()
	if err := errors.Join(err, c.checkTenantHeader(), c.checkListen(logger), c.checkWebConfig()); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	conf, err := newConfigs(c.ConfigFile, logger, con.now, reg)
	if err != nil {
		return err
	}
	stopProfile, err := c.profile()
	if err != nil {
		return err
	}
	defer stopProfile()
	// The port is taken before the data is: a second server on it fails at once.
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	var handler atomic.Pointer[http.Handler]
	starting := startingHandler()
	handler.Store(&starting)
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- c.serveOn(listener, server, logger) }()

	o, err := c.open(logger, reg, conf, settings)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	stopWatch := conf.watchAlways()
	defer stopWatch()
	stopRules := background(o.rules.Run)
	handler.Store(&o.handler)
	logger.Info("ready", "address", c.scheme()+"://"+listener.Addr().String(), "version", version())
	select {
	case err = <-served:
	case <-con.ctx.Done():
		logger.Info("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeMax)
		defer cancel()
		if err = server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			logger.Warn("requests still ran and were cut off", "after", stopTimeMax)
			err = server.Close()
		}
	}
	stopRules()
	err = errors.Join(err, o.close())
	logger.Info("stopped")
	return err
}

// profile begins a CPU profile where one is asked for: there is no address to get one
// from, because who may read one learns of every tenant.
func (c *serveCmd) profile() (stop func(), err error) {
	if c.CPUProfile == "" {
		return func() {}, nil
	}
	f, err := os.Create(c.CPUProfile)
	if err != nil {
		return nil, fmt.Errorf("--debug.cpuprofile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("--debug.cpuprofile: %w", err), f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close() // a profile that is cut says so when it is read
	}, nil
}

// opened is what a server consists of.
type opened struct {
	db      *tsdb.DB
	guards  *guards
	rules   *ruler.Ruler
	handler http.Handler
}

func (o *opened) close() error { return errors.Join(o.guards.close(), o.db.Close()) }

// open opens the storage and joins the packages over it.
func (c *serveCmd) open(logger *slog.Logger, reg *prometheus.Registry, conf *configs, settings tenant.Settings) (*opened, error) {
	syncEvery, err := c.walSyncEvery()
	if err != nil {
		return nil, err
	}
	if syncEvery > 0 {
		logger.Warn("batches are acknowledged before they are synced: a power loss takes those of the last interval", "interval", syncEvery)
	}
	policy, err := conf.get().policy(c.ConfigFile, settings)
	if err != nil {
		return nil, err
	}
	newState, err := c.sessions(reg)
	if err != nil {
		return nil, err
	}
	db, err := tsdb.Open(tsdb.Options{
		Dir: c.DataDir, Logger: logger, Registerer: reg, Defaults: settings, Policy: policy, WALBytesMax: int64(c.WALBudget), WALSyncEvery: syncEvery, NewState: newState,
	})
	if err != nil {
		return nil, err
	}
	c.followConfig(conf, db, settings, logger)
	guards, err := c.openGuards(db, logger, reg, conf)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	rules, handler, err := c.handler(db, guards, logger, reg, conf)
	if err != nil {
		return nil, errors.Join(err, guards.close(), db.Close())
	}
	return &opened{db, guards, rules, handler}, nil
}

// followConfig has a new configuration, and what is in tenants' own settings by then, in
// force in storage.
func (c *serveCmd) followConfig(conf *configs, db *tsdb.DB, flags tenant.Settings, logger *slog.Logger) {
	conf.check(func(next *configFile) error {
		policy, err := next.policy(c.ConfigFile, flags)
		if err != nil {
			return err
		}
		return db.CheckPolicy(policy)
	})
	conf.subscribe(func(_, next *configFile) {
		policy, err := next.policy(c.ConfigFile, flags)
		if err == nil {
			err = db.SetPolicy(policy)
		}
		if err = errors.Join(err, db.ReloadSettings()); err != nil {
			logger.Error("settings of tenants are wrong", "err", err)
		}
	})
}

func (c *serveCmd) handler(db *tsdb.DB, guards *guards, logger *slog.Logger, reg *prometheus.Registry, conf *configs) (*ruler.Ruler, http.Handler, error) {
	book := usage.NewBook(time.Now)
	reg.MustRegister(usage.NewCollector(book, c.MetricsTenants, storedUsage(db)))
	slots := overload.NewSlots(2*runtime.GOMAXPROCS(0), slotWaitMax)
	enricher, err := enrich.New(enrich.Options{Places: c.Places, Registerer: reg, Logger: logger})
	if err != nil {
		return nil, nil, fmt.Errorf("--enrich.places: %w", err)
	}
	ingester, err := ingest.New(ingest.Options{Store: db, Enricher: enricher, Rules: &ruleFiles{c.DataDir}, Stored: stored{db}, Registerer: reg, Logger: logger, Slots: slots, Usage: book, TenantLabelsMax: c.MetricsTenants})
	if err != nil {
		return nil, nil, err
	}
	languageFeatures := features.NewRegistry()
	queries, err := c.queries(db, book, logger, prometheus.WrapRegistererWithPrefix("quipu_promql_", reg), languageFeatures)
	if err != nil {
		return nil, nil, err
	}
	rules, err := c.ruler(db, queries, logger, reg, conf)
	if err != nil {
		return nil, nil, err
	}
	handler, err := api.New(api.Options{
		Logger:  logger,
		Events:  ingester,
		Rules:   ingester,
		Ruler:   rules,
		Engine:  queries,
		Parser:  promql.NewParser(),
		Storage: db, Exemplars: db,
		Tenants:   &catalog{db: db, rules: ingester},
		Inventory: inventory{db, ingester},
		Admin:     storageAdmin{db},
		Backups: &backups{
			db:     db,
			begin:  rules.Forget,
			end:    rules.Recall,
			forget: []func(tenant.ID){ingester.Forget, book.Forget},
		},
		Features:  languageFeatures,
		Admission: queries,
		Operator: &tenantAdmin{
			db: db, dir: c.DataDir, usage: book, now: time.Now,
			dropped: []func(context.Context, tenant.ID) error{guards.dropTenant, func(_ context.Context, id tenant.ID) error { return rules.Forget(id) }},
			forget:  []func(tenant.ID){ingester.Forget, book.Forget},
		},

		Auth:         guards.auth,
		Audit:        guards.audit,
		TenantHeader: c.TenantHeader,
		Registry:     reg,
		Reload:       conf.reload,
		ConfigState:  conf.state,
		UI:           web.Handler(),
		Version:      version(),
		Proxies:      c.Proxies,
		HeldBytesMax: int64(c.IngestMemory),
		Slots:        slots,
	})
	return rules, handler, err
}

// queries joins what answers them: the limits of their tenants, what they take for exact,
// then the cache, then the engine.
func (c *serveCmd) queries(db *tsdb.DB, book *usage.Book, logger *slog.Logger, reg prometheus.Registerer, said features.Collector) (*promql.Governor, error) {
	var engine upstream.QueryEngine = promql.NewEngines(promql.EngineOptions{
		Distinct: db, Logger: logger, Reg: reg, Timeout: tenant.QueryTimeMax, Features: said,
	})
	if c.QueryCache > 0 {
		cache, err := promql.NewCache(engine, promql.CacheOptions{Bytes: int(c.QueryCache), History: db, Reg: reg})
		if err != nil {
			return nil, err
		}
		engine = cache
	}
	engine = promql.NewExact(engine, func(ctx context.Context, metric string) (bool, error) {
		sc, ok := scope.From(ctx)
		if !ok {
			return false, nil
		}
		if s, err := db.Settings(sc.Tenant); err != nil || !s.ExactCounts {
			return false, err
		}
		return db.HasCounts(sc.Tenant, metric)
	})
	return promql.NewGovernor(promql.GovernorOptions{
		Usage: knownTenants{book, db}, Engine: engine, Logger: logger, Reg: reg, LogSlowerThan: time.Duration(c.QueryLog),
		Limits: func(id tenant.ID) (tenant.Limits, error) {
			s, err := db.Settings(id)
			return s.Limits, err
		},
	})
}

// startingHandler answers while the log is replayed.
func startingHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.TrimPrefix(r.URL.Path, "/prometheus") == "/-/healthy" {
			fmt.Fprintln(w, "Quipu is starting.")
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "starting: the write-ahead log is being replayed", http.StatusServiceUnavailable)
	})
}

// catalog tells the API what a tenant has.
type catalog struct {
	db    *tsdb.DB
	rules *ingest.Ingester
}

func (c *catalog) DataRange(ctx context.Context, id tenant.ID) (mint, maxt int64, ok bool, err error) {
	return c.db.DataRange(ctx, id)
}

// Metrics returns a tenant's metrics by name, with the type that PromQL sees.
func (c *catalog) Metrics(_ context.Context, id tenant.ID) ([]api.Metric, error) {
	kinds, err := c.db.Kinds(id)
	if err != nil {
		return nil, err
	}
	said, err := c.db.Metadata(id)
	if err != nil {
		return nil, err
	}
	metadata := make(map[string]increment.Metadata, len(said))
	for _, m := range said {
		metadata[m.Metric] = m
	}
	counted, err := c.rules.Metrics(id)
	if err != nil {
		counted = nil // rules that are wrong say nothing of what was counted before
	}
	about := make(map[string]ingest.About, len(counted))
	for _, a := range counted {
		about[a.Metric] = a
	}
	types := map[increment.Kind]model.MetricType{
		increment.Counter: model.MetricTypeCounter, increment.Histogram: model.MetricTypeHistogram,
		increment.Buckets:  model.MetricTypeHistogram,
		increment.Distinct: model.MetricTypeGauge, increment.Gauge: model.MetricTypeGauge,
		increment.Sample: model.MetricTypeUnknown,
	}
	out := make([]api.Metric, 0, len(kinds))
	for name, k := range kinds {
		m := api.Metric{Name: name, Type: types[k], Help: about[name].Help, Unit: about[name].Unit}
		if said, ok := metadata[name]; ok {
			m.Help, m.Unit = said.Help, said.Unit
			if k == increment.Sample && said.Type != "" {
				m.Type = said.Type // of the others the kind says it
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b api.Metric) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
