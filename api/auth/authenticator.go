package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

const (
	// lookEvery is how often files are looked at for a change.
	lookEvery = 500 * time.Millisecond
	// writeEvery is how often what keys have used is written, and gates are emptied.
	writeEvery = 10 * time.Second
)

// Options of New. All are required unless they say otherwise.
type Options struct {
	DataDir string
	FS      vfs.FS           // nil: the operating system's
	Now     func() time.Time // nil: the system's clock
	Random  io.Reader        // nil: the system's
	Logger  *slog.Logger     // nil: none
	// Registerer takes the metrics of this package.
	Registerer prometheus.Registerer
	// TenantHeader is the request header that names a tenant; "": X-Scope-OrgID.
	TenantHeader string
	Config       Config
	// PlanOf is the name of a tenant's plan; nil: it has none.
	PlanOf func(tenant.ID) string
	// Audit is where refused credentials are written; nil: nowhere.
	Audit *AuditLog
	// WebConfig is the file whose Basic users are operators; "": there is none.
	WebConfig string
}

// Authenticator says who makes a request. Safe for concurrent use.
type Authenticator struct {
	now          func() time.Time
	logger       *slog.Logger
	tenantHeader string // as it was given
	tenantValues string // the same, as net/http spells it
	planOfTenant func(tenant.ID) string
	audit        *AuditLog
	webConfig    string
	metrics      *metrics
	gate         *gate
	verified     atomic.Int64 // tokens whose signature was looked at

	// Of watch alone.
	webStamp   os.FileInfo
	keyFailure string

	store  *Keys
	ledger *ledger
	keys   atomic.Pointer[map[string]*liveKey]
	users  atomic.Pointer[users]
	rules  atomic.Pointer[rules]

	ctx    context.Context // of all that runs
	cancel context.CancelFunc
	runs   sync.WaitGroup

	mu        sync.Mutex
	stopRules context.CancelFunc // ends the issuers of rules
	published int                // of store's reads
}

// rules are what a configuration says. They do not change.
type rules struct {
	issuers map[string]*issuer
	plans   map[string]*Plan // "" is that of keys that have none
	tokens  *tokenCache
}

type metrics struct{ refused *prometheus.CounterVec }

// New reads keys and what they have used, and begins to read the keys of issuers.
func New(o Options) (*Authenticator, error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TenantHeader == "" {
		o.TenantHeader = "X-Scope-OrgID"
	}
	if o.PlanOf == nil {
		o.PlanOf = func(tenant.ID) string { return "" }
	}
	store, err := OpenKeys(o.FS, o.DataDir, o.Now, o.Random)
	if err != nil {
		return nil, err
	}
	ledger, err := openLedger(o.FS, filepath.Join(o.DataDir, DirName))
	if err != nil {
		return nil, err
	}
	a := &Authenticator{
		now: o.Now, logger: o.Logger, tenantHeader: o.TenantHeader, tenantValues: http.CanonicalHeaderKey(o.TenantHeader), planOfTenant: o.PlanOf,
		audit: o.Audit, webConfig: o.WebConfig, gate: &gate{sources: map[source]*lines{}}, store: store, ledger: ledger,
	}
	if a.metrics, err = newMetrics(o.Registerer, a); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if a.webConfig != "" {
		u, err := loadUsers(a.webConfig)
		if err != nil {
			return nil, err
		}
		a.users.Store(u)
	}
	a.publishKeys()
	if err := a.Apply(o.Config); err != nil {
		return nil, err
	}
	a.runs.Go(a.watch)
	return a, nil
}

func newMetrics(reg prometheus.Registerer, a *Authenticator) (*metrics, error) {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_auth_refused_total", Help: "Requests refused for who made them, by the reason.",
		}, []string{"reason"}),
	}
	for _, reason := range reasons {
		m.refused.WithLabelValues(reason)
	}
	keys := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "quipu_auth_keys", Help: "API keys that are not revoked.",
	}, func() float64 { return float64(len(*a.keys.Load())) })
	verified := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "quipu_auth_tokens_verified_total", Help: "Tokens whose signature was looked at, because they were not known.",
	}, func() float64 { return float64(a.verified.Load()) })
	for _, c := range []prometheus.Collector{m.refused, verified, keys} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of credentials: %w", err)
		}
	}
	return m, nil
}

