package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// randomEvent is an event of few names, users, pages and windows, so that many
// share a series; one in eight is rejected.
func randomEvent(r *rand.Rand) (text string, good bool) {
	further := map[string]any{"page": fmt.Sprintf("/%d", r.IntN(4)), "note": "x"}
	for i := range r.IntN(3) {
		further[fmt.Sprintf("n%d", i)] = r.IntN(1000) // sums of whole numbers are exact
	}
	e := map[string]any{
		"event":        fmt.Sprintf("e%d", r.IntN(3)),
		"user_id":      r.IntN(20),
		"timestamp":    float64(present-r.Int64N(60_000)) / 1000,
		"further_data": further,
	}
	good = r.IntN(8) > 0
	if !good {
		bad := []struct {
			field string
			value any
		}{{"event", 1}, {"user_id", true}, {"timestamp", -1}, {"further_data", "x"}}[r.IntN(4)]
		e[bad.field] = bad.value
	}
	var v any = e
	if r.IntN(2) == 0 {
		v = map[string]any{"data": e}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b), good
}

// A batch adds what its events add one by one, and its events_total what it
// accepts; the order and the form of the body do not show.
func TestBatchEqualsItsEvents(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		var events []string
		accepted := 0
		for range 1 + r.IntN(100) {
			text, good := randomEvent(r)
			events = append(events, text)
			if good {
				accepted++
			}
		}
		apart := newMemory()
		g, _ := newTestIngester(t, apart)
		for _, e := range events {
			post(t, g, e, "", "")
		}
		total := 0.0
		for _, s := range apart.series {
			if s.Labels.Get(model.MetricNameLabel) == "events_total" {
				total += s.Value
			}
		}
		if int(total) != accepted {
			t.Fatalf("seed %d: events_total adds up to %v, %d events are good", seed, total, accepted)
		}

		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		for _, body := range []string{"[" + strings.Join(events, ",") + "]", strings.Join(events, "\n")} {
			together := newMemory()
			g, _ := newTestIngester(t, together)
			if got := post(t, g, body, "", ""); got.Accepted != accepted || got.Rejected != len(events)-accepted {
				t.Fatalf("seed %d: %d accepted, %d rejected; %d of %d are good", seed, got.Accepted, got.Rejected, accepted, len(events))
			}
			if got, want := together.lines(), apart.lines(); !slices.Equal(got, want) {
				t.Fatalf("seed %d: together\n%s\none by one\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// checked is a Store that refuses increments that the TSDB would have to refuse.
type checked struct {
	t      *testing.T
	total  float64 // of events_total
	series map[string]bool
}

func (c *checked) Tenant(tenant.ID) (tenant.Profile, error) { return newMemory().profile, nil }

func (*checked) Reserve([][16]byte) (increment.Reservation, error) {
	return nil, errors.New("no event has an id here")
}

func (c *checked) Append(_ context.Context, _ tenant.ID, b *increment.Batch) (bool, error) {
	c.series = map[string]bool{}
	for _, inc := range b.Increments {
		at := fmt.Sprintf("%s @%d", inc.Labels, inc.Time)
		if c.series[at] {
			c.t.Errorf("%s is in the batch twice", at)
		}
		c.series[at] = true
		if inc.Time < 0 || inc.Time%15_000 != 0 {
			c.t.Errorf("%s is off the grid", at)
		}
		inc.Labels.Range(func(l labels.Label) {
			if !utf8.ValidString(l.Value) || l.Value == "" || len(l.Value) > 1024 {
				c.t.Errorf("label %s=%q", l.Name, l.Value)
			}
		})
		if _, twice := inc.Labels.HasDuplicateLabelNames(); twice {
			c.t.Errorf("%s has a label twice", at)
		}
		if inc.Labels.Get(model.MetricNameLabel) == "events_total" {
			c.total += inc.Value
		}
		if inc.Kind == increment.Histogram {
			if err := inc.Hist.Validate(); err != nil || inc.Hist.Count() == 0 {
				c.t.Errorf("%s: %d observations, %v", at, inc.Hist.Count(), err)
			}
		}
		if (inc.Kind == increment.Distinct) != (len(inc.IDs) > 0) {
			c.t.Errorf("%s: %d ids", at, len(inc.IDs))
		}
	}
	return false, nil
}

func FuzzEvents(f *testing.F) {
	for _, body := range []string{
		`{"event":"a","user_id":"u","timestamp":1699999980,"further_data":{"page":"/","n":1.5}}`,
		`[{"data":{"event":"a"}},{},1]`, "{}\n{\"event\":1}\nx", "\xef\xbb\xbf{}", `[`, `{"a":"\`, `[[[[`, `"`, `{"\ud800":1}`,
		`{"timestamp":"2023-11-14T22:13:00Z"}`, `{"timestamp":1e999,"further_data":{"":1}}`, `{"page":"\xff"}`, `1 2`, "1\n2", `"\"`,
	} {
		f.Add([]byte(body), "")
		f.Add([]byte(body), "application/x-ndjson")
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		before := bytes.Clone(body)
		store := &checked{t: t}
		g, _ := newTestIngester(t, store)
		post, err := plainFormat.Open(&Request{Header: http.Header{"Content-Type": {contentType}}, Body: body})
		if err != nil {
			if !errors.Is(err, ErrBadRequest) {
				t.Fatal(err)
			}
			return
		}
		r, err := g.Events(context.Background(), tenant.Default, post, "")
		if err != nil && !errors.Is(err, ErrBadRequest) {
			t.Fatal(err)
		}
		if float64(r.Accepted) != store.total {
			t.Errorf("%d accepted, events_total adds up to %v", r.Accepted, store.total)
		}
		if r.Rejected != len(r.Errors)+r.ErrorsOmitted {
			t.Errorf("%d rejected, %d described, %d omitted", r.Rejected, len(r.Errors), r.ErrorsOmitted)
		}
		for _, e := range r.Errors {
			if !utf8.ValidString(e.Reason) || len(e.Reason) > 1000 {
				t.Errorf("reason %q", e.Reason)
			}
		}
		if !bytes.Equal(body, before) {
			t.Error("the body was written to")
		}
	})
}

// An event that no rule counts is filtered, not accepted.
func TestFiltered(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: "metrics: [{name: users, type: distinct, value: user_id}]"})
	if r := post(t, g, `[{"user_id":1},{},{"event":1}]`, "", ""); r.Accepted != 1 || r.Filtered != 1 || r.Rejected != 1 {
		t.Errorf("%+v, want one of each", r)
	}
	if got, want := m.lines(), []string{`{__name__="users"} @-5000 1 users`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An event whose series are known allocates nothing, in a window that the batch has and
// whatever its format. What grows with a batch is made room for first: ids and the notes
// of its events.
func TestKnownSeriesDoNotAllocate(t *testing.T) {
	const plainEvent = `{"data":{"correlation_id":7,"user_id":"ab11","event":"page_view","event_id":8,"timestamp":1699999980,"further_data":{"page":"/pricing","country":"DE","device":"mobile","duration_ms":12.5}}}`
	ofFormat := func(f *Format, body string) *Post {
		p, err := f.Open(&Request{Header: http.Header{}, Body: []byte(body), Client: "192.0.2.7"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	events := plainPost([]byte(plainEvent), "")
	for name, tc := range map[string]struct {
		rules string
		post  *Post
	}{
		"default": {string(DefaultRules), events}, "three": {threeRules, events}, "ids": {"dedup: event_id" + threeRules, events},
		"everything but replace": {`
metrics:
  - name: n
    type: counter
    when: {event: [page_view, click], page: {regexp: "/.*"}, not: {plan: free}, any: [{duration_ms: {gt: 10}}, {country: {exists: true}}]}
    labels:
      page: {path: page, transform: [upper, lower, path, {template: /:any}]}
      country: {path: country, values: [DE], max_values: 5, max_bytes: 10}
      plan: {path: plan, default: none}
      load: {path: duration_ms, transform: {bucket: [1, 10, 100]}}
  - {name: g, type: gauge, value: duration_ms}
  - {name: h, type: histogram, value: duration_ms, buckets: [1, 10, 100]}
`, events},
		"segment": {string(DefaultRules) + "  - {name: lines, type: counter, labels: {lines: properties.cart.lines}}\n", ofFormat(segmentFormat,
			`{"type":"track","event":"Order","userId":"u","messageId":"m","timestamp":"2023-11-14T22:13:10Z","properties":{"revenue":12.5,"cart":{"lines":3}},"context":{"page":{"url":"https://x.org/a?b"}}}`)},
		"posthog":     {string(DefaultRules), ofFormat(postHogFormat, `{"event":"e","distinct_id":"d","uuid":"1","properties":{"$current_url":"https://x.org/p","v":2}}`)},
		"plausible":   {string(DefaultRules), ofFormat(plausibleFormat, `{"n":"pageview","u":"https://x.org/p?a","d":"x.org","r":"https://g.org/","p":"{\"plan\":\"pro\"}"}`)},
		"page":        {string(DefaultRules), firstOf(ofFormat(pageFormat, `{"d":"x.org","s":1,"e":[{"i":"1","n":"pageview","t":1700000000000,"u":"https://x.org/p?a","r":"https://g.org/","w":800,"p":{"plan":"pro","v":2}}]}`))},
		"cloudevents": {string(DefaultRules), ofFormat(cloudEventsFormat, `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"page":"/p","n":1}}`)},
	} {
		rules, err := parseRules(name, []byte(tc.rules))
		if err != nil {
			t.Fatal(err)
		}
		const runs = 1000
		w, raw := newWorker(), tc.post.body
		w.begin(rules, newMemory().profile, present, tc.post)
		if w.event(raw); w.good != 1 {
			t.Fatalf("%s: %+v", name, w.result)
		}
		w.counted, w.ids = slices.Grow(w.counted, 2*runs), slices.Grow(w.ids, 2*runs)
		w.coalescer.touched, w.coalescer.later = slices.Grow(w.coalescer.touched, 10*runs), slices.Grow(w.coalescer.later, 10*runs)
		for i := range w.coalescer.increments {
			if inc := &w.coalescer.increments[i]; w.coalescer.series(i).Kind == increment.Distinct {
				inc.IDs = slices.Grow(inc.IDs, 2*runs)
			}
		}
		if n := testing.AllocsPerRun(runs, func() { w.event(raw); w.coalescer.resolve() }); n > 0 {
			t.Errorf("%s: %v allocations an event", name, n)
		}
	}
}

// benchEvents are bodies of a thousand events of some 300 bytes.
func benchEvents(bodies int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([][]byte, bodies)
	for i := range out {
		var b bytes.Buffer
		for range 1000 {
			fmt.Fprintf(&b, `{"data":{"correlation_id":%d,"user_id":"user-%08d","event_id":%d,"operation_id":2133,"event":"page_view","timestamp":%d,`+
				`"further_data":{"page":"/products/%d","country":"%s","device":"%s","duration_ms":%d.5,"browser":"Firefox","os":"Linux","note":"text up to 300 bytes"}}}`+"\n",
				r.Uint32(), r.IntN(100_000), r.Uint32(), present/1000-r.Int64N(20), r.IntN(50), pick(r, "DE", "FR", "US", "BR"), pick(r, "mobile", "desktop"), r.IntN(1000))
		}
		out[i] = b.Bytes()
	}
	return out
}

// threeRules are those that benchmarks count by.
const threeRules = `
metrics:
  - {name: views_total, type: counter, labels: {event: event, page: page, country: country, device: device}}
  - {name: duration_seconds, type: histogram, value: duration_ms, scale: 0.001, labels: {device: device}}
  - {name: visitors, type: distinct, value: user_id, labels: {country: country}}
`

func BenchmarkEvents(b *testing.B) {
	for _, bc := range []struct{ name, rules string }{{"default", ""}, {"three", threeRules}, {"three with ids", "dedup: event_id" + threeRules}} {
		b.Run(bc.name, func(b *testing.B) {
			bodies := benchEvents(20)
			g, _ := newTestIngesterWith(b, discard{newMemory().profile}, &memoryRules{text: bc.rules})
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if _, err := g.Events(context.Background(), tenant.Default, plainPost(bodies[n%len(bodies)], ""), ""); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(1000*b.N), "ns/event")
		})
	}
}

// discard is a Store that keeps nothing.
type discard struct{ profile tenant.Profile }

func (d discard) Tenant(tenant.ID) (tenant.Profile, error) { return d.profile, nil }

func (discard) Reserve([][16]byte) (increment.Reservation, error) { return allNew{}, nil }

// allNew is a reservation of ids that were never seen.
type allNew struct{}

func (allNew) Duplicate(int) bool { return false }
func (allNew) Settle(bool)        {}

func (discard) Append(context.Context, tenant.ID, *increment.Batch) (bool, error) { return false, nil }

// firstOf is a post of an array of one event, with that event as its body.
func firstOf(p *Post) *Post {
	p.body = bytes.Trim(p.body, "[]")
	return p
}
