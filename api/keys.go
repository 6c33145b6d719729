package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/mux"

	"github.com/quipudb/quipu/api/auth"
)

// keyRoutes manage API keys, where there are any. A tenant's administrator manages the
// tenant's, the operator all.
func (a *api) keyRoutes() []endpoint {
	if a.auth == nil {
		return nil
	}
	return []endpoint{
		{path: "/api/v1/admin/keys", handler: a.administered("/api/v1/admin/keys", a.keys)},
		{path: "/api/v1/admin/keys/{id}", handler: a.administered("/api/v1/admin/keys/{id}", a.revokeKey)},
	}
}

// administered is a route that is of no tenant's data, and that administrators of a tenant
// use too: its handler asks whose.
func (a *api) administered(name string, h http.HandlerFunc) http.Handler {
	return a.route(name, auth.Any(auth.Admin), a.ready(h))
}

// keyText is a key as the API shows it.
type keyText struct {
	ID          string    `json:"id"`
	Tenant      string    `json:"tenant"` // "*": an operator's
	Name        string    `json:"name"`
	Permissions []string  `json:"permissions"`
	Plan        string    `json:"plan,omitempty"`
	State       string    `json:"state"` // live, revoked or expired
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires,omitzero"`
	Revoked     time.Time `json:"revoked,omitzero"`
	Used        auth.Used `json:"used"`
	// Key is the text of a key that was just made.
	Key string `json:"key,omitempty"`
}

func (a *api) textOf(k *auth.Key) keyText {
	out := keyText{
		ID: k.ID, Tenant: k.Tenant, Name: k.Name, Permissions: k.Permissions, Plan: k.Plan, State: "live",
		Created: k.Created, Expires: k.Expires, Revoked: k.Revoked, Used: a.auth.Used(k.ID),
	}
	switch {
	case !k.Revoked.IsZero():
		out.State = "revoked"
	case !k.Expires.IsZero() && !a.now().Before(k.Expires):
		out.State = "expired"
	}
	return out
}

// keys answers GET and POST /api/v1/admin/keys: which there are, of the tenant that the
// query names, and the making of one.
func (a *api) keys(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		who, of := auth.From(r.Context()), r.URL.Query().Get("tenant")
		out := []keyText{}
		for _, k := range a.auth.Keys().List() {
			if who.Manages(k.Tenant) && (of == "" || k.Tenant == of) {
				out = append(out, a.textOf(&k))
			}
		}
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: out})
	case http.MethodPost:
		a.createKey(w, r)
	default:
		a.wrongMethod(w, r, "GET, HEAD, POST, OPTIONS", "keys are listed with GET and made with POST")
	}
}

// keyWanted is the body of a POST.
type keyWanted struct {
	Tenant      string    `json:"tenant"` // "": that of who asks
	Name        string    `json:"name"`
	Permissions []string  `json:"permissions"`
	Plan        string    `json:"plan"`
	Expires     time.Time `json:"expires"`
}

func (a *api) createKey(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "a key is made with POST")
	if !ok {
		return
	}
	defer body.release()
	var wanted keyWanted
	if err := unmarshalStrict(body.bytes, &wanted); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	n := auth.NewKey{Tenant: wanted.Tenant, Name: wanted.Name, Permissions: wanted.Permissions, Plan: wanted.Plan, Expires: wanted.Expires}
	if err := a.auth.Allow(auth.From(r.Context()), &n); err != nil {
		a.respondRefused(w, err)
		return
	}
	k, text, err := a.auth.Keys().Create(n)
	if errors.Is(err, auth.ErrBadKey) {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	auth.Audit(r.Context(), "create key", fmt.Sprintf("key %s of tenant %s: %v", k.ID, n.Tenant, k.Permissions), err)
	if err != nil {
		respondError(w, a.logger, http.StatusInternalServerError, errorInternal, err.Error())
		return
	}
	a.auth.Refresh()
	out := a.textOf(&k)
	out.Key = text
	w.Header().Set("Cache-Control", "no-store")
	respondJSON(w, a.logger, http.StatusCreated, success{Status: "success", Data: out})
}

// revokeKey answers DELETE /api/v1/admin/keys/{id}: the key is refused from now on, and
// goes on being listed.
func (a *api) revokeKey(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodDelete {
		a.wrongMethod(w, r, "DELETE, OPTIONS", "a key is revoked with DELETE")
		return
	}
	id := mux.Vars(r)["id"]
	keys := a.auth.Keys().List()
	i := slices.IndexFunc(keys, func(k auth.Key) bool { return k.ID == id })
	if i < 0 || !auth.From(r.Context()).Manages(keys[i].Tenant) {
		// Another tenant's is not there either: ids say nothing to who may not see them.
		respondError(w, a.logger, http.StatusNotFound, errorNotFound, "there is no such key")
		return
	}
	k, err := a.auth.Keys().Revoke(id)
	a.auth.Refresh()
	auth.Audit(r.Context(), "revoke key", fmt.Sprintf("key %s of tenant %s", keys[i].ID, keys[i].Tenant), err)
	if err != nil {
		respondError(w, a.logger, http.StatusInternalServerError, errorInternal, err.Error())
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: a.textOf(&k)})
}

// unmarshalStrict reads one JSON value with no field that v does not have.
func unmarshalStrict(text []byte, v any) error {
	// The decoder would take what comes after the value for another.
	if !json.Valid(text) {
		return errors.New("the body is no JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	return nil
}
