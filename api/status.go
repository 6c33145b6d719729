package api

import (
	"fmt"
	"io"
	"net/http"

	"github.com/quipudb/quipu/internal/scope"
)

// dataRange is the answer of status/range: milliseconds since 1970.
type dataRange struct {
	MinTime int64 `json:"minTime"`
	MaxTime int64 `json:"maxTime"` // the end of the newest data
}

// statusRange answers GET /api/v1/status/range; its data is null where the
// tenant has none.
func (a *api) statusRange(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		respondError(w, a.logger, http.StatusMethodNotAllowed, errorBadData, "the range of the data is read with GET, not "+r.Method)
		return
	}
	s, ok := scope.From(r.Context())
	if !ok {
		panic("api: a request for the range of the data without a scope")
	}
	mint, maxt, ok, err := a.tenants.DataRange(r.Context(), s.Tenant)
	switch {
	case err != nil:
		respondError(w, a.logger, http.StatusInternalServerError, errorInternal, fmt.Sprintf("read the range of the data of tenant %s: %v", s.Tenant, err))
	case !ok:
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success"})
	default:
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: dataRange{mint, maxt}})
	}
}

// healthy answers that the process runs.
func (a *api) healthy(w http.ResponseWriter, _ *http.Request) {
	a.respondText(w, http.StatusOK, "Quipu is healthy.")
}

// readiness answers whether requests can be served, and if not why.
func (a *api) readiness(w http.ResponseWriter, _ *http.Request) {
	if err := a.isReady(); err != nil {
		a.respondText(w, http.StatusServiceUnavailable, "Quipu is not ready: "+err.Error())
		return
	}
	a.respondText(w, http.StatusOK, "Quipu is ready.")
}

// reload answers POST and PUT /-/reload, as Prometheus does: 500 where the configuration
// is wrong, with what is.
func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		http.Error(w, "the configuration is read again with POST or PUT, not "+r.Method, http.StatusMethodNotAllowed)
		return
	}
	if err := a.reloadConfig(); err != nil {
		http.Error(w, "failed to reload config: "+err.Error(), http.StatusInternalServerError)
		return
	}
	a.respondText(w, http.StatusOK, "Quipu has read its configuration.")
}

func (a *api) respondText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	if _, err := io.WriteString(w, text+"\n"); err != nil {
		a.logger.Debug("the client did not take its answer", "err", err)
	}
}

// ready refuses requests until the process is ready to serve them.
func (a *api) ready(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := a.isReady(); err != nil {
			w.Header().Set("Retry-After", retryAfterSeconds)
			respondError(w, a.logger, http.StatusServiceUnavailable, errorUnavailable, "Quipu is not ready: "+err.Error())
			return
		}
		next(w, r)
	}
}
