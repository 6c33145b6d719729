package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dchest/siphash"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// present is the time of every test: 2023-11-14 22:13:20 UTC, 5 s into a window.
const present = int64(1_700_000_000_000)

var errDisk = errors.New("no space left on device")

// memory is a Store that keeps what it is given, merged as the TSDB would.
type memory struct {
	profile tenant.Profile
	fail    error // of Append
	refuse  func(*increment.Increment) error

	mu      sync.Mutex
	series  map[string]*increment.Increment // by labels and window
	keys    map[[16]byte]bool
	batches int

	ids         map[[16]byte]bool
	reserved    int // reservations that are not settled
	failReserve error

	exemplars []increment.Exemplar
}

func newMemory() *memory {
	p := tenant.Profile{Settings: tenant.DefaultSettings()}
	copy(p.IDKey[:], "0123456789abcdef")
	return &memory{profile: p, series: map[string]*increment.Increment{}, keys: map[[16]byte]bool{}, ids: map[[16]byte]bool{}}
}

func (m *memory) Tenant(tenant.ID) (tenant.Profile, error) { return m.profile, nil }

// Reserve knows the ids of events that were applied.
func (m *memory) Reserve(ids [][16]byte) (increment.Reservation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failReserve != nil {
		return nil, m.failReserve
	}
	r := &reservation{m: m, ids: ids, duplicate: make([]bool, len(ids))}
	here := map[[16]byte]bool{}
	for i, id := range ids {
		r.duplicate[i] = m.ids[id] || here[id]
		here[id] = true
	}
	m.reserved++
	return r, nil
}

type reservation struct {
	m         *memory
	ids       [][16]byte
	duplicate []bool
}

func (r *reservation) Duplicate(i int) bool { return r.duplicate[i] }

func (r *reservation) Settle(applied bool) {
	r.m.reserved--
	for _, id := range r.ids {
		if applied {
			r.m.ids[id] = true
		}
	}
}

func (m *memory) Append(_ context.Context, _ tenant.ID, b *increment.Batch) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	applied := false
	if b.Reservation != nil {
		defer func() { b.Reservation.Settle(applied) }()
	}
	if m.fail != nil {
		return false, m.fail
	}
	m.batches++
	if b.HasKey && m.keys[b.Key] {
		return true, nil
	}
	if b.HasKey {
		m.keys[b.Key] = true
	}
	applied = true
	m.exemplars = append(m.exemplars, b.Exemplars...)
	sessions, err := settledSessions(b.State, present) // as if all ended with the batch
	if err != nil {
		return false, err
	}
	for i, inc := range append(b.Increments, sessions...) {
		if err := inc.Validate(m.profile.GridMillis()); err != nil {
			return false, err // as the storage would
		}
		if m.refuse != nil && b.SkipRefused {
			if err := m.refuse(&inc); err != nil {
				b.Refused = append(b.Refused, increment.Refusal{Index: i, Err: err})
				continue
			}
		}
		if inc.Kind == increment.Gauge {
			m.gauge(&inc)
			continue
		}
		at := fmt.Sprintf("%s @%d", inc.Labels, inc.Time-present)
		s, ok := m.series[at]
		if !ok {
			s = &increment.Increment{Series: inc.Series, Time: inc.Time}
			if inc.Hist != nil {
				s.Hist = &increment.Hist{Bounds: inc.Hist.Bounds}
			}
			m.series[at] = s
		}
		s.Value += inc.Value
		s.IDs = append(s.IDs, inc.IDs...)
		if inc.Hist != nil {
			s.Hist.Merge(inc.Hist)
		}
	}
	return false, nil
}

// gauge keeps the later value, of one time the larger.
func (m *memory) gauge(inc *increment.Increment) {
	at := fmt.Sprintf("%s @%d", inc.Labels, inc.Time-present)
	if s, ok := m.series[at]; !ok || s.At < inc.At || s.At == inc.At && math.Float64bits(s.Value) < math.Float64bits(inc.Value) {
		m.series[at] = &increment.Increment{Series: inc.Series, Time: inc.Time, Value: inc.Value, At: inc.At}
	}
}

