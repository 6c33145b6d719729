package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/httputil"

	"github.com/quipudb/quipu/internal/budget"
)

// Admission lets requests that read a tenant's data have their turn.
type Admission interface {
	// Admit waits for the turn of a request. The context that it returns carries what
	// the request may use and ends when its time is over; release ends the turn, once.
	// An error that is a promql.ErrQueryTimeout is one of a limit that passes.
	Admit(ctx context.Context) (admitted context.Context, release func(), err error)
}

// governedPaths, in Prometheus's router, read a tenant's series without the engine,
// which has turns of its own.
var governedPaths = map[string]bool{
	"/series": true, "/labels": true, "/label/:name/values": true, "/query_exemplars": true, "/read": true,
}

// governed is a handler that waits for its turn. It has found its answer when it begins
// to write, so that no client holds a turn by reading slowly.
func (a *api) governed(next http.Handler) http.Handler {
	if a.admission == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, release, err := a.admission.Admit(r.Context())
		if err != nil {
			httputil.SetCORS(w, a.corsOrigin, r)
			a.respondReadError(w, err)
			return
		}
		turn := &turnWriter{ResponseWriter: w, release: release}
		defer turn.end()
		next.ServeHTTP(turn, r.WithContext(ctx))
	})
}

// respondReadError answers what could not be read or did not have its turn.
func (a *api) respondReadError(w http.ResponseWriter, err error) {
	code, errorType := readErrorStatus(err)
	respondError(w, a.logger, code, errorType, err.Error())
}

// readErrorStatus is how Prometheus's API answers an error.
func readErrorStatus(err error) (code int, errorType string) {
	_, limit := errors.AsType[*budget.LimitError](err)
	_, timeout := errors.AsType[promql.ErrQueryTimeout](err)
	_, canceled := errors.AsType[promql.ErrQueryCanceled](err)
	switch {
	case canceled || errors.Is(err, context.Canceled):
		return statusClientClosed, errorCanceled
	case timeout || errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, errorTimeout
	case limit:
		return http.StatusUnprocessableEntity, errorExec
	}
	return http.StatusInternalServerError, errorInternal
}

// turnWriter ends a turn where the answer begins.
type turnWriter struct {
	http.ResponseWriter
	release func()
}

func (w *turnWriter) end() {
	if w.release != nil {
		w.release()
		w.release = nil
	}
}

func (w *turnWriter) WriteHeader(code int) {
	w.end()
	w.ResponseWriter.WriteHeader(code)
}

func (w *turnWriter) Write(b []byte) (int, error) {
	w.end()
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *turnWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
