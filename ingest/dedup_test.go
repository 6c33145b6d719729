package ingest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// idRules count by page and tell events apart by their id.
type idRules struct{ text string }

func (r idRules) EventRules(_ tenant.ID, have string) (RuleText, bool, error) {
	return RuleText{Name: "events.yaml", Text: []byte(r.text), Stamp: "one"}, have != "one", nil
}

func (idRules) SetEventRules(tenant.ID, []byte) error { return errors.New("not asked for") }

const countOnce = `
dedup: event_id
metrics:
  - {name: hits_total, type: counter, when: {event: hit}, labels: {page: page}}
`

// An event with an id that was counted before is a duplicate, in the same body, in any
// form of body and in a later one; one without an id counts each time. What is
// rejected or filtered uses up no id.
func TestEventsWithIDsCountOnce(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	event := func(name, id string) string {
		return fmt.Sprintf(`{"data":{"event":%q,"event_id":%s,"further_data":{"page":"/"}}}`, name, id)
	}
	hit := func(id string) string { return event("hit", id) }
	for _, tc := range []struct {
		body string
		want Result
	}{
		{"[" + strings.Join([]string{hit("1"), hit(`"a"`), hit("1")}, ",") + "]", Result{Accepted: 2, Duplicate: 1}},
		{hit("1"), Result{Duplicate: 1}},
		{hit(`"1"`) + "\n" + hit("2") + "\nnot an event\n" + hit("2"), Result{Accepted: 1, Duplicate: 2, Rejected: 1}},
		{event("other", "3") + "\n" + hit("2"), Result{Filtered: 1, Duplicate: 1}},
		{hit("3"), Result{Accepted: 1}},
		{hit("null") + "\n" + hit("null") + "\n" + `{"event":"hit","page":"/"}`, Result{Accepted: 3}},
		{`{"data":{"event":"hit","event_id":4,"timestamp":"never"}}` + "\n" + hit("1"), Result{Rejected: 1, Duplicate: 1}},
		{hit("4"), Result{Accepted: 1}},
	} {
		got := post(t, g, tc.body, "", "")
		got.Errors = nil
		if !equalResults(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.body, got, tc.want)
		}
	}
	if got, want := m.lines(), []string{`{__name__="hits_total", page="/"} @-5000 +8`}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if m.reserved != 0 {
		t.Errorf("%d reservations are not settled", m.reserved)
	}
}

func equalResults(a, b Result) bool {
	return a.Accepted == b.Accepted && a.Duplicate == b.Duplicate && a.Filtered == b.Filtered && a.Rejected == b.Rejected
}

// A batch that is not stored, or cannot be read, gives its ids back.
func TestFailedBatchUsesNoID(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	body := []byte(`{"data":{"event":"hit","event_id":1}}`)
	m.fail = errDisk
	if r, err := g.Events(context.Background(), tenant.Default, plainPost(body, ""), ""); !errors.Is(err, errDisk) || r.Rejected != 1 {
		t.Errorf("not stored: %+v, %v", r, err)
	}
	m.fail, m.failReserve = nil, errDisk
	if _, err := g.Events(context.Background(), tenant.Default, plainPost(body, ""), ""); !errors.Is(err, errDisk) {
		t.Errorf("ids that cannot be looked up: %v", err)
	}
	m.failReserve = nil
	if _, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(`[{"data":{"event":"hit","event_id":1}},`), ""), ""); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a body that is not closed: %v", err)
	}
	if r := post(t, g, string(body), "", ""); r.Accepted != 1 || m.reserved != 0 {
		t.Errorf("sent again: %+v, %d reservations", r, m.reserved)
	}
	if r := post(t, g, string(body), "", ""); r.Duplicate != 1 {
		t.Errorf("and again: %+v", r)
	}
}

// An exemplar is of an event that counted: one that comes again beside others that add
// to its series is not.
func TestDuplicateIsNoExemplar(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	post(t, g, `{"event":"hit","event_id":1,"trace_id":"first"}`, "", "")
	for _, body := range []string{
		`[{"event":"hit","event_id":1,"trace_id":"first"},{"event":"hit","event_id":2}]`,
		`[{"event":"hit","event_id":3,"trace_id":"third"},{"event":"hit","event_id":3,"trace_id":"again"}]`,
		`[{"event":"hit","event_id":2},{"event":"hit","event_id":4},{"event":"hit","trace_id":"no id"}]`,
	} {
		post(t, g, body, "", "")
	}
	var got []string
	for _, e := range m.exemplars {
		got = append(got, e.Labels.Get("trace_id"))
	}
	if want := []string{"first", "third", "no id"}; !slices.Equal(got, want) {
		t.Errorf("exemplars are of %q, want %q", got, want)
	}
}

