package ingest

import (
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

// What surrounds the events of a body takes no more memory than the body, whatever it
// is: a tree of it would take forty times as much, outside of all budgets.
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
		{"many members", "segment", `{` + strings.Repeat(`"":0,`, size/5) + `"batch":[]}`},
		{"many members of Plausible", "plausible", `{` + strings.Repeat(`"":0,`, size/5) + `"n":"a"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory()
			g, _ := newTestIngester(t, m)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			format, err := FormatNamed(tc.format)
			if err != nil {
				t.Fatal(err)
			}
			post, err := format.Open(&Request{Header: http.Header{}, Body: []byte(tc.body)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.Events(t.Context(), tenant.Default, post, ""); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 3*size {
				t.Errorf("a body of %d bytes took %d", len(tc.body), took)
			}
		})
	}
}
