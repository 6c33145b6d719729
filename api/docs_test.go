package api

import (
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

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
	var o Options
	newWorld(t, func(given *Options) { o = *given })
	o.Registry = prometheus.NewRegistry()
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{"/": true} // the page
	for _, r := range h.Routes() {
		if r.Below {
			continue // what is at no path of its own
		}
		served[r.Path] = true
		if !documented[r.Path] {
			t.Errorf("docs/api.md has no line for %s", r.Path)
		}
	}
	for path := range documented {
		if !served[path] {
			t.Errorf("docs/api.md has %s, which is no route", path)
		}
	}
}