// lines are what the store holds, a line a series and window, with window starts
// relative to the present.
func (m *memory) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for at, s := range m.series {
		switch s.Kind {
		case increment.Counter:
			at += fmt.Sprintf(" +%v", s.Value)
		case increment.Gauge:
			at += fmt.Sprintf(" =%v at %d", s.Value, s.At-present)
		case increment.Distinct:
			slices.Sort(s.IDs)
			at += fmt.Sprintf(" %d users", len(slices.Compact(slices.Clone(s.IDs))))
		case increment.Histogram, increment.Buckets:
			at += fmt.Sprintf(" n=%d sum=%v", s.Hist.Count(), s.Hist.Sum)
			if s.Hist.Bounds != nil {
				at += fmt.Sprintf(" bounds=%v buckets=%v", s.Hist.Bounds, s.Hist.Pos)
			}
		}
		out = append(out, at)
	}
	slices.Sort(out)
	return out
}

// memoryRules is a RuleSource of one tenant's rules; "" are none.
type memoryRules struct {
	text string
	err  error
}

func (m *memoryRules) EventRules(_ tenant.ID, have string) (RuleText, bool, error) {
	if m.err != nil {
		return RuleText{}, false, m.err
	}
	r := RuleText{Name: "events.yaml", Stamp: "stamp of " + m.text}
	if m.text != "" {
		r.Text = []byte(m.text)
	}
	return r, r.Stamp != have, nil
}

func (m *memoryRules) SetEventRules(_ tenant.ID, text []byte) error {
	m.text = string(text)
	return m.err
}

func newTestIngester(t testing.TB, s Store) (*Ingester, *prometheus.Registry) {
	t.Helper()
	return newTestIngesterWith(t, s, nil)
}

func newTestIngesterWith(t testing.TB, s Store, rules RuleSource) (*Ingester, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	g, err := New(Options{Store: s, Registerer: reg, Rules: rules, Now: func() time.Time { return time.UnixMilli(present) }, TenantLabelsMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	return g, reg
}

func post(t testing.TB, g *Ingester, body, contentType, key string) Result {
	t.Helper()
	r, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(body), contentType), key)
	if err != nil {
		t.Fatalf("%s: %v", shorten(body), err)
	}
	return r
}

func TestScopeIsThePresent(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngester(t, m)
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: present + 60_000})
	if _, err := g.Events(ctx, tenant.Default, plainPost([]byte(`{}`), ""), ""); err != nil {
		t.Fatal(err)
	}
	if got, want := m.lines(), []string{`{__name__="events_total", event="event"} @55000 +1`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	for _, tc := range []struct{ name, body, contentType, want string }{
		{"empty", "", "", "the body is empty"},
		{"blank", "\xef\xbb\xbf \r\n\t", "application/x-ndjson", "the body is empty"},
		{"one line that is not JSON", "hello", "", "cannot parse"},
		{"an object not closed", `{"event":"a"`, "", "cannot parse"},
		{"something after the object", `{"event":"a"} x`, "", "unexpected tail"},
		{"an array not closed", `[{"event":"a"}`, "", "not closed after element 0"},
		{"an element not closed", `[{},{"event":"a"`, "", "array element 1 is missing or not closed"},
		{"an element that is not JSON", `[{"event":"a"},{]`, "", "array element 1"},
		{"a comma before the bracket", `[{},]`, "", "array element 1 is missing"},
		{"something after the array", `[{}] {}`, "", "2 bytes follow the array"},
		{"something after an array of several lines", "[{},\n{}] {}\n{}", "", "5 bytes follow the array"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory()
			g, _ := newTestIngester(t, m)
			p, err := plainFormat.Open(&Request{Header: http.Header{"Content-Type": {tc.contentType}}, Body: []byte(tc.body)})
			if err == nil {
				_, err = g.Events(context.Background(), tenant.Default, p, "k")
			}
			if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a bad request that says %q", err, tc.want)
			}
			if m.batches != 0 {
				t.Errorf("%d batches reached the store", m.batches)
			}
		})
	}
}

func TestIdempotencyKey(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngester(t, m)
	good := `{"event":"a"}` + "\n" + `{"event":"a"}` + "\nbad"

	// A batch without a good event consumes no key.
	if r := post(t, g, `{"event":1}`, "", "k1"); r.Rejected != 1 || m.batches != 0 {
		t.Errorf("result %+v, %d batches stored; want one rejected event and none", r, m.batches)
	}
	if r := post(t, g, good, "", "k1"); r.Accepted != 2 || r.Rejected != 1 {
		t.Errorf("first: %+v, want 2 accepted, 1 rejected", r)
	}
	if r := post(t, g, good, "", "k1"); r.Accepted != 0 || r.Duplicate != 2 || r.Rejected != 1 {
		t.Errorf("again: %+v, want 2 duplicates, 1 rejected", r)
	}
	if r := post(t, g, good, "", "k2"); r.Accepted != 2 {
		t.Errorf("another key: %+v, want 2 accepted", r)
	}
	if r := post(t, g, good, "", ""); r.Accepted != 2 {
		t.Errorf("no key: %+v, want 2 accepted", r)
	}
	_, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(good), ""), strings.Repeat("k", IdempotencyKeyBytesMax+1))
	if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "1025 bytes long") {
		t.Errorf("long key: %v", err)
	}
}

