package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// cannedSink is an EventSink with an answer for everyone, which waits in Events where it
// has something to wait for.
type cannedSink struct {
	limits  tenant.Limits
	refuse  error // of Admit
	fail    error // of Events
	began   chan struct{}
	proceed chan struct{}
}

func (s *cannedSink) Admit(tenant.ID) (tenant.Limits, error) { return s.limits, s.refuse }

func (s *cannedSink) Events(context.Context, tenant.ID, *ingest.Post, string) (ingest.Result, error) {
	if s.proceed != nil {
		s.began <- struct{}{}
		<-s.proceed
	}
	return ingest.Result{Accepted: 1}, s.fail
}

// Whatever a batch is not taken for, the status says whether to send it again and the
// message what to do.
func TestWhatIsNotTaken(t *testing.T) {
	rate := &ingest.RateError{Tenant: tenant.Default, Unit: "events", PerSecond: 5, Wait: 2100 * time.Millisecond}
	over := &overload.Error{Reason: overload.ReasonBusy, Text: "no processor came free within 1s"}
	bounded := func(change func(*tenant.Limits)) tenant.Limits {
		l := tenant.DefaultLimits()
		change(&l)
		return l
	}
	long := "{}" + strings.Repeat(" ", 598)
	for _, tc := range []struct {
		name, body, encoding string
		sink                 cannedSink
		code                 int
		retryAfter           string
		want                 string
	}{
		{"rate, before the body is read", long, "", cannedSink{refuse: rate}, 429, "3", `"errorType":"too_many_requests","error":"tenant default sends more than 5 events a second (limits.events_per_second): send the batch again in 3 s"`},
		{"rate", "{}", "", cannedSink{fail: rate}, 429, "3", "limits.events_per_second"},
		{"overload", "{}", "", cannedSink{fail: fmt.Errorf("store: %w", over)}, 503, "1", `"errorType":"unavailable","error":"store: the server is overloaded: no processor came free within 1s: send it again later"`},
		{"tenant cannot be opened", "{}", "", cannedSink{refuse: errors.New("damaged")}, 503, "1", "damaged"},
		{"tenant is deleted meanwhile", "{}", "", cannedSink{fail: fmt.Errorf("tenant a %w", tenant.ErrDropped)}, 409, "", `"errorType":"conflict","error":"tenant a was deleted while the request was on its way"`},
		{"body of a tenant", long, "", cannedSink{limits: bounded(func(l *tenant.Limits) { l.BodyBytes = 599 })}, 413, "", "the body is longer than 599 bytes (limits.body_bytes): send"},
		{"body of the server", long + long, "", cannedSink{limits: bounded(func(l *tenant.Limits) { l.BodyBytes = 5000 })}, 413, "", "the body is longer than 1000 bytes: send"},
		{"body of a tenant, decoded", gzipped(t, long), "gzip", cannedSink{limits: bounded(func(l *tenant.Limits) { l.DecodedBytes = 599 })}, 413, "", "the body is longer than 599 bytes after decompression (limits.decoded_bytes): send"},
		{"within the bounds", gzipped(t, long), "gzip", cannedSink{limits: bounded(func(l *tenant.Limits) { l.DecodedBytes = 600 })}, 200, "", `"accepted":1`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, srv := newWorld(t, func(o *Options) { o.Events = &tc.sink })
			var headers []string
			if tc.encoding != "" {
				headers = []string{"Content-Encoding", tc.encoding}
			}
			code, got, h := call(t, srv, "POST", "/api/v1/events", tc.body, headers...)
			if code != tc.code || h.Get("Retry-After") != tc.retryAfter || !strings.Contains(got, tc.want) {
				t.Errorf("got %d, Retry-After %q: %s\nwant %d, %q: %s", code, h.Get("Retry-After"), got, tc.code, tc.retryAfter, tc.want)
			}
			_, text, _ := call(t, srv, "GET", "/metrics", "")
			busy := map[bool]int{true: 1}[strings.Contains(tc.name, "overload")]
			if line := fmt.Sprintf("quipu_ingest_shed_requests_total{reason=%q} %d", overload.ReasonBusy, busy); !strings.Contains(text, line) {
				t.Errorf("/metrics does not have %s", line)
			}
		})
	}
}

