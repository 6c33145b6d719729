package tsdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
)

// newIdleDB has metrics with idle timeouts of their own and one without, each with one
// event at 10:00.
func newIdleDB(t *testing.T, flush bool) *testDB {
	t.Helper()
	db := openTestDB(t, "", nil)
	if err := db.CreateTenant(settingsTenant, patch(t, `{"idle_timeouts": {"long_total": "3h", "short_total": "5m", "size": "2h", "queue_length": "90m"}}`)); err != nil {
		t.Fatal(err)
	}
	begin := testStart.Truncate(24 * time.Hour).Add(10 * time.Hour)
	incs := []increment.Increment{bucketsInc(series(increment.Buckets, "size", "l", "v"), begin.UnixMilli(), []float64{1}, 0.5), gaugeInc(begin.UnixMilli(), 7, "l", "v")}
	for _, name := range []string{"long_total", "short_total", "plain_total"} {
		incs = append(incs, counterInc(name, begin, 1, "l", "v"))
	}
	db.mustAppend(settingsTenant, incs...)
	if flush {
		if err := db.Flush(context.Background(), settingsTenant); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// byName are matchers that select metrics in each of the ways: by one name, by several,
// and by another label.
var byName = map[string][]*labels.Matcher{
	"=":     nil,
	"=~":    {labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "(long|short|plain)_total|size|size_.*|queue_length")},
	"{l=v}": {labels.MustNewMatcher(labels.MatchEqual, "l", "v")},
}

// A series goes stale after the idle timeout of its metric, however it is selected and
// wherever it is stored, and the classic series of a histogram with it.
func TestIdleTimeoutOfAMetric(t *testing.T) {
	day := testStart.Truncate(24 * time.Hour)
	ends := map[string]string{
		"long_total": "13:00:30", "short_total": "10:05:30", "plain_total": "11:00:30", "size_count": "12:00:30", "size_bucket": "12:00:30", "queue_length": "11:30:30",
	}
	for _, flush := range []bool{false, true} {
		db := newIdleDB(t, flush)
		for how, matchers := range byName {
			for name, end := range ends {
				if how == "{l=v}" && strings.HasPrefix(name, "size_") {
					continue // a classic series is selected by its name
				}
				by := matchers
				if how == "=" {
					by = []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name)}
				}
				q := db.querier(t, settingsTenant, day, testStart)
				found := 0
				for set := q.Select(q.ctx, true, nil, by...); set.Next(); {
					if set.At().Labels().Get(model.MetricNameLabel) != name {
						continue
					}
					found++
					if got := samples(set.At().Iterator(nil)); !strings.HasSuffix(got, end+" stale") {
						t.Errorf("%s by %s, flushed %t: %s, want it stale at %s", name, how, flush, got, end)
					}
				}
				if found == 0 {
					t.Errorf("%s by %s, flushed %t: there is none", name, how, flush)
				}
				q.Close()
			}
		}
	}
}

// What shows at a time is what has not gone stale before, of series and of names; no
// query looks back too little for the longest timeout in question, nor shows the others
// for that long.
func TestSelectionByIdleTimeouts(t *testing.T) {
	day := testStart.Truncate(24 * time.Hour)
	for _, flush := range []bool{false, true} {
		db := newIdleDB(t, flush)
		for _, tc := range []struct {
			at   time.Duration
			want string
		}{
			{10*time.Hour + 4*time.Minute, "long_total plain_total queue_length short_total size"},
			{10*time.Hour + 30*time.Minute, "long_total plain_total queue_length size"},
			{11*time.Hour + 15*time.Minute, "long_total queue_length size"},
			{11*time.Hour + 45*time.Minute, "long_total size"},
			{12*time.Hour + 30*time.Minute, "long_total"},
			{13*time.Hour + 30*time.Minute, ""},
		} {
			q := db.querier(t, settingsTenant, day.Add(tc.at), day.Add(tc.at))
			values, _, err := q.LabelValues(q.ctx, model.MetricNameLabel, nil, byName["{l=v}"]...)
			values = slices.DeleteFunc(values, func(name string) bool { return strings.HasPrefix(name, "size_") })
			if got := strings.Join(values, " "); err != nil || got != tc.want {
				t.Errorf("at %s, flushed %t: the names are %q, %v; want %q", tc.at, flush, got, err, tc.want)
			}
			var series []string
			for set := q.Select(q.ctx, true, nil, byName["{l=v}"]...); set.Next(); {
				series = append(series, set.At().Labels().Get(model.MetricNameLabel))
			}
			if got := strings.Join(series, " "); got != tc.want {
				t.Errorf("at %s, flushed %t: the series are %q, want %q", tc.at, flush, got, tc.want)
			}
			q.Close()
		}
	}
}

// Columns are the series that Select gives, also where only some labels are asked for,
// of which the name is none.
func TestColumnsByIdleTimeouts(t *testing.T) {
	day := testStart.Truncate(24 * time.Hour)
	for _, flush := range []bool{false, true} {
		db := newIdleDB(t, flush)
		ctx := scope.With(context.Background(), scope.Scope{Tenant: settingsTenant, Now: testStart.UnixMilli()})
		hints := &storage.SelectHints{Start: day.UnixMilli(), End: testStart.UnixMilli(), ProjectionInclude: true, ProjectionLabels: []string{"l"}}
		q := &querier{db: db.DB, mint: hints.Start, maxt: hints.End}
		set, _, err := q.Columns(ctx, hints, byName["=~"]...)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		var c column.Column
		for i := range set.Len() {
			if err := set.Reading(func() error { return set.Read(i, &c) }); err != nil {
				t.Fatal(err)
			}
			last := int64(0)
			for _, r := range c.Runs {
				last = r.Marker
			}
			if n := len(c.T); n > 0 {
				last = c.T[n-1]
			}
			if n := len(c.HT); n > 0 {
				last = c.HT[n-1]
			}
			got = append(got, clock(last))
		}
		for found := q.Select(ctx, true, hints, byName["=~"]...); found.Next(); {
			it, last := found.At().Iterator(nil), int64(0)
			for it.Next() != chunkenc.ValNone {
				last = it.AtT()
			}
			want = append(want, clock(last))
		}
		slices.Sort(got)
		slices.Sort(want)
		if fmt.Sprint(got) != fmt.Sprint(want) || len(got) < 8 {
			t.Errorf("flushed %t: columns end at %s, series at %s", flush, got, want)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// An increment that comes late changes what shows until the longest timeout after it, a
// gauge's over midnight too.
func TestLateByIdleTimeouts(t *testing.T) {
	db := newIdleDB(t, false)
	s, err := db.store(settingsTenant, false)
	if err != nil {
		t.Fatal(err)
	}
	evening := dayStart(testStart.UnixMilli()) + dayMillis - hour
	if got, want := s.shownBy(evening, evening).To, evening+3*hour+2*g; got != want {
		t.Errorf("it shows by %s, want %s", clock(got), clock(want))
	}
}