// Close ends what runs and writes what keys have used.
func (a *Authenticator) Close() error {
	a.cancel()
	a.runs.Wait()
	return a.ledger.write()
}

// Apply puts another configuration in force. Tokens are verified anew.
func (a *Authenticator) Apply(c Config) error {
	next := &rules{issuers: map[string]*issuer{}, plans: map[string]*Plan{"": {}}, tokens: newTokenCache(tokensMax)}
	for name, p := range c.Plans {
		next.plans[name] = &p
	}
	for _, ic := range c.Issuers {
		is, err := newIssuer(ic, a.logger, a.now)
		if err != nil {
			return err
		}
		next.issuers[ic.Issuer] = is
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopRules != nil {
		a.stopRules()
	}
	ctx, cancel := context.WithCancel(a.ctx)
	a.stopRules = cancel
	if old := a.rules.Load(); old != nil {
		for name, is := range next.issuers { // what is known goes on being known
			if was := old.issuers[name]; was != nil && was.config.JWKSURL == is.config.JWKSURL {
				is.keys.Store(was.keys.Load())
				was.mu.Lock()
				is.good = was.good
				was.mu.Unlock()
			}
		}
	}
	a.rules.Store(next)
	for _, is := range next.issuers {
		a.runs.Go(func() { is.run(ctx) })
	}
	return nil
}

// Keys are the API keys. Who changes them calls Refresh, or the change is in force within
// a second.
func (a *Authenticator) Keys() *Keys { return a.store }

// Refresh puts a change of the keys in force.
func (a *Authenticator) Refresh() { a.publishKeys() }

// Used is what a key has used.
func (a *Authenticator) Used(id string) Used { return a.ledger.of(id).used() }

// HasPlan reports whether the configuration has a plan of this name.
func (a *Authenticator) HasPlan(name string) bool {
	return name != "" && a.rules.Load().plans[name] != nil
}

// Empty reports whether nobody can have a credential: there is no live key, no issuer and
// no user.
func (a *Authenticator) Empty() bool {
	u := a.users.Load()
	return len(*a.keys.Load()) == 0 && len(a.rules.Load().issuers) == 0 && (u == nil || len(u.hashes) == 0)
}

// DropTenant forgets the keys of a tenant that was deleted, and returns how many there
// were.
func (a *Authenticator) DropTenant(id tenant.ID) (int, error) {
	n, err := a.store.DropTenant(id)
	a.publishKeys()
	return n, err
}

// publishKeys puts the keys as they were read last in force.
func (a *Authenticator) publishKeys() {
	a.mu.Lock()
	defer a.mu.Unlock()
	live, all := map[string]*liveKey{}, map[string]bool{}
	a.published, _ = a.store.Refresh() // a failure leaves the keys as they were, and look says it
	for _, k := range a.store.List() {
		all[k.ID] = true
		if l, ok := newLiveKey(k, a.ledger.of(k.ID)); ok {
			live[k.ID] = l
		}
	}
	a.ledger.keep(all)
	a.keys.Store(&live)
}

// watch looks at files that others may change, and writes what keys have used, until
// the authenticator is closed.
func (a *Authenticator) watch() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	written := time.Now()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		a.look()
		if time.Since(written) < writeEvery {
			continue
		}
		written = time.Now()
		if err := a.ledger.write(); err != nil {
			a.logger.Error("what keys have used is not written, which is tried again", "err", err)
		}
		a.flushGate()
	}
}