// Clients that promise bodies and send nothing of them leave room for those who send.
func TestPromisedBodiesTakeLittle(t *testing.T) {
	sink := &cannedSink{limits: tenant.DefaultLimits()}
	_, srv := newWorld(t, func(o *Options) {
		o.Events, o.BodyBytesMax, o.DecodedBytesMax, o.HeldBytesMax = sink, 1<<30, 1<<30, heldBytesMin
	})
	for range 8 {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{", heldBytesMin/4); err != nil {
			t.Fatal(err)
		}
	}
	for begun := 0; begun < 8*heldStep; {
		_, text, _ := call(t, srv, "GET", "/metrics", "")
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, "quipu_ingest_held_bytes "); ok {
				var held float64
				if _, err := fmt.Sscan(value, &held); err != nil {
					t.Fatal(err)
				}
				begun = int(held)
			}
		}
	}
	if code, got, _ := call(t, srv, "POST", "/api/v1/events", "{}"); code != 200 {
		t.Errorf("%d %s", code, got)
	}
}

// Bodies take their budget before they are read, and a body that does not fit is
// refused: the client gets its answer, and what is held is given back.
func TestBodiesAreWithinTheirBudget(t *testing.T) {
	const each = heldBytesMin / 4
	sink := &cannedSink{limits: tenant.DefaultLimits(), began: make(chan struct{}), proceed: make(chan struct{})}
	_, srv := newWorld(t, func(o *Options) {
		o.Events, o.BodyBytesMax, o.DecodedBytesMax, o.HeldBytesMax = sink, 1<<30, 1<<30, heldBytesMin
	})
	body := "{}" + strings.Repeat(" ", each-2)
	held := func(want int) {
		t.Helper()
		_, text, _ := call(t, srv, "GET", "/metrics", "")
		var got float64
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, "quipu_ingest_held_bytes "); ok {
				if _, err := fmt.Sscan(value, &got); err != nil {
					t.Fatal(err)
				}
			}
		}
		if int(got) != want {
			t.Errorf("%v bytes are held, want %d", got, want)
		}
	}
	codes := make(chan int)
	for range 4 {
		go func() {
			code, _, _ := call(t, srv, "POST", "/api/v1/events", body)
			codes <- code
		}()
		<-sink.began
	}
	held(4 * each)
	for name, send := range map[string]func() (int, string){
		"known length": func() (int, string) {
			code, got, _ := call(t, srv, "POST", "/api/v1/events", body)
			return code, got
		},
		"unknown length": func() (int, string) {
			resp, err := srv.Client().Post(srv.URL+"/api/v1/events", "", struct{ io.Reader }{strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(got)
		},
	} {
		if code, got := send(); code != 503 || !strings.Contains(got, "the server is overloaded: bodies of requests take 1048576 bytes of 1048576") {
			t.Errorf("%s: %d %s", name, code, got)
		}
	}
	if code, got, _ := call(t, srv, "POST", "/api/v1/events", body+" "); code != 413 {
		t.Errorf("more than a quarter: %d %s", code, got)
	}
	close(sink.proceed)
	for range 4 {
		if code := <-codes; code != 200 {
			t.Errorf("one that fits: status %d", code)
		}
	}
	held(0)
	_, text, _ := call(t, srv, "GET", "/metrics", "")
	if !strings.Contains(text, `quipu_ingest_shed_requests_total{reason="memory"} 2`) {
		t.Error("two requests were refused, /metrics does not say so")
	}
}

// What a body becomes is held too, and compressed bodies wait for a slot.
func TestDecompressionIsBounded(t *testing.T) {
	slots := overload.NewSlots(1, time.Millisecond)
	b := newBodyReader(&Options{BodyBytesMax: 1 << 30, DecodedBytesMax: 1 << 30, HeldBytesMax: heldBytesMin, Slots: slots})
	send := func(body string) (*heldBody, *bodyError) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Encoding", "gzip")
		return b.read(httptest.NewRecorder(), r, b.bounds())
	}
	most := gzipped(t, strings.Repeat("x", heldBytesMin/2))
	first, bad := send(most)
	if bad != nil || len(first.bytes) != heldBytesMin/2 {
		t.Fatalf("half of the budget: %v", bad)
	}
	if got := b.budget.held.Load(); got != heldRequestBytes+heldBytesMin/2 {
		t.Errorf("%d bytes are held, want %d", got, heldRequestBytes+heldBytesMin/2)
	}
	if _, bad = send(most); bad == nil || bad.code != 503 {
		t.Errorf("as much again: %v", bad)
	}
	first.release()
	if again, bad := send(most); bad != nil {
		t.Errorf("when it was released: %v", bad)
	} else {
		again.release()
	}
	if err := slots.Acquire(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, bad := send(most); bad == nil || bad.code != 503 || !strings.Contains(bad.Error(), "no processor came free") {
		t.Errorf("without a slot: %v", bad)
	}
	if got := b.budget.held.Load(); got != 0 {
		t.Errorf("%d bytes are held by nobody", got)
	}
}

// A client that stops halfway gets an answer and holds nothing any more.
func TestStalledClientHoldsNothing(t *testing.T) {
	b := newBodyReader(&Options{BodyBytesMax: 1 << 30, DecodedBytesMax: 1 << 30, HeldBytesMax: heldBytesMin})
	b.stall = 50 * time.Millisecond
	answered := make(chan *bodyError, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, bad := b.read(w, r, b.bounds())
		if bad != nil {
			w.WriteHeader(bad.code)
		}
		answered <- bad
	}))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	if bad := <-answered; bad == nil || bad.code != http.StatusRequestTimeout || !strings.Contains(bad.Error(), "did not arrive in time") {
		t.Errorf("got %v", bad)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if held := b.budget.held.Load(); resp.StatusCode != http.StatusRequestTimeout || held != 0 {
		t.Errorf("%s, %d bytes are held", resp.Status, held)
	}
}

