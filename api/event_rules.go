package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// EventRules says what is counted of a tenant's events; *ingest.Ingester does.
// It keeps nothing of a text that it was given.
type EventRules interface {
	Rules(id tenant.ID) (ingest.RulesInForce, error)
	// SetRules fails with an ingest.ErrBadRequest where the rules are wrong; nil are the
	// defaults.
	SetRules(id tenant.ID, text []byte) (ingest.RulesInForce, error)
	// CheckRules fails as SetRules would, and changes nothing.
	CheckRules(id tenant.ID, text []byte) (ingest.CheckedRules, error)
	// Metrics are those that the rules in force make.
	Metrics(id tenant.ID) ([]ingest.About, error)
	// Explain fails with an ingest.ErrBadRequest where the post is not one event.
	Explain(ctx context.Context, id tenant.ID, post *ingest.Post) (ingest.Explanation, error)
}

// eventRules answers GET, PUT and DELETE /api/v1/event-rules; what is put is YAML, and
// what is left after a DELETE are the defaults.
func (a *api) eventRules(w http.ResponseWriter, r *http.Request) {
	var rules ingest.RulesInForce
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		rules, err = a.rules.Rules(tenantOf(r))
	case http.MethodPut:
		body, bad := a.bodies.read(w, r, a.bodies.bounds())
		if bad != nil {
			a.respondBadBody(w, bad)
			return
		}
		defer body.release()
		rules, err = a.rules.SetRules(tenantOf(r), append([]byte{}, body.bytes...)) // nil would be a DELETE
	case http.MethodDelete:
		rules, err = a.rules.SetRules(tenantOf(r), nil)
	default:
		a.wrongMethod(w, r, "GET, HEAD, PUT, DELETE, OPTIONS", "event rules are read with GET, replaced with PUT and removed with DELETE")
		return
	}
	a.respondRules(w, rules, err)
}

// checkEventRules answers POST /api/v1/event-rules/check: what is wrong with YAML
// that is put nowhere.
func (a *api) checkEventRules(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "event rules are checked with POST")
	if !ok {
		return
	}
	defer body.release()
	checked, err := a.rules.CheckRules(tenantOf(r), body.bytes)
	a.respondRules(w, checked, err)
}

// explainEvent answers POST /api/v1/events/explain: which series one event, in the
// format that the query names, would touch, and why. Nothing is counted.
func (a *api) explainEvent(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "an event is explained with POST")
	if !ok {
		return
	}
	defer body.release()
	if err := a.bodies.slots.Acquire(r.Context()); err != nil { // as where events are decoded
		a.respondNotTaken(w, r, err)
		return
	}
	defer a.bodies.slots.Release()
	query := r.URL.Query()
	name := query.Get("format")
	query.Del("format") // the rest may be the event
	if name == "" {
		name = "plain"
	}
	var explained ingest.Explanation
	format, err := ingest.FormatNamed(name)
	if err == nil {
		var post *ingest.Post
		if post, err = format.Open(&ingest.Request{Header: r.Header, Query: query, Client: auth.ClientOf(r), Body: body.bytes}); err == nil {
			explained, err = a.rules.Explain(r.Context(), tenantOf(r), post)
		}
	}
	a.respondRules(w, explained, err)
}

func (a *api) respondRules(w http.ResponseWriter, data any, err error) {
	switch {
	case errors.Is(err, ingest.ErrBadRequest):
		// The client knows that the request is bad; what it needs are the lines.
		message := strings.TrimPrefix(err.Error(), ingest.ErrBadRequest.Error()+": ")
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, message)
	case tenant.IsRefusal(err):
		a.respondTenantError(w, err)
	case err != nil:
		respondError(w, a.logger, http.StatusServiceUnavailable, errorUnavailable, err.Error())
	default:
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: data})
	}
}

// posted returns the body of a POST, which the caller releases; otherwise it has
// answered.
func (a *api) posted(w http.ResponseWriter, r *http.Request, how string) (*heldBody, bool) {
	if r.Method != http.MethodPost {
		a.wrongMethod(w, r, "POST, OPTIONS", how)
		return nil, false
	}
	body, bad := a.bodies.read(w, r, a.bodies.bounds())
	if bad != nil {
		a.respondBadBody(w, bad)
		return nil, false
	}
	return body, true
}

func (a *api) wrongMethod(w http.ResponseWriter, r *http.Request, allowed, how string) {
	w.Header().Set("Allow", allowed)
	respondError(w, a.logger, http.StatusMethodNotAllowed, errorBadData, how+", not "+r.Method)
}

// tenantOf is whose a request is that has passed scoped.
func tenantOf(r *http.Request) tenant.ID { return scopeOf(r).Tenant }

func scopeOf(r *http.Request) scope.Scope {
	s, ok := scope.From(r.Context())
	if !ok {
		panic("api: a request for a tenant's data without a scope")
	}
	return s
}
