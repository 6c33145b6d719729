package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123e6, time.UTC)

func testBatch(t *testing.T, o Options) *batch {
	t.Helper()
	if o.Server == "" {
		o.Server = "http://example.test:9480/below"
	}
	o.Connections, o.Count = 1, 1
	base, f, err := o.validate()
	if err != nil {
		t.Fatal(err)
	}
	return newBatch(&o, f, base, 1, 2, 3)
}

// readRequest parses the request as a server would, and returns its body.
func readRequest(t *testing.T, b *batch) (*http.Request, []byte) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b.request)))
	if err != nil {
		t.Fatalf("%v in %q", err, b.request)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, body
}

// TestFormats: bodies are what the tracker whose format it is sends, with the fields
// where it has them.
func TestFormats(t *testing.T) {
	const millis, written = "1772625600123", `"2026-03-04T12:00:00.123Z"`
	for format, want := range map[string]struct{ path, contentType, shape string }{
		"plain":       {"/api/v1/events", "application/json", `[{"data":{"correlation_id":N,"user_id":"user-N","event_id":"ID","operation_id":2133,"timestamp":T,"further_data":{"event":"page_view_N","page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}}]`},
		"ndjson":      {"/api/v1/events", "application/x-ndjson", `{"data":{"correlation_id":N,"user_id":"user-N","event_id":"ID","operation_id":2133,"timestamp":T,"further_data":{"event":"page_view_N","page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}}`},
		"cloudevents": {"/api/v1/events", "application/cloudevents-batch+json", `[{"specversion":"1.0","source":"/bench","id":"ID","type":"page_view_N","time":T,"datacontenttype":"application/json","data":{"user_id":"user-N","page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}]`},
		"segment":     {"/v1/batch", "application/json", `{"batch":[{"type":"track","messageId":"ID","userId":"user-N","event":"page_view_N","timestamp":T,"properties":{"page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}]}`},
		"posthog":     {"/batch/", "application/json", `{"api_key":"bench","batch":[{"event":"page_view_N","uuid":"ID","distinct_id":"user-N","timestamp":T,"properties":{"page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}]}`},
		"amplitude":   {"/2/httpapi", "application/json", `{"api_key":"bench","events":[{"event_type":"page_view_N","insert_id":"ID","user_id":"user-N","time":T,"event_properties":{"page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}]}`},
		"mixpanel":    {"/track", "application/json", `[{"event":"page_view_N","properties":{"token":"bench","$insert_id":"ID","distinct_id":"user-N","time":T,"page":"/docs/reference/N","country":"country-N","device":"device-N","duration_ms":N}}]`},
	} {
		b := testBatch(t, Options{Format: format, Batch: 1, Token: "secret", Tenant: "t1"})
		b.next(noon)
		r, body := readRequest(t, b)
		if r.URL.Path != "/below"+want.path || r.Header.Get("Content-Type") != want.contentType || r.Host != "example.test:9480" {
			t.Errorf("%s is posted to %s%s as %s", format, r.Host, r.URL.Path, r.Header.Get("Content-Type"))
		}
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Scope-OrgID") != "t1" || r.Header.Get("Idempotency-Key") != "" {
			t.Errorf("%s: headers %v", format, r.Header)
		}
		if !json.Valid(body) {
			t.Errorf("%s: the body is no JSON: %s", format, body)
		}
		got := strings.NewReplacer(millis, "T", written, "T", "2133", "2133", "00000003-0002-8000-8000-000000000000", "ID").Replace(string(body))
		if got = numbers(got); got != numbers(want.shape) {
			t.Errorf("%s:\n got %s\nwant %s", format, got, want.shape)
		}
	}
}

// numbers writes N for each run of digits that may have a point.
func numbers(s string) string {
	var out strings.Builder
	inside := false
	for _, c := range s {
		digit := c >= '0' && c <= '9' || inside && c == '.'
		if !digit {
			out.WriteRune(c)
		} else if !inside {
			out.WriteByte('N')
		}
		inside = digit
	}
	return out.String()
}

type plainBody []struct {
	Data struct {
		EventID   string `json:"event_id"`
		Timestamp int64  `json:"timestamp"`
		Further   struct {
			Duration float64 `json:"duration_ms"`
			Page     string  `json:"page"`
		} `json:"further_data"`
	}
}

func plainEvents(t *testing.T, b *batch) plainBody {
	t.Helper()
	var out plainBody
	if _, body := readRequest(t, b); json.Unmarshal(body, &out) != nil || len(out) != b.events {
		t.Fatalf("%d events, want %d, in %s", len(out), b.events, body)
	}
	return out
}

