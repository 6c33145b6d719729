package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
)

// SnapshotStatus is what is known of a snapshot.
type SnapshotStatus struct {
	Name    string           `json:"name"`
	Time    string           `json:"time"` // when it was made
	Tenants []SnapshotTenant `json:"tenants"`
}

// SnapshotTenant is a tenant in a snapshot.
type SnapshotTenant struct {
	ID     string `json:"id"`
	Blocks int    `json:"blocks"`
	Bytes  int64  `json:"bytes"` // of blocks, which it may share with what is live
	// Error is why it cannot be read.
	Error string `json:"error,omitempty"`
}

// MadeSnapshot is a snapshot that was made.
type MadeSnapshot struct {
	Name string `json:"name"`
	// Failed are the tenants that are not in it, with the reason.
	Failed map[string]string `json:"failed,omitempty"`
}

// Restore is what is to be restored and how.
type Restore struct {
	Tenant string `json:"tenant"`
	// Replace: what the tenant has is given up. Without it there must be no such tenant.
	Replace bool `json:"replace"`
	// WithoutEventIDs: events that the snapshot has count again where they are sent again.
	WithoutEventIDs bool `json:"without_event_ids"`
}

// RestoredTenant is what a tenant was restored with.
type RestoredTenant struct {
	Tenant   string `json:"tenant"`
	Blocks   int    `json:"blocks"`
	Bytes    int64  `json:"bytes"`
	EventIDs int    `json:"event_ids"`
}

// Backups are snapshots of what is stored. Errors are ErrNoSnapshot, tenant.ErrUnknown,
// tenant.ErrExists, or what has failed.
type Backups interface {
	// Snapshots are those that there are, the newest first.
	Snapshots() ([]SnapshotStatus, error)
	// MakeSnapshot makes one of some tenants, of all where ids is empty.
	MakeSnapshot(ctx context.Context, ids []tenant.ID, skipHead bool) (MadeSnapshot, error)
	DeleteSnapshot(ctx context.Context, name string) error
	// Restore makes a tenant what it is in a snapshot.
	Restore(ctx context.Context, snapshot string, id tenant.ID, how Restore) (RestoredTenant, error)
}

// ErrNoSnapshot says that there is no snapshot of a name, or that it does not have a tenant.
var ErrNoSnapshot = errors.New("no such snapshot")

// backupRoutes are for operators: snapshots write to the disk of the server.
func (a *api) backupRoutes() []endpoint {
	if a.backups == nil {
		return nil
	}
	const path = "/api/v1/admin/snapshots"
	return []endpoint{
		{path: path, handler: a.operated(path, a.snapshots)},
		{path: path + "/{name}", handler: a.operated(path+"/{name}", a.oneSnapshot)},
		{path: path + "/{name}/restore", handler: a.operated(path+"/{name}/restore", a.restore)},
	}
}

// snapshots answers GET and POST /api/v1/admin/snapshots.
func (a *api) snapshots(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		all, err := a.backups.Snapshots()
		if err != nil {
			a.respondAdminError(w, err)
			return
		}
		if all == nil {
			all = []SnapshotStatus{}
		}
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: struct {
			Snapshots []SnapshotStatus `json:"snapshots"`
		}{all}})
	case http.MethodPost:
		a.makeSnapshot(w, r)
	default:
		a.wrongMethod(w, r, "GET, HEAD, POST", "snapshots are listed with GET and made with POST")
	}
}

// makeSnapshot makes one; a POST without a body has all tenants.
func (a *api) makeSnapshot(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "a snapshot is made with POST")
	if !ok {
		return
	}
	defer body.release()
	var asked struct {
		Tenants  []string `json:"tenants"`
		SkipHead bool     `json:"skip_head"`
	}
	if len(body.bytes) > 0 {
		if err := decodeStrict(body.bytes, &asked); err != nil {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
			return
		}
	}
	var ids []tenant.ID
	for i, text := range asked.Tenants {
		id, err := tenant.Parse(text)
		if err != nil {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("tenants[%d]: %v", i, err))
			return
		}
		ids = append(ids, id)
	}
	made, err := a.backups.MakeSnapshot(r.Context(), ids, asked.SkipHead)
	auth.Audit(r.Context(), "make snapshot", made.Name, err)
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	respondJSON(w, a.logger, http.StatusCreated, success{Status: "success", Data: made})
}

// oneSnapshot answers DELETE /api/v1/admin/snapshots/{name}.
func (a *api) oneSnapshot(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodDelete {
		a.wrongMethod(w, r, "DELETE", "a snapshot is deleted with DELETE")
		return
	}
	name := mux.Vars(r)["name"]
	err := a.backups.DeleteSnapshot(r.Context(), name)
	auth.Audit(r.Context(), "delete snapshot", name, err)
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// restore answers POST /api/v1/admin/snapshots/{name}/restore.
func (a *api) restore(w http.ResponseWriter, r *http.Request) {
	body, ok := a.posted(w, r, "a tenant is restored with POST")
	if !ok {
		return
	}
	defer body.release()
	var how Restore
	if err := decodeStrict(body.bytes, &how); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	id, err := tenant.Parse(how.Tenant)
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "tenant: "+err.Error())
		return
	}
	name := mux.Vars(r)["name"]
	restored, err := a.backups.Restore(r.Context(), name, id, how)
	auth.Audit(r.Context(), "restore tenant", fmt.Sprintf("%s from %s", id, name), err)
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: restored})
}