func TestUserIDsAreKeyedHashes(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngester(t, m)
	post(t, g, `[{"user_id":"42"},{"user_id":42},{"user_id":"43"},{"user_id":""},{"user_id":null},{}]`, "", "")
	key := m.profile.IDKey
	hash := func(s string) uint64 {
		return siphash.Hash(binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:]), []byte(s))
	}
	got := m.series[`{__name__="event_users", event="event"} @-5000`].IDs
	want := []uint64{hash("42"), hash("42"), hash("43")}
	if !slices.Equal(got, want) {
		t.Errorf("ids %x, want %x", got, want)
	}
	m.profile.IDKey[0]++
	post(t, g, `{"user_id":42,"event":"other key"}`, "", "")
	if got := m.series[`{__name__="event_users", event="other key"} @-5000`].IDs; got[0] == want[0] {
		t.Error("two tenants hash an id alike")
	}
}

// Every event has one verdict, also where the store fails.
func TestVerdictsAddUp(t *testing.T) {
	m := newMemory()
	g, reg := newTestIngester(t, m)
	other := tenant.ID{}
	body := []byte("{}\n{}\n{\"timestamp\":-1}\n{\"user_id\":true}\nx\n1\n")
	for i, name := range []string{"a", "b", "c", "d"} {
		id, err := tenant.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if other = id; i == 1 {
			m.fail = errDisk
		} else {
			m.fail = nil
		}
		r, err := g.Events(context.Background(), id, plainPost(body, ""), "k"+name)
		if errors.Is(err, errDisk) != (i == 1) || errors.Is(err, ErrBadRequest) {
			t.Errorf("tenant %s: %v", name, err)
		}
		if sum := r.Accepted + r.Duplicate + r.Filtered + r.Rejected; sum != 6 {
			t.Errorf("tenant %s: verdicts %+v on 6 events", name, r)
		}
	}
	if _, err := g.Events(context.Background(), other, plainPost(body, ""), "kd"); err != nil {
		t.Fatal(err)
	}
	// Two tenants have a label; c, d and d's duplicate share one.
	want := `
# HELP quipu_ingest_events_total Events received, by the one verdict each ended in and, where that is rejected or filtered for another reason than that no rule counts them, the reason.
# TYPE quipu_ingest_events_total counter
`
	for _, tc := range []struct {
		tenant                       string
		accepted, duplicate, storage int
		each                         int
	}{{"(other)", 4, 2, 0, 3}, {"a", 2, 0, 0, 1}, {"b", 0, 0, 2, 1}} {
		counts := map[string]int{"storage": tc.storage, "bad_timestamp": tc.each, "bad_user_id": tc.each, "bad_json": tc.each, "not_an_object": tc.each}
		line := func(verdict, reason string, n int) {
			want += fmt.Sprintf("quipu_ingest_events_total{reason=%q,tenant=%q,verdict=%q} %d\n", reason, tc.tenant, verdict, n)
		}
		line("accepted", "", tc.accepted)
		line("duplicate", "", tc.duplicate)
		for _, reason := range []string{"", "bot", "do_not_track"} {
			line("filtered", reason, 0)
		}
		for r := range reasons {
			line("rejected", r.String(), counts[r.String()])
		}
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "quipu_ingest_events_total"); err != nil {
		t.Error(err)
	}
	wantSizes := fmt.Sprintf(`
# HELP quipu_ingest_batches_total Batches of events received, readable or not, by format.
# TYPE quipu_ingest_batches_total counter
quipu_ingest_batches_total{format="plain",tenant="(other)"} 3
quipu_ingest_batches_total{format="plain",tenant="a"} 1
quipu_ingest_batches_total{format="plain",tenant="b"} 1
# HELP quipu_ingest_bytes_total Bytes of batches received, after decompression.
# TYPE quipu_ingest_bytes_total counter
quipu_ingest_bytes_total{tenant="(other)"} %d
quipu_ingest_bytes_total{tenant="a"} %d
quipu_ingest_bytes_total{tenant="b"} %d
`, 3*len(body), len(body), len(body))
	if err := testutil.GatherAndCompare(reg, strings.NewReader(wantSizes), "quipu_ingest_batches_total", "quipu_ingest_bytes_total"); err != nil {
		t.Error(err)
	}
}

