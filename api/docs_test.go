package api

import (
	"net/http/httptest"
	"os"
	"regexp"
	"testing"

	"github.com/quipudb/quipu/api/auth"
)

// nobody is an operator who is never asked.
type nobody struct{ TenantAdmin }

type noRuler struct{ Ruler }

// docs/api.md has a line for every route, and for nothing else.
func TestDocumentedRoutes(t *testing.T) {
	src, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, line := range regexp.MustCompile("(?m)^\\| (`/[^|]*) \\|").FindAllSubmatch(src, -1) {
		for _, path := range regexp.MustCompile("`([^`]*)`").FindAllSubmatch(line[1], -1) {
			documented[string(path[1])] = true
		}
	}
	served := map[string]bool{"/": true} // the page
	_, open := newWorld(t, func(o *Options) { o.Operator, o.Ruler = nobody{}, noRuler{} })
	for _, srv := range []*httptest.Server{open, newGuarded(t, auth.Config{}).srv} { // keys are where credentials are
		for _, r := range srv.Config.Handler.(*Handler).Routes() {
			served[r.Path] = true
			if !documented[r.Path] && !r.Below { // what is below is at no path of its own
				t.Errorf("docs/api.md has no line for %s", r.Path)
			}
		}
	}
	for path := range documented {
		if !served[path] {
			t.Errorf("docs/api.md has %s, which is no route", path)
		}
	}
}
