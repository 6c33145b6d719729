package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/usage"
)

// States of a tenant.
const (
	StateActive    = "active"
	StateSuspended = "suspended"
	StateFailed    = "failed" // its directory is damaged
)

// TenantStatus is what there is of a tenant.
type TenantStatus struct {
	ID    string `json:"id"`
	State string `json:"state"`
	// Error is why a tenant has failed.
	Error       string `json:"error,omitempty"`
	Series      int    `json:"series"`
	Blocks      int    `json:"blocks"`
	BlockBytes  int64  `json:"block_bytes"`  // on disk
	MemoryBytes int64  `json:"memory_bytes"` // in no block yet, and in the log too
}

// TenantSettings are those of a tenant and where they are from.
type TenantSettings struct {
	TenantStatus
	// Settings are those in force.
	Settings tenant.Settings `json:"settings"`
	// Own is what was set for the tenant.
	Own tenant.Patch `json:"own"`
	// Pinned are the fields that the server's configuration decides.
	Pinned []string `json:"pinned"`
}

// TenantUsage is what a tenant has and does. Start and Day are when the counts began.
type TenantUsage struct {
	TenantStatus
	Start      string       `json:"start"`
	SinceStart usage.Counts `json:"since_start"`
	Day        string       `json:"day"`
	Today      usage.Counts `json:"today"`
}

// DeletedTenant is what a deletion freed.
type DeletedTenant struct {
	ID          string `json:"id"`
	Series      int    `json:"series"`
	DiskBytes   int64  `json:"disk_bytes"` // of the tenant's directory, before
	MemoryBytes int64  `json:"memory_bytes"`
	// DirectoryGone is whether nothing of the directory is left.
	DirectoryGone bool `json:"directory_gone"`
}

// TenantAdmin is what an operator does with tenants. Errors are tenant.ErrUnknown,
// tenant.ErrExists, ErrPinned, ErrBadSettings, or what has failed.
type TenantAdmin interface {
	// Refused returns why requests for a tenant's data are refused; nil where they are
	// not, also where there is no such tenant.
	Refused(id tenant.ID) error
	// List returns at most limit tenants after the one named, by id, and whether there
	// are more.
	List(after string, limit int) (tenants []TenantStatus, more bool, err error)
	// Create makes a tenant with settings, a JSON object.
	Create(id tenant.ID, settings []byte) error
	Get(id tenant.ID) (TenantSettings, error)
	// Change merges a JSON object into what was set for a tenant: null is set no longer.
	Change(id tenant.ID, settings []byte) error
	Delete(ctx context.Context, id tenant.ID) (DeletedTenant, error)
	// Usage is of a tenant that may not exist yet.
	Usage(id tenant.ID) (TenantUsage, error)
}

// Why settings are not changed.
var (
	ErrPinned      = errors.New("the server's configuration decides this")
	ErrBadSettings = errors.New("the settings are wrong")
)

// adminRoutes are for operators; there are none where nobody administers tenants.
func (a *api) adminRoutes() []endpoint {
	if a.operator == nil {
		return nil
	}
	const path = "/api/v1/admin/tenants"
	return []endpoint{
		{path: path, handler: a.operated(path, a.adminTenants)},
		{path: path + "/{id}", handler: a.operated(path+"/{id}", a.adminTenant)},
		{path: path + "/{id}/suspend", handler: a.operated(path+"/{id}/suspend", a.adminSet("suspend", `{"suspended": true}`))},
		{path: path + "/{id}/resume", handler: a.operated(path+"/{id}/resume", a.adminSet("resume", `{"suspended": null}`))},
		{path: path + "/{id}/usage", handler: a.operated(path+"/{id}/usage", a.adminUsage)},
		{path: "/api/v1/status/usage", handler: a.ours("/api/v1/status/usage", auth.Any(auth.MetricsRead), a.statusUsage)},
	}
}

// operated is a route of the operator, which is of no tenant's data: it works whatever
// becomes of the tenant of who asks.
func (a *api) operated(name string, h http.HandlerFunc) http.Handler {
	return a.route(name, auth.Operator, a.ready(h))
}

