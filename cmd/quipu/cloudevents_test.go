package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// cloudEventTime is in the last hour before that of asker.instant, 5 s into a window.
var cloudEventTime = afterLog.Add(-30*time.Minute + 5*time.Second)

// cloudEvents are three orders, and a visit whose data is that of a plain event.
func cloudEvents(t *testing.T, source string) []event.Event {
	t.Helper()
	var events []event.Event
	for i, data := range []any{
		map[string]any{"plan": "pro", "user_id": "u1", "amount": 9.5},
		map[string]any{"plan": "pro", "user_id": "u2", "amount": 20},
		map[string]any{"plan": "team", "user_id": "u1"},
		map[string]any{"user_id": "u3", "further_data": map[string]any{"page": "/pricing"}},
		nil,
	} {
		e := cloudevents.NewEvent()
		e.SetID(fmt.Sprintf("e-%d", i))
		e.SetSource(source)
		e.SetType("com.example.order")
		if i > 2 {
			e.SetType("com.example.visit")
		}
		e.SetTime(cloudEventTime.Add(time.Duration(i) * time.Millisecond))
		e.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		if data != nil {
			if err := e.SetData(cloudevents.ApplicationJSON, data); err != nil {
				t.Fatal(err)
			}
		}
		events = append(events, e)
	}
	return events
}

// cloudEventModes send events with the SDK, in the three modes of its HTTP binding.
var cloudEventModes = []struct {
	name string
	send func(ctx context.Context, target string, events []event.Event) error
}{
	{"binary", func(ctx context.Context, target string, events []event.Event) error {
		return sendEach(cloudevents.WithEncodingBinary(ctx), target, events)
	}},
	{"structured", func(ctx context.Context, target string, events []event.Event) error {
		return sendEach(cloudevents.WithEncodingStructured(ctx), target, events)
	}},
	{"batch", func(ctx context.Context, target string, events []event.Event) error {
		request, err := cehttp.NewHTTPRequestFromEvents(ctx, target, events)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %s", response.StatusCode, text)
		}
		return err
	}},
}

// sendEach fails unless the SDK takes every answer for an acknowledgement.
func sendEach(ctx context.Context, target string, events []event.Event) error {
	c, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(target))
	if err != nil {
		return err
	}
	for _, e := range events {
		if result := c.Send(ctx, e); !cloudevents.IsACK(result) {
			return result
		}
	}
	return nil
}

// Each event counts once, in whichever mode it comes and comes again.
func TestCloudEventsByTheirSDK(t *testing.T) {
	s := startServer(t)
	target, a := s.URL+"/api/v1/events", newAsker(t, s)
	sources := map[string]float64{}
	for _, first := range cloudEventModes {
		events := cloudEvents(t, "/"+first.name)
		for _, mode := range append(cloudEventModes, first) {
			before := verdictsOf(t, s)
			if err := mode.send(t.Context(), target, events); err != nil {
				t.Fatalf("%s events in %s mode: %v", first.name, mode.name, err)
			}
			after := verdictsOf(t, s)
			if n := float64(len(events)); after["accepted"]+after["duplicate"]-before["accepted"]-before["duplicate"] != n || after["rejected"]+after["filtered"] != 0 {
				t.Errorf("%s events in %s mode: verdicts %v after %v, want %g more accepted or duplicates", first.name, mode.name, after, before, n)
			}
		}
		sources[first.name]++
	}
	n := float64(len(sources))
	wantCounts(t, "events", a.byLabel(`sum by (event) (increase(events_total[1h] anchored))`, "event"), map[string]float64{"com.example.order": 3 * n, "com.example.visit": 2 * n})
	wantCounts(t, "plans", a.byLabel(`sum by (plan) (increase(events_total{plan!=""}[1h] anchored))`, "plan"), map[string]float64{"pro": 2 * n, "team": n})
	wantCounts(t, "pages", a.byLabel(`sum by (page) (increase(events_total{page!=""}[1h] anchored))`, "page"), map[string]float64{"/pricing": n})
	wantCounts(t, "users", a.byLabel(`count_distinct(event_users[1h], "event")`, "event"), map[string]float64{"com.example.order": 2, "com.example.visit": 1})
	if got := a.one(`sum(histogram_sum(increase(event_value{field="amount"}[1h] anchored)))`); got != 29.5*n {
		t.Errorf("the amounts are %g, want %g", got, 29.5*n)
	}
	if got := a.one(`sum(increase(events_total[15s] anchored @ ` + fmt.Sprint(cloudEventTime.Add(10*time.Second).Unix()) + `))`); got != 5*n {
		t.Errorf("%g events are in the window of their time, want %g", got, 5*n)
	}
}