// Bodies with ids that come again and again, also with none or with another kind of
// series, count what their first events count alone.
func TestDuplicatesCountNothing(t *testing.T) {
	const rules = `
dedup: event_id
metrics:
  - {name: hits_total, type: counter, labels: {page: page}}
  - {name: amount_total, type: counter, value: amount}
  - {name: seconds, type: histogram, value: amount, labels: {page: page}}
  - {name: users, type: distinct, value: user_id, labels: {page: page}}
  - {name: level, type: gauge, value: amount, labels: {page: page}}
`
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		once, often := newMemory(), newMemory()
		gOnce, _ := newTestIngesterWith(t, once, idRules{rules})
		gOften, _ := newTestIngesterWith(t, often, idRules{rules})
		texts, seen := map[int]string{}, map[int]bool{}
		for range 1 + r.IntN(5) {
			var body, firsts []string
			want := Result{}
			for range 1 + r.IntN(30) {
				id := r.IntN(40)
				if id < 3 { // no id: counts each time
					text := fmt.Sprintf(`{"page":"/%d","amount":%d,"user_id":%d}`, r.IntN(3), r.IntN(9), r.IntN(9))
					body, firsts = append(body, text), append(firsts, text)
					want.Accepted++
					continue
				}
				if texts[id] == "" {
					texts[id] = fmt.Sprintf(`{"event_id":%d,"page":"/%d","amount":%d,"user_id":%d,"timestamp":%d}`, id, r.IntN(8), r.IntN(9), r.IntN(9), present/1000-r.Int64N(60))
				}
				body = append(body, texts[id])
				if want.Duplicate++; !seen[id] {
					want.Duplicate, want.Accepted, seen[id] = want.Duplicate-1, want.Accepted+1, true
					firsts = append(firsts, texts[id])
				}
			}
			if got := post(t, gOften, strings.Join(body, "\n"), "application/x-ndjson", ""); !equalResults(got, want) {
				t.Fatalf("seed %d: %+v, want %+v", seed, got, want)
			}
			for _, text := range firsts {
				post(t, gOnce, strings.ReplaceAll(text, "event_id", "no_id"), "", "")
			}
		}
		if got, want := often.lines(), once.lines(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: stored\n%s\nwant\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if often.reserved != 0 {
			t.Fatalf("seed %d: %d reservations are not settled", seed, often.reserved)
		}
	}
}

// What storage refuses of a batch is said of the right event, also where duplicates
// before it were dropped.
func TestRefusalAfterDuplicates(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	event := func(id int, page string) string {
		return fmt.Sprintf(`{"event":"hit","event_id":%d,"page":%q}`, id, page)
	}
	post(t, g, event(1, "/a"), "", "")
	m.refuse = func(inc *increment.Increment) error {
		if inc.Labels.Get("page") == "/full" {
			return errDisk
		}
		return nil
	}
	r := post(t, g, strings.Join([]string{event(1, "/a"), event(2, "/b"), event(3, "/full"), event(4, "/b")}, "\n"), "", "")
	if want := (Result{Accepted: 2, Duplicate: 1, Rejected: 1}); !equalResults(r, want) || r.Errors[0].Index != 2 {
		t.Errorf("%+v, want %+v and event 2 rejected", r, want)
	}
}

// A body that cannot be read leaves the ids of the batch before it alone.
func TestBadBodyAfterEventsWithIDs(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, idRules{countOnce})
	for range 10 { // the pool of workers drops some
		post(t, g, `{"event":"hit","event_id":1}`, "", "")
		if _, err := g.Events(context.Background(), tenant.Default, plainPost([]byte("[{"), ""), ""); !errors.Is(err, ErrBadRequest) {
			t.Error(err)
		}
	}
	if m.reserved != 0 {
		t.Errorf("reservations were settled %d times too often", -m.reserved)
	}
}
