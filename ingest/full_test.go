package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// A batch that is too large for storage can never be stored: the client is told so, and
// not to send it again. It has no effect.
func TestBatchTooLargeForStorageIsNotSentAgain(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	body := []byte(`{"data":{"event":"hit","event_id":1}}`)
	m.fail = fmt.Errorf("store: %w", increment.ErrTooLarge)
	r, err := g.Events(context.Background(), tenant.Default, plainPost(body, ""), "key")
	if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "larger than a record of the log") || r.Rejected != 0 || m.reserved != 0 {
		t.Errorf("%+v, %v, %d reservations", r, err, m.reserved)
	}
	m.fail = nil
	if r := post(t, g, string(body), "", "key"); r.Accepted != 1 {
		t.Errorf("its event alone: %+v", r)
	}
}

// The smallest of events, which are many in a body, and the most of series are refused
// before they take many times what the body does; nothing of them counts. Just below
// that they count.
func TestWhatABatchTakesIsBounded(t *testing.T) {
	const (
		numbers = `metrics: [{name: n, type: histogram, value: "further_data.*", labels: {field: "*"}}]`
		count   = `metrics: [{name: c, type: counter}]`
		ids     = "dedup: id\n" + count
	)
	for _, tc := range []struct {
		name, rules, body string
		accepted          int
		want              string // of the error; "": none
	}{
		{"increments", numbers, `[{"further_data":{"a":1,"b":1}},{"further_data":{"a":1,"c":1}}]`, 2, ""},
		{"too many increments", numbers, `[{"further_data":{"a":1,"b":1}},{"further_data":{"c":1,"d":1}}]`, 0, "array element 1: the events up to here make more than 3 increments of series and windows: send them in several requests"},
		{"too many increments of one event", numbers, `{"further_data":{"a":1,"b":1,"c":1,"d":1}}`, 1, ""}, // an event is bounded by itself
		{"events", count, "[{},{},{},{},{}]", 5, ""},
		{"too many events", count, "[{},{},{},{},{},{}]", 0, "array element 5: the events up to here are counted more than 5 times in all: send them in several requests"},
		{"too many events with ids", ids, `[{"id":1},{"id":2},{"id":3},{"id":4},{"id":5},{"id":6}]`, 0, "counted more than 5 times"},
		{"too many events that are rejected", count, "[0,0,0,0,0,0,0]", 0, "array element 6: there are more than 6 events: send them in several requests"},
		{"too many lines that are filtered", "metrics: [{name: c, type: counter, when: {event: other}}]", strings.Repeat("{}\n", 7), 0, "there are more than 6 events"},
		{"too many lines", count, strings.Repeat("{}\n", 6), 0, "the events up to here are counted more than 5 times in all"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory()
			g, _ := newTestIngesterWith(t, m, &memoryRules{text: tc.rules})
			g.workers.New = func() any {
				w := newWorker(newEnricher(t))
				w.coalescer.incrementsMax, w.coalescer.touchedMax, w.eventsMax = 3, 5, 6
				return w
			}
			r, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(tc.body), ""), "")
			if tc.want == "" {
				if err != nil || r.Accepted != tc.accepted {
					t.Errorf("%+v, %v; want %d accepted", r, err, tc.accepted)
				}
				return
			}
			if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), tc.want) || len(m.series) > 0 || m.reserved > 0 {
				t.Errorf("%v, %d increments and %d reservations; want %q", err, len(m.series), m.reserved, tc.want)
			}
		})
	}
}