// look reads files again that have changed.
func (a *Authenticator) look() {
	reads, err := a.store.Refresh()
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != a.keyFailure {
		a.logger.Error("the keys cannot be read again, those before stay in force", "err", err)
	}
	a.keyFailure = said
	a.mu.Lock()
	changed := reads != a.published
	a.mu.Unlock()
	if changed {
		a.publishKeys()
	}
	if a.webConfig == "" {
		return
	}
	info, err := os.Stat(a.webConfig)
	if err == nil && a.webStamp != nil && info.Size() == a.webStamp.Size() && info.ModTime().Equal(a.webStamp.ModTime()) {
		return
	}
	u, err := loadUsers(a.webConfig)
	if err != nil {
		u = nil // nobody is an operator whom nobody can check
	}
	a.webStamp = info
	a.users.Store(u)
}

// Identify says who makes a request and of which tenant, where they have what is needed
// and may make one more. bodyKey is the key that the request's body carries, which counts
// where its headers have none; "": it has none either. An error is a *Refusal.
func (a *Authenticator) Identify(r *http.Request, need Need, bodyKey string) (*Subject, tenant.ID, error) {
	now := a.now()
	s, refusal := a.who(r.Header, bodyKey, now)
	var id tenant.ID
	if refusal == nil {
		id, refusal = a.tenantOf(r.Header, s)
	}
	if refusal == nil {
		if missing := need.metBy(s); missing != "" {
			refusal = forbidden(reasonMissing, "the credential has no permission for this: it needs "+missing)
		}
	}
	if refusal == nil && s.usage != nil {
		refusal = a.admit(s, need, now)
	}
	if refusal != nil {
		a.refused(r, s, refusal, now)
		return nil, tenant.ID{}, refusal
	}
	return s, id, nil
}

// who is the subject of a request's first credential.
func (a *Authenticator) who(h http.Header, bodyKey string, now time.Time) (*Subject, *Refusal) {
	c, there, refusal := credentialOf(h)
	if refusal != nil {
		return nil, refusal
	}
	if !there {
		if bodyKey == "" {
			return nil, unauthorized(reasonNone, "this needs a credential: an API key or a token as Authorization: Bearer, or an API key as X-API-Key")
		}
		c.text = bodyKey
	}
	rules := a.rules.Load()
	switch {
	case len(c.text) == keyLen && c.text[:len(keyPrefix)] == keyPrefix:
		return a.key(c.text, now)
	case looksLikeToken(c.text):
		s, refusal := a.token(rules, c.text, now)
		// Grafana forwards an access token, which may be for another service, together
		// with the id token of who is logged in.
		if refusal != nil && refusal.Status == http.StatusUnauthorized && there && len(h[tokenHeader]) == 1 && h[tokenHeader][0] != c.text && looksLikeToken(h[tokenHeader][0]) {
			s, refusal = a.token(rules, h[tokenHeader][0], now)
		}
		return s, refusal
	case c.basic && a.users.Load().are(c.user, c.password):
		return &Subject{ID: c.user, Issuer: issuerUser, Operator: true, Permissions: all}, nil
	case there && len(h[tokenHeader]) == 1 && h[tokenHeader][0] != c.text && looksLikeToken(h[tokenHeader][0]):
		return a.token(rules, h[tokenHeader][0], now) // the access token is opaque
	}
	return nil, unauthorized(reasonUnknown, "the credential is neither an API key nor a token")
}

// key is the subject of an API key.
func (a *Authenticator) key(text string, now time.Time) (*Subject, *Refusal) {
	id, ok := keyIDOf(text)
	if !ok {
		return nil, unauthorized(reasonKey, "the API key is not whole: its checksum is wrong")
	}
	k := (*a.keys.Load())[id]
	if k == nil || !k.is(text) {
		return nil, unauthorized(reasonKey, "the API key is not known, or is revoked")
	}
	if k.expired(now.UnixMilli()) {
		return nil, unauthorized(reasonExpired, "the API key has expired")
	}
	return k.subject, nil
}

