package enrich

import (
	"bytes"
	"os"
	"testing"

	"github.com/quipudb/quipu/internal/accesslog"
)

// realAgents are the user agents of a real log, once each.
func realAgents(tb testing.TB) []string {
	tb.Helper()
	log, err := os.ReadFile("../../testdata/access_log_2015.log")
	if err != nil {
		tb.Fatal(err)
	}
	seen := map[string]bool{}
	var out []string
	for line := range bytes.Lines(log) {
		e, err := accesslog.Parse(bytes.TrimSpace(line))
		if err == nil && e.UserAgent != "" && !seen[e.UserAgent] {
			seen[e.UserAgent] = true
			out = append(out, e.UserAgent)
		}
	}
	return out
}

// BenchmarkNewAgent is what a user agent costs that was not seen before.
func BenchmarkNewAgent(b *testing.B) {
	agents := realAgents(b)
	for i := 0; b.Loop(); i++ {
		newAgent(agents[i%len(agents)])
	}
}
