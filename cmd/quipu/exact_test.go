package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A tenant whose counts are exact gets them from increase and rate as they are written,
// from any range and its cache too; another gets what Prometheus would extrapolate.
func TestExactCounts(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "exact"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "exact", "settings.yaml"), []byte("exact_counts: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startServer(t, "--data.dir="+dir, "--tenant.header=X-Scope-OrgID")
	at := time.Now().Truncate(15 * time.Second).Add(-30 * time.Minute)
	var body strings.Builder
	for i := range 7 {
		fmt.Fprintf(&body, `{"event":"e","timestamp":%d,"further_data":{"ms":%d}}`+"\n", at.Add(time.Duration(i*37)*time.Second).Unix(), i)
	}
	rules := "metrics: [{name: e_total, type: counter}, {name: s, type: histogram, value: ms, buckets: [2]}, {name: g, type: gauge, value: ms}]"
	ask := func(tenant, method, path, body string) string {
		t.Helper()
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Scope-OrgID", tenant)
		req.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, got, err)
		}
		return string(got)
	}
	for _, tenant := range []string{"exact", "plain"} {
		ask(tenant, "PUT", "/api/v1/event-rules", rules)
		ask(tenant, "POST", "/api/v1/events", body.String())
	}
	end := at.Add(150 * time.Second)
	for _, tc := range []struct {
		expr, exact string
		same        bool // for both tenants
	}{
		{"increase(e_total[1m])", `"2"`, false},
		{"rate(e_total[1m])*60", `"2"`, false},
		{"increase(s_count[1m])", `"2"`, false},
		{`increase(s_bucket{le="+Inf"}[1m])`, `"2"`, false},
		{"increase(e_total[1m] anchored)", `"2"`, true},
		{"count(delta(g[1m]))", `"1"`, true},
	} {
		query := url.Values{"query": {tc.expr}}.Encode()
		instant := fmt.Sprintf("/api/v1/query?%s&time=%d", query, end.Unix())
		ranged := fmt.Sprintf("/api/v1/query_range?%s&start=%d&end=%d&step=60", query, end.Add(-time.Minute).Unix(), end.Unix())
		for _, path := range []string{instant, ranged, ranged} { // the second time from the cache
			if got := ask("exact", "GET", path, ""); !strings.Contains(got, fmt.Sprintf("[%d,%s]", end.Unix(), tc.exact)) {
				t.Errorf("%s: %s, want %s", path, got, tc.exact)
			}
			if got := ask("plain", "GET", path, ""); strings.Contains(got, fmt.Sprintf("[%d,%s]", end.Unix(), tc.exact)) != tc.same {
				t.Errorf("%s of the other tenant: %s", path, got)
			}
		}
	}
}
