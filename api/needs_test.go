package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/quipudb/quipu/api/auth"
)

// A route that does not say what it needs is a mistake of whoever added it, and so is
// one of a tenant's that is open.
func TestRoutesDeclareWhatTheyNeed(t *testing.T) {
	for name, add := range map[string]func(*api){
		"does not say what it needs": func(a *api) { a.route("/new", auth.Need{}, http.NotFoundHandler()) },
		"has to say what it needs":   func(a *api) { a.scoped("/new", auth.Open, http.NotFoundHandler()) },
		"/new of Prometheus's":       func(*api) { upstreamNeed("/new") },
	} {
		said := func() (said string) {
			defer func() { said, _ = recover().(string) }()
			add(&api{})
			return ""
		}()
		if !strings.Contains(said, name) {
			t.Errorf("it said %q, want %q in it", said, name)
		}
	}
}
