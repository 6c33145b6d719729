package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// EventSink takes batches of events; *ingest.Ingester is one. It keeps nothing of a
// post that it was given.
type EventSink interface {
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
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			setPostCORS(w, r)
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			a.ready(func(w http.ResponseWriter, r *http.Request) { a.events(w, r, formats[path]) })(w, r)
		})
		out = append(out, endpoint{path: path, handler: a.route(path, h)})
	}
	return out
}

// setPostCORS lets pages of any origin post events, with whatever headers. A beacon
// always sends the cookies that it has, so the origin has to be named; there are none
// that mean anything, and an answer says nothing but what became of the events.
func setPostCORS(w http.ResponseWriter, r *http.Request) {
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
		h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
		if names := r.Header.Get("Access-Control-Request-Headers"); names != "" {
			h.Set("Access-Control-Allow-Headers", names)
		}
		h.Set("Access-Control-Max-Age", "86400")
		return
	}
	h.Set("Access-Control-Expose-Headers", "Retry-After")
}

// events answers a POST of events in one of the formats. The status tells a client what
// to do with its batch: 2xx nothing, 4xx not to send it again, 503 to send it again as
// it is.
func (a *api) events(w http.ResponseWriter, r *http.Request, formats []*ingest.Format) {
	if r.Method != http.MethodPost {
		a.wrongMethod(w, r, "POST, OPTIONS", "events are sent with POST")
		return
	}
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "the request has more than one Idempotency-Key")
		return
	}
	request := &ingest.Request{Path: r.URL.Path, Header: r.Header, Query: r.URL.Query(), Client: clientOf(r)}
	format := formats[slices.IndexFunc(formats, func(f *ingest.Format) bool { return f.Claims(request) })]

	buf := a.bodies.buffer()
	defer a.bodies.put(buf)
	body, bad := a.bodies.readInto(buf, w, r)
	if bad != nil {
		respondError(w, a.logger, bad.code, errorBadData, bad.Error())
		return
	}
	request.Body = body
	post, err := format.Open(request)
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	s, err := a.authenticate(r, post.WriteKey())
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	r = r.WithContext(scope.With(r.Context(), s))
	result, err := a.sink.Events(r.Context(), s.Tenant, post, r.Header.Get("Idempotency-Key"))
	if err != nil {
		a.respondFailed(w, r, err)
		return
	}
	a.respond(w, format.Answer(&result))
}

// respondFailed answers where no event was given its verdict, or none was stored.
func (a *api) respondFailed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, ingest.ErrBadRequest):
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
	case r.Context().Err() != nil:
		respondError(w, a.logger, statusClientClosed, errorUnavailable, err.Error())
	default:
		w.Header().Set("Retry-After", retryAfterSeconds)
		respondError(w, a.logger, http.StatusServiceUnavailable, errorUnavailable, err.Error())
	}
}

func (a *api) respond(w http.ResponseWriter, answer ingest.Answer) {
	if answer.JSON != nil {
		respondJSON(w, a.logger, answer.Status, answer.JSON)
		return
	}
	a.respondText(w, answer.Status, answer.Text)
}

// clientOf is the address of who sent r, without its port.
func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
