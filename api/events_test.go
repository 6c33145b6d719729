package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
)

func gzipped(t *testing.T, body string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func zstded(t *testing.T, body string, o ...zstd.EOption) string {
	t.Helper()
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, o...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// The bounds of the test server are 1000 bytes sent and 2000 decoded.
func TestBodies(t *testing.T) {
	w, srv := newWorld(t, nil)
	lines := func(n int) string { return strings.Repeat(`{"a":1}`+"\n", n) } // 8 bytes each
	for _, tc := range []struct {
		name, encoding, body string
		code                 int
		want                 string
		stored               float64
	}{
		{"plain", "", lines(10), 200, `"accepted":10`, 10},
		{"plain by name", "identity", lines(10), 200, `"accepted":10`, 10},
		{"as long as may be", "", lines(125), 200, `"accepted":125`, 125},
		{"too long", "", lines(126), 413, "longer than 1000 bytes: send", 0},
		{"gzip", "gzip", gzipped(t, lines(200)), 200, `"accepted":200`, 200},
		{"gzip that no header names", "", gzipped(t, lines(200)), 200, `"accepted":200`, 200},
		{"gzip of too much that no header names", "", gzipped(t, lines(251)), 413, "longer than 2000 bytes after decompression", 0},
		{"the start of gzip alone", "", "\x1f\x8b", 400, "decompress the gzip body", 0},
		{"gzip that calls itself identity", "identity", gzipped(t, lines(1)), 400, `"accepted":0`, 0},
		{"gzip in capitals", "GZip", gzipped(t, lines(1)), 200, `"accepted":1`, 1},
		{"gzip of as much as may be", "gzip", gzipped(t, lines(250)), 200, `"accepted":250`, 250},
		{"gzip of too much", "gzip", gzipped(t, lines(251)), 413, "longer than 2000 bytes after decompression", 0},
		{"gzip bomb", "gzip", gzipped(t, strings.Repeat(" ", 700_000)), 413, "longer than 2000 bytes after decompression", 0},
		{"gzip that is none", "gzip", "hello", 400, "decompress the gzip body", 0},
		{"gzip torn", "gzip", gzipped(t, lines(20))[:30], 400, "decompress the gzip body", 0},
		{"zstd", "zstd", zstded(t, lines(200)), 200, `"accepted":200`, 200},
		{"zstd of as much as may be", "zstd", zstded(t, lines(250)), 200, `"accepted":250`, 250},
		{"zstd bomb", "zstd", zstded(t, strings.Repeat(" ", 5_000_000)), 413, "longer than 2000 bytes after decompression", 0},
		{"zstd with a wide window", "zstd", zstded(t, strings.Repeat(" ", 5_000_000), zstd.WithWindowSize(64<<20)), 413, "window", 0},
		{"zstd that is none", "zstd", "hello hello", 400, "decompress the zstd body", 0},
		{"zstd torn", "zstd", zstded(t, lines(20))[:20], 400, "decompress the zstd body", 0},
		{"unknown encoding", "br", lines(1), 415, `content encoding \"br\" is not supported: send identity, gzip or zstd`, 0},
		{"two encodings", "gzip, gzip", lines(1), 415, "not supported", 0},
		{"empty", "", "", 400, "the body is empty", 0},
		{"not JSON", "", "hello", 400, "cannot parse", 0},
		{"all rejected", "", `{"timestamp":-1}` + "\n" + `{"event":1}`, 400, `{"accepted":0,"duplicate":0,"filtered":0,"rejected":2,"errors":[{"index":0,"reason":"timestamp is -1, before 1970"},{"index":1,`, 0},
		{"one of two rejected", "", `{"timestamp":-1}` + "\n" + `{}`, 200, `{"accepted":1,"duplicate":0,"filtered":0,"rejected":1,"errors":[{"index":0,`, 1},
		{"no events", "", `[]`, 200, `{"accepted":0,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clear(w.appended)
			var headers []string
			if tc.encoding != "" {
				headers = []string{"Content-Encoding", tc.encoding}
			}
			code, got, h := call(t, srv, "POST", "/api/v1/events", tc.body, headers...)
			if code != tc.code || !strings.Contains(got, tc.want) || h.Get("Content-Type") != "application/json" || !json.Valid([]byte(got)) {
				t.Errorf("got %d %s\nwant %d and %s", code, got, tc.code, tc.want)
			}
			if w.appended[tenant.Default] != tc.stored {
				t.Errorf("%v events stored, want %v", w.appended[tenant.Default], tc.stored)
			}
		})
	}
}

// A body whose length is not said is bounded all the same.
func TestBodyOfUnknownLength(t *testing.T) {
	_, srv := newWorld(t, nil)
	body := struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", 1001))}
	resp, err := srv.Client().Post(srv.URL+"/api/v1/events", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestIdempotencyKeyHeader(t *testing.T) {
	w, srv := newWorld(t, nil)
	const path = "/api/v1/events"
	for i, want := range []string{`"accepted":2,"duplicate":0`, `"accepted":0,"duplicate":2`} {
		if code, got, _ := call(t, srv, "POST", path, "{}\n{}", "Idempotency-Key", "k"); code != 200 || !strings.Contains(got, want) {
			t.Errorf("time %d: %d %s", i, code, got)
		}
	}
	for _, headers := range [][]string{
		{"Idempotency-Key", strings.Repeat("k", ingest.IdempotencyKeyBytesMax+1)},
		{"Idempotency-Key", "k", "Idempotency-Key", "l"},
	} {
		if code, got, _ := call(t, srv, "POST", path, "{}", headers...); code != 400 {
			t.Errorf("%d %s", code, got)
		}
	}
	if w.appended[tenant.Default] != 2 {
		t.Errorf("%v events stored", w.appended[tenant.Default])
	}
}

func TestStoreError(t *testing.T) {
	w, srv := newWorld(t, nil)
	w.fail = errors.New("no space left on device")
	code, got, h := call(t, srv, "POST", "/api/v1/events", "{}", "Idempotency-Key", "k")
	if code != 503 || h.Get("Retry-After") == "" || !strings.Contains(got, `"error":"store 1 events of tenant default: no space left on device"`) {
		t.Errorf("%d, Retry-After %q: %s", code, h.Get("Retry-After"), got)
	}
	w.fail = nil
	if code, got, _ = call(t, srv, "POST", "/api/v1/events", "{}", "Idempotency-Key", "k"); code != 200 || !strings.Contains(got, `"accepted":1`) {
		t.Errorf("again: %d %s", code, got)
	}
}

// What was sent is the sum of the verdicts that /metrics shows, whatever became
// of it, and the sum of accepted ones is what is stored.
func TestReceivedIsTheSumOfVerdicts(t *testing.T) {
	w, srv := newWorld(t, nil)
	sent := 0
	var wg sync.WaitGroup
	for i, tc := range []struct {
		body   string
		events int
	}{
		{"{}\n{}\n{}", 3}, {"{}\n{\"event\":1}\nx", 3}, {`[{"user_id":[]},{"further_data":1}]`, 2}, {`{"timestamp":"soon"}`, 1}, {`[]`, 0}, {`{"x"`, 0}, {`{}`, 1},
	} {
		for j := range 6 {
			sent += tc.events
			wg.Go(func() {
				id := []string{"default", "a", "b"}[j%3]
				code, got, _ := call(t, srv, "POST", "/api/v1/events", tc.body, "X-Scope-OrgID", id, "Idempotency-Key", fmt.Sprint(i, j/3))
				if code != 200 && code != 400 {
					t.Errorf("%d %s", code, got)
				}
			})
		}
	}
	wg.Wait()
	w.fail = errors.New("disk is gone")
	sent += 2
	if code, _, _ := call(t, srv, "POST", "/api/v1/events", "{}\n{}"); code != 503 {
		t.Errorf("status %d of a store that fails", code)
	}

	_, text, _ := call(t, srv, "GET", "/metrics", "")
	sum, accepted, storage := 0.0, 0.0, 0.0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "quipu_ingest_events_total{") {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
		if strings.Contains(name, `verdict="accepted"`) {
			accepted += n
		}
		if strings.Contains(name, `reason="storage"`) {
			storage += n
		}
	}
	stored := 0.0
	for _, n := range w.appended {
		stored += n
	}
	if int(sum) != sent || accepted != stored || storage != 2 {
		t.Errorf("sent %d, verdicts add up to %v; accepted %v, stored %v; %v rejected by the storage, want 2", sent, sum, accepted, stored, storage)
	}
}

// waiting is an EventSink that ends with its request.
type waiting struct{ began, ended chan struct{} }

func (waiting) Admit(tenant.ID) (tenant.Limits, error) { return tenant.DefaultLimits(), nil }

func (s waiting) Events(ctx context.Context, _ tenant.ID, _ *ingest.Post, _ string) (ingest.Result, error) {
	close(s.began)
	<-ctx.Done()
	close(s.ended)
	return ingest.Result{}, ctx.Err()
}

func TestCancelledRequestStops(t *testing.T) {
	sink := waiting{make(chan struct{}), make(chan struct{})}
	_, srv := newWorld(t, func(o *Options) { o.Events = sink })
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "POST", srv.URL+"/api/v1/events", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-sink.began
		cancel()
	}()
	if resp, err := srv.Client().Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("the cancelled request got %s", resp.Status)
	}
	<-sink.ended
}

// Whatever body arrives, decompression ends within its bounds and says why.
func FuzzBody(f *testing.F) {
	for _, encoding := range []string{"", "gzip", "zstd", "br"} {
		f.Add([]byte("hello"), encoding)
	}
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"), "gzip")
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x29\x00\x00hello\x8c\x11\x8f\x7a"), "zstd")
	b := newBodyReader(&Options{BodyBytesMax: 1000, DecodedBytesMax: 2000, HeldBytesMax: heldBytesMin})
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header["Content-Encoding"] = []string{encoding}
		got, err := b.read(httptest.NewRecorder(), r, b.bounds())
		if err != nil && (err.Error() == "" || err.code < 400 || err.code > 415) {
			t.Errorf("%+v", err)
		}
		if err == nil {
			if len(got.bytes) > 2000 {
				t.Errorf("%d bytes", len(got.bytes))
			}
			got.release()
		}
		if n := b.budget.held.Load(); n != 0 {
			t.Errorf("%d bytes are held by nobody", n)
		}
	})
}

// Every format is answered as its clients expect, by way of the server too.
func TestAnswersOfFormats(t *testing.T) {
	_, srv := newWorld(t, nil)
	for _, tc := range []struct {
		path, body string
		code       int
		want       string
	}{
		{"/2/httpapi", `{"events":[{"event_type":"a"}]}`, 200, `{"code":200,"events_ingested":1,"payload_size_bytes":31,"server_upload_time":`},
		{"/batch", `{"events":[{"event_type":"a"}]}`, 200, `{"code":200,`},
		{"/batch", `{"batch":[{"event":"a"}]}`, 200, `{"status":1,`},
		{"/mp/collect", `{"events":[{"name":"a"}]}`, 204, ""},
		{"/debug/mp/collect", `{"events":[{"name":7}]}`, 200, `{"validationMessages":[{"fieldPath":"events[0].name",`},
		{"/g/collect?en=a", "", 204, ""},
		{"/com.snowplowanalytics.snowplow/tp2", `{"data":[{"e":"pv"}]}`, 200, "ok"},
		{"/api/send", `{"type":"event","payload":{}}`, 200, `{"ok":true,"accepted":1,`},
		{"/matomo.php", "idsite=1&rec=1", 200, "GIF89a"},
		{"/piwik.php", `{"requests":["?idsite=1&rec=1"]}`, 200, `{"status":"success","tracked":1,"invalid":0,`},
		{"/track", `{"event":"a"}`, 200, "1"},
		{"/track?verbose=1", `{"event":"a"}`, 200, `{"status":1,"error":null,`},
		{"/engage/", `{"$set":{}}`, 200, "1"},
		{"/v1/track", `{"event":"a"}`, 200, `{"success":true,"accepted":1,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`},
		{"/v1/track", `{}`, 400, `{"success":false,"accepted":0,`},
		{"/capture/", `{"event":"a"}`, 200, `{"status":1,"accepted":1,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`},
		{"/api/event", `{"n":"a","u":"https://x.org/","d":"x.org"}`, 202, "ok"},
		{"/api/v1/events", `{"event":"a"}`, 200, `{"accepted":1,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`},
	} {
		code, got, _ := call(t, srv, "POST", tc.path, tc.body)
		if code != tc.code || !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s %s: %d %s, want %d %s", tc.path, tc.body, code, got, tc.code, tc.want)
		}
	}
}

// An event in the address of a picture is counted, and by a format that has such only. A
// picture that a browser keeps would count once.
func TestEventsInQueries(t *testing.T) {
	w, srv := newWorld(t, nil)
	for _, tc := range []struct {
		path, mediaType string
		code            int
	}{
		{"/i?e=pv", "image/gif", 200},
		{"/prometheus/i?e=pv", "image/gif", 200},
		{"/i?e=xx", "application/json", 400},
		{"/i", "application/json", 400},
		{"/matomo.php?idsite=1&rec=1", "image/gif", 200},
		{"/matomo.php?idsite=1&rec=1&send_image=0", "", 204},
		{"/g/collect?en=a", "", 204},
		{"/track?data=%7B%22event%22%3A%22a%22%7D", "text/plain; charset=utf-8", 200},
		{"/api/v1/events?event=a", "application/json", 405},
		{"/batch?data=%7B%7D", "application/json", 405},
	} {
		stored := w.appended[tenant.Default]
		code, got, h := call(t, srv, "GET", tc.path, "")
		if code != tc.code || h.Get("Content-Type") != tc.mediaType || (h.Get("Cache-Control") == "no-store") != (code != 405) {
			t.Errorf("GET %s: %d %s, %v", tc.path, code, got, h)
		}
		if counted := w.appended[tenant.Default] - stored; counted > 0 != (code < 300) {
			t.Errorf("GET %s: %d, and %v stored", tc.path, code, counted)
		}
	}
	if code, _, h := call(t, srv, "PUT", "/i", ""); code != 405 || h.Get("Allow") != "GET, POST, OPTIONS" {
		t.Errorf("PUT: %d, allowed are %s", code, h.Get("Allow"))
	}
}
