package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// killRounds is how often TestKillNine kills the server.
const killRounds = 20

// killBatch is one batch of events that all carry the batch's own page.
type killBatch struct {
	page   string
	events int
	acked  bool
}

// killTime is when all events of TestKillNine happened: noon of some day, so that
// one sample shows all of them and no midnight comes between.
var killTime = time.Date(2026, 2, 3, 12, 0, 1, 0, time.UTC)

func (b *killBatch) body() []byte {
	events := make([]map[string]any, b.events)
	for i := range events {
		events[i] = map[string]any{
			"event": "kill", "user_id": fmt.Sprint(b.page, i), "timestamp": killTime.Unix(),
			"further_data": map[string]any{"page": b.page, "n": i},
		}
	}
	out, err := json.Marshal(events)
	if err != nil {
		panic(err)
	}
	return out
}

// post sends the batch with its key and reports whether it was acknowledged, as
// new or as a duplicate.
func (b *killBatch) post(base string) (duplicate bool, err error) {
	req, err := http.NewRequest(http.MethodPost, base+"/api/v1/events", bytes.NewReader(b.body()))
	if err != nil {
		return false, err
	}
	req.Header.Set("Idempotency-Key", b.page)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var result struct{ Accepted, Duplicate, Rejected int }
	if err := json.NewDecoder(resp.Body).Decode(&result); err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK || result.Accepted+result.Duplicate != b.events {
		return false, fmt.Errorf("batch of %d: status %d, %+v", b.events, resp.StatusCode, result)
	}
	return result.Duplicate > 0, nil
}

// A server that is killed at any moment has counted every acknowledged event
// exactly once, every other batch whole or not at all, and that one once when it
// is sent again with its key. The log's budget is tiny, so that kills also hit
// flushes.
func TestKillNine(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	// Every batch is a series: a fast machine sends more than the usual limit.
	if err := os.Mkdir(filepath.Join(dir, "default"), 0o755); err != nil {
		t.Fatal(err)
	}
	settings := []byte("limits: {series_per_metric: 1000000}\n")
	if err := os.WriteFile(filepath.Join(dir, "default", "settings.yaml"), settings, 0o600); err != nil {
		t.Fatal(err)
	}
	var all []*killBatch
	for round := range killRounds {
		server := startServer(t, "--data.dir="+dir, "--wal.budget=64KiB")
		resendAndCheck(t, server.URL, all, r)
		sent := postUntilKilled(t, server, round, r)
		all = append(all, sent...)
		if out, errs, err := runQuipu(t, "check", dir); err != nil {
			t.Fatalf("quipu check after kill %d: %v\n%s%s", round, err, out, errs)
		}
	}
	server := startServer(t, "--data.dir="+dir)
	resendAndCheck(t, server.URL, all, r)
	for _, b := range all {
		if !b.acked {
			if _, err := b.post(server.URL); err != nil {
				t.Fatal(err)
			}
			b.acked = true
		}
	}
	check(t, server.URL, all)
	acked := 0
	for _, b := range all {
		acked += b.events
	}
	t.Logf("%d kills, %d batches, %d events", killRounds, len(all), acked)
	if len(all) < 10*killRounds {
		t.Errorf("only %d batches were sent", len(all))
	}
	server.stop()
}

// postUntilKilled posts from several clients and kills the server under them.
func postUntilKilled(t *testing.T, server *serverProcess, round int, r *rand.Rand) []*killBatch {
	t.Helper()
	var (
		mu   sync.Mutex
		sent []*killBatch
		wg   sync.WaitGroup
	)
	for client := range 4 {
		cr := rand.New(rand.NewPCG(r.Uint64(), 2))
		wg.Go(func() {
			for i := 0; ; i++ {
				b := &killBatch{page: fmt.Sprintf("/r%d/c%d/%d", round, client, i), events: 1 + cr.IntN(20)}
				mu.Lock()
				sent = append(sent, b)
				mu.Unlock()
				_, err := b.post(server.URL)
				if err != nil {
					return // the kill
				}
				mu.Lock()
				b.acked = true
				mu.Unlock()
			}
		})
	}
	timer := time.NewTimer(time.Duration(20+r.IntN(400)) * time.Millisecond)
	<-timer.C
	server.kill()
	wg.Wait()
	return sent
}

// resendAndCheck checks the counts after a restart, sends some of the batches
// whose fate was unknown again, and some acknowledged ones, and checks again.
func resendAndCheck(t *testing.T, base string, all []*killBatch, r *rand.Rand) {
	t.Helper()
	counted := check(t, base, all)
	for _, b := range all {
		again := !b.acked && r.IntN(2) == 0 || b.acked && r.IntN(50) == 0
		if !again {
			continue
		}
		duplicate, err := b.post(base)
		if err != nil {
			t.Fatal(err)
		}
		if want := counted[b.page] > 0; duplicate != want {
			t.Errorf("batch %s sent again: duplicate %v, but it was counted %v times", b.page, duplicate, counted[b.page])
		}
		b.acked = true
	}
	check(t, base, all)
}

// check compares what the server counted of every batch with what was sent.
func check(t *testing.T, base string, all []*killBatch) map[string]int {
	t.Helper()
	pages := queryByLabel(t, base, `sum by (page) (events_total{event="kill"})`, "page")
	total, users := 0, 0
	for _, b := range all {
		got := pages[b.page]
		switch {
		case b.acked && got != b.events:
			t.Fatalf("acknowledged batch %s of %d events was counted %d times", b.page, b.events, got)
		case got != 0 && got != b.events:
			t.Fatalf("batch %s of %d events was counted in part: %d", b.page, b.events, got)
		}
		total += got
		users += got // every event has a user of its own
	}
	if got := queryByLabel(t, base, `sum(events_total{event="kill"})`, "")[""]; got != total {
		t.Fatalf("%d events are counted, %d of them were sent", got, total)
	}
	if got := queryByLabel(t, base, `histogram_count(event_value{event="kill",field="n"})`, "field")["n"]; got != total {
		t.Fatalf("the histogram counts %d events, the counter %d", got, total)
	}
	got := queryByLabel(t, base, `count_distinct(event_users[1h])`, "")[""]
	if off := got - users; off*off > users*users/25/25 {
		t.Fatalf("%d distinct users, want about %d", got, users)
	}
	return pages
}

// queryByLabel evaluates an expression at the first grid point after all events
// and returns whole values by one label.
func queryByLabel(t *testing.T, base, expr, label string) map[string]int {
	t.Helper()
	at := killTime.Truncate(15 * time.Second).Add(15 * time.Second)
	resp, err := http.PostForm(base+"/api/v1/query", url.Values{"query": {expr}, "time": {strconv.FormatInt(at.Unix(), 10)}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status string
		Data   struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v: %s", expr, err, body)
	}
	out := map[string]int{}
	for _, r := range answer.Data.Result {
		n, err := strconv.Atoi(r.Value[1].(string))
		if err != nil {
			t.Fatalf("%s: %v is not whole", expr, r.Value[1])
		}
		out[r.Metric[label]] = n
	}
	return out
}
