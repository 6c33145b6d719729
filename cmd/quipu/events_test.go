package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const eventRulesText = `metrics:
  - {name: page_views_total, type: counter, when: {event: page_view}, labels: {page: {path: page, transform: {template: /user/:id}}}}
  - {name: page_load_seconds, type: histogram, value: duration_ms, scale: 0.001, buckets: [0.1, 1]}
  - {name: visitors, type: distinct, value: user_id}
`

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEventsCheck(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, dir, "good.yaml", eventRulesText)
	if got := runCommand(t, "", "events", "check", good); got.status != 0 || got.out != good+": 3 metrics\n" || got.err != "" {
		t.Errorf("%+v", got)
	}
	bad := writeFile(t, dir, "bad.yaml", "metrics:\n  - {name: a}\n  - {name: b, type: countr}\n")
	want := "quipu: " + bad + ":2: metrics[0].type: missing\n" + bad + ":3: metrics[1].type: \"countr\" is none of counter, histogram, distinct, gauge and session\n"
	if got := runCommand(t, "", "events", "check", bad, good); got.status != 1 || got.err != want || got.out != good+": 3 metrics\n" {
		t.Errorf("%+v, want %q", got, want)
	}
	if got := runCommand(t, "", "events", "check", filepath.Join(dir, "none.yaml")); got.status != 1 || !strings.Contains(got.err, "none.yaml: no such file") {
		t.Errorf("%+v", got)
	}
}

// The tests in the documentation are what they say they are.
func TestEventsTestOfTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Tests\n")
	var tests strings.Builder
	for line := range strings.Lines(section) {
		if text, ok := strings.CutPrefix(line, "    "); ok {
			tests.WriteString(text)
		}
	}
	dir := t.TempDir()
	writeFile(t, dir, "events.yaml", eventRulesText)
	file := writeFile(t, dir, "tests.yaml", tests.String())
	want := file + ": users have one page: ok\n" + file + ": late events go to their own window: ok\n"
	if got := runCommand(t, "", "events", "test", file); got.status != 0 || got.out != want {
		t.Errorf("%+v, want %q", got, want)
	}
}

func TestEventsTest(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "events.yaml", "dedup: event_id\n"+eventRulesText)
	for name, tc := range map[string]struct{ tests, want string }{
		"what differs": {`rules: events.yaml
tests:
  - events: [{event: page_view, page: /, event_id: 1}, {event: page_view, page: /, event_id: 1}, {duration_ms: slow}, {event: x}]
    accepted: 2
    duplicate: 1
    increments: [{series: visitors, ids: 1}, {series: page_views_total, value: 2}]
`, `tests.yaml: tests[0]: FAILED
  accepted: 1, want 2
  events[2] is rejected: duration_ms is "slow", page_load_seconds counts numbers
  + page_views_total{page="/"} value 1
  - visitors ids 1
  - page_views_total value 2
`},
		"default rules, and the clock": {`tests:
  - name: now
    events: [{}]
    increments: [{series: 'events_total{event="event"}', window: 2015-05-20T22:00:00Z, value: 1}]
`, "tests.yaml: now: ok\n"},
		"windows":        {"tests:\n  - events: [{}]\n    increments:\n      - {series: a, value: 1, window: 2015-05-20T22:00:00Z}\n      - {series: b, value: 1}\n", "tests.yaml:5: tests[0]: increments[1]: either all increments of a test have a window or none\n"},
		"twice":          {"tests:\n  - events: [{}]\n    increments:\n      - {series: a, value: 1}\n      - {series: a, value: 1}\n", "tests.yaml:5: tests[0]: increments[1]: a is there already\n"},
		"no number":      {"tests:\n  - events: [{}]\n    increments:\n      - {series: a}\n", "tests.yaml:4: tests[0]: increments[0]: it has one of value, count (with sum) and ids\n"},
		"no series":      {"tests:\n  - events: [{}]\n    increments:\n      - {series: 'a{', value: 1}\n", "tests.yaml:4: tests[0]: increments[0]: series \"a{\": "},
		"unknown fields": {"tests:\n  - events: [{}]\n    increments: [{serie: a}]\n", "line 3: field serie not found"},
		"unknown field":  {"tests:\n  - event: {}\n", "line 2: field event not found"},
		"no tests":       {"rules: events.yaml\n", "tests.yaml: no tests\n"},
		"no events":      {"tests: [{name: a}]", "tests.yaml: a: no events\n"},
		"no rules":       {"rules: none.yaml\ntests: [{events: [{}]}]", "tests.yaml: rules: open "},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, dir, "tests.yaml", tc.tests)
			got := runCommand(t, "", "events", "test", file)
			out := strings.ReplaceAll(got.out+strings.TrimPrefix(got.err, "quipu: "), dir+"/", "")
			ok := strings.HasSuffix(tc.want, ": ok\n")
			if !strings.Contains(out, tc.want) || (got.status == 0) != ok {
				t.Errorf("status %d, got\n%s\nwant\n%s", got.status, out, tc.want)
			}
		})
	}
}

