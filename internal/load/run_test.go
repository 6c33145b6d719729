package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServer counts events as a server does that counts each batch of a key once.
type fakeServer struct {
	mu       sync.Mutex
	events   int // by all verdicts
	accepted int
	keys     map[string]bool
	tenants  map[string]bool
	forgets  bool // keys
	verdicts func(n int) (status int, body string)
	stall    func(request int)
	requests int
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/metrics" {
		f.mu.Lock()
		defer f.mu.Unlock()
		fmt.Fprintf(w, "# HELP x\nprocess_cpu_seconds_total %g\nprocess_resident_memory_bytes 1.048576e+08\nquipu_ingest_events_total{tenant=\"default\",verdict=\"accepted\",reason=\"\"} %d\n", float64(f.events)*2e-6, f.events)
		return
	}
	var events []json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.requests++
	request := f.requests
	f.mu.Unlock()
	if f.stall != nil {
		f.stall(request)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, key := len(events), r.Header.Get("Idempotency-Key")
	f.events += n
	f.tenants[r.Header.Get("X-Scope-OrgID")] = true
	if f.verdicts != nil {
		status, body := f.verdicts(n)
		w.WriteHeader(status)
		io.WriteString(w, body)
		return
	}
	if key != "" && f.keys[key] && !f.forgets {
		fmt.Fprintf(w, `{"accepted":0,"duplicate":%d,"filtered":0,"rejected":0,"errors":[]}`, n)
		return
	}
	f.keys[key] = true
	f.accepted += n
	fmt.Fprintf(w, `{"accepted":%d,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`, n)
}