// What can never be counted is no acknowledgement, and the SDK does not send it again.
func TestCloudEventsThatAreWrong(t *testing.T) {
	s := startServer(t)
	p := newFaultyProxy(t, s.URL)
	e := cloudEvents(t, "/wrong")[0]
	e.SetTime(time.UnixMilli(-1))
	ctx := cloudevents.ContextWithRetriesConstantBackoff(t.Context(), time.Millisecond, 3)
	for _, mode := range cloudEventModes[:2] {
		result := mode.send(ctx, p.url, []event.Event{e})
		if !cloudevents.ResultIs(result, cehttp.NewResult(http.StatusBadRequest, "")) || !cloudevents.IsNACK(result) {
			t.Errorf("%s: the result is %v, want a refusal with 400", mode.name, result)
		}
	}
	if want := []int{400, 400}; !slices.Equal(p.statuses(), want) {
		t.Errorf("answers %v, want %v", p.statuses(), want)
	}
}

// Where the SDK is told to send again, nothing is lost and nothing counted twice.
func TestCloudEventsSentAgain(t *testing.T) {
	s := startServer(t)
	for _, tc := range []struct {
		name   string
		faults []int
		want   []int
		counts map[string]float64
	}{
		{"unavailable", []int{503, 503}, []int{503, 503, 200}, map[string]float64{"accepted": 1}},
		{"too many requests", []int{429}, []int{429, 200}, map[string]float64{"accepted": 1}},
		{"lost answer", []int{answerLost}, []int{answerLost, 200}, map[string]float64{"accepted": 1, "duplicate": 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newFaultyProxy(t, s.URL, tc.faults...)
			before := verdictsOf(t, s)
			ctx := cloudevents.ContextWithRetriesConstantBackoff(t.Context(), time.Millisecond, 3)
			if err := cloudEventModes[0].send(ctx, p.url, cloudEvents(t, url.PathEscape(tc.name))[:1]); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.statuses(), tc.want) {
				t.Errorf("answers %v, want %v", p.statuses(), tc.want)
			}
			for verdict, n := range verdictsOf(t, s) {
				if n -= before[verdict]; n != tc.counts[verdict] {
					t.Errorf("%g events are %s, want %g", n, verdict, tc.counts[verdict])
				}
			}
		})
	}
}

// verdictsOf returns how many events the server has given each verdict.
func verdictsOf(t *testing.T, s *serverProcess) map[string]float64 {
	t.Helper()
	response, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]float64{}
	for _, m := range verdictLine.FindAllSubmatch(text, -1) {
		var n float64
		if _, err := fmt.Sscan(string(m[2]), &n); err != nil {
			t.Fatalf("%s: %v", m[0], err)
		}
		verdicts[string(m[1])] += n
	}
	return verdicts
}

var verdictLine = regexp.MustCompile(`(?m)^quipu_ingest_events_total\{.*verdict="(\w+)"\} (\S+)$`)

// answerLost is a fault: the server answers, and the client is cut off.
const answerLost = 0

// faultyProxy is in front of a server's events.
type faultyProxy struct {
	url string

	mu     sync.Mutex
	faults []int // statuses of the answers to the next requests
	seen   []int
}

// newFaultyProxy starts a proxy that has a fault for each of the first requests.
func newFaultyProxy(t *testing.T, target string, faults ...int) *faultyProxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &faultyProxy{faults: faults}
	proxy := httputil.NewSingleHostReverseProxy(u)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.faults) == 0 {
			answer := httptest.NewRecorder()
			proxy.ServeHTTP(answer, r)
			p.seen = append(p.seen, answer.Code)
			w.WriteHeader(answer.Code)
			return
		}
		fault := p.faults[0]
		p.faults, p.seen = p.faults[1:], append(p.seen, fault)
		if fault == answerLost {
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(fault)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL + "/api/v1/events"
	return p
}

// statuses are those of the answers so far.
func (p *faultyProxy) statuses() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}
