package ingest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

// The scripts in testdata/rules are cases: a line "=== name", rules, a line "----",
// events, a line "----", and what came of them; of rules that are wrong there are
// no events, and what is wrong.
func TestRuleScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/rules/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cases := strings.Split(string(src), "=== ")
		out.WriteString(cases[0])
		for _, c := range cases[1:] {
			name, rest, _ := strings.Cut(c, "\n")
			parts := strings.SplitN(rest, "----\n", 3)
			if len(parts) < 3 {
				t.Fatalf("%s: case %q is not rules, events and output", file, name)
			}
			t.Run(name, func(t *testing.T) {
				run := runRules
				if filepath.Base(file) == "explain.txt" {
					run = runExplain
				}
				got := run(t, parts[0], parts[1])
				fmt.Fprintf(&out, "=== %s\n%s----\n%s----\n%s\n", name, parts[0], parts[1], got)
				if !*update && strings.TrimSpace(got) != strings.TrimSpace(parts[2]) {
					t.Errorf("got\n%s\nwant\n%s", got, parts[2])
				}
			})
		}
		if *update {
			if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func runExplain(t *testing.T, rules, event string) string {
	x, err := ExplainWith("events.yaml", []byte(rules), plainPost([]byte(event), ""), present)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	x.Write(&out)
	return out.String()
}

func runRules(t *testing.T, rules, body string) string {
	if _, err := parseRules("events.yaml", []byte(rules)); err != nil {
		return err.Error() + "\n"
	}
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: rules})
	r, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(body), "application/x-ndjson"), "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "accepted %d, filtered %d, rejected %d\n", r.Accepted, r.Filtered, r.Rejected)
	for _, e := range r.Errors {
		fmt.Fprintf(&out, "%d: %s\n", e.Index, e.Reason)
	}
	for _, line := range m.lines() {
		fmt.Fprintln(&out, line)
	}
	for _, e := range m.exemplars {
		fmt.Fprintf(&out, "exemplar of %s: %s %v\n", e.Series, e.Labels, e.Value)
	}
	return out.String()
}