func TestEventsExplain(t *testing.T) {
	file := writeFile(t, t.TempDir(), "events.yaml", eventRulesText)
	const event = `{"event":"page_view","page":"/user/7","timestamp":"2015-05-20T21:59:59Z"}`
	for _, tc := range []struct {
		stdin string
		args  []string
		want  string
	}{
		{"", []string{"--rules", file, event}, "+ page_views_total (counter, line 2): when: event = \"page_view\"\n    page_views_total{page=\"/user/:id\"} 1\n"},
		{event + "\n", []string{"--rules", file}, "- visitors (distinct, line 4): value: user_id is missing\n"},
		{"", []string{"--json", event}, `"series": "events_total{event=\"page_view\", page=\"/user/7\"}",`},
	} {
		got := runCommand(t, tc.stdin, append([]string{"events", "explain"}, tc.args...)...)
		if got.status != 0 || !strings.Contains(got.out, tc.want) {
			t.Errorf("%q: %+v, want %q", tc.args, got, tc.want)
		}
	}
}

func send(t *testing.T, method, url, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Rules that are put or edited are in force without a restart, and after one; wrong
// ones are not. A limit of values lets the same values pass after a restart.
func TestEventRulesOfAServer(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, "--data.dir="+dir)
	rules := func(metric string) string {
		return "metrics: [{name: " + metric + ", type: counter, labels: {page: {path: page, max_values: 2}}}]\n"
	}
	if status, answer := send(t, "PUT", server.URL+"/api/v1/event-rules", rules("a_total")); status != 200 || !strings.Contains(answer, `"version":"`) {
		t.Fatalf("%d: %s", status, answer)
	}
	count := func(want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			_, answer := send(t, "POST", server.URL+"/api/v1/events/explain", `{"page":"/z"}`)
			if strings.Contains(answer, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s, want %s", answer, want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	count(`a_total{page=\"/z\"}`)
	for _, page := range []string{"/z", "/y", "/a"} {
		if status, answer := send(t, "POST", server.URL+"/api/v1/events", `{"page":"`+page+`"}`); status != 200 {
			t.Fatalf("%d: %s", status, answer)
		}
	}
	file := filepath.Join(dir, "default", "events.yaml")
	writeFile(t, filepath.Dir(file), "events.yaml", rules("b_total"))
	count("b_total")
	writeFile(t, filepath.Dir(file), "events.yaml", "metrics: [{name: a_total, type: gauge, value: v}]")
	deadline := time.Now().Add(10 * time.Second)
	for answer := ""; !strings.Contains(answer, "a_total\\\" is stored as a counter"); time.Sleep(20 * time.Millisecond) {
		if _, answer = send(t, "GET", server.URL+"/api/v1/event-rules", ""); time.Now().After(deadline) {
			t.Fatal(answer)
		}
	}
	count("b_total")
	writeFile(t, filepath.Dir(file), "events.yaml", rules("a_total"))
	count(`a_total{page=\"/z\"}`)
	server.stop()

	server = startServer(t, "--data.dir="+dir)
	send(t, "POST", server.URL+"/api/v1/events", `{"page":"/a"}`)
	count(`a_total{page=\"/z\"}`)
	_, answer := send(t, "GET", server.URL+"/api/v1/query?query=sum+by+(page)+(increase(a_total[1h]+anchored))", "")
	if !strings.Contains(answer, `{"metric":{"page":"(other)"},"value":[`) || strings.Contains(answer, `"/a"`) {
		t.Error(answer)
	}
	server.stop()
	if out, errs, err := runQuipu(t, "check", dir); err != nil {
		t.Errorf("%s%s", out, errs)
	}
}
