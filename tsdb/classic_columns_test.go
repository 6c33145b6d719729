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
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// floatSamples are the samples of an iterator, to compare.
func floatSamples(t *testing.T, it chunkenc.Iterator) (out []string) {
	t.Helper()
	for it.Next() == chunkenc.ValFloat {
		at, v := it.At()
		out = append(out, fmt.Sprintf("%d %x", at, math.Float64bits(v)))
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// The columns of classic series are the series that Select gives, in its order: in
// whichever order they are read, wherever the histogram is stored, and where its bounds
// change.
func TestClassicColumnsAreTheirSeries(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	db := openTestDB(t, "", nil)
	fill := func(from time.Time, bounds ...float64) {
		for _, area := range []string{"", "n", "s"} {
			for zone := range 3 {
				s := series(increment.Buckets, "load", "area", area, "zone", fmt.Sprint(zone))
				if area == "" {
					s = series(increment.Buckets, "load", "zone", fmt.Sprint(zone))
				}
				for k := range 20 {
					if k == 0 || r.IntN(3) > 0 {
						db.mustAppend(tenant.Default, bucketsInc(s, from.UnixMilli()+int64(k)*g, bounds, r.Float64()*12, r.Float64()*12))
					}
				}
			}
		}
	}
	flush := func() {
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	end := testStart.Add(90 * time.Minute)
	check := func(stage string) {
		t.Helper()
		ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: end.UnixMilli()})
		hints := &storage.SelectHints{Start: testStart.Add(-time.Hour).UnixMilli(), End: end.UnixMilli()}
		for _, name := range []string{"load_bucket", "load_bucket|load_sum|load_count", "load_sum", "load|load_bucket"} {
			m := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, name)
			q := &querier{db: db.DB, mint: hints.Start, maxt: hints.End}
			var want []storage.Series
			for found := q.Select(ctx, true, hints, m); found.Next(); {
				want = append(want, found.At())
			}
			for _, byFamily := range []bool{false, true} {
				set, _, err := q.Columns(ctx, hints, m)
				if err != nil || set.Len() != len(want) || len(want) == 0 {
					t.Fatalf("%s, %s: %d columns, want %d, %v", stage, name, set.Len(), len(want), err)
				}
				order := set.(column.Ordered).Order()
				if order == nil || !byFamily {
					order = make([]int32, set.Len())
					for i := range order {
						order[i] = int32(i)
					}
				}
				var c column.Column
				for _, i := range order {
					if !labels.Equal(set.Labels(int(i)), want[i].Labels()) {
						t.Fatalf("%s: series %d is %s, want %s", stage, i, set.Labels(int(i)), want[i].Labels())
					}
					if err := set.Reading(func() error { return set.Read(int(i), &c) }); err != nil {
						t.Fatal(err)
					}
					if c.Expand(); len(c.H) > 0 {
						continue
					}
					var got []string
					for k, at := range c.T {
						got = append(got, fmt.Sprintf("%d %x", at, math.Float64bits(c.V[k])))
					}
					if w := floatSamples(t, want[i].Iterator(nil)); !slices.Equal(got, w) {
						t.Fatalf("%s: %s has\n %s\nwant\n %s", stage, want[i].Labels(), got, w)
					}
				}
				if slices.Sort(order); len(slices.Compact(order)) != set.Len() {
					t.Errorf("%s, %s: the order leaves series out", stage, name)
				}
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(testStart, 0.5, 1, 5, 10)
	check("memory")
	flush()
	check("block")
	fill(testStart.Add(10*time.Minute), 0.5, 1, 5, 10)
	check("block and memory")
	flush()
	check("two blocks")
	fill(testStart.Add(20*time.Minute), 0.5, 2, 10)
	flush()
	check("other bounds")
}

// Where only some labels are wanted, series have these, in the order of all.
func TestClassicColumnsProjected(t *testing.T) {
	db := openTestDB(t, "", nil)
	for i := range 12 {
		s := series(increment.Buckets, "load", "area", fmt.Sprint(i%3), "zone", fmt.Sprint(i))
		db.mustAppend(tenant.Default, bucketsInc(s, testStart.UnixMilli(), []float64{0.5, 10, 2e6}, float64(i)))
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	now := testStart.Add(time.Hour).UnixMilli()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: now})
	m := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "load_bucket")
	read := func(keep ...string) (out []labels.Labels) {
		hints := &storage.SelectHints{Start: testStart.UnixMilli(), End: now, ProjectionInclude: keep != nil, ProjectionLabels: keep}
		q := &querier{db: db.DB, mint: hints.Start, maxt: hints.End}
		defer q.Close()
		set, _, err := q.Columns(ctx, hints, m)
		if err != nil {
			t.Fatal(err)
		}
		for i := range set.Len() {
			out = append(out, set.Labels(i))
		}
		return out
	}
	all := read()
	if len(all) != 48 || !slices.IsSortedFunc(all, labels.Compare) {
		t.Errorf("%d series, in their order: %v", len(all), all)
	}
	for _, keep := range [][]string{{"__name__"}, {"__name__", "le"}, {"__name__", "area"}, {"__name__", "le", "zone"}} {
		for i, got := range read(keep...) {
			if want := all[i].MatchLabels(true, keep...); !labels.Equal(got, want) {
				t.Fatalf("%v: series %d is %s, want %s", keep, i, got, want)
			}
		}
	}
}

// Damaged chunks are refused as the decoder of histograms refuses them, or count
// something else, but never more windows than they have.
func TestDecodeDamagedBucketCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	bounds := []float64{1, 2, 300}
	var win []int64
	var hists []*increment.Hist
	for k := range int64(30) {
		h := &increment.Hist{Bounds: bounds}
		for range 1 + r.IntN(300) {
			h.Observe(r.Float64() * 400)
		}
		win, hists = append(win, k*k*g), append(hists, h)
	}
	whole := appendBucketHists(nil, win, hists, g)
	head := &chunkHeader{step: g, n: len(win)}
	decode := func(src []byte) (*bucketCounts, error) {
		c := &bucketCounts{}
		c.reset(bounds, len(win))
		return c, c.appendChunk(head, src, 0, math.MaxInt64)
	}
	c, err := decode(whole)
	if err != nil || !slices.Equal(c.win, win) || !c.accumulate() {
		t.Fatalf("windows %v, %v", c.win, err)
	}
	want := (&points{kind: increment.Buckets, win: win, hist: hists}).bucketCounts()
	for i := range len(bounds) + 1 {
		if !slices.Equal(c.row(i), want.row(i)) {
			t.Errorf("row %d is %v, want %v", i, c.row(i), want.row(i))
		}
	}
	for n := range whole {
		if _, err := decode(whole[:n]); err == nil {
			t.Fatalf("%d of %d bytes are taken", n, len(whole))
		}
	}
	for range 20_000 {
		src := slices.Clone(whole)
		src[25+r.IntN(len(src)-25)] ^= byte(1 + r.IntN(255))
		if c, err := decode(src); err == nil && len(c.win) > len(win) {
			t.Fatalf("%d windows", len(c.win))
		}
	}
}
