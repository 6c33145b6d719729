package tsdb

import (
	"context"
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
