package tsdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// withSeries are options of tenants with at most n series.
func withSeries(n int) func(*Options) {
	settings := tenant.DefaultSettings()
	settings.Limits.Series = n
	settings.Retention = model.Duration(48 * time.Hour)
	return func(o *Options) { o.Defaults = settings }
}

// seriesStored are the names of the series in what stored returns.
func seriesStored(stored map[string]float64) map[string]bool {
	out := map[string]bool{}
	for key := range stored {
		out[key[:strings.LastIndexByte(key, ' ')]] = true
	}
	return out
}

// Past the limit of all series together every metric folds as if it were at its own
// limit, whichever metrics the series are of; sums stay exact, and the limit holds
// across flushes and restarts.
func TestSeriesOfAllMetricsAreLimited(t *testing.T) {
	const limit, metrics, series = 200, 10, 60
	db := openTestDB(t, "", withSeries(limit))
	page := func(metric, i int) increment.Increment {
		inc := counterInc(fmt.Sprintf("m%d_total", metric), testStart, 1, "page", fmt.Sprint("/", i), "plan", "free")
		inc.Shape = &increment.Shape{Names: []string{"page", "plan"}, Keep: []string{"plan"}}
		return inc
	}
	sent := 0
	for i := range series {
		for m := range metrics {
			db.mustAppend(tenant.Default, page(m, i))
			sent++
		}
		switch i {
		case 7, 30:
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		case 15, 40:
			db = db.reopen(withSeries(limit))
		}
	}
	stored := db.stored(tenant.Default)
	if got := total(stored); got != float64(sent) {
		t.Errorf("the sum is %v, want %d", got, sent)
	}
	if n := len(seriesStored(stored)); n > limit+metrics || n < limit-reservedSeries(limit) {
		t.Errorf("%d series, want about %d and no more than one for each metric beyond", n, limit)
	}
	// The reserved slots keep what is to be kept, while they last.
	kept := db.stored(tenant.Default, labels.MustNewMatcher(labels.MatchEqual, "page", increment.Other), labels.MustNewMatcher(labels.MatchEqual, "plan", "free"))
	if n := len(seriesStored(kept)); n != reservedSeries(limit) {
		t.Errorf("%d folded series have their plan, want %d", n, reservedSeries(limit))
	}
	// Every metric is stored, also one that comes when there is no room at all, and a
	// series that was admitted goes on.
	db.mustAppend(tenant.Default, page(metrics, 0), page(0, 0))
	if got := total(db.stored(tenant.Default, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "m10_total"))); got != 1 {
		t.Errorf("the new metric counts %v, want 1", got)
	}
	if got := total(db.stored(tenant.Default, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "m0_total"), labels.MustNewMatcher(labels.MatchEqual, "page", "/0"))); got != 2 {
		t.Errorf("the first series counts %v, want 2", got)
	}
}

// Values that do not add up are refused past the limit, with the field that says so.
func TestGaugesPastTheLimitOfAllSeries(t *testing.T) {
	db := openTestDB(t, "", withSeries(10))
	gauge := func(name string) *increment.Batch {
		at := testStart.UnixMilli()
		return &increment.Batch{Increments: []increment.Increment{{Series: series(increment.Gauge, name), Time: floorTo(at, g), At: at, Value: 1}}}
	}
	for i := range 9 {
		if _, err := db.Append(context.Background(), tenant.Default, gauge(fmt.Sprint("g", i))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := db.Append(context.Background(), tenant.Default, gauge("more"))
	var limit *LimitError
	want := `the tenant is at its limit of 10 series (limits.series), and values of gauges and samples do not add up: no new series of "more" is taken`
	if !errors.As(err, &limit) || !limit.All || limit.Limit != 10 || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := db.Append(context.Background(), tenant.Default, gauge("g0")); err != nil {
		t.Errorf("one that is there: %v", err)
	}
}

// Far from the limit nothing is read to count series; near it they are counted once,
// whatever memtables and blocks have in common.
func TestSeriesAreCountedWhereTheLimitIsNear(t *testing.T) {
	const limit, known = 100, 30
	db := openTestDB(t, "", withSeries(limit))
	var incs []increment.Increment
	for i := range known {
		incs = append(incs, counterInc(fmt.Sprintf("m%d_total", i%3), testStart, 1, "page", fmt.Sprint("/", i)))
	}
	first := func() *seriesTotal {
		s, err := db.store(tenant.Default, false)
		if err != nil {
			t.Fatal(err)
		}
		return &s.admission.total
	}
	db.mustAppend(tenant.Default, incs...)
	if got := first(); got.exact || got.n != known {
		t.Errorf("counted %+v, want %d", got, known)
	}
	for range 3 { // the same series in three blocks
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		db.mustAppend(tenant.Default, incs...)
	}
	db = db.reopen(withSeries(limit))
	db.mustAppend(tenant.Default, counterInc("new_total", testStart, 1))
	if got := first(); !got.exact || got.n != known+1 {
		t.Errorf("counted %+v, want %d and that it is exact", got, known+1)
	}
	// What retention takes away is room again.
	*db.now = testStart.Add(100 * time.Hour)
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	db.mustAppend(tenant.Default, counterInc("new_total", *db.now, 1))
	if got := first(); got.exact || got.n != 1 {
		t.Errorf("counted %+v after retention, want 1", got)
	}
}

// A place is granted once, however many ask for the last one.
func TestSeriesLimitIsOneDecision(t *testing.T) {
	const limit, clients, each = 100, 8, 50
	db := openTestDB(t, "", withSeries(limit))
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				b := &increment.Batch{Increments: []increment.Increment{counterInc(fmt.Sprintf("m%d_total", c%2), testStart, 1, "page", fmt.Sprint(c, "/", i))}}
				if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stored := db.stored(tenant.Default)
	if n := len(seriesStored(stored)); n > limit+2 || total(stored) != clients*each {
		t.Errorf("%d series with a sum of %v, want at most %d and %d", n, total(stored), limit+2, clients*each)
	}
}
