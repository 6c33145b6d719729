package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/rules"
	v1 "github.com/prometheus/prometheus/web/api/v1"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql/ruler"
)

// Ruler has the recording and alerting rules of tenants; *ruler.Ruler does. Errors that
// are a ruler.ErrBadRules, ErrNoGroup or ErrNoNamespace are the client's.
type Ruler interface {
	// RuleGroups, AlertingRules and Alertmanagers are what is evaluated, and where alerts
	// go.
	RuleGroups(id tenant.ID) []*rules.Group
	AlertingRules(id tenant.ID) []*rules.AlertingRule
	Alertmanagers(id tenant.ID) (active, dropped []*url.URL)
	// Groups are what was written, by namespace.
	Groups(id tenant.ID) (map[string][]rulefmt.RuleGroup, error)
	SetGroup(id tenant.ID, namespace string, text []byte) error
	DeleteGroup(id tenant.ID, namespace, name string) error
	DeleteNamespace(id tenant.ID, namespace string) error
}

// tenantRuler is what Prometheus's handlers ask of rules, for the tenant of a request.
type tenantRuler struct {
	ruler  Ruler
	tenant tenant.ID
}

func (t tenantRuler) RuleGroups() []*rules.Group           { return t.ruler.RuleGroups(t.tenant) }
func (t tenantRuler) AlertingRules() []*rules.AlertingRule { return t.ruler.AlertingRules(t.tenant) }

// Alertmanagers are those that alerts of the tenant go to.
func (t tenantRuler) Alertmanagers() []*url.URL {
	active, _ := t.ruler.Alertmanagers(t.tenant)
	return active
}

// DroppedAlertmanagers are those that relabelling takes away.
func (t tenantRuler) DroppedAlertmanagers() []*url.URL {
	_, dropped := t.ruler.Alertmanagers(t.tenant)
	return dropped
}

// rulesOf and alertmanagersOf are for Prometheus's handlers.
func (a *api) rulesOf(ctx context.Context) v1.RulesRetriever {
	if s, ok := scope.From(ctx); ok && a.ruler != nil {
		return tenantRuler{a.ruler, s.Tenant}
	}
	return noRules{}
}

func (a *api) alertmanagersOf(ctx context.Context) v1.AlertmanagerRetriever {
	if s, ok := scope.From(ctx); ok && a.ruler != nil {
		return tenantRuler{a.ruler, s.Tenant}
	}
	return noAlertmanagers{}
}

// rulesPath is where groups of rules are read and changed, as in Mimir.
const rulesPath = "/config/v1/rules"

// ruleRoutes are the routes below rulesPath. A namespace may have slashes, escaped, so
// its path is taken apart here.
func (a *api) ruleRoutes() []endpoint {
	if a.ruler == nil {
		return nil
	}
	return []endpoint{{path: rulesPath, below: true, handler: a.byMethod(rulesPath, auth.Any(auth.MetricsRead), auth.Any(auth.RulesWrite), a.ruleGroups)}}
}

// ruleGroups answers rulesPath, rulesPath/{namespace} and rulesPath/{namespace}/{group}.
func (a *api) ruleGroups(w http.ResponseWriter, r *http.Request) {
	names, ok := ruleNames(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	id := tenantOf(r)
	switch read := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case read:
		a.readRuleGroups(w, id, names)
	case r.Method == http.MethodPost && len(names) == 1:
		body, bad := a.bodies.read(w, r, a.bodies.bounds())
		if bad != nil {
			a.respondBadBody(w, bad)
			return
		}
		defer body.release()
		a.respondRuleChange(w, a.ruler.SetGroup(id, names[0], body.bytes))
	case r.Method == http.MethodDelete && len(names) == 1:
		a.respondRuleChange(w, a.ruler.DeleteNamespace(id, names[0]))
	case r.Method == http.MethodDelete && len(names) == 2:
		a.respondRuleChange(w, a.ruler.DeleteGroup(id, names[0], names[1]))
	default:
		a.wrongMethod(w, r, "GET, HEAD, POST, DELETE, OPTIONS", "groups of rules are read with GET, set with POST to a namespace and removed with DELETE")
	}
}

