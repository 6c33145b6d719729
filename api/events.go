package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/prometheus/prometheus/util/httputil"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// EventSink takes batches of events; *ingest.Ingester is one. It keeps nothing of a
// body that it was given.
type EventSink interface {
	// Admit returns the tenant's limits before a body is read; it fails, as Events
	// would, where none is taken now.
	Admit(id tenant.ID) (tenant.Limits, error)
	Events(ctx context.Context, id tenant.ID, body []byte, contentType, idempotencyKey string) (ingest.Result, error)
}

const (
	// retryAfterSeconds is what a client is told to wait when the store does
	// not take its events.
	retryAfterSeconds = "1"
	// statusClientClosed is nginx's code for a client that did not wait; only
	// the metrics see it.
	statusClientClosed = 499
)

// eventsOptions tells a browser which headers a page of another origin may post
// events with: those that Prometheus's handlers allow, and what is particular to
// a batch.
func (a *api) eventsOptions(w http.ResponseWriter, r *http.Request) {
	httputil.SetCORS(w, a.corsOrigin, r)
	const allowed = "Access-Control-Allow-Headers"
	if names := w.Header().Get(allowed); names != "" {
		w.Header().Set(allowed, names+", Content-Encoding, Idempotency-Key")
	}
	w.WriteHeader(http.StatusNoContent)
}

// events answers POST /api/v1/events. The status tells a client what to do with
// its batch: 200 nothing, 429 and 503 to send it again with the same Idempotency-Key
// after the time in Retry-After, any other 4xx not to send it again.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST, OPTIONS")
		respondError(w, a.logger, http.StatusMethodNotAllowed, errorBadData, "events are sent with POST, not "+r.Method)
		return
	}
	s, ok := scope.From(r.Context())
	if !ok {
		panic("api: a request for events without a scope")
	}
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "the request has more than one Idempotency-Key")
		return
	}
	limits, err := a.sink.Admit(s.Tenant)
	if err != nil {
		a.bodies.discard(w, r)
		a.respondNotTaken(w, r, err)
		return
	}
	body, bad := a.bodies.read(w, r, a.bodies.bounds().of(&limits))
	if bad != nil {
		a.respondBadBody(w, bad)
		return
	}
	defer body.release()

	result, err := a.sink.Events(r.Context(), s.Tenant, body.bytes, r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"))
	switch {
	case err != nil:
		a.respondNotTaken(w, r, err)
	case result.Rejected > 0 && result.Accepted+result.Duplicate+result.Filtered == 0:
		respondJSON(w, a.logger, http.StatusBadRequest, result)
	default:
		respondJSON(w, a.logger, http.StatusOK, result)
	}
}

// respondNotTaken says why a batch was not taken, and when to send it again.
func (a *api) respondNotTaken(w http.ResponseWriter, r *http.Request, err error) {
	var rate *ingest.RateError
	switch {
	case errors.Is(err, ingest.ErrBadRequest):
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
	case errors.As(err, &rate):
		w.Header().Set("Retry-After", strconv.FormatInt(rate.RetryAfter(), 10))
		respondError(w, a.logger, http.StatusTooManyRequests, errorTooMany, err.Error())
	case r.Context().Err() != nil:
		respondError(w, a.logger, statusClientClosed, errorUnavailable, err.Error())
	default:
		a.respondUnavailable(w, err)
	}
}

// respondBadBody says why a body was not read.
func (a *api) respondBadBody(w http.ResponseWriter, bad *bodyError) {
	if bad.code == http.StatusServiceUnavailable {
		a.respondUnavailable(w, bad)
		return
	}
	respondError(w, a.logger, bad.code, errorBadData, bad.Error())
}

// respondUnavailable answers what may succeed when it is sent again, and counts it where
// the server is overloaded.
func (a *api) respondUnavailable(w http.ResponseWriter, err error) {
	if over := (*overload.Error)(nil); errors.As(err, &over) {
		a.metrics.shed.WithLabelValues(over.Reason).Inc()
	}
	w.Header().Set("Retry-After", retryAfterSeconds)
	respondError(w, a.logger, http.StatusServiceUnavailable, errorUnavailable, err.Error())
}
