package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// A batch is taken whole while its bucket is not overdrawn, and what it takes more than
// there is is waited for: over time the rate holds.
func TestRates(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRates(func() time.Time { return now })
	for i, step := range []struct {
		after time.Duration
		n     int64
		wait  int64 // Retry-After; 0: taken
	}{
		{0, 0, 0},
		{0, 60, 0},                        // of 100
		{0, 40, 0},                        // as much as a second has
		{0, 10, 0},                        // not overdrawn yet, now it is, by 10
		{0, 1, 1},                         // 0.1 s, shown as a second
		{0, 0, 1},                         // whoever only asks hears the same
		{100 * time.Millisecond, 1000, 0}, // as much as ten seconds have
		{0, 1, 10},
		{8 * time.Second, 1, 2},
		{1999 * time.Millisecond, 1, 1},
		{time.Millisecond, 1, 0},
		{time.Hour, 100, 0}, // what was saved is a second's worth
		{0, 1, 0},
		{0, 1, 1},
		{-time.Hour, 1, 1}, // the clock is set back
		{time.Second, 1, 0},
	} {
		now = now.Add(step.after)
		err := r.take(tenant.Default, unitEvents, 100, step.n)
		var over *RateError
		switch {
		case step.wait == 0 && err != nil:
			t.Errorf("step %d: %v", i, err)
		case step.wait > 0 && (!errors.As(err, &over) || over.RetryAfter() != step.wait):
			t.Errorf("step %d: %v, want a wait of %d s", i, err, step.wait)
		}
	}
	err := r.take(tenant.Default, unitEvents, 100, 200)
	if err == nil {
		err = r.take(tenant.Default, unitEvents, 100, 1)
	}
	want := "tenant default sends more than 100 events a second (limits.events_per_second): send the batch again in 2 s"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := r.take(tenant.Default, unitBytes, 0, 1<<60); err != nil {
		t.Errorf("no limit: %v", err)
	}
	if err := r.take(tenantID(t, "other"), unitEvents, 100, 1); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

func tenantID(t *testing.T, name string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Over any time what is taken is the rate, within a second's worth and one batch.
func TestRatesHoldOverTime(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	r := newRates(func() time.Time { return now })
	taken := int64(0)
	for i := range int64(10_000) {
		now = now.Add(time.Duration(1+i%7) * time.Millisecond)
		n := 1 + i%50
		if r.take(tenant.Default, unitEvents, 1000, n) == nil {
			taken += n
		}
	}
	rate := float64(taken) / now.Sub(start).Seconds()
	if over := float64(taken) - 1000*now.Sub(start).Seconds(); over > 1000+50 || rate < 990 {
		t.Errorf("%d were taken in %s, %.0f a second, want 1000", taken, now.Sub(start), rate)
	}
}

// Tenants that have been idle for a second take no memory.
func TestIdleTenantsHaveNoBucket(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRates(func() time.Time { return now })
	for i := range 10_000 {
		if err := r.take(tenantID(t, fmt.Sprint("t", i)), unitEvents, 10, 5); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Second)
	for i := range 20_000 {
		if err := r.take(tenantID(t, fmt.Sprint("u", i)), unitEvents, 10, 5); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	if n := len(r.buckets); n > bucketsMin {
		t.Errorf("%d buckets, want at most %d", n, bucketsMin)
	}
}

// limited is an ingester with a clock of its own for a tenant with limits.
func limited(t *testing.T, rules string, change func(*tenant.Limits)) (*memory, *Ingester, *prometheus.Registry, *time.Time) {
	t.Helper()
	m, now, reg := newMemory(), time.UnixMilli(present), prometheus.NewRegistry()
	change(&m.profile.Limits)
	o := Options{Store: m, Registerer: reg, Now: func() time.Time { return now }}
	if rules != "" {
		o.Rules = idRules{rules}
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m, g, reg, &now
}

// A batch past its tenant's rate has no effect: none of its events has a verdict, and
// its key and their ids are as they were. It counts when it is sent again.
func TestBatchPastTheRateHasNoEffect(t *testing.T) {
	const batch = `{"event":"hit","event_id":1}` + "\n" + `{"event":"hit","event_id":2}` + "\nx"
	for _, tc := range []struct {
		unit   string
		change func(*tenant.Limits)
	}{
		{unitEvents, func(l *tenant.Limits) { l.EventsPerSecond = 2 }},
		{unitBytes, func(l *tenant.Limits) { l.BytesPerSecond = int64(len(batch)) - 1 }},
	} {
		t.Run(tc.unit, func(t *testing.T) {
			m, g, reg, now := limited(t, countOnce, tc.change)
			first := strings.ReplaceAll(batch, ":1", ":3")
			if r := post(t, g, strings.ReplaceAll(first, ":2", ":4"), "", "first"); r.Accepted != 2 || r.Rejected != 1 {
				t.Fatalf("the first batch overdraws the bucket: %+v", r)
			}
			for range 3 {
				r, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(batch), ""), "second")
				var over *RateError
				if !errors.As(err, &over) || over.Unit != tc.unit || over.RetryAfter() != 1 {
					t.Errorf("the second: %v", err)
				}
				if r.Accepted+r.Duplicate+r.Filtered+r.Rejected+len(r.Errors) > 0 {
					t.Errorf("it has verdicts: %+v", r)
				}
				if _, err := g.Admit(tenant.Default); !errors.As(err, &over) {
					t.Errorf("before it is read: %v", err)
				}
			}
			if m.batches != 1 || m.reserved != 0 || len(m.ids) != 2 || len(m.keys) != 1 {
				t.Errorf("%d batches, %d reservations, %d ids, %d keys; want 1, 0, 2, 1", m.batches, m.reserved, len(m.ids), len(m.keys))
			}
			*now = now.Add(time.Second)
			if _, err := g.Admit(tenant.Default); err != nil {
				t.Errorf("a second later: %v", err)
			}
			if r := post(t, g, batch, "", "second"); r.Accepted != 2 || r.Rejected != 1 {
				t.Errorf("a second later: %+v", r)
			}
			want := fmt.Sprintf(`
# HELP quipu_ingest_refused_batches_total Batches refused whole because their tenant is past a limit, by its field. Their events have no verdict.
# TYPE quipu_ingest_refused_batches_total counter
quipu_ingest_refused_batches_total{reason="bytes_per_second",tenant="default"} %d
quipu_ingest_refused_batches_total{reason="events_per_second",tenant="default"} %d
`, map[string]int{unitBytes: 6}[tc.unit], map[string]int{unitEvents: 6}[tc.unit])
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "quipu_ingest_refused_batches_total"); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a batch is charged that had no effect is given back, whatever the reason was.
func TestRefusedBatchCostsNothing(t *testing.T) {
	m, g, _, _ := limited(t, "", func(l *tenant.Limits) { l.EventsPerSecond, l.BytesPerSecond = 1, 1000 })
	m.fail = &overload.Error{Reason: overload.ReasonLog, Text: "the log is full"}
	for range 5 {
		r, err := g.Events(context.Background(), tenant.Default, plainPost([]byte("{}\n{}\nx\n"), ""), "")
		if !isOverload(err) || r.Rejected > 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	m.fail = nil
	if r := post(t, g, "{}\n{}\nx\n", "", ""); r.Accepted != 2 || r.Rejected != 1 {
		t.Errorf("%+v", r)
	}
	verdicts := testutil.ToFloat64(g.metrics.events.WithLabelValues("default", "accepted", "")) +
		testutil.ToFloat64(g.metrics.events.WithLabelValues("default", "rejected", "bad_json"))
	if all := testutil.ToFloat64(g.metrics.events.WithLabelValues("default", "rejected", "storage")) + verdicts; all != 3 {
		t.Errorf("%v verdicts, want 3: those of the batch that was taken", all)
	}
}

// Without a free slot a batch is not read, and has no effect.
func TestDecodingWaitsForASlot(t *testing.T) {
	m := newMemory()
	slots := overload.NewSlots(1, time.Millisecond)
	g, err := New(Options{Store: m, Registerer: prometheus.NewRegistry(), Slots: slots})
	if err != nil {
		t.Fatal(err)
	}
	if err := slots.Acquire(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Events(context.Background(), tenant.Default, plainPost([]byte("{}"), ""), ""); !isOverload(err) || m.batches > 0 {
		t.Errorf("%v, %d batches", err, m.batches)
	}
	slots.Release()
	for range 3 { // and each gives it back
		post(t, g, "{}", "", "")
		if _, err := g.Events(context.Background(), tenant.Default, plainPost([]byte("["), ""), ""); !errors.Is(err, ErrBadRequest) {
			t.Error(err)
		}
	}
}

// slotStore is a store that looks at whether a slot is free while it is appended to.
type slotStore struct {
	*memory
	slots *overload.Slots
	t     *testing.T
}

func (s slotStore) Append(ctx context.Context, id tenant.ID, b *increment.Batch) (bool, error) {
	if err := s.slots.Acquire(ctx); err != nil {
		s.t.Errorf("a batch waits for the disk in a slot: %v", err)
		return false, err
	}
	s.slots.Release()
	return s.memory.Append(ctx, id, b)
}

// A batch holds its slot while it is decoded and not while it waits for the disk: as
// many as come share one fsync.
func TestSlotIsFreeWhileStoring(t *testing.T) {
	slots := overload.NewSlots(1, time.Millisecond)
	g, err := New(Options{Store: slotStore{newMemory(), slots, t}, Registerer: prometheus.NewRegistry(), Slots: slots})
	if err != nil {
		t.Fatal(err)
	}
	post(t, g, "{}", "", "")
}

// The length of values bounds a label's default too, and explain says what replaced a
// value.
func TestLabelValueLimitInRules(t *testing.T) {
	const rules = "metrics: [{name: n, type: counter, labels: {page: {path: page, default: unknown}, plan: {path: plan, default: none}}}]"
	m, g, _, _ := limited(t, rules, func(l *tenant.Limits) { l.LabelValueBytes = 5 })
	post(t, g, `{"page":"/1234"}`+"\n"+`{"plan":"premium"}`, "", "")
	want := []string{`{__name__="n", page="(other)", plan="(other)"} @-5000 +1`, `{__name__="n", page="/1234", plan="none"} @-5000 +1`}
	if got := m.lines(); !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	x, err := g.Explain(context.Background(), tenant.Default, plainPost([]byte(`{"plan":"premium"}`), ""))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	x.Write(&text)
	for _, want := range []string{`page: page is missing, default: "(other)"`, `plan: plan is "premium", limits.label_value_bytes: "(other)"`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("explained\n%s\nwithout %s", text.String(), want)
		}
	}
}
