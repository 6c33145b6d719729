package ingest

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// reloadEvery is how long a change of rules may wait once batches come.
	reloadEvery = time.Second
	// tenantsKept is how many tenants' compiled rules are in memory.
	tenantsKept = 1000
)

// RuleSource is where tenants' rules come from.
type RuleSource interface {
	// EventRules returns the tenant's rules; changed is false, and nothing read,
	// where they are still those whose stamp is have. A tenant with none has a
	// nil Text.
	EventRules(id tenant.ID, have string) (text RuleText, changed bool, err error)
	// SetEventRules replaces the tenant's rules durably; nil: it has none any more.
	SetEventRules(id tenant.ID, text []byte) error
}

// RuleText is the YAML of a tenant's rules and where it is from.
type RuleText struct {
	Name  string // for messages
	Text  []byte
	Stamp string // "" is no stamp
}

// ruleBook has the rules in force of each tenant.
type ruleBook struct {
	source   RuleSource // nil: every tenant has the defaults
	stored   Stored     // nil: nothing is known
	now      func() time.Time
	logger   *slog.Logger
	loads    *prometheus.CounterVec
	bad      prometheus.Gauge
	over     *prometheus.CounterVec
	defaults *ruleset
	handles  handleBudget

	overMu   sync.Mutex
	overSeen map[[3]string]struct{} // label values of over so far

	mu      sync.RWMutex
	tenants map[tenant.ID]*tenantRules
}

// tenantRules are one tenant's.
type tenantRules struct {
	checked atomic.Int64 // when the source was asked, in milliseconds since 1970
	rules   atomic.Pointer[ruleset]

	mu    sync.Mutex // held while the source is asked
	stamp string
	// labelsMax is the limit of labels that the newest text was checked with.
	labelsMax int
	text      []byte // in force
	err       error  // of the newest text
}

func newRuleBook(o Options) (*ruleBook, error) {
	defaults, err := parseRules("default_rules.yaml", DefaultRules)
	if err != nil {
		return nil, err
	}
	b := &ruleBook{source: o.Rules, stored: o.Stored, now: o.Now, logger: o.Logger, defaults: defaults, tenants: map[tenant.ID]*tenantRules{}, overSeen: map[[3]string]struct{}{}}
	b.handles.max, b.handles.drop = handleBytesMax, b.dropHandles
	b.loads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quipu_ingest_rule_loads_total", Help: "Tenants' event rules that were read anew, by result: ok or failed.",
	}, []string{"result"})
	b.bad = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "quipu_ingest_bad_rules", Help: "Tenants whose newest event rules are wrong, so that older ones are in force, or none.",
	})
	b.over = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quipu_ingest_label_values_over_limit_total", Help: "Events whose value of a label counts as (other), because the label has as many values as its rule allows.",
	}, []string{"tenant", "metric", "label"})
	for _, c := range []prometheus.Collector{b.loads, b.bad, b.over} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of event rules: %w", err)
		}
	}
	return b, nil
}

