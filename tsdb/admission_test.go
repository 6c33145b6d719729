package tsdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// A metric name has one kind; another is refused, naming both, also after the
// data has left memory.
func TestOneKindAName(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("x", testStart, 1, "a", "1"))
	wrong := increment.Batch{Increments: []increment.Increment{
		{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "x", "a", "2"), increment.Distinct, nil), Time: 0, IDs: []uint64{1}},
	}}
	for range 2 {
		_, err := db.Append(context.Background(), tenant.Default, &wrong)
		var kind *KindError
		if !errors.As(err, &kind) || kind.Have != increment.Counter || kind.Got != increment.Distinct {
			t.Errorf("another kind: %v", err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		db = db.reopen(nil)
	}
	if got := total(db.stored(tenant.Default)); got != 1 {
		t.Errorf("stored %v", got)
	}
}

// Past the limit of series, increments go to series with "(other)" and the sum
// stays exact; the limit holds across flush and reopen.
func TestSeriesLimitFoldsIntoOther(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 100
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	for i := range 500 {
		inc := counterInc("events_total", testStart, 1, "event", fmt.Sprint("e", i%120), "page", fmt.Sprint("/", i))
		inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
		db.mustAppend(tenant.Default, inc)
		switch i {
		case 200:
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		case 300:
			db = db.reopen(func(o *Options) { o.Defaults = settings })
		}
	}
	got := db.stored(tenant.Default)
	if total(got) != 500 {
		t.Errorf("sum is %v, want 500", total(got))
	}
	if len(got) > 100 {
		t.Errorf("%d series, want at most 100", len(got))
	}
	folded := false
	for k := range got {
		folded = folded || strings.Contains(k, `event="(other)"`) && strings.Contains(k, `page="(other)"`)
	}
	if !folded {
		t.Error("no series has taken the rest")
	}
	// A series that was admitted goes on.
	inc := counterInc("events_total", testStart, 1, "event", "e0", "page", "/0")
	inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
	db.mustAppend(tenant.Default, inc)
	m := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "page", "/0")}
	if got := total(db.stored(tenant.Default, m...)); got != 2 {
		t.Errorf("the first series has %v, want 2", got)
	}
}

// The limit holds whichever of the rule's labels the increments have.
func TestSeriesLimitHoldsForEveryShape(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 20
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	names := []string{"a", "b", "c", "d", "e", "event", "f", "g", "h"}
	shape := &increment.Shape{Names: names, Keep: []string{"event"}}
	for i := range 512 {
		var lbls []string
		for j, n := range names {
			if i>>j&1 == 1 {
				lbls = append(lbls, n, fmt.Sprint(i%7))
			}
		}
		inc := counterInc("events_total", testStart, 1, lbls...)
		inc.Shape = shape
		db.mustAppend(tenant.Default, inc)
	}
	if got := db.stored(tenant.Default); total(got) != 512 || len(got) > 20 {
		t.Errorf("%d series with a sum of %v, want at most 20 and 512", len(got), total(got))
	}
}

// Keep-listed labels survive while the reserved slots last.
func TestSeriesLimitKeepsTheKeepList(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 1000
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	var incs []increment.Increment
	for i := range 2000 {
		inc := counterInc("events_total", testStart, 1, "event", fmt.Sprint("e", i%3), "page", fmt.Sprint("/", i))
		inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
		incs = append(incs, inc)
	}
	db.mustAppend(tenant.Default, incs...)
	if got := db.stored(tenant.Default); total(got) != 2000 || len(got) != 993 {
		t.Errorf("%d series with a sum of %v, want 993 and 2000", len(got), total(got))
	}
	for e := range 3 {
		m := labels.MustNewMatcher(labels.MatchEqual, "event", fmt.Sprint("e", e))
		if got := total(db.stored(tenant.Default, m)); math.Abs(got-2000.0/3) > 1 {
			t.Errorf("event e%d counts %v", e, got)
		}
	}
}