// What storage cannot take of a batch keeps nothing else from being counted, and an
// event of which nothing is stored is rejected.
func TestRefusedIncrements(t *testing.T) {
	m := newMemory()
	m.refuse = func(inc *increment.Increment) error {
		if inc.Kind == increment.Gauge && inc.Labels.Get("shard") != "1" {
			return errors.New("too many shards")
		}
		return nil
	}
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: `
metrics:
  - {name: views_total, type: counter, when: {event: view}}
  - {name: length, type: gauge, value: length, labels: {shard: shard}}
`})
	r := post(t, g, `{"length":1,"shard":1}
{"length":1,"shard":2}
{"event":"view","length":1,"shard":3}
not JSON
{"event":"view"}
{"length":2,"shard":2}
{"event":"view","length":1,"shard":4}`, "", "")
	want := Result{
		Accepted: 4, Rejected: 3,
		Errors: []EventError{{1, "too many shards", reasonRefused}, {3, r.Errors[1].Reason, reasonBadJSON}, {5, "too many shards", reasonRefused}}, Warnings: []string{"an increment is not stored: too many shards"},
		at: present,
	}
	if fmt.Sprint(r) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
	if got, want := m.lines(), []string{`{__name__="length", shard="1"} @-5000 =1 at 0`, `{__name__="views_total"} @-5000 +3`}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if got := testutil.ToFloat64(g.metrics.tenant(tenant.Default).refused); got != 3 {
		t.Errorf("%v increments refused, want 3", got)
	}
	if r := post(t, g, `{"length":1,"shard":2}`, "", ""); r.Accepted != 0 || r.Rejected != 1 {
		t.Errorf("%+v, want it rejected", r)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	g, _ := newTestIngester(t, newMemory())
	r := post(t, g, strings.Repeat("x\n", errorsMax+5), "application/x-ndjson", "")
	if r.Rejected != errorsMax+5 || len(r.Errors) != errorsMax || r.ErrorsOmitted != 5 {
		t.Errorf("rejected %d, errors %d, omitted %d", r.Rejected, len(r.Errors), r.ErrorsOmitted)
	}
}

func TestCancelledRequestStoresNothing(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngester(t, m)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, body := range []string{strings.Repeat("{}\n", cancelCheckEvents), "[{},{}]"} {
		_, err := g.Events(ctx, tenant.Default, plainPost([]byte(body), ""), "")
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrBadRequest) || m.batches != 0 {
			t.Errorf("%v, %d batches stored", err, m.batches)
		}
	}
}

// Requests at the same time share scratch memory one after the other, never
// their events.
func TestConcurrentRequests(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngester(t, m)
	const clients, batches, events = 8, 20, 50
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for b := range batches {
				var body bytes.Buffer
				for e := range events {
					fmt.Fprintf(&body, `{"event":"e%d","user_id":"u%d-%d-%d","further_data":{"n":%d}}`+"\n", c, c, b, e, c)
				}
				r, err := g.Events(context.Background(), tenant.Default, plainPost(body.Bytes(), ""), fmt.Sprintf("%d-%d", c, b))
				if err != nil || r.Accepted != events {
					t.Errorf("client %d: %+v, %v", c, r, err)
				}
			}
		})
	}
	wg.Wait()
	var want []string
	for c := range clients {
		want = append(want,
			fmt.Sprintf(`{__name__="events_total", event="e%d"} @-5000 +%d`, c, batches*events),
			fmt.Sprintf(`{__name__="event_users", event="e%d"} @-5000 %d users`, c, batches*events),
			fmt.Sprintf(`{__name__="event_value", event="e%d", field="n"} @-5000 n=%d sum=%d`, c, batches*events, batches*events*c))
	}
	slices.Sort(want)
	if got := m.lines(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, o := range []Options{{}, {Store: newMemory()}, {Registerer: reg}, {Store: newMemory(), Registerer: reg, TenantLabelsMax: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if _, err := New(Options{Store: newMemory(), Registerer: reg}); err != nil {
		t.Error(err)
	}
}

// plainPost opens a body of plain events that is not empty.
func plainPost(body []byte, contentType string) *Post {
	p, err := plainFormat.Open(&Request{Header: http.Header{"Content-Type": {contentType}}, Body: body})
	if err != nil {
		panic(err)
	}
	return p
}
