package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	overloadTime    = 4 * time.Second
	overloadClients = 96
	overloadMemory  = 8 << 20 // what bodies may take
	// overloadRSSMax is the most memory that the process may have: bodies, what is made
	// of them in four slots, 64 KiB a connection, and twice as much for the collector of
	// garbage, beside what it has when it is idle.
	overloadRSSMax = 256 << 20
	// overloadQueryMax is the longest that a query may take, on a machine where clients
	// and tests take the processors too.
	overloadQueryMax = 5 * time.Second
)

// overloadClient sends batches of one tenant, and counts what came of them.
type overloadClient struct {
	base, tenant string
	bodies       [][]byte
	events       int // of each body

	acked                atomic.Int64 // events
	taken, limited, shed atomic.Int64 // batches
}

// send posts a batch and says what is wrong with its answer.
func (c *overloadClient) send(i int) error {
	req, err := http.NewRequest(http.MethodPost, c.base+"/api/v1/events", bytes.NewReader(c.bodies[i%len(c.bodies)]))
	if err != nil {
		return err
	}
	req.Header.Set("X-Scope-OrgID", c.tenant)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK && bytes.HasPrefix(answer, fmt.Appendf(nil, `{"accepted":%d,"duplicate":0,"filtered":0,"rejected":0,`, c.events)):
		c.taken.Add(1)
		c.acked.Add(int64(c.events))
	case code == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "" && bytes.Contains(answer, []byte("limits.events_per_second")):
		c.limited.Add(1)
	case code == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" && bytes.Contains(answer, []byte("the server is overloaded")):
		c.shed.Add(1)
	default:
		return fmt.Errorf("%s: %.200s", resp.Status, answer)
	}
	return nil
}

// Under several times the load that it can take the server answers every request, keeps
// its memory within bounds, answers queries, and counts exactly what it acknowledged.
func TestOverloadSheds(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "limited"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "limited", "settings.yaml"), []byte("limits: {events_per_second: 5000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startServer(t, "--data.dir="+dir, "--tenant.header=X-Scope-OrgID", fmt.Sprintf("--ingest.memory=%dB", overloadMemory))
	var bodies [][]byte
	const events = 3000
	for b := range 8 {
		var body bytes.Buffer
		for i := range events {
			fmt.Fprintf(&body, `{"event":"load","user_id":"u%d","timestamp":%d,"further_data":{"page":"/p/%d","n":%d,"text":"what nobody counts and all have to read"}}`+"\n",
				b*events+i, killTime.Unix(), i%500, i)
		}
		bodies = append(bodies, body.Bytes())
	}
	clients := []*overloadClient{{base: server.URL, tenant: "default", bodies: bodies, events: events}, {base: server.URL, tenant: "limited", bodies: bodies, events: events}}

	until := time.Now().Add(overloadTime)
	var load sync.WaitGroup
	for i := range overloadClients {
		c := clients[0]
		if i%8 == 0 {
			c = clients[1]
		}
		load.Go(func() {
			for n := i; time.Now().Before(until); n++ {
				if err := c.send(n); err != nil {
					t.Errorf("tenant %s: %v", c.tenant, err)
					return
				}
			}
		})
	}
	slowest, most, queries := time.Duration(0), 0.0, 0
	for time.Now().Before(until) {
		started := time.Now()
		queryByLabel(t, server.URL, `sum by (event) (events_total)`, "event")
		slowest = max(slowest, time.Since(started))
		most = max(most, ownMetric(t, server.URL, "process_resident_memory_bytes"))
		queries++
	}
	load.Wait()

	all, other := clients[0], clients[1]
	t.Logf("%d batches of %d KiB taken, %d shed, %d past their rate; %d queries, the slowest took %s; at most %.0f MiB of memory",
		all.taken.Load()+other.taken.Load(), len(bodies[0])>>10, all.shed.Load()+other.shed.Load(), other.limited.Load(), queries, slowest, most/(1<<20))
	if all.taken.Load() == 0 || all.shed.Load() == 0 || other.limited.Load() == 0 || other.taken.Load() == 0 {
		t.Error("want batches that are taken, that are shed and that are past their rate")
	}
	if most > overloadRSSMax {
		t.Errorf("the process had %.0f bytes of memory, want at most %d", most, overloadRSSMax)
	}
	if slowest > overloadQueryMax || queries < 3 {
		t.Errorf("%d queries were answered, the slowest after %s, want at most %s", queries, slowest, overloadQueryMax)
	}
	if held := ownMetric(t, server.URL, "quipu_ingest_held_bytes"); held != 0 {
		t.Errorf("%v bytes are held when nothing is under way", held)
	}
	if got := queryByLabel(t, server.URL, `sum(events_total{event="load"})`, "")[""]; int64(got) != all.acked.Load() {
		t.Errorf("%d events are counted, %d were acknowledged", got, all.acked.Load())
	}
	if got := queryByLabel(t, server.URL, `histogram_count(event_value{field="n"})`, "field")["n"]; int64(got) != all.acked.Load() {
		t.Errorf("the histogram counts %d events, %d were acknowledged", got, all.acked.Load())
	}
	server.stop()
}

// ownMetric is the value of one of the server's own metrics.
func ownMetric(t *testing.T, base, name string) float64 {
	t.Helper()
	resp, err := http.Get(base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}