// ruleNames are the namespace and the group that a path names, if any.
func ruleNames(r *http.Request) (names []string, ok bool) {
	rest := strings.TrimPrefix(r.URL.EscapedPath(), rulesPath)
	if rest == "" || rest == "/" {
		return nil, true
	}
	segments := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	if rest[0] != '/' || len(segments) > 2 {
		return nil, false
	}
	for _, s := range segments {
		name, err := url.PathUnescape(s)
		if err != nil || name == "" {
			return nil, false
		}
		names = append(names, name)
	}
	return names, true
}

func (a *api) readRuleGroups(w http.ResponseWriter, id tenant.ID, names []string) {
	all, err := a.ruler.Groups(id)
	if err != nil {
		a.respondRuleChange(w, err)
		return
	}
	if len(names) == 0 {
		a.respondYAML(w, all)
		return
	}
	groups, ok := all[names[0]]
	switch {
	case len(names) == 1 && !ok:
		a.respondRuleChange(w, ruler.ErrNoNamespace)
		return
	case len(names) == 1:
		a.respondYAML(w, map[string][]rulefmt.RuleGroup{names[0]: groups})
		return
	}
	for i := range groups {
		if groups[i].Name == names[1] {
			a.respondYAML(w, groups[i])
			return
		}
	}
	a.respondRuleChange(w, ruler.ErrNoGroup)
}

func (a *api) respondYAML(w http.ResponseWriter, v any) {
	text, err := yaml.Marshal(v)
	if err != nil {
		a.respondRuleChange(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	if _, err := w.Write(text); err != nil {
		a.logger.Debug("the client did not take its answer", "err", err)
	}
}

// ruleChange is what Mimir answers to a change that was taken.
type ruleChange struct {
	Status    string `json:"status"`
	Data      any    `json:"data"`
	ErrorType string `json:"errorType"`
	Error     string `json:"error"`
}

// respondRuleChange answers a change. Errors are plain text: clients look for what they
// say in the body as it is.
func (a *api) respondRuleChange(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		respondJSON(w, a.logger, http.StatusAccepted, ruleChange{Status: "success"})
	case errors.Is(err, ruler.ErrNoGroup), errors.Is(err, ruler.ErrNoNamespace):
		http.Error(w, err.Error(), http.StatusNotFound)
	case tenant.IsRefusal(err):
		code, _ := tenantStatus(err)
		http.Error(w, err.Error(), code)
	case errors.Is(err, ruler.ErrBadRules):
		http.Error(w, strings.TrimPrefix(err.Error(), ruler.ErrBadRules.Error()+": "), http.StatusBadRequest)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// buildFeatures are what status/buildinfo says besides what Prometheus's says: Grafana
// reads there that rules can be changed, at rulesPath.
var buildFeatures = json.RawMessage(`{"ruler_config_api":"true"}`)

// withFeatures adds buildFeatures to an answer of Prometheus's handler.
func (a *api) withFeatures(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("Accept-Encoding") // the answer is read here
		held := &heldAnswer{header: w.Header(), code: http.StatusOK}
		next.ServeHTTP(held, r)
		var answer struct {
			Data map[string]json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(held.body.Bytes(), &answer); held.code != http.StatusOK || err != nil || answer.Data == nil {
			w.WriteHeader(held.code)
			if _, err := w.Write(held.body.Bytes()); err != nil {
				a.logger.Debug("the client did not take its answer", "err", err)
			}
			return
		}
		answer.Data["features"] = buildFeatures
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: answer.Data})
	})
}

// heldAnswer keeps an answer.
type heldAnswer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(code int)        { h.code = code }
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }
