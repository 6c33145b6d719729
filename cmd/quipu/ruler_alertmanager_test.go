package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Where an Alertmanager is installed, it takes what we send: its own receiver gets the
// alert that fires, and that it is resolved. "make test-clients" has Debian's in the path.
func TestDebiansAlertmanager(t *testing.T) {
	binary, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		t.Skip("there is no prometheus-alertmanager")
	}
	got := make(chan string, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var message struct {
			Alerts []struct {
				Status string
				Labels map[string]string
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, a := range message.Alerts {
			got <- fmt.Sprintf("%s of %s is %s", a.Labels["alertname"], a.Labels["tenant"], a.Status)
		}
	}))
	t.Cleanup(hook.Close)
	address := startAlertmanager(t, binary, hook.URL)

	w := newRuleWorld(t)
	start := time.Now().Add(-6 * time.Minute)
	w.clock.Store(start.UnixMilli())
	w.alerts = alertingTo(t, &httptest.Server{URL: "http://" + address}, "")
	w.write("shop", "orders", noOrders)
	w.open()
	for at := start; at.Before(time.Now().Add(-2 * time.Minute)); at = at.Add(15 * time.Second) {
		w.count("shop", at, 3, "__name__", "orders_total", "plan", "pro")
	}
	w.run(4*time.Minute + 30*time.Second)
	want := func(message string) {
		t.Helper()
		timeout := time.After(time.Minute)
		for {
			select {
			case m := <-got:
				if m == message {
					return
				}
			case <-timeout:
				t.Fatalf("the receiver does not get %q", message)
			}
		}
	}
	want("ManyOrders of shop is firing")
	w.run(90 * time.Second)
	want("ManyOrders of shop is resolved")
}

// startAlertmanager runs one that posts to a webhook, and returns its address.
func startAlertmanager(t *testing.T, binary, hook string) (address string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	text := fmt.Sprintf("route: {receiver: hook, group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\nreceivers: [{name: hook, webhook_configs: [{url: %q}]}]\n", hook)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address = freeAddress(t)
	cmd := exec.Command(binary, "--config.file="+config, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	await(t, "an Alertmanager that is ready", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return address
}