// tenantOf is the tenant that a request is about: a header may name the credential's own,
// or any where it is the operator's.
func (a *Authenticator) tenantOf(h http.Header, s *Subject) (tenant.ID, *Refusal) {
	values := h[a.tenantValues]
	switch {
	case len(values) > 1:
		return tenant.ID{}, &Refusal{Status: http.StatusBadRequest, reason: reasonHeader, Message: fmt.Sprintf("the request has %d headers %s, it may have one", len(values), a.tenantHeader)}
	case len(values) == 0 || values[0] == "":
		if s.Operator {
			return tenant.Default, nil
		}
		return s.Tenant, nil
	case !s.Operator && values[0] != s.Tenant.String():
		return tenant.ID{}, forbidden(reasonTenant, fmt.Sprintf("the credential is not of the tenant that the header %s names", a.tenantHeader))
	case !s.Operator:
		return s.Tenant, nil
	}
	id, err := tenant.Parse(values[0])
	if err != nil {
		return id, &Refusal{Status: http.StatusBadRequest, reason: reasonHeader, Message: fmt.Sprintf("header %s: %v", a.tenantHeader, err)}
	}
	return id, nil
}

// planOf is the name of the plan that bounds who asks; "": none does.
func (a *Authenticator) planOf(s *Subject) string {
	if s.plan != "" || s.Operator {
		return s.plan
	}
	return a.planOfTenant(s.Tenant)
}

// admit counts a request of a key, within its plan.
func (a *Authenticator) admit(s *Subject, need Need, now time.Time) *Refusal {
	rules := a.rules.Load()
	plan := rules.plans[a.planOf(s)]
	if plan == nil && s.plan != "" {
		return forbidden(reasonPlan, "the plan of the key is not in the configuration (auth.plans)")
	}
	if plan == nil {
		plan = rules.plans[""] // tenants' plans need say nothing of keys
	}
	return s.usage.admit(plan, now, need.any&EventsWrite != 0)
}

// Charge counts events that were taken of s against its key's quota.
func (a *Authenticator) Charge(s *Subject, events int) {
	if s.usage != nil && events > 0 {
		s.usage.charge(events, a.now())
	}
}

// refused counts and writes a refusal; of one address and reason only a few a minute.
func (a *Authenticator) refused(r *http.Request, s *Subject, refusal *Refusal, now time.Time) {
	a.metrics.refused.WithLabelValues(refusal.reason).Inc()
	client, ok := a.gate.pass(source{ClientOf(r), refusal.reason}, now)
	if !ok {
		return
	}
	line := &auditLine{Act: "refuse", Client: client, Outcome: strconv.Itoa(refusal.Status), Detail: refusal.reason}
	if s != nil {
		line.Who, line.Issuer, line.Tenant = s.ID, s.Issuer, s.Tenant.String()
	}
	a.audit.write(line, false)
	a.logger.Warn("a request is refused", "client", client, "status", refusal.Status, "reason", refusal.reason, "who", line.Who, "tenant", line.Tenant)
}

// flushGate writes how many refusals were not.
func (a *Authenticator) flushGate() {
	for _, s := range a.gate.ended(a.now()) {
		a.audit.write(&auditLine{Act: "refuse", Client: s.client, Outcome: "suppressed", Detail: s.reason, Suppressed: s.count}, false)
		a.logger.Warn("more requests were refused", "client", s.client, "reason", s.reason, "count", s.count)
	}
}

// AsRefusal returns the refusal in the chain of err, if there is one.
func AsRefusal(err error) (*Refusal, bool) {
	var r *Refusal
	ok := errors.As(err, &r)
	return r, ok
}

// Verified is how many tokens' signatures were looked at since the start.
func (a *Authenticator) Verified() int64 { return a.verified.Load() }

// ReadIssuers reads the keys of all issuers now, instead of when it is time.
func (a *Authenticator) ReadIssuers(ctx context.Context) {
	for _, is := range a.rules.Load().issuers {
		_ = is.refresh(ctx) // it has said how it failed
	}
}
