package api

import (
	"net/http"
	"net/http/pprof"

	"github.com/quipudb/quipu/api/auth"
)

// profileRoutes are Go's profiles of the process, only where there are credentials: who
// reads one learns of every tenant, and one takes time.
func (a *api) profileRoutes() []endpoint {
	if a.auth == nil {
		return nil
	}
	var out []endpoint
	for _, p := range []struct {
		path string
		h    http.HandlerFunc
	}{
		{"/debug/pprof/cmdline", pprof.Cmdline},
		{"/debug/pprof/profile", pprof.Profile},
		{"/debug/pprof/symbol", pprof.Symbol},
		{"/debug/pprof/trace", pprof.Trace},
	} {
		out = append(out, endpoint{path: p.path, handler: a.route(p.path, auth.Process, p.h)})
	}
	return append(out, endpoint{path: "/debug/pprof/", below: true, handler: a.route("/debug/pprof/", auth.Process, http.HandlerFunc(pprof.Index))})
}
