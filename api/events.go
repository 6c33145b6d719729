package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// EventSink takes batches of events; *ingest.Ingester is one. It keeps nothing of a
// post that it was given.
type EventSink interface {
	// Admit returns the tenant's limits before a body is read; it fails, as Events
	// would, where none is taken now.
	Admit(id tenant.ID) (tenant.Limits, error)
	Events(ctx context.Context, id tenant.ID, post *ingest.Post, idempotencyKey string) (ingest.Result, error)
}

const (
	// retryAfterSeconds is what a client is told to wait when the store does
	// not take its events.
	retryAfterSeconds = "1"
	// statusClientClosed is nginx's code for a client that did not wait; only
	// the metrics see it.
	statusClientClosed = 499
)

// eventRoutes are the paths that clients post events to, each with the formats that
// come there.
func (a *api) eventRoutes() []endpoint {
	var out []endpoint
	formats := map[string][]*ingest.Format{}
	var paths []string
	for _, f := range ingest.Formats() {
		for _, path := range f.Paths {
			if formats[path] == nil {
				paths = append(paths, path)
			}
			formats[path] = append(formats[path], f)
		}
	}
	for _, path := range paths {
		allowed := "POST, OPTIONS"
		if slices.ContainsFunc(formats[path], func(f *ingest.Format) bool { return f.InQuery }) {
			allowed = "GET, " + allowed
		}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			setPostCORS(w, r, allowed)
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			a.ready(func(w http.ResponseWriter, r *http.Request) { a.events(w, r, path, formats[path], allowed) })(w, r)
		})
		out = append(out, endpoint{path: path, handler: a.route(path, auth.Open, h)})
	}
	return out
}

// setPostCORS lets pages of any origin post events, with whatever headers. A beacon
// always sends the cookies that it has, so the origin has to be named; there are none
// that mean anything, and an answer says nothing but what became of the events.
func setPostCORS(w http.ResponseWriter, r *http.Request, allowed string) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Vary", "Origin")
	if r.Method == http.MethodOptions {
		h.Set("Vary", "Origin, Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Methods", allowed)
		if names := r.Header.Get("Access-Control-Request-Headers"); names != "" {
			h.Set("Access-Control-Allow-Headers", names)
		}
		h.Set("Access-Control-Max-Age", "86400")
		return
	}
	h.Set("Access-Control-Expose-Headers", "Retry-After")
}

// events answers a POST of events in one of the formats, or a GET of one, which a page
// sends as it loads a picture. The status tells a client what to do with its batch: 2xx
// nothing, 429 and 503 to send it again as it is after the time in Retry-After, any other
// 4xx not to send it again.
func (a *api) events(w http.ResponseWriter, r *http.Request, route string, formats []*ingest.Format, allowed string) {
	switch {
	case r.Method == http.MethodPost:
	case r.Method == http.MethodGet && strings.HasPrefix(allowed, http.MethodGet):
		w.Header().Set("Cache-Control", "no-store") // else the next event would not arrive
	default:
		a.wrongMethod(w, r, allowed, "events are sent with POST")
		return
	}
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "the request has more than one Idempotency-Key")
		return
	}
	request := &ingest.Request{Path: r.URL.Path, Header: r.Header, Query: r.URL.Query(), Client: auth.ClientOf(r)}
	r, body, ok := a.received(w, r, route, formats)
	if !ok {
		return
	}
	defer body.release()
	request.Body = body.bytes
	post, err := a.open(r.Context(), formats, request)
	if err != nil {
		a.respondNotTaken(w, r, err)
		return
	}
	if auth.From(r.Context()) == nil {
		if r, ok = a.unveiled(w, r, route, post); !ok {
			return
		}
	}
	result, err := a.sink.Events(r.Context(), tenantOf(r), post, r.Header.Get("Idempotency-Key"))
	if err != nil {
		a.respondNotTaken(w, r, err)
		return
	}
	if a.auth != nil {
		a.auth.Charge(auth.From(r.Context()), result.Accepted+result.Filtered)
	}
	a.respondAnswer(w, post.Answer(&result))
}

// respondAnswer writes what a format answers, to the byte: clients compare it.
func (a *api) respondAnswer(w http.ResponseWriter, answer ingest.Answer) {
	if answer.JSON != nil {
		respondJSON(w, a.logger, answer.Status, answer.JSON)
		return
	}
	if answer.Type == "" {
		answer.Type = "text/plain; charset=utf-8"
	}
	if answer.Text != "" {
		w.Header().Set("Content-Type", answer.Type)
	}
	w.WriteHeader(answer.Status)
	if _, err := io.WriteString(w, answer.Text); err != nil {
		a.logger.Debug("the client did not take its answer", "err", err)
	}
}

// open opens a request in a slot, as the first of the formats that claims it: what some
// make of a body takes several times its size until they have.
func (a *api) open(ctx context.Context, formats []*ingest.Format, request *ingest.Request) (*ingest.Post, error) {
	if err := a.bodies.slots.Acquire(ctx); err != nil {
		return nil, err
	}
	defer a.bodies.slots.Release()
	format := formats[slices.IndexFunc(formats, func(f *ingest.Format) bool { return f.Claims(request) })]
	return format.Open(request)
}

// received reads the body of a request and returns it with the request, whose context says
// who makes it where the headers do; otherwise it has answered.
func (a *api) received(w http.ResponseWriter, r *http.Request, route string, formats []*ingest.Format) (*http.Request, *heldBody, bool) {
	if a.auth != nil && slices.ContainsFunc(formats, (*ingest.Format).KeyInBody) && !auth.Carries(r.Header) {
		body, bad := a.strangers.read(w, r, a.strangers.bounds())
		if bad != nil {
			a.respondBadBody(w, bad)
			return nil, nil, false
		}
		return r, body, true
	}
	ctx, err := a.authenticate(r, route, auth.Any(auth.EventsWrite), "")
	if err != nil {
		a.respondRefused(w, err)
		return nil, nil, false
	}
	r = r.WithContext(ctx)
	body, ok := a.admitted(w, r)
	return r, body, ok
}

// unveiled returns a request whose body said who makes it, where that may post events and
// the body is within the limits of their tenant; otherwise it has answered.
func (a *api) unveiled(w http.ResponseWriter, r *http.Request, route string, post *ingest.Post) (*http.Request, bool) {
	ctx, err := a.authenticate(r, route, auth.Any(auth.EventsWrite), post.WriteKey())
	if err != nil {
		a.respondRefused(w, err)
		return nil, false
	}
	r = r.WithContext(ctx)
	limits, err := a.sink.Admit(tenantOf(r))
	if err != nil {
		a.respondNotTaken(w, r, err)
		return nil, false
	}
	if n := limits.DecodedBytes; n > 0 && int64(post.Bytes()) > n {
		a.respondBadBody(w, a.bodies.bounds().of(&limits).tooLongDecoded())
		return nil, false
	}
	return r, true
}

// admitted reads a body within the limits of the request's tenant, where it takes any now;
// otherwise it has answered.
func (a *api) admitted(w http.ResponseWriter, r *http.Request) (*heldBody, bool) {
	limits, err := a.sink.Admit(tenantOf(r))
	if err != nil {
		a.bodies.discard(w, r)
		a.respondNotTaken(w, r, err)
		return nil, false
	}
	body, bad := a.bodies.read(w, r, a.bodies.bounds().of(&limits))
	if bad != nil {
		a.respondBadBody(w, bad)
		return nil, false
	}
	return body, true
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
	case tenant.IsRefusal(err):
		a.respondTenantError(w, err)
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
