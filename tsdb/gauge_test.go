package tsdb

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

func gaugeInc(at int64, v float64, lbls ...string) increment.Increment {
	return increment.Increment{Series: series(increment.Gauge, "queue_length", lbls...), Time: floorTo(at, g), At: at, Value: v}
}

func gaugePoints(t testing.TB, incs ...increment.Increment) *points {
	t.Helper()
	p := &points{kind: increment.Gauge}
	for i := range incs {
		if err := p.add(&incs[i]); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// A gauge has the value of its last event at every grid point until the idle timeout
// after it, over midnight too.
func TestViewGaugeIsTheLastValue(t *testing.T) {
	p := gaugePoints(t,
		gaugeInc(at("10:00:01"), 5), gaugeInc(at("10:00:03"), 7), gaugeInc(at("10:00:02"), 6),
		gaugeInc(at("10:30:00"), -1.5), gaugeInc(at("23:30:00"), 4))
	view := func(v viewParams) string { return samples(newGaugeView(p, v, 0, never)) }
	want := "10:00:15 7 ... 10:30:00; 10:30:15 -1.5 ... 11:30:15; 11:30:30 stale; 23:30:15 4 ... +1d 00:30:15; +1d 00:30:30 stale"
	if got := view(present(never)); got != want {
		t.Errorf("view is\n %s\nwant\n %s", got, want)
	}
	if got, want := view(present(at("10:30:05"))), "10:00:15 7 ... 10:30:00; 10:30:05 -1.5"; got != want {
		t.Errorf("with an open window\n %s\nwant\n %s", got, want)
	}
	if got, want := view(present(at("10:00:10"))), "10:00:10 7"; got != want {
		t.Errorf("with nothing but an open window\n %s\nwant\n %s", got, want)
	}
}

// The view is what its definition says at every grid point, wherever it is read from.
func TestViewGaugeByDefinition(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 21))
		v := present(dayMillis + r.Int64N(4*hour))
		v.idle = g * int64(1+r.IntN(40))
		p := &points{kind: increment.Gauge}
		for ts := int64(dayMillis - 2*hour); ts < dayMillis+3*hour; ts += int64(r.ExpFloat64() * float64(10*minute)) {
			inc := gaugeInc(ts, float64(r.IntN(50)))
			if err := p.add(&inc); err != nil {
				t.Fatal(err)
			}
		}
		from := int64(dayMillis-3*hour) + r.Int64N(5*hour)
		got := map[int64]float64{}
		for it := newGaugeView(p, v, from, never); it.Next() != chunkenc.ValNone; {
			ts, f := it.At()
			got[ts] = f
		}
		for ts := floorTo(from, g) + g; ts <= v.now; ts += g {
			i, _ := slices.BinarySearch(p.win, ts) // windows before i have ended
			have, ok := got[ts]
			alive := i > 0 && ts-(p.win[i-1]+g) <= v.idle
			switch {
			case alive && (!ok || have != p.value[i-1]):
				t.Fatalf("seed %d: at %s %v, want %v", seed, clock(ts), have, p.value[i-1])
			case !alive && ok && !value.IsStaleNaN(have):
				t.Fatalf("seed %d: at %s %v, want nothing", seed, clock(ts), have)
			}
		}
	}
}

// Whatever order values come in and wherever they are kept, the latest of a window
// stands, and of two of one time the one with the larger bit pattern.
func TestGaugeOrderOfArrivalDoesNotMatter(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 22))
		db := openTestDB(t, "", nil)
		type last struct {
			at int64
			v  float64
		}
		want := map[string]last{}
		for range 150 {
			ts := testStart.Add(-time.Duration(r.IntN(4*3600)) * time.Second / 4).UnixMilli()
			v := []float64{1, -1, 2.5, math.Copysign(0, -1), 0, math.Inf(1)}[r.IntN(6)]
			inc := gaugeInc(ts, v, "page", fmt.Sprint(r.IntN(3)))
			db.mustAppend(tenant.Default, inc)
			key := fmt.Sprintf("%s %d", inc.Labels, inc.Time)
			if old, ok := want[key]; !ok || gaugeAfter(ts, v, old.at, old.v) {
				want[key] = last{ts, v}
			}
			switch r.IntN(25) {
			case 0:
				if err := db.Flush(context.Background(), tenant.Default); err != nil {
					t.Fatal(err)
				}
			case 1:
				db = db.reopen(nil)
			case 2:
				s, err := db.store(tenant.Default, false)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.relog(context.Background(), nil); err != nil {
					t.Fatal(err)
				}
			case 3:
				if err := db.maintainBlocks(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := db.stored(tenant.Default)
		if len(got) != len(want) {
			t.Fatalf("seed %d: %d windows, want %d", seed, len(got), len(want))
		}
		for key, w := range want {
			if have := got[key]; have != w.v {
				t.Fatalf("seed %d: %s is %v, want %v", seed, key, have, w.v)
			}
		}
	}
}

// A gauge takes part in PromQL as one of Prometheus would.
func TestGaugeInQueries(t *testing.T) {
	db := openTestDB(t, "", nil)
	for i := range 6 { // one every ten minutes
		db.mustAppend(tenant.Default, gaugeInc(testStart.Add(time.Duration(i*10)*time.Minute).UnixMilli(), float64(i), "page", "/"))
	}
	*db.now = testStart.Add(time.Hour)
	tw := &twin{t: t, ours: db, now: db.now.UnixMilli(), engine: newTestEngine()}
	for expr, want := range map[string]string{
		`queue_length`:                           `{__name__="queue_length", page="/"} 1772640000000 5`,
		`max_over_time(queue_length[1h])`:        `{page="/"} 1772640000000 5`,
		`min_over_time(queue_length[25m])`:       `{page="/"} 1772640000000 3`,
		`count_over_time(queue_length[10m])`:     `{page="/"} 1772640000000 40`, // at every grid point
		`sum(queue_length offset 8m)`:            `{} 1772640000000 5`,
		`absent(queue_length offset 2h)`:         `{} 1772640000000 1`,
		`queue_length @ 1772638200 - 0`:          `{page="/"} 1772640000000 2`, // 16:30
		`delta(queue_length[20m] anchored)`:      `{page="/"} 1772640000000 2`,
		`topk(1, queue_length{page="/nowhere"})`: ``,
	} {
		for _, stage := range []string{"memory", "block"} {
			got, err := tw.run(db, expr, *db.now, *db.now, 0)
			if err != nil || got != want {
				t.Errorf("%s from %s: %q, %v; want %q", expr, stage, got, err, want)
			}
			if stage == "memory" {
				if err := db.Flush(context.Background(), tenant.Default); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
