package tsdb

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// manySeries are more than two pages of them.
const manySeries = 2*pageSeries + 100

// openManySeries has series in one block: the i-th counts i+1.
func openManySeries(t *testing.T) *testDB {
	t.Helper()
	db := openQuiet(t, "", nil)
	incs := make([]increment.Increment, manySeries)
	for i := range incs {
		incs[i] = counterInc("events_total", testStart, float64(i+1), "country", fmt.Sprint(i%7), "page", fmt.Sprintf("%05d", i))
	}
	db.mustAppend(tenant.Default, incs...)
	db.mustFlush(tenant.Default)
	return db
}

// columns selects them, with some labels where that is not nil.
func (d *testDB) columns(q *querier, keep []string) *columnSet {
	d.t.Helper()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: q.maxt})
	hints := &storage.SelectHints{Start: q.mint, End: q.maxt, ProjectionInclude: keep != nil, ProjectionLabels: keep}
	set, _, err := q.Columns(ctx, hints, equal(model.MetricNameLabel, "events_total"))
	if err != nil {
		d.t.Fatal(err)
	}
	return set.(*columnSet)
}

// The series of one block are by labels, in whatever number, and where only some labels
// are wanted those that have the same ones share a label set.
func TestSelectInOneBlock(t *testing.T) {
	db := openManySeries(t)
	for _, keep := range [][]string{nil, {model.MetricNameLabel}, {"country"}, {"country", "page"}} {
		q := &querier{db: db.DB, mint: testStart.UnixMilli(), maxt: testStart.Add(time.Hour).UnixMilli()}
		set := db.columns(q, keep)
		if set.inBlock == nil || set.Len() != manySeries {
			t.Fatalf("%v: %d series, want %d in one block", keep, set.Len(), manySeries)
		}
		var all []labels.Labels
		for k := range 7 { // by country, then by page
			for i := k; i < manySeries; i += 7 {
				all = append(all, labels.FromStrings(model.MetricNameLabel, "events_total", "country", fmt.Sprint(k), "page", fmt.Sprintf("%05d", i)))
			}
		}
		var c column.Column
		setOf, sets := map[string]int{}, map[int]bool{}
		for i, want := range all {
			if keep != nil {
				want = want.MatchLabels(true, keep...)
			}
			if got := set.Labels(i); !labels.Equal(got, want) {
				t.Fatalf("%v: series %d is %s, want %s", keep, i, got, want)
			}
			n, known := setOf[want.String()]
			if known && n != set.LabelSet(i) || !known && sets[set.LabelSet(i)] || set.LabelSet(i) >= set.LabelSets() {
				t.Fatalf("%v: series %d, %s, has label set %d of %d", keep, i, want, set.LabelSet(i), set.LabelSets())
			}
			setOf[want.String()], sets[set.LabelSet(i)] = set.LabelSet(i), true
			if err := set.Reading(func() error { return set.Read(i, &c) }); err != nil {
				t.Fatal(err)
			}
			if len(c.Inc) != 1 || fmt.Sprintf("%05.0f", c.Inc[0]-1) != all[i].Get("page") {
				t.Fatalf("%v: %s has %v", keep, all[i], c.Inc)
			}
		}
		if len(sets) != set.LabelSets() {
			t.Errorf("%v: %d label sets, want %d", keep, set.LabelSets(), len(sets))
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// As long as something in a block waits to be deleted its series are not selected by
// numbers, which know nothing of that; then they are again.
func TestSelectInOneBlockWaitsForDeletions(t *testing.T) {
	db := openManySeries(t)
	check := func(when string, byNumbers bool, n int) {
		t.Helper()
		q := &querier{db: db.DB, mint: testStart.UnixMilli(), maxt: testStart.Add(time.Hour).UnixMilli()}
		defer q.Close()
		if set := db.columns(q, []string{"country"}); (set.inBlock != nil) != byNumbers || set.Len() != n {
			t.Errorf("%s: %d series, by numbers %t; want %d, %t", when, set.Len(), set.inBlock != nil, n, byNumbers)
		}
	}
	check("at first", true, manySeries)
	db.mustDelete(tenant.Default, testStart.Add(-10*time.Hour), testStart.Add(-9*time.Hour), equal("country", "0"))
	check("after a deletion of another time", true, manySeries)
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour), equal("page", "00010"))
	check("after a deletion", false, manySeries-1)
	db.mustClean(tenant.Default)
	check("rewritten", true, manySeries-1)
}