// TestNextIsAnotherBatch: ids are new but for those that are to be the same, times are
// the present but for those that are to be late, and the counts say how many.
func TestNextIsAnotherBatch(t *testing.T) {
	const batches, size = 20, 500
	b := testBatch(t, Options{Format: "plain", Batch: size, Late: 0.2, LateBy: time.Hour, SameID: 0.1, SameBatch: 0.5})
	seen, keys := map[string]bool{}, map[string]bool{}
	same, late := 0, 0
	for i := range batches {
		b.next(noon)
		r, _ := readRequest(t, b)
		if key := r.Header.Get("Idempotency-Key"); key == "" || keys[key] || seen[key] {
			t.Fatalf("key %q was used before", key)
		} else {
			keys[key] = true
		}
		sameInBatch := 0
		for _, e := range plainEvents(t, b) {
			if seen[e.Data.EventID] {
				sameInBatch++
			}
			seen[e.Data.EventID] = true
			switch by := noon.UnixMilli() - e.Data.Timestamp; {
			case by < 0 || by > time.Hour.Milliseconds():
				t.Fatalf("an event is late by %d ms", by)
			case by > 0:
				late++
			}
			if d := e.Data.Further.Duration; d < 10 || d > 9999 {
				t.Fatalf("duration %g", d)
			}
		}
		if sameInBatch != b.sameIDs || i == 0 && sameInBatch > 0 {
			t.Fatalf("batch %d has %d ids that were used before, it says %d", i, sameInBatch, b.sameIDs)
		}
		same += sameInBatch
		b.stored()
	}
	if total := float64(batches * size); math.Abs(float64(late)/total-0.2) > 0.03 || math.Abs(float64(same)/total-0.1) > 0.03 {
		t.Errorf("of %g events %d are late and %d have an id used before, want a fifth and a tenth", total, late, same)
	}
}

// TestIDsOfBatchesNotStoredAreNotUsedAgain: only what the server has can be a duplicate.
func TestIDsOfBatchesNotStoredAreNotUsedAgain(t *testing.T) {
	b := testBatch(t, Options{Format: "plain", Batch: 100, SameID: 0.9})
	for range 3 {
		b.next(noon)
		if b.sameIDs != 0 {
			t.Fatalf("%d ids are used again, none is stored", b.sameIDs)
		}
	}
}

func TestValuesAreAsFrequentAsTheyShould(t *testing.T) {
	const draws = 1_000_000
	for _, f := range []Field{{Name: "a", Values: 1}, {Name: "b", Values: 7}, {Name: "c", Values: 50, Zipf: true}, {Name: "d", Values: 1, Zipf: true}} {
		v, random := newValues(f), rand.NewPCG(1, 2)
		counts, harmonic := make([]float64, f.Values), 0.0
		for range draws {
			counts[v.draw(random)]++
		}
		for i := range f.Values {
			harmonic += 1 / float64(i+1)
		}
		for i, n := range counts {
			want := draws / float64(f.Values)
			if f.Zipf {
				want = draws / float64(i+1) / harmonic
			}
			// Six standard deviations of a Poisson count.
			if math.Abs(n-want) > 6*math.Sqrt(want) {
				t.Errorf("field %s: value %d came up %g times, want about %g", f.Name, i, n, want)
			}
		}
	}
}

func TestParseField(t *testing.T) {
	for text, want := range map[string]Field{
		"page=2000:zipf":     {"page", 2000, true},
		"country=30":         {"country", 30, false},
		"country=30:uniform": {"country", 30, false},
	} {
		if got, err := ParseField(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "page", "page=", "page=x", "page=0", "page=-1", "page=1000000000", "page=5:pareto", "=5", `a"b=5`} {
		if f, err := ParseField(text); err == nil {
			t.Errorf("%q is read as %+v", text, f)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Server: "http://h", Format: "plain", Batch: 1, Connections: 1, Count: 1}
	if _, _, err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(o *Options){
		"no scheme":       func(o *Options) { o.Server = "localhost:9480" },
		"no such format":  func(o *Options) { o.Format = "matomo" },
		"empty batches":   func(o *Options) { o.Batch = 0 },
		"no connection":   func(o *Options) { o.Connections = 0 },
		"no end":          func(o *Options) { o.Count = 0 },
		"negative rate":   func(o *Options) { o.Rate = -1 },
		"all again":       func(o *Options) { o.SameBatch = 1 },
		"late by nothing": func(o *Options) { o.Late = 0.5 },
		"field twice":     func(o *Options) { o.Fields = []Field{{Name: "a", Values: 1}, {Name: "a", Values: 1}} },
		"not a part":      func(o *Options) { o.SameID = math.NaN() },
	} {
		o := good
		spoil(&o)
		if _, _, err := o.validate(); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// BenchmarkNext is what a generated event costs.
func BenchmarkNext(b *testing.B) {
	o := Options{Batch: 1000}
	o.Fields = DefaultFields()
	batch := newBatch(&o, plain{}, &url.URL{Host: "h"}, 1, 2, 3)
	b.SetBytes(int64(len(batch.request) / o.Batch))
	for n := 0; n < b.N; n += o.Batch {
		batch.next(noon)
	}
}