// unlessRefused is h for tenants whose requests are served.
func (a *api) unlessRefused(h http.Handler) http.Handler {
	if a.operator == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := a.operator.Refused(tenantOf(r)); err != nil {
			a.respondTenantError(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// respondTenantError answers an error of what is done with a tenant.
func (a *api) respondTenantError(w http.ResponseWriter, err error) {
	code, kind := tenantStatus(err)
	respondError(w, a.logger, code, kind, err.Error())
}

// tenantStatus is the status of an error of what is done with a tenant, and its type.
func tenantStatus(err error) (code int, kind string) {
	code, kind = http.StatusServiceUnavailable, errorUnavailable
	switch {
	case errors.Is(err, tenant.ErrSuspended):
		code, kind = http.StatusForbidden, errorForbidden
	case errors.Is(err, tenant.ErrUnknown):
		code, kind = http.StatusNotFound, errorNotFound
	case errors.Is(err, tenant.ErrExists), errors.Is(err, ErrPinned), errors.Is(err, tenant.ErrDropped):
		code, kind = http.StatusConflict, errorConflict
	case errors.Is(err, ErrBadSettings):
		code, kind = http.StatusBadRequest, errorBadData
	}
	return code, kind
}

const (
	tenantsPage    = 100
	tenantsPageMax = 1000
)

// tenantList is the answer of GET /api/v1/admin/tenants.
type tenantList struct {
	Tenants []TenantStatus `json:"tenants"`
	// Next is what to give as after for more; "" where there are no more.
	Next string `json:"next,omitempty"`
}

// adminTenants answers GET and POST /api/v1/admin/tenants.
func (a *api) adminTenants(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		a.listTenants(w, r)
	case http.MethodPost:
		a.createTenant(w, r)
	default:
		a.wrongMethod(w, r, "GET, HEAD, POST", "tenants are listed with GET and made with POST")
	}
}

func (a *api) listTenants(w http.ResponseWriter, r *http.Request) {
	q, limit := r.URL.Query(), tenantsPage
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > tenantsPageMax {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("limit is %q, it must be from 1 to %d", text, tenantsPageMax))
			return
		}
		limit = n
	}
	tenants, more, err := a.operator.List(q.Get("after"), limit)
	if err != nil {
		a.respondTenantError(w, err)
		return
	}
	out := tenantList{Tenants: tenants}
	if more && len(tenants) > 0 {
		out.Next = tenants[len(tenants)-1].ID
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: out})
}

func (a *api) createTenant(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "a tenant is made with POST")
	if !ok {
		return
	}
	defer body.release()
	var asked struct {
		ID       string          `json:"id"`
		Settings json.RawMessage `json:"settings"`
	}
	if err := decodeStrict(body.bytes, &asked); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	id, err := tenant.Parse(asked.ID)
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "id: "+err.Error())
		return
	}
	if len(asked.Settings) == 0 {
		asked.Settings = json.RawMessage("{}")
	}
	err = a.operator.Create(id, asked.Settings)
	auth.Audit(r.Context(), "create tenant", id.String(), err)
	if err != nil {
		a.respondTenantError(w, err)
		return
	}
	a.logger.Info("a tenant is made", "tenant", id)
	a.respondTenant(w, id, http.StatusCreated)
}

// adminTenant answers GET, PATCH and DELETE /api/v1/admin/tenants/{id}.
func (a *api) adminTenant(w http.ResponseWriter, r *http.Request) {
	id, ok := a.tenantNamed(w, r)
	if !ok {
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		a.respondTenant(w, id, http.StatusOK)
	case http.MethodPatch:
		body, bad := a.bodies.read(w, r, a.bodies.bounds())
		if bad != nil {
			a.respondBadBody(w, bad)
			return
		}
		defer body.release()
		a.changeTenant(w, id, body.bytes)
	case http.MethodDelete:
		deleted, err := a.operator.Delete(r.Context(), id)
		if err != nil {
			a.respondTenantError(w, err)
			return
		}
		a.logger.Info("a tenant is deleted", "tenant", id, "disk_bytes", deleted.DiskBytes)
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: deleted})
	default:
		a.wrongMethod(w, r, "GET, HEAD, PATCH, DELETE", "a tenant is read with GET, changed with PATCH and deleted with DELETE")
	}
}

// adminSet is a POST that changes one setting.
func (a *api) adminSet(what, settings string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, ok := a.tenantNamed(w, r)
		if !ok {
			return
		}
		if r.Method != http.MethodPost {
			a.wrongMethod(w, r, "POST", "to "+what+" a tenant is a POST")
			return
		}
		a.changeTenant(w, id, []byte(settings))
	}
}

func (a *api) changeTenant(w http.ResponseWriter, id tenant.ID, settings []byte) {
	if err := a.operator.Change(id, settings); err != nil {
		a.respondTenantError(w, err)
		return
	}
	a.logger.Info("settings of a tenant have changed", "tenant", id)
	a.respondTenant(w, id, http.StatusOK)
}

func (a *api) respondTenant(w http.ResponseWriter, id tenant.ID, code int) {
	got, err := a.operator.Get(id)
	if err != nil {
		a.respondTenantError(w, err)
		return
	}
	respondJSON(w, a.logger, code, success{Status: "success", Data: got})
}

// adminUsage answers GET /api/v1/admin/tenants/{id}/usage.
func (a *api) adminUsage(w http.ResponseWriter, r *http.Request) {
	id, ok := a.tenantNamed(w, r)
	if !ok {
		return
	}
	if _, err := a.operator.Get(id); errors.Is(err, tenant.ErrUnknown) {
		a.respondTenantError(w, err)
		return
	}
	a.respondUsage(w, r, id)
}

// statusUsage answers GET /api/v1/status/usage: what the tenant of who asks has and does.
func (a *api) statusUsage(w http.ResponseWriter, r *http.Request) { a.respondUsage(w, r, tenantOf(r)) }

func (a *api) respondUsage(w http.ResponseWriter, r *http.Request, id tenant.ID) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.wrongMethod(w, r, "GET, HEAD", "usage is read with GET")
		return
	}
	got, err := a.operator.Usage(id)
	if err != nil {
		a.respondTenantError(w, err)
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: got})
}

// tenantNamed is the tenant in the path; otherwise it has answered.
func (a *api) tenantNamed(w http.ResponseWriter, r *http.Request) (tenant.ID, bool) {
	id, err := tenant.Parse(mux.Vars(r)["id"])
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return id, false
	}
	return id, true
}
