package tidy

import (
	"fmt"
	"slices"
	"strings"
)

// mayImport lists, for each top-level directory, which others its packages may
// import. All may import internal/; tsdb, ingest and promql know nothing of each
// other: each says as small interfaces what it needs, and cmd joins them.
var mayImport = map[string][]string{
	"cmd":      {"web", "api", "ingest", "promql", "tsdb"},
	"bench":    {"api", "ingest", "promql", "tsdb"},
	"api":      {"ingest", "promql"},
	"web":      {},
	"ingest":   {},
	"promql":   {},
	"tsdb":     {},
	"internal": {},
}

// arrows returns the imports that mayImport does not allow, tests included.
func arrows(t tree) []string {
	var violations []string
	for _, f := range t.goFiles {
		from := topLevel(f.path)
		allowed, known := mayImport[from]
		if !known {
			violations = append(violations, fmt.Sprintf("%s: %q is no directory for Go packages; put it under one of those in mayImport", f.path, from))
			continue
		}
		for _, imported := range f.imports {
			below, ours := strings.CutPrefix(imported, modulePath+"/")
			if !ours {
				continue
			}
			to := topLevel(below)
			if to != from && to != "internal" && !slices.Contains(allowed, to) {
				violations = append(violations, fmt.Sprintf("%s imports %s: %s/ may import internal/ and %v", f.path, imported, from, allowed))
			}
		}
	}
	return violations
}

func topLevel(path string) string {
	top, _, _ := strings.Cut(path, "/")
	return top
}
