package ruler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Store is where the results of rules go.
type Store interface {
	// Append applies a batch durably.
	Append(ctx context.Context, id tenant.ID, b *increment.Batch) (duplicate bool, err error)
	// Tenant makes the tenant where it does not exist.
	Tenant(id tenant.ID) (tenant.Profile, error)
	// Settings are those that the tenant has, or would be made with.
	Settings(id tenant.ID) (tenant.Settings, error)
}

// Options of New. All are required unless they say otherwise.
type Options struct {
	Store  Store
	Engine upstream.QueryEngine
	Parser parser.Parser
	// Queryable finds the tenant in the scope of the context that its queriers are
	// called with.
	Queryable storage.Queryable
	History   History // nil: nothing is evaluated again for late events
	Files     *Files
	Config    Config   // zero: the defaults
	Alerting  Alerting // zero: no alert is sent
	// ExternalURL is where people reach this server; templates and the links of alerts
	// have it. nil: none.
	ExternalURL *url.URL
	Logger      *slog.Logger          // nil: none
	Reg         prometheus.Registerer // nil: no metrics
	Now         func() time.Time      // nil: the system's clock
}

func (o *Options) validate() error {
	if o.Store == nil || o.Engine == nil || o.Parser == nil || o.Queryable == nil || o.Files == nil {
		return errors.New("rules need a store, an engine, a parser, a queryable and files")
	}
	if o.ExternalURL == nil {
		o.ExternalURL = &url.URL{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Config = o.Config.orDefault()
	return errors.Join(o.Config.Validate(), o.Alerting.Validate())
}

// Ruler evaluates the rules of all tenants. Safe for concurrent use.
type Ruler struct {
	options Options
	metrics *metrics
	notify  *notifiers
	// upstream are the metrics that groups of rules count in, of which none is shown:
	// they name no tenant.
	upstream *rules.Metrics
	kick     chan struct{} // the schedule has changed

	mu      sync.Mutex
	config  Config
	tenants map[tenant.ID]*tenantRules
	due     schedule
	// ring are the tenants with groups that are due and wait, the next one first.
	ring    []*tenantRules
	running int
	active  sync.WaitGroup // evaluations
}

// tenantRules are those of one tenant.
type tenantRules struct {
	id tenant.ID

	// replacing is held while files or groups are replaced, before Ruler.mu.
	replacing sync.Mutex
	stamp     string   // of the files that were loaded
	bad       []string // namespaces that could not be
	// forgotten: the tenant is being deleted, and the files that stamp is of are not to be
	// loaded again.
	forgotten bool

	// Guarded by Ruler.mu.
	groups  map[string]*group
	waiting []*group // due, in the order in which they came
	running int
}

// New returns a ruler that evaluates nothing until Run is called.
func New(o Options) (*Ruler, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r := &Ruler{
		options: o, config: o.Config, upstream: rules.NewGroupMetrics(nil),
		kick: make(chan struct{}, 1), tenants: map[tenant.ID]*tenantRules{},
	}
	r.metrics = newMetrics(r)
	if o.Reg != nil {
		for _, c := range r.metrics.all() {
			if err := o.Reg.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics of rules: %w", err)
			}
		}
	}
	r.notify = newNotifiers(o.Alerting, o.ExternalURL.String(), o.Logger, o.Reg)
	return r, nil
}

// scanEvery is how often rule files are looked at for changes that somebody made by
// hand.
const scanEvery = 10 * time.Second

// Run loads the rules of all tenants and evaluates them until ctx ends; then it waits
// for the evaluations under way and for alerts that are being sent.
func (r *Ruler) Run(ctx context.Context) {
	defer r.notify.stop()
	defer r.active.Wait()
	r.Scan(true)
	scan := time.NewTicker(scanEvery)
	defer scan.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next, ok := r.dispatch(ctx); ok {
			timer.Reset(next.Sub(r.options.Now()))
		} else {
			timer.Stop() // until somebody has rules
		}
		select {
		case <-ctx.Done():
			return
		case <-scan.C:
			r.Scan(false)
		case <-r.kick:
		case <-timer.C:
		}
	}
}

// wake lets Run look at the schedule.
func (r *Ruler) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Configure puts other configuration in force.
func (r *Ruler) Configure(c Config, a Alerting) error {
	c = c.orDefault()
	if err := errors.Join(c.Validate(), a.Validate()); err != nil {
		return err
	}
	r.notify.configure(a)
	r.mu.Lock()
	r.config = c
	all := make([]*tenantRules, 0, len(r.tenants))
	for _, t := range r.tenants {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all {
		t.replacing.Lock()
		r.load(t, loadAgain)
		t.replacing.Unlock()
	}
	return nil
}

// RuleGroups are a tenant's, by namespace and name, for Prometheus's API.
func (r *Ruler) RuleGroups(id tenant.ID) []*rules.Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[id]
	if t == nil {
		return nil
	}
	out := make([]*rules.Group, 0, len(t.groups))
	for _, g := range t.sorted() {
		out = append(out, g.rules)
	}
	return out
}

// AlertingRules are those of a tenant, for Prometheus's API.
func (r *Ruler) AlertingRules(id tenant.ID) []*rules.AlertingRule {
	var out []*rules.AlertingRule
	for _, g := range r.RuleGroups(id) {
		out = append(out, g.AlertingRules()...)
	}
	return out
}

// Alertmanagers are where a tenant's alerts go, and those that are configured but
// relabelled away.
func (r *Ruler) Alertmanagers(id tenant.ID) (active, dropped []*url.URL) {
	return r.notify.alertmanagers(id)
}

// interval is that of groups that name none: a multiple of the grid.
func (c Config) interval(grid time.Duration) time.Duration {
	d := time.Duration(c.EvaluationInterval)
	return (d + grid - 1) / grid * grid
}

// durationMillis is d in milliseconds.
func durationMillis(d model.Duration) int64 { return time.Duration(d).Milliseconds() }
