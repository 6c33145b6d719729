package tidy

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// unwanted finds text that speaks of how work was organised, or that leaves work
// to be done, instead of saying what is so. The brackets keep a pattern from
// matching its own source.
var unwanted = []struct {
	pattern *regexp.Regexp
	advice  string
}{
	{regexp.MustCompile(`(?i)\bissues?[ ]#?\d`), "say what was wrong instead of citing a ticket"},
	{regexp.MustCompile(`(?i)\b(this|next|previous)[ ]session\b`), "say what the code does, not when it was written"},
	{regexp.MustCompile(`(?i)\bdesign[ ](doc|section)\b`), "state the rule itself"},
	{regexp.MustCompile(`\.\./[s]hared`), "refer to files of this repository only"},
	{regexp.MustCompile(`\b(TO[D]O|FIX[M]E|XX[X])\b`), "finish it, or describe the limit as it is"},
}

// words returns the lines that unwanted finds.
func words(t tree) []string {
	var violations []string
	for _, p := range slices.Sorted(maps.Keys(t.text)) {
		for i, line := range bytes.Split(t.text[p], []byte("\n")) {
			for _, u := range unwanted {
				if found := u.pattern.Find(line); found != nil {
					violations = append(violations, fmt.Sprintf("%s:%d says %q: %s", p, i+1, found, u.advice))
				}
			}
		}
	}
	return violations
}
