package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quipudb/quipu/api"
)

const analyzedRules = `metrics:
  - {name: page_views_total, type: counter, when: {event: page_view}, labels: {page: page}}
  - {name: visitors, type: distinct, value: user_id, labels: {country: country}}
  - {name: never_total, type: counter, when: {event: never}}
`

// analyzable is a server's directory with blocks and a log, and what the server said of it.
func analyzable(t *testing.T) (dir string, live api.SeriesStats) {
	t.Helper()
	s := startServer(t)
	call := func(method, path, body string) string {
		t.Helper()
		status, answer := send(t, method, s.URL+path, body)
		if status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, status, answer)
		}
		return answer
	}
	post := func(from, to int) {
		for i := from; i < to; i++ {
			call("POST", "/api/v1/events", fmt.Sprintf(`{"event": "page_view", "user_id": "u%d", "further_data": {"page": "/%d", "country": "DE"}}`, i, i))
		}
	}
	call("POST", "/api/v1/events", `{"event": "old", "further_data": {"page": "/old"}}`) // by the default rules
	call("PUT", "/api/v1/event-rules", analyzedRules)
	post(0, 3)
	call("POST", "/api/v1/admin/tsdb/snapshot", "") // flushes
	post(2, 5)
	var answer struct{ Data api.SeriesStats }
	if err := json.Unmarshal([]byte(call("GET", "/api/v1/status/tsdb?limit=100", "")), &answer); err != nil {
		t.Fatal(err)
	}
	s.stop()
	return s.DataDir, answer.Data
}

// "quipu tsdb analyze" says of a server's directory what the server said, by event rule, and
// of one that is damaged what is left.
func TestAnalyzeADataDirectory(t *testing.T) {
	dir, live := analyzable(t)
	got := runCommand(t, "", "tsdb", "analyze", dir, "--json", "--limit=100")
	var all struct{ Tenants []analyzedTenant }
	if err := json.Unmarshal([]byte(got.out), &all); err != nil || got.status != 0 || len(all.Tenants) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	one := all.Tenants[0]
	if one.Tenant != "default" || one.LogRecords != 3 || len(one.Problems) > 0 || live.Storage.Blocks == 0 || live.Storage.MemoryBytes == 0 {
		t.Errorf("%+v, want 3 records of the log and no problem", one)
	}
	// What memory takes is about, and another process may put it otherwise.
	text := func(s api.SeriesStats) string {
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var any map[string]any
		if err := json.Unmarshal(out, &any); err != nil {
			t.Fatal(err)
		}
		forgetMemory(any)
		out, err = json.Marshal(any)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if off, on := text(*one.SeriesStats), text(live); off != on {
		t.Errorf("offline %s\nlive    %s", off, on)
	}
	rules := map[string]api.SeriesCost{}
	for _, r := range live.Storage.ByEventRule {
		rules[r.Name] = r
	}
	if v := rules["page_views_total"]; v.Series != 5 || v.Kind != "counter" || v.Increments < 5 || v.Increments > 6 || v.ChunkBytes <= 0 || v.BytesPerIncrement <= 0 {
		t.Errorf("page_views_total: %+v, want 5 series", v)
	}
	if v, never := rules["visitors"], rules["never_total"]; v.Series != 1 || never.Series != 0 || never.Increments != 0 || len(rules) != 3 {
		t.Errorf("rules %+v", rules)
	}
	if w := live.Storage.WithoutEventRule; w.Series != 1 || w.Increments != 1 {
		t.Errorf("of no rule there is %+v, want what the default rules counted", w)
	}
	if n := live.HeadStats.NumSeries; n != 7 || live.Storage.Series != 7 {
		t.Errorf("%d and %d series, want 7", n, live.Storage.Series)
	}

	table := runCommand(t, "", "tsdb", "analyze", dir, "--tenant=default", "--limit=2")
	for _, want := range []string{"tenant default: 7 series, ", "3 records of the log", "EVENT RULE", "(none)", "never_total", "LABEL VALUE", "__name__=page_views_total", "SERIES BEGIN"} {
		if table.status != 0 || !strings.Contains(table.out, want) {
			t.Errorf("%q is not in %+v", want, table)
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte("metrics: [{name: events_total, type: counter}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, "", "tsdb", "analyze", dir, "--rules="+file); got.status != 0 || !strings.Contains(got.out, "\nevents_total  1 ") || strings.Contains(got.out, "never_total") {
		t.Errorf("by other rules: %+v", got)
	}
	for _, bad := range [][2]string{{"--limit=0", "--limit must be a positive number"}, {"--tenant=x", "tenant x "}, {"--tenant=..", "--tenant: "}, {"--rules=/none.yaml", "--rules: "}} {
		if got := runCommand(t, "", "tsdb", "analyze", dir, bad[0]); got.status != 1 || !strings.Contains(got.err, bad[1]) {
			t.Errorf("%s: %+v", bad[0], got)
		}
	}

	// Damaged rules and a damaged block are named; the rest is counted.
	indexes, err := filepath.Glob(filepath.Join(dir, "default", "*", "index"))
	if err != nil || len(indexes) == 0 {
		t.Fatal(indexes, err)
	}
	if err := os.Truncate(indexes[0], 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "default", "events.yaml"), []byte("metrics: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := runCommand(t, "", "tsdb", "analyze", dir)
	for _, want := range []string{"not all is counted: block " + filepath.Base(filepath.Dir(indexes[0])), "what event rules cost is not known: ", "page_views_total"} {
		if broken.status != 1 || !strings.Contains(broken.out, want) || !strings.Contains(broken.err, "is damaged, the rest was counted") {
			t.Errorf("%q is not in %+v", want, broken)
		}
	}
}

// forgetMemory takes out what differs from one process to the next.
func forgetMemory(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "memoryBytes")
		delete(v, "bytesPerSeries")
		for _, each := range v {
			forgetMemory(each)
		}
	case []any:
		for _, each := range v {
			forgetMemory(each)
		}
		slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
}
