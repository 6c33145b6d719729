package ingest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/tenant"
)

var update = flag.Bool("update", false, "write the expected output of the scripts in testdata")

// The scripts in testdata are cases: a line "=== name", options "content-type: x",
// "retention: d" and "limits: {...}" and a blank line, the body, a line "----", and what
// came of it: the verdicts, the errors, the increments with the start of their window in
// milliseconds relative to the present. In a body, \xNN is that byte and {N*x}
// is x N times.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
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
			input, want, ok := strings.Cut(c, "\n----\n")
			name, rest, _ := strings.Cut(input, "\n")
			options, body, ok2 := strings.Cut("\n"+rest, "\n\n")
			if !ok || !ok2 {
				t.Fatalf("%s: case %q has no body or no output", file, name)
			}
			t.Run(name, func(t *testing.T) {
				got := runCase(t, options, unquoteBody(t, body))
				fmt.Fprintf(&out, "=== %s\n----\n%s\n", input, got)
				if !*update && strings.TrimSpace(got) != strings.TrimSpace(want) {
					t.Errorf("got\n%s\nwant\n%s", got, want)
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

func runCase(t *testing.T, options, body string) string {
	m := newMemory()
	var contentType string
	for line := range strings.Lines(options) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "content-type":
			contentType = value
		case "retention":
			d, err := model.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			m.profile.Retention = d
		case "limits":
			settings, err := tenant.ParseSettings([]byte("limits: "+value), m.profile.Settings)
			if err != nil {
				t.Fatal(err)
			}
			m.profile.Limits = settings.Limits
		case "":
		default:
			t.Fatalf("unknown option %q", name)
		}
	}
	g, _ := newTestIngester(t, m)
	r := post(t, g, body, contentType, "")
	var out strings.Builder
	fmt.Fprintf(&out, "accepted %d, rejected %d\n", r.Accepted, r.Rejected)
	for _, e := range r.Errors {
		fmt.Fprintf(&out, "%d: %s\n", e.Index, e.Reason)
	}
	for _, line := range m.lines() {
		fmt.Fprintln(&out, shortenRuns(line))
	}
	return out.String()
}

// unquoteBody replaces \xNN by that byte and {N*x} by x N times.
func unquoteBody(t *testing.T, body string) string {
	var out strings.Builder
	for body != "" {
		var b byte
		var n int
		var x rune
		switch {
		case scan(body, `\x%02x`, &b):
			out.WriteByte(b)
			body = body[4:]
		case scan(body, `{%d*%c}`, &n, &x):
			out.WriteString(strings.Repeat(string(x), n))
			body = body[strings.IndexByte(body, '}')+1:]
		default:
			out.WriteByte(body[0])
			body = body[1:]
		}
	}
	return out.String()
}

func scan(s, format string, args ...any) bool {
	n, err := fmt.Sscanf(s, format, args...)
	return err == nil && n == len(args)
}

// shortenRuns writes runs of over 100 of one letter as {N*x}.
func shortenRuns(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		n := 1
		for i+n < len(s) && s[i+n] == s[i] {
			n++
		}
		if n > 100 {
			fmt.Fprintf(&out, "{%d*%c}", n, s[i])
		} else {
			out.WriteString(s[i : i+n])
		}
		i += n
	}
	return out.String()
}
