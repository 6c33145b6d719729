package tsdb

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// A column says how many chunks and bytes of blocks were read for it, also where points
// of blocks and of memtables are merged; a memtable has none.
func TestColumnsCountWhatIsRead(t *testing.T) {
	db := openTestDB(t, "", nil)
	gauge := increment.Increment{Series: series(increment.Gauge, "g"), Value: 3}
	counter := counterInc("c_total", testStart, 1)
	gauge.Time, gauge.At = counter.Time, counter.Time
	read := func() map[string][2]int {
		t.Helper()
		out := map[string][2]int{}
		ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: testStart.Add(time.Hour).UnixMilli()})
		hints := &storage.SelectHints{Start: testStart.Add(-time.Hour).UnixMilli(), End: testStart.Add(time.Hour).UnixMilli()}
		q := &querier{db: db.DB, mint: hints.Start, maxt: hints.End}
		defer q.Close()
		set, _, err := q.Columns(ctx, hints, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+"))
		if err != nil {
			t.Fatal(err)
		}
		var c column.Column
		for i := range set.Len() {
			if err := set.Read(i, &c); err != nil {
				t.Fatal(err)
			}
			out[set.Labels(i).Get(model.MetricNameLabel)] = [2]int{c.Chunks, c.Bytes}
		}
		return out
	}
	db.mustAppend(tenant.Default, counter, gauge)
	if got := read(); got["c_total"] != [2]int{0, 0} || got["g"] != [2]int{0, 0} || len(got) != 2 {
		t.Errorf("memtable: %v", got)
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	flushed := read()
	for _, name := range []string{"c_total", "g"} {
		if got := flushed[name]; got[0] != 1 || got[1] < 3 {
			t.Errorf("%s in a block: %v chunks and bytes", name, got)
		}
	}
	counter.Time += 15_000
	gauge.Time, gauge.At = counter.Time, counter.Time
	db.mustAppend(tenant.Default, counter, gauge)
	for name, got := range read() {
		if got != flushed[name] {
			t.Errorf("%s in a block and a memtable: %v, want %v", name, got, flushed[name])
		}
	}
}

// The columns of gauges are the series that Select gives, of any part of time, with the
// present anywhere, wherever values are stored.
func TestGaugeColumnsAreTheirSeries(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	db := openTestDB(t, "", nil)
	matcher := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "queue_length")
	moment := func() int64 { return testStart.UnixMilli() + r.Int64N(int64(6*hour)) - 3*hour }
	read := 0
	for range 60 {
		for range 1 + r.IntN(30) {
			db.mustAppend(tenant.Default, gaugeInc(min(moment(), testStart.UnixMilli()), float64(r.IntN(50)), "page", fmt.Sprint(r.IntN(3))))
		}
		if r.IntN(3) == 0 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
		a, b := moment(), moment()
		hints := &storage.SelectHints{Start: min(a, b), End: max(a, b)}
		ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: moment()})
		q := &querier{db: db.DB, mint: hints.Start, maxt: hints.End}
		set, _, err := q.Columns(ctx, hints, matcher)
		if err != nil {
			t.Fatal(err)
		}
		var c column.Column
		i := 0
		for found := q.Select(ctx, true, hints, matcher); found.Next(); i++ {
			if err := set.Reading(func() error { return set.Read(i, &c) }); err != nil {
				t.Fatal(err)
			}
			var got []string
			marked := false
			for k, at := range c.T {
				got = append(got, fmt.Sprintf("%d %x", at, math.Float64bits(c.V[k])))
				marked = marked || value.IsStaleNaN(c.V[k])
			}
			if want := floatSamples(t, found.At().Iterator(nil)); !slices.Equal(got, want) || marked && !c.Stale {
				t.Fatalf("seed %d: %s from %d to %d has\n %v\nwant\n %v", seed, found.At().Labels(), hints.Start, hints.End, got, want)
			}
			read += len(got)
		}
		if i != set.Len() {
			t.Fatalf("seed %d: %d columns, %d series", seed, set.Len(), i)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if read < 1000 {
		t.Errorf("seed %d: only %d samples were read", seed, read)
	}
}

// BenchmarkGaugeColumn is a gauge that is set once a minute, over six hours.
func BenchmarkGaugeColumn(b *testing.B) {
	db := openTestDB(b, "", nil)
	for k := range int64(360) {
		db.mustAppend(tenant.Default, gaugeInc(testStart.UnixMilli()-k*minute, float64(k)))
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		b.Fatal(err)
	}
	now := testStart.UnixMilli() + 1
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: now})
	q := &querier{db: db.DB, mint: now - 6*hour, maxt: now}
	defer q.Close()
	set, _, err := q.Columns(ctx, &storage.SelectHints{Start: q.mint, End: now}, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "queue_length"))
	if err != nil {
		b.Fatal(err)
	}
	var c column.Column
	for b.Loop() {
		if err := set.Reading(func() error { return set.Read(0, &c) }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(c.T)), "samples")
}
