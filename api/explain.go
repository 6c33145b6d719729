package api

import (
	"bytes"
	"net/http"

	"github.com/quipudb/quipu/promql"
)

// explainQuery answers /api/v1/explain: how a query is computed, and what that took. It
// takes the parameters of query, or with a start those of query_range, and runs the query
// as these do, by Prometheus's handlers; what they answer is left out unless it is an
// error.
func (a *api) explainQuery(handlers http.Handler) http.HandlerFunc {
	handlers = pinTime(handlers)
	return func(w http.ResponseWriter, r *http.Request) {
		path := "/api/v1/query"
		if r.FormValue("start") != "" { // parses the request as the handler after it would
			path = "/api/v1/query_range"
		}
		ctx, explanation := promql.WithExplanation(r.Context())
		asked := r.Clone(ctx)
		asked.URL.Path, asked.URL.RawPath = path, ""
		asked.Form, asked.PostForm = r.Form, r.PostForm
		answer := &unread{header: http.Header{}}
		handlers.ServeHTTP(answer, asked)
		if answer.code != http.StatusOK {
			for name, values := range answer.header {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			w.WriteHeader(answer.code)
			if _, err := w.Write(answer.body.Bytes()); err != nil {
				a.logger.Debug("the client did not take its answer", "err", err)
			}
			return
		}
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: explanation})
	}
}

// unread takes an answer that nobody reads, and keeps one that is an error.
type unread struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (u *unread) Header() http.Header { return u.header }

func (u *unread) WriteHeader(code int) {
	if u.code == 0 {
		u.code = code
	}
}

func (u *unread) Write(b []byte) (int, error) {
	u.WriteHeader(http.StatusOK)
	if u.code != http.StatusOK {
		u.body.Write(b)
	}
	return len(b), nil
}