func startFake(t *testing.T) (*fakeServer, Options) {
	t.Helper()
	f := &fakeServer{keys: map[string]bool{}, tenants: map[string]bool{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, Options{Server: s.URL, Format: "plain", Batch: 10, Connections: 3, Count: 1000}
}

func mustRun(t *testing.T, o Options) *Report {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRunReportsWhatTheServerHas: what was sent, what answers say and what the server
// counted are the same.
func TestRunReportsWhatTheServerHas(t *testing.T) {
	f, o := startFake(t)
	o.Tenant, o.Warmup = "t1", time.Millisecond
	r := mustRun(t, o)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Events != 1000 || r.Batches != 100 || r.Answered != 100 || r.Verdicts != (Verdicts{Accepted: 1000}) || r.Statuses[200] != 100 || r.Latencies.Count() != 100 {
		t.Errorf("report %+v", r)
	}
	if r.ServerEvents != 1000 || f.accepted < 1000+10 {
		t.Errorf("the server counted %d events of the run, %d with those of the warm-up", r.ServerEvents, f.accepted)
	}
	if got := r.ServerCPUPerMillion(); got < 1.99 || got > 2.01 || r.ServerResident != 100<<20 {
		t.Errorf("server's CPU %g s in a million events and memory %g, want 2 and 100 MiB", got, r.ServerResident)
	}
	if !f.tenants["t1"] || len(f.tenants) != 1 {
		t.Errorf("tenants %v", f.tenants)
	}
	var out strings.Builder
	if err := r.Fprint(&out); err != nil || !strings.Contains(out.String(), "1000 accepted") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestBatchesAreSentAgain(t *testing.T) {
	f, o := startFake(t)
	o.SameBatch, o.Count = 0.5, 5000
	r := mustRun(t, o)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.SentAgain < 100 || r.Verdicts.Duplicate != 10*r.SentAgain || r.Verdicts.Accepted != f.accepted || r.Verdicts.Sum() != 5000 {
		t.Errorf("%d batches were sent again; verdicts %+v, the server has %d", r.SentAgain, r.Verdicts, f.accepted)
	}

	f.forgets = true
	if err := mustRun(t, o).Err(); err == nil || !strings.Contains(err.Error(), "counted again") {
		t.Errorf("of a server that counts batches twice: %v", err)
	}
}

// TestWrongAnswersAreErrors: a run is only good where answers account for what was sent.
func TestWrongAnswersAreErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"events are missing": {200, `{"accepted":9,"duplicate":0,"filtered":0,"rejected":0}`, "accounts for 9 of the 10"},
		"events are made up": {200, `{"accepted":9,"duplicate":1,"filtered":1,"rejected":0}`, "accounts for 11 of the 10"},
		"refused":            {503, `{"status":"error"}`, "100 requests were refused: status 503"},
		"all rejected":       {400, `{"accepted":0,"duplicate":0,"filtered":0,"rejected":10}`, "status 400"},
		"accepted with 400":  {400, `{"accepted":10,"duplicate":0,"filtered":0,"rejected":0}`, "yet not all"},
	} {
		f, o := startFake(t)
		f.verdicts = func(int) (int, string) { return tc.status, tc.body }
		if err := mustRun(t, o).Err(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestAnswersWithoutVerdicts: those of other trackers' formats are compared with what
// the server says that it counted.
func TestAnswersWithoutVerdicts(t *testing.T) {
	f, o := startFake(t)
	f.verdicts = func(int) (int, string) { return 200, `{"status":1}` }
	r := mustRun(t, o)
	if r.Silent != 1000 || r.Err() != nil {
		t.Fatalf("%d events in answers without verdicts: %v", r.Silent, r.Err())
	}
	f.verdicts = func(n int) (int, string) { f.events -= n; return 200, `{"status":1}` }
	if err := mustRun(t, o).Err(); err == nil || !strings.Contains(err.Error(), "counted 0 events") {
		t.Errorf("of a server that counts nothing: %v", err)
	}
}

// TestStallIsChargedToAllThatWaited: with a rate, one request that takes long makes
// those late that were due meanwhile (I1).
func TestStallIsChargedToAllThatWaited(t *testing.T) {
	const stalled = 300 * time.Millisecond
	f, o := startFake(t)
	// The first batch is answered when those of the stall are overdue.
	f.stall = func(request int) {
		if request == 1 {
			<-time.After(stalled)
		}
	}
	o.Connections, o.Rate, o.Count = 1, 1000, 1000 // a batch each 10 ms
	r := mustRun(t, o)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	// Those of the first third of a second waited for the stall's end: with the time
	// from when they were sent it would be one of a hundred.
	if p90 := r.Latencies.Quantile(0.9); p90 < stalled/2 {
		t.Errorf("p90 is %s after a stall of %s", p90, stalled)
	}
	if r.Wall < 900*time.Millisecond {
		t.Errorf("100 batches at 100 a second took %s", r.Wall)
	}
}

func TestNobodyListens(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	o := Options{Server: s.URL, Format: "plain", Batch: 10, Connections: 1, Count: 20}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "connect") {
		t.Errorf("error %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	f, o := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.stall = func(int) { cancel() }
	o.Count, o.Duration = 0, time.Hour
	if _, err := Run(ctx, o); err == nil {
		t.Error("no error")
	}
}

// TestAnswersAreRead in each form that HTTP/1.1 gives them, and what is none is an error.
func TestAnswersAreRead(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		status int
		body   string
		keep   bool
		err    bool
	}{
		"length":         {"HTTP/1.1 200 OK\r\ncontent-length:  2\r\nX: y\r\n\r\nokNEXT", 200, "ok", true, false},
		"chunks":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;a=b\r\nabc\r\n0\r\nTrailer: 1\r\n\r\nNEXT", 200, "okabc", true, false},
		"interim":        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\nNEXT", 201, "", true, false},
		"no content":     {"HTTP/1.1 204 No Content\r\n\r\nNEXT", 204, "", true, false},
		"close":          {"HTTP/1.1 503 Unavailable\r\nConnection: close\r\nContent-Length: 1\r\n\r\nxNEXT", 503, "x", false, false},
		"until the end":  {"HTTP/1.1 200 OK\r\n\r\nall of it", 200, "all of it", false, false},
		"bare newlines":  {"HTTP/1.1 200 OK\nContent-Length: 2\n\nokNEXT", 200, "ok", true, false},
		"not http":       {"SSH-2.0-OpenSSH\r\n\r\n", 0, "", false, true},
		"cut head":       {"HTTP/1.1 200 OK\r\nContent-Le", 0, "", false, true},
		"cut body":       {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 200, "", false, true},
		"bad length":     {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, "", false, true},
		"other encoding": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, "", false, true},
	} {
		c := connection{reader: bufio.NewReader(strings.NewReader(tc.answer))}
		status, keep, err := c.answer()
		if (err != nil) != tc.err {
			t.Errorf("%s: error %v", name, err)
		}
		if tc.err {
			continue
		}
		rest, _ := io.ReadAll(c.reader)
		if status != tc.status || string(c.body) != tc.body || keep != tc.keep || strings.HasSuffix(tc.answer, "NEXT") != (string(rest) == "NEXT") {
			t.Errorf("%s: status %d, body %q, keep %t, rest %q", name, status, c.body, keep, rest)
		}
	}
}

func TestLatencies(t *testing.T) {
	var l, half Latencies
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(i*i*i) * time.Nanosecond
		all = append(all, d)
		if i%2 == 0 {
			l.add(d)
		} else {
			half.add(d)
		}
	}
	l.merge(&half)
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 1} {
		want := all[int(q*10_000)-1]
		if got := l.Quantile(q); got < want || float64(got) > float64(want)*(1+1.0/32)+1 {
			t.Errorf("quantile %g is %s, want %s to within 1/32", q, got, want)
		}
	}
	if l.Max() != all[len(all)-1] || l.Count() != 10_000 || new(Latencies).Quantile(0.5) != 0 {
		t.Errorf("max %s, count %d", l.Max(), l.Count())
	}
}