// A client that asks whether to send a body is told that it is not wanted; one that does
// not ask sends all of it and then gets its answer.
func TestRefusedBodies(t *testing.T) {
	rate := &ingest.RateError{Tenant: tenant.Default, Unit: "events", PerSecond: 5, Wait: time.Second}
	_, srv := newWorld(t, func(o *Options) { o.Events, o.BodyBytesMax = &cannedSink{refuse: rate}, 1<<30 })
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const head = "POST /api/v1/events HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("got %s", resp.Status)
	}
	for range 3 {
		if code, got, _ := call(t, srv, "POST", "/api/v1/events", strings.Repeat(" ", 10_000_000)); code != http.StatusTooManyRequests {
			t.Errorf("got %d %s", code, got)
		}
	}
}

// deadlines is a connection that notes its deadlines.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

// What has come gives a slow client more time, and when all has come there is no
// deadline: the answer may take longer than the body.
func TestSlowClientGetsTime(t *testing.T) {
	d := &deadlines{ResponseWriter: httptest.NewRecorder()}
	p := newPacedBody(d, io.NopCloser(bytes.NewReader(make([]byte, 3000))), time.Minute, 1000)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{p}, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	p.done()
	if len(d.set) != 5 || !d.set[4].IsZero() {
		t.Fatalf("deadlines %v, want one for each read and then none", d.set)
	}
	for i, at := range d.set[:4] {
		if want := p.started.Add(time.Minute + time.Duration(i)*time.Second); !at.Equal(want) {
			t.Errorf("after %d bytes the deadline is %s after the start, want %s", i*1000, at.Sub(p.started), want.Sub(p.started))
		}
	}
}

// Whatever is made of a body is made in a slot: while all are taken, a batch and an
// event that is to be explained are told to come again, and are counted as shed.
func TestBodiesAreOpenedInASlot(t *testing.T) {
	slots := overload.NewSlots(1, time.Millisecond)
	_, srv := newWorld(t, func(o *Options) { o.Slots = slots }) // the ingester has none
	posts := map[string]string{
		"/api/v1/events": "{}", "/api/v1/events/explain": "{}", "/batch/": `{"batch":[{"event":"a"}]}`, "/api/event": `{"n":"a","u":"/"}`,
	}
	for path, body := range posts {
		if code, got, _ := call(t, srv, "POST", path, body); code != 200 && code != 202 {
			t.Errorf("%s with a slot: %d %s", path, code, got)
		}
	}
	if err := slots.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, body := range posts {
		code, got, h := call(t, srv, "POST", path, body)
		if code != 503 || h.Get("Retry-After") != "1" || !strings.Contains(got, "no processor came free") {
			t.Errorf("%s without one: %d, Retry-After %q: %s", path, code, h.Get("Retry-After"), got)
		}
	}
	_, text, _ := call(t, srv, "GET", "/metrics", "")
	if line := fmt.Sprintf("quipu_ingest_shed_requests_total{reason=%q} %d", overload.ReasonBusy, len(posts)); !strings.Contains(text, line) {
		t.Errorf("/metrics does not have %s", line)
	}
}
