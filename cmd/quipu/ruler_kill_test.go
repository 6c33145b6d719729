package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// apiAlert is an alert as /api/v1/alerts shows it.
type apiAlert struct {
	Labels   map[string]string
	State    string
	ActiveAt time.Time
}

// alertsOf asks a server for the alerts of the default tenant.
func alertsOf(t testing.TB, base string) []apiAlert {
	t.Helper()
	resp, err := http.Get(base + "/api/v1/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Data struct{ Alerts []apiAlert } }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	return got.Data.Alerts
}

// awaitAlert waits until the only alert is in a state.
func awaitAlert(t testing.TB, base, state string) (a apiAlert) {
	t.Helper()
	await(t, "an alert that is "+state, func() bool {
		got := alertsOf(t, base)
		if len(got) == 1 {
			a = got[0]
		}
		return a.State == state
	})
	return a
}

func request(t testing.TB, method, url, body string, status int) string {
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
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, url, resp.StatusCode, status, text)
	}
	return string(text)
}

// evaluations are the times at which a rule recorded, in seconds since 1970.
func evaluations(t testing.TB, base, record string) (out []int64) {
	t.Helper()
	var got struct {
		Data struct{ Result []struct{ Values [][2]any } }
	}
	text := request(t, http.MethodGet, base+"/api/v1/query?query="+record+"[1h]", "", http.StatusOK)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	for _, s := range got.Data.Result {
		for _, v := range s.Values {
			out = append(out, int64(v[0].(float64)))
		}
	}
	return out
}

// await polls until something is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to %s", what)
		}
	}
}

// An alert over events that were posted is pending when the server is killed, and fires
// after the restart as if it had been pending all along, later only by the evaluations
// that were missed. An Alertmanager gets it, and that it is resolved.
func TestAlertSurvivesKill(t *testing.T) {
	alerts, manager := receiver(t)
	config := filepath.Join(t.TempDir(), "quipu.yaml")
	text := fmt.Sprintf("alerting:\n  alertmanagers:\n  - static_configs: [{targets: [%q]}]\n", strings.TrimPrefix(manager.URL, "http://"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--data.dir=" + t.TempDir(), "--grid=1s", "--config.file=" + config}
	server := startServer(t, args...)
	request(t, http.MethodPost, server.URL+"/config/v1/rules/shop", `
name: orders
interval: 1s
rules:
- {record: evaluated, expr: vector(1)}
- alert: Orders
  expr: sum(increase(events_total{event="order"}[10m] anchored)) > 2 unless on () events_total{event="enough"}
  for: 15s
  annotations: {summary: "{{ $value }} orders"}
`, http.StatusAccepted)
	for range 3 {
		body := fmt.Sprintf(`{"event": "order", "timestamp": %d}`, time.Now().Unix())
		request(t, http.MethodPost, server.URL+"/api/v1/events", body, http.StatusOK)
	}
	pending := awaitAlert(t, server.URL, "pending")
	await(t, "three evaluations with the alert", func() bool {
		return len(evaluations(t, server.URL, "ALERTS_FOR_STATE")) >= 3
	})
	if a := alertsOf(t, server.URL); len(a) != 1 || a[0].State != "pending" {
		t.Fatalf("the server is too late to be killed, the alert is not pending any more: %v", a)
	}
	server.kill()
	killed := time.Now().Unix()
	server = startServer(t, args...)
	firing := awaitAlert(t, server.URL, "firing")

	before, after := int64(0), int64(0) // the evaluations around the kill
	for _, at := range evaluations(t, server.URL, "evaluated") {
		if at <= killed-1 { // queries look a second back
			before = at
		} else if after == 0 {
			after = at
		}
	}
	missed := time.Duration(after-before-1) * time.Second
	if want := pending.ActiveAt.Add(missed); !firing.ActiveAt.Equal(want) {
		t.Errorf("the alert is active since %s, want %s: since %s, and %s of evaluations were missed", firing.ActiveAt, want, pending.ActiveAt, missed)
	}
	a := received(t, alerts)
	if a.Labels["alertname"] != "Orders" || a.Labels["tenant"] != "default" || a.Annotations["summary"] != "3 orders" || a.EndsAt.Before(time.Now()) {
		t.Errorf("the Alertmanager got %+v", a)
	}
	request(t, http.MethodPost, server.URL+"/api/v1/events", `{"event": "enough"}`, http.StatusOK)
	for a.EndsAt.After(time.Now()) {
		a = received(t, alerts)
	}
	server.stop()
}