// get returns the tenant's rules in force. It fails where its only rules are wrong:
// what they would count is not known, so nothing is taken.
func (b *ruleBook) get(id tenant.ID) (*ruleset, error) {
	t, now := b.tenant(id), b.now().UnixMilli()
	rs, checked := t.rules.Load(), t.checked.Load()
	fresh := now-checked < reloadEvery.Milliseconds() && now >= checked
	if rs != nil && (fresh || !t.checked.CompareAndSwap(checked, now)) {
		return rs, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b.load(id, t)
	t.checked.Store(now)
	if rs = t.rules.Load(); rs == nil {
		return nil, fmt.Errorf("event rules: %w", t.err)
	}
	return rs, nil
}

func (b *ruleBook) tenant(id tenant.ID) *tenantRules {
	b.mu.RLock()
	t := b.tenants[id]
	b.mu.RUnlock()
	if t != nil {
		return t
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tenants[id]; t != nil {
		return t
	}
	// Any but those whose older rules are in force, and these where there are no
	// others: they are read again when they are needed.
	for _, wrongToo := range []bool{false, true} {
		for other := range b.tenants {
			if len(b.tenants) < tenantsKept {
				break
			}
			b.forget(other, wrongToo)
		}
	}
	t = &tenantRules{}
	b.tenants[id] = t
	return t
}

// REQUIRES: b.mu.
func (b *ruleBook) forget(id tenant.ID, wrongToo bool) {
	t := b.tenants[id]
	if !t.mu.TryLock() {
		return // being read
	}
	defer t.mu.Unlock()
	if t.err != nil && !wrongToo {
		return
	}
	b.note(t, nil)
	delete(b.tenants, id)
}

// dropHandles forgets the series that rules have made.
func (b *ruleBook) dropHandles() {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, t := range b.tenants {
		if rs := t.rules.Load(); rs != nil {
			rs.handles.drop()
		}
	}
}

// load asks the source and compiles what is new. What is wrong leaves the rules
// in force as they are.
//
// REQUIRES: t.mu.
func (b *ruleBook) load(id tenant.ID, t *tenantRules) {
	if b.source == nil {
		if t.rules.Load() == nil {
			t.use(b, b.defaults.again(), DefaultRules)
		}
		return
	}
	limits, err := b.limits(id)
	if limits.LabelsPerSeries != t.labelsMax {
		t.stamp = "" // what was right may be wrong, and what was wrong right
	}
	var text RuleText
	if err == nil {
		var changed bool
		if text, changed, err = b.source.EventRules(id, t.stamp); err == nil && !changed {
			return
		}
	}
	var rs *ruleset
	if err == nil {
		rs, err = b.compile(&text)
	}
	if err == nil {
		err = rs.checkLimits(text.Name, &limits)
	}
	var clash error
	if err == nil {
		// Where there are no rules in force these are better than none: storage leaves
		// out the metrics that it has as another type, and the others count.
		if clash = b.clash(id, text.Name, rs); clash != nil && t.rules.Load() != nil {
			err, clash = clash, nil
		}
	}
	if err == nil {
		err = b.fill(id, rs)
	}
	b.note(t, errors.Join(err, clash))
	t.stamp, t.labelsMax = text.Stamp, limits.LabelsPerSeries
	switch had := t.rules.Load(); {
	case err != nil:
		b.loads.WithLabelValues("failed").Inc()
		b.logger.Error("event rules are wrong: those before stay in force", "tenant", id.String(), "err", err)
		return
	case clash != nil:
		b.logger.Error("event rules name metrics that cannot be stored: the others count", "tenant", id.String(), "err", clash)
	case had != nil && had.version != rs.version:
		b.logger.Info("new event rules are in force", "tenant", id.String(), "version", rs.version, "metrics", len(rs.rules))
	}
	b.loads.WithLabelValues("ok").Inc()
	t.use(b, rs, text.Text)
}

// compile returns the rules of a text, which becomes that of the defaults where a
// tenant has none.
func (b *ruleBook) compile(text *RuleText) (*ruleset, error) {
	if text.Text == nil {
		text.Text = DefaultRules
		return b.defaults.again(), nil
	}
	return parseRules(text.Name, text.Text)
}

// note keeps what is wrong with the newest text.
//
// REQUIRES: t.mu.
func (b *ruleBook) note(t *tenantRules, err error) {
	if t.err != nil {
		b.bad.Dec()
	}
	if t.err = err; err != nil {
		b.bad.Inc()
	}
}

// use puts rules in force; those of the same version keep the series they made.
//
// REQUIRES: t.mu.
func (t *tenantRules) use(b *ruleBook, rs *ruleset, text []byte) {
	rs.handles.budget = &b.handles
	t.text = text
	if had := t.rules.Load(); had == nil || had.version != rs.version {
		t.rules.Store(rs)
	}
}

// again is the same rules without the series they made.
func (rs *ruleset) again() *ruleset {
	return &ruleset{
		version: rs.version, names: rs.names, dotted: rs.dotted, intoData: rs.intoData, paths: rs.paths, numbers: rs.numbers, derived: rs.derived, dedup: rs.dedup, rules: rs.rules,
		handles: handles{seed: maphash.MakeSeed()},
	}
}

// RulesInForce is what a tenant's events are counted by.
type RulesInForce struct {
	Version string `json:"version"`
	Text    string `json:"rules"`
	// Default is set where the tenant has no rules of its own.
	Default bool `json:"default"`
	// Error says what is wrong with newer rules, which are not in force.
	Error string `json:"error,omitempty"`
}

// Rules returns a tenant's rules in force.
func (g *Ingester) Rules(id tenant.ID) (RulesInForce, error) {
	rs, err := g.book.get(id)
	if err != nil {
		return RulesInForce{}, err
	}
	t := g.book.tenant(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	out := RulesInForce{Version: rs.version, Text: string(t.text), Default: rs.version == g.book.defaults.version}
	if t.err != nil {
		out.Error = t.err.Error()
	}
	return out, nil
}

// CheckRules says what is wrong with the text of rules for a tenant with the default
// limits, which file is the name of in the message, and how many metrics they have.
func CheckRules(file string, text []byte) (metrics int, err error) {
	rs, err := parseRules(file, text)
	if err != nil {
		return 0, err
	}
	limits := tenant.DefaultLimits()
	return len(rs.rules), rs.checkLimits(file, &limits)
}

// CheckedRules is what is known of rules that are right.
type CheckedRules struct {
	Version string `json:"version"`
	Metrics int    `json:"metrics"`
}

// CheckRules says whether SetRules would take the text, and changes nothing; an error
// that is an ErrBadRequest says what is wrong with it.
func (g *Ingester) CheckRules(id tenant.ID, text []byte) (CheckedRules, error) {
	rs, err := parseRules(putName, text)
	if err == nil {
		err = g.book.checkLimits(id, putName, rs)
	}
	if err == nil {
		err = g.book.clash(id, putName, rs)
	}
	if err != nil {
		return CheckedRules{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return CheckedRules{rs.version, len(rs.rules)}, nil
}

// putName is what messages call rules that come from no file.
const putName = "events.yaml"

// SetRules replaces the tenant's rules; nil are the defaults. An error that is an
// ErrBadRequest says what is wrong with them, and then nothing changed.
func (g *Ingester) SetRules(id tenant.ID, text []byte) (RulesInForce, error) {
	if g.book.source == nil {
		return RulesInForce{}, errors.New("there is nowhere to keep event rules")
	}
	checked := text
	if text == nil {
		checked = DefaultRules
	}
	if _, err := g.CheckRules(id, checked); err != nil {
		return RulesInForce{}, err
	}
	if _, err := g.store.Tenant(id); err != nil {
		return RulesInForce{}, fmt.Errorf("open tenant %s: %w", id, err)
	}
	t := g.book.tenant(id)
	if err := func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := g.book.source.SetEventRules(id, text); err != nil {
			return fmt.Errorf("keep event rules of tenant %s: %w", id, err)
		}
		g.book.load(id, t)
		return nil
	}(); err != nil {
		return RulesInForce{}, err
	}
	return g.Rules(id)
}

// About is what a rule says of a metric that it makes, and the rule's name.
type About struct{ Metric, Help, Unit, Rule string }

// Metrics are those that the tenant's rules in force count.
func (g *Ingester) Metrics(id tenant.ID) ([]About, error) {
	rs, err := g.book.get(id)
	if err != nil {
		return nil, err
	}
	return rs.about(), nil
}

// RuleMetrics are those that the text of rules counts, which file is the name of in the
// message that says what is wrong with it.
func RuleMetrics(file string, text []byte) ([]About, error) {
	rs, err := parseRules(file, text)
	if err != nil {
		return nil, err
	}
	return rs.about(), nil
}

func (rs *ruleset) about() []About {
	out := make([]About, 0, len(rs.rules))
	for i := range rs.rules {
		r := &rs.rules[i]
		if r.session == nil {
			out = append(out, About{r.metric, r.help, r.unit, r.metric})
			continue
		}
		for _, m := range r.session.Metrics() {
			out = append(out, About{m.Name, m.Help, m.Unit, r.session.Name})
		}
	}
	return out
}

// Forget drops what is kept of a tenant that is deleted: its rules, which are read again
// where it is made again, and what it may send.
func (g *Ingester) Forget(id tenant.ID) {
	g.book.mu.Lock()
	t := g.book.tenants[id]
	delete(g.book.tenants, id)
	g.book.mu.Unlock()
	if t != nil {
		t.mu.Lock() // not while they are read
		g.book.note(t, nil)
		t.mu.Unlock()
	}
	g.rates.forget(id)
}
