package usage

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
)

func id(t testing.TB, name string) tenant.ID {
	t.Helper()
	out, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A day's counts begin at midnight UTC, those since the start go on.
func TestBookDays(t *testing.T) {
	now := time.Date(2026, 3, 4, 23, 59, 59, 0, time.UTC)
	b := NewBook(func() time.Time { return now })
	a := id(t, "a")
	b.Events(a, 5, 1, 2, 3)
	b.Query(a, 100)
	want := Counts{5, 1, 2, 3, 1, 100}
	if total, today := b.Of(a); total != want || today != want {
		t.Errorf("before midnight: %+v and %+v", total, today)
	}
	now = now.Add(time.Second)
	if total, today := b.Of(a); total != want || today != (Counts{}) {
		t.Errorf("at midnight: %+v and %+v", total, today)
	}
	b.Events(a, 1, 0, 0, 0)
	if total, today := b.Of(a); total.Accepted != 6 || today != (Counts{Accepted: 1}) {
		t.Errorf("after midnight: %+v and %+v", total, today)
	}
	b.Forget(a)
	if total, _ := b.Of(a); total != (Counts{}) {
		t.Errorf("forgotten: %+v", total)
	}
}

// However tenants come, grow and are deleted: no more than the largest have a label, all
// counters together are what was counted, and none goes back, also where a tenant gets its
// label again.
func TestCollectorIsBoundedAndExact(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	now := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	b := NewBook(func() time.Time { return now })
	reg := prometheus.NewRegistry()
	const most = 5
	reg.MustRegister(NewCollector(b, most, func(f func(tenant.ID, Stored)) {
		for i := range 50 {
			f(id(t, fmt.Sprintf("t%d", i)), Stored{Series: 1})
		}
	}))
	shown, last := map[string]float64{}, map[string]float64{} // last: of labels that are gone too
	vanished, again := false, false
	counted := 0
	for step := range 300 {
		for range 20 {
			who := random.IntN(1 + step/6)
			n := random.IntN(10 + 100*who) // who comes late does more
			b.Events(id(t, fmt.Sprintf("t%d", who)), n, 0, 0, 0)
			counted += n
		}
		now = now.Add(10 * time.Minute)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		sum, had := 0.0, shown
		shown = map[string]float64{}
		for _, f := range families {
			series := 0.0
			if f.GetName() == "quipu_tenant_events_total" {
				if n := len(f.GetMetric()) / 4; n > most+1 {
					t.Fatalf("seed %d: %d tenants are shown", seed, n)
				}
			}
			for _, m := range f.GetMetric() {
				label := m.GetLabel()[0].GetValue()
				series += m.GetGauge().GetValue()
				if f.GetName() != "quipu_tenant_events_total" || m.GetLabel()[1].GetValue() != "accepted" {
					continue
				}
				v := m.GetCounter().GetValue()
				if v < last[label] {
					t.Fatalf("seed %d: %s goes from %v to %v", seed, label, last[label], v)
				}
				_, is := had[label]
				_, was := last[label]
				again = again || was && !is
				shown[label], last[label] = v, v
				sum += v
			}
			if f.GetName() == "quipu_tenant_series" && series != 50 {
				t.Fatalf("seed %d: %v series are shown of 50", seed, series)
			}
		}
		hidden := 0.0
		for label := range had {
			if _, ok := shown[label]; !ok {
				vanished = true
			}
		}
		for label, v := range last {
			if _, ok := shown[label]; !ok {
				hidden += v
			}
		}
		// A label that goes takes with it what was counted between the two looks too.
		if sum+hidden > float64(counted) || len(last) <= most && sum != float64(counted) {
			t.Fatalf("seed %d: %v are shown and %v hidden of %d", seed, sum, hidden, counted)
		}
	}
	if !vanished || !again {
		t.Errorf("seed %d: a label went to a larger tenant: %t, and came back: %t", seed, vanished, again)
	}
}
