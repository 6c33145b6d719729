package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/tenant"
)

// The scripts in testdata/formats begin with rules. Their cases are a line "=== name",
// an HTTP request, a line "----", and the answer, the write key, and what was counted;
// of a request that is refused there is what is wrong with it. Every request is sent a
// second time, which counts nothing more where its events have ids.
func TestFormatScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/formats/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cases := strings.Split(string(src), "=== ")
		rules := cases[0]
		out := strings.Builder{}
		out.WriteString(rules)
		for _, c := range cases[1:] {
			input, want, ok := strings.Cut(c, "\n----\n")
			name, request, ok2 := strings.Cut(input, "\n")
			if !ok || !ok2 {
				t.Fatalf("%s: case %q is not a request and output", file, name)
			}
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name, func(t *testing.T) {
				got := runFormat(t, rules, request)
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

// readRequest reads "POST /path?query" or GET, headers, a blank line, and a body.
func readRequest(t testing.TB, text string) (*Format, *Request) {
	t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	_, target, _ := strings.Cut(lines[0], " ")
	at, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Path: at.Path, Query: at.Query(), Header: http.Header{}, Client: "192.0.2.7", Body: []byte(body)}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(textproto.CanonicalMIMEHeaderKey(name), value)
	}
	i := slices.IndexFunc(Formats(), func(f *Format) bool { return slices.Contains(f.Paths, at.Path) && f.Claims(r) })
	if i < 0 {
		t.Fatalf("no format is posted to %s", at.Path)
	}
	return Formats()[i], r
}

func runFormat(t *testing.T, rules, text string) string {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: rules})
	var out strings.Builder
	send := func() (Result, bool) {
		f, r := readRequest(t, text)
		p, err := f.Open(r)
		var result Result
		if err == nil {
			result, err = g.Events(context.Background(), tenant.Default, p, "")
		}
		if err != nil {
			if !errors.Is(err, ErrBadRequest) || len(m.lines()) > 0 || m.reserved != 0 {
				t.Errorf("%v: %d increments, %d reserved", err, len(m.lines()), m.reserved)
			}
			fmt.Fprintln(&out, err)
			return result, false
		}
		a := p.Answer(&result)
		answer := []byte(a.Text)
		if a.JSON != nil {
			if answer, err = json.Marshal(a.JSON); err != nil {
				t.Fatal(err)
			}
		}
		if a.Type != "" {
			answer = []byte(a.Type)
		}
		fmt.Fprintf(&out, "%s %d %s\n", f.Name, a.Status, answer)
		for _, e := range result.Errors {
			if a.JSON == nil { // which does not say it
				fmt.Fprintf(&out, "rejected %d: %s\n", e.Index, e.Reason)
			}
		}
		if key := p.WriteKey(); key != "" {
			fmt.Fprintf(&out, "key %s\n", key)
		}
		return result, true
	}
	first, ok := send()
	if !ok {
		return out.String()
	}
	lines := m.lines()
	for _, line := range lines {
		fmt.Fprintln(&out, line)
	}
	for _, e := range m.exemplars {
		fmt.Fprintf(&out, "exemplar of %s: %s %v\n", e.Series, e.Labels, e.Value)
	}
	again, _ := send()
	if again.Duplicate == first.Accepted+first.Duplicate && !slices.Equal(m.lines(), lines) {
		t.Errorf("a second time all are duplicates, and yet it counts: %q", m.lines())
	}
	if m.reserved != 0 {
		t.Errorf("%d reservations are not settled", m.reserved)
	}
	sum := func(r Result) int { return r.Accepted + r.Duplicate + r.Filtered + r.Rejected }
	if sum(first) != sum(again) {
		t.Errorf("verdicts of one body: %+v, then %+v", first, again)
	}
	return out.String()
}

// Whatever comes to whichever path, every event of a body that can be read has one
// verdict, and what cannot be read leaves nothing.
func FuzzFormats(f *testing.F) {
	files, err := filepath.Glob("testdata/formats/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range strings.Split(string(src), "=== ")[1:] {
			_, rest, _ := strings.Cut(c, "\n")
			text, _, _ := strings.Cut(rest, "\n----\n")
			format, r := readRequest(f, text)
			i, path := slices.Index(Formats(), format), slices.Index(format.Paths, r.Path)
			f.Add(i, path, r.Query.Encode(), r.Body, r.Header.Get("Content-Type"), r.Header.Get("Ce-Specversion"))
		}
	}
	f.Fuzz(func(t *testing.T, number, path int, query string, body []byte, contentType, specVersion string) {
		formats := Formats()
		format := formats[max(0, number%len(formats))]
		m := newMemory()
		g, _ := newTestIngester(t, m)
		r := &Request{Header: http.Header{"Content-Type": {contentType}}, Body: body, Client: "192.0.2.7"}
		r.Path = format.Paths[max(0, path%len(format.Paths))]
		r.Query, _ = url.ParseQuery(query) // what it cannot read is left out
		if specVersion != "" {
			r.Header["Ce-Specversion"] = []string{specVersion}
			r.Header["Ce-Type"] = []string{contentType}
		}
		p, err := format.Open(r)
		if err != nil {
			if !errors.Is(err, ErrBadRequest) {
				t.Fatal(err)
			}
			return
		}
		result, err := g.Events(context.Background(), tenant.Default, p, "")
		if m.reserved != 0 {
			t.Errorf("%d reservations are not settled", m.reserved)
		}
		if err != nil {
			if !errors.Is(err, ErrBadRequest) || len(m.lines()) > 0 {
				t.Fatalf("%v, %d increments", err, len(m.lines()))
			}
			return
		}
		counted := 0.0
		for _, s := range m.series {
			if s.Labels.Get(model.MetricNameLabel) == "events_total" {
				counted += s.Value
			}
		}
		if int(counted) != result.Accepted {
			t.Errorf("%+v, and %v counted", result, counted)
		}
		p.Answer(&result)
	})
}
