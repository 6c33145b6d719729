package ingest

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// What surrounds the events of a body takes no more memory than the body, whatever it
// is: a tree of it would take two hundred times as much, outside of all budgets.
func TestEnvelopeTakesNoMoreThanItsBody(t *testing.T) {
	const size = 4 << 20
	zeros := "[" + strings.Repeat("0,", size/2) + "0]"
	for _, tc := range []struct{ name, format, body string }{
		{"write key of Segment", "segment", `{"writeKey":` + zeros + `,"batch":[]}`},
		{"context of Segment", "segment", `{"context":` + zeros + `,"batch":[]}`},
		{"time of sending of Segment", "segment", `{"sentAt":` + zeros + `,"batch":[]}`},
		{"key of PostHog", "posthog", `{"api_key":` + zeros + `,"batch":[]}`},
		{"token of PostHog", "posthog", `[{"properties":{"token":` + zeros + `}}]`},
		{"first event of PostHog", "posthog", `[{"event":"a","properties":` + zeros + `}]`},
		{"site of Plausible", "plausible", `{"domain":` + zeros + `}`},
		{"client of GA4", "ga4", `{"app":` + zeros + `,"events":[]}`},
		{"key of Amplitude", "amplitude", `{"api_key":` + zeros + `,"events":[]}`},
		{"token of Mixpanel", "mixpanel", `[{"properties":{"token":` + zeros + `}}]`},
		{"app of Snowplow", "snowplow", `{"data":[{"aid":` + zeros + `}]}`},
		{"website of Umami", "umami", `{"payload":{"website":` + zeros + `}}`},
		{"site of Matomo", "matomo", `{"requests":[{"idsite":` + zeros + `}],"token_auth":` + zeros[:8] + `0]}`},
		{"many members", "segment", `{` + strings.Repeat(`"":0,`, size/5) + `"batch":[]}`},
		{"many members of Plausible", "plausible", `{` + strings.Repeat(`"":0,`, size/5) + `"n":"a"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory()
			g, _ := newTestIngester(t, m)
			format, err := FormatNamed(tc.format)
			if err != nil {
				t.Fatal(err)
			}
			body := []byte(tc.body)
			took := allocated(func() {
				post, err := format.Open(&Request{Header: http.Header{}, Body: body})
				if err == nil {
					_, err = g.Events(t.Context(), tenant.Default, post, "")
				}
				if err != nil {
					t.Error(err)
				}
			})
			if took > size {
				t.Errorf("a body of %d bytes took %d", len(body), took)
			}
		})
	}
}

// Data in binary mode becomes an event only where it is not longer than one.
func TestBinaryDataTakesNoMoreThanItsBody(t *testing.T) {
	const size = 4 << 20
	body := bytes.Repeat([]byte{1}, size)
	h := http.Header{"Ce-Specversion": {"1.0"}, "Content-Type": {"text/plain"}}
	took := allocated(func() {
		if _, err := cloudEventsFormat.Open(&Request{Header: h, Body: body}); !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "the data is 4194304 bytes long, at most 1048576 are read") {
			t.Error(err)
		}
	})
	if took > size {
		t.Errorf("a body of %d bytes took %d", size, took)
	}
}

// Nothing is made of the events of a body that has too many to explain.
func TestExplainTakesNoMoreThanItsBody(t *testing.T) {
	const size = 4 << 20
	g, _ := newTestIngester(t, newMemory())
	post := plainPost([]byte("["+strings.Repeat("0,", size/2)+"0]"), "")
	took := allocated(func() {
		if _, err := g.Explain(t.Context(), tenant.Default, post); !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "these are 2097153") {
			t.Error(err)
		}
	})
	if took > size {
		t.Errorf("a body of %d bytes took %d", size, took)
	}
}

// Lines of events are as many as they are to whoever explains them.
func TestExplainOfLines(t *testing.T) {
	g, _ := newTestIngester(t, newMemory())
	if _, err := g.Explain(t.Context(), tenant.Default, plainPost([]byte("{}\n{}\n"), "")); !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "one event is explained at a time, these are 2") {
		t.Errorf("two lines: %v", err)
	}
	if x, err := g.Explain(t.Context(), tenant.Default, plainPost([]byte("{}\n"), "application/x-ndjson")); err != nil || x.Verdict != "accepted" {
		t.Errorf("one line: %+v, %v", x, err)
	}
}

// allocated is how many bytes do allocates.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A batch that waits for the disk has its increments, and no more the tree of what it
// was made of: so many wait at once that their trees would be larger than all bodies.
func TestTreesAreGoneBeforeTheDisk(t *testing.T) {
	const size = 1 << 19
	zeros := "[" + strings.Repeat("0,", size/2) + "0]"
	for _, tc := range []struct{ name, format, body string }{
		{"plain", "plain", `{"a":` + zeros + `}`},
		{"Segment", "segment", `{"batch":[{"type":"page","properties":{"a":` + zeros + `}}]}`},
		{"context of Segment", "segment", `{"context":` + zeros + `,"batch":[{"type":"page"}]}`},
		{"JSON in texts of Snowplow", "snowplow", `{"data":[{"e":"pv","co":"` + zeros + `"}]}`},
		{"parameters of Matomo", "matomo", `{"requests":["?idsite=1&rec=1` + strings.Repeat("&a", size/8) + `"]}`},
		{"text of Plausible", "plausible", `{"n":"a","p":"{\"a\":` + zeros + `}"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &heapStore{memory: newMemory()}
			g, err := New(Options{Store: m, Registerer: prometheus.NewRegistry()})
			if err != nil {
				t.Fatal(err)
			}
			format, err := FormatNamed(tc.format)
			if err != nil {
				t.Fatal(err)
			}
			post, err := format.Open(&Request{Header: http.Header{}, Body: []byte(tc.body)})
			if err != nil {
				t.Fatal(err)
			}
			before := heap()
			if r, err := g.Events(t.Context(), tenant.Default, post, ""); err != nil || r.Accepted != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			if m.heap > before+4*size {
				t.Errorf("while it waits, an event of %d bytes takes %d", size, m.heap-before)
			}
		})
	}
}

// heapStore measures what is in use while a batch is stored.
type heapStore struct {
	*memory
	heap uint64
}

func (s *heapStore) Append(ctx context.Context, id tenant.ID, b *increment.Batch) (bool, error) {
	s.heap = heap()
	return s.memory.Append(ctx, id, b)
}

// heap is how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A form is bounded more narrowly than JSON: it is copied as it is decoded.
func TestFormsAreBounded(t *testing.T) {
	for size, want := range map[int]string{formBytesMax: "it has neither an object nor an array", formBytesMax + 1: "at most 4194304 are read"} {
		_, err := postHogFormat.Open(&Request{Body: []byte("data=" + strings.Repeat("+", size-5))})
		if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v, want %q", size, err, want)
		}
	}
}
