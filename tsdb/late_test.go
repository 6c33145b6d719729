package tsdb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// However many changes there are: a reader is told of all after its mark, and the log
// stays within its bound.
func TestLateLogLosesNoChange(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		l := newLateLog()
		l.settle(1_000_000)
		type reader struct {
			seq   uint64
			noted []past.Interval // since
		}
		readers := []*reader{{}}
		for range 1000 {
			switch r.IntN(4) {
			case 0:
				readers = append(readers, &reader{seq: l.settle(r.Int64N(2_000_000))})
			default:
				from := r.Int64N(900_000)
				iv := past.Interval{From: from, To: from + r.Int64N(50_000)}
				l.note(iv)
				for _, rd := range readers {
					rd.noted = append(rd.noted, iv)
				}
			}
			rd := readers[r.IntN(len(readers))]
			told := l.since(rd.seq)
			for _, iv := range rd.noted {
				if !slices.ContainsFunc(told, func(o past.Interval) bool { return o.From <= iv.From && iv.To <= o.To }) {
					t.Fatalf("seed %d: a reader with seq %d is told of %v, which lacks %v", seed, rd.seq, told, iv)
				}
			}
			if len(rd.noted) == 0 && len(told) > 0 {
				t.Fatalf("seed %d: told of %v where nothing changed", seed, told)
			}
			if len(l.changes) > lateMax {
				t.Fatalf("seed %d: %d changes are kept", seed, len(l.changes))
			}
		}
	}
}

// A stream of events that are ten minutes late never makes more of the past seem
// changed than it has touched between two looks.
func TestLateLogTellsReadersApart(t *testing.T) {
	l := newLateLog()
	seq := l.settle(never)
	for now := int64(0); now < 1_000_000; now += 1000 {
		for range 5 {
			l.note(past.Interval{From: now, To: now + 100})
		}
		if told := l.since(seq); len(told) != 1 || told[0] != (past.Interval{From: now, To: now + 100}) {
			t.Fatalf("at %d told of %v", now, told)
		}
		seq = l.settle(never)
	}
}

func changedSince(t *testing.T, db *testDB, m past.Mark) []past.Interval {
	t.Helper()
	out, err := db.Changed(scoped(db), m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func scoped(db *testDB) context.Context {
	return scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: db.now.UnixMilli()})
}

func settle(t *testing.T, db *testDB) past.Mark {
	t.Helper()
	m, err := db.Settle(scoped(db))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What counts as late, and how far it reaches.
func TestChangesOfTheSettledPast(t *testing.T) {
	db := openTestDB(t, "", nil)
	if m := settle(t, db); m != (past.Mark{}) {
		t.Fatalf("a tenant that does not exist has the mark %+v", m)
	}
	db.mustAppend(tenant.Default, counterInc("c_total", testStart.Add(-time.Hour), 1))
	m := settle(t, db)
	if want := testStart.Add(-75 * time.Second).UnixMilli(); m.Settled != want {
		t.Errorf("settled up to %d, want a minute and a window ago, %d", m.Settled, want)
	}
	if got := changedSince(t, db, m); len(got) > 0 {
		t.Errorf("what came before the first promise is told: %v", got)
	}
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1), counterInc("c_total", testStart.Add(-time.Minute), 1))
	if got := changedSince(t, db, m); len(got) > 0 {
		t.Errorf("increments of the last minute are told: %v", got)
	}
	late := testStart.Add(-10 * time.Minute)
	db.mustAppend(tenant.Default, counterInc("c_total", late, 1))
	midnight := time.Date(2026, 3, 5, 0, 0, 15, 0, time.UTC)
	if got, want := changedSince(t, db, m), (past.Interval{From: late.UnixMilli(), To: midnight.UnixMilli()}); len(got) != 1 || got[0] != want {
		t.Errorf("a late increment changed %v, want its window to the end of its day, %v", got, want)
	}
	if got := changedSince(t, db, settle(t, db)); len(got) > 0 {
		t.Errorf("a new mark is told of %v", got)
	}
	if got := changedSince(t, db, past.Mark{Generation: m.Generation + 1}); len(got) != 1 || got[0].From > 0 || got[0].To < never {
		t.Errorf("a mark of another generation is told of %v, want all of time", got)
	}
}

func TestRetentionIsAChangeOfThePast(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(48 * time.Hour)
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	old := testStart.Add(-40 * time.Hour)
	db.mustAppend(tenant.Default, counterInc("c_total", old, 1), counterInc("c_total", testStart, 1))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	m := settle(t, db)
	*db.now = testStart.Add(24 * time.Hour)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := changedSince(t, db, m)
	if len(got) != 1 || got[0].From > old.UnixMilli() || got[0].To < old.UnixMilli() || got[0].To >= testStart.UnixMilli() {
		t.Errorf("retention changed %v, want the day of %d", got, old.UnixMilli())
	}
	if len(db.stored(tenant.Default)) != 1 {
		t.Error("nothing was dropped")
	}
}

// settledView is every sample that shows up to a mark's time.
func settledView(t *testing.T, db *testDB, m past.Mark) string {
	q, err := db.Querier(0, m.Settled)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(scoped(db), true, &storage.SelectHints{Start: 0, End: m.Settled}, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+"))
	out := ""
	for set.Next() {
		it := set.At().Iterator(nil)
		n, sum := 0, 0.0
		for it.Next() != chunkenc.ValNone {
			ts, v := it.At()
			n, sum = n+1, sum+v*float64(ts%1_000_003)
		}
		if n > 0 { // a series that begins just after has no sample yet
			out += fmt.Sprintln(set.At().Labels(), n, sum)
		}
	}
	if set.Err() != nil {
		t.Fatal(set.Err())
	}
	return out
}

// shownSamples are all samples that show up to a time, by series and time.
func shownSamples(t *testing.T, db *testDB, until int64) map[string]int64 {
	t.Helper()
	q, err := db.Querier(0, until)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(scoped(db), true, &storage.SelectHints{Start: 0, End: until}, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "[a-z]+"))
	out := map[string]int64{}
	for set.Next() {
		it, name := set.At().Iterator(nil), set.At().Labels().String()
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			var ts int64
			var v, sum float64
			if typ == chunkenc.ValFloat {
				ts, v = it.At()
			} else {
				var fh *histogram.FloatHistogram
				ts, fh = it.AtFloatHistogram(nil)
				v, sum = fh.Count, fh.Sum
			}
			out[fmt.Sprint(name, ts, v, sum)] = ts
		}
	}
	if set.Err() != nil {
		t.Fatal(set.Err())
	}
	return out
}

// A late increment of any kind changes samples in the interval that is told, and in no
// other: not the zero before a run, nor a marker after one, nor the totals of its day.
func TestChangesShowWhereTheyAreTold(t *testing.T) {
	changed := 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 11))
		db := openTestDB(t, "", func(o *Options) { o.WALSyncEvery = time.Hour })
		*db.now = testStart.Add(time.Duration(r.IntN(24*3600)) * time.Second)
		randomInc := func() increment.Increment {
			ts := db.now.Add(-3*time.Minute - time.Duration(r.IntN(30*3600))*time.Second)
			inc := counterInc("c", ts, float64(1+r.IntN(3)), "page", fmt.Sprint(r.IntN(3)))
			switch r.IntN(6) {
			case 0:
				inc.Series, inc.Hist = series(increment.Histogram, "h"), &increment.Hist{}
				inc.Hist.Observe(float64(r.IntN(100)))
			case 1:
				inc.Series, inc.Hist = series(increment.Buckets, "b"), &increment.Hist{Bounds: []float64{1, float64(2 + r.IntN(2))}}
				inc.Hist.Observe(float64(r.IntN(4)))
			case 2:
				inc.Series, inc.IDs = series(increment.Distinct, "d"), []uint64{uint64(r.IntN(50)) << 40}
			case 3:
				inc.Series, inc.At = series(increment.Gauge, "g"), inc.Time+r.Int64N(g)
			case 4:
				inc.Series, inc.Time = series(increment.Sample, "s"), inc.Time+r.Int64N(g)
			}
			return inc
		}
		for range r.IntN(200) {
			db.mustAppend(tenant.Default, randomInc())
		}
		db.mustAppend(tenant.Default, randomInc())
		for range 8 {
			m := settle(t, db)
			before := shownSamples(t, db, m.Settled)
			inc := randomInc()
			db.mustAppend(tenant.Default, inc)
			told := changedSince(t, db, m)
			after := shownSamples(t, db, m.Settled)
			for _, d := range []struct{ a, b map[string]int64 }{{before, after}, {after, before}} {
				for sample, ts := range d.a {
					if _, ok := d.b[sample]; ok {
						continue
					}
					changed++
					if !slices.ContainsFunc(told, func(iv past.Interval) bool { return iv.From <= ts && ts <= iv.To }) {
						t.Fatalf("seed %d: %s %s at %d changed %s, told of %v", seed, inc.Kind, inc.Labels, inc.Time, sample, told)
					}
				}
			}
		}
	}
	if changed < 1000 {
		t.Errorf("only %d samples changed", changed)
	}
}

// I10: while increments come at any time of the past and readers take their marks,
// what a reader saw up to its mark's time is there still unless it is told otherwise.
func TestWhatIsNotToldHasNotChanged(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSyncEvery = time.Hour; o.Registerer = prometheus.NewRegistry() })
	db.mustAppend(tenant.Default, counterInc("c_total", testStart.Add(-time.Hour), 1))
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 4))
			for {
				select {
				case <-stop:
					return
				default:
				}
				ts := testStart.Add(-time.Duration(r.IntN(400)) * time.Second)
				db.mustAppend(tenant.Default, counterInc("c_total", ts, 1, "page", fmt.Sprint(r.IntN(3))))
			}
		})
	}
	same, told := 0, 0
	var mu sync.Mutex
	more := func(n int) bool { // the writers may be slow to begin
		mu.Lock()
		defer mu.Unlock()
		return n < 150 || told == 0 && n < 10_000
	}
	for range 2 {
		readers.Go(func() {
			for n := 0; more(n); n++ {
				m := settle(t, db)
				before := settledView(t, db, m)
				// A look that finds nothing changed after the second reading says that
				// both readings were of the same.
				after := settledView(t, db, m)
				changes := changedSince(t, db, m)
				mu.Lock()
				if len(changes) > 0 {
					told++
				} else {
					same++
				}
				mu.Unlock()
				if len(changes) == 0 && before != after {
					t.Errorf("not told of what changed\n%s\nto\n%s", before, after)
					return
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	writers.Wait()
	t.Logf("told of changes %d times, not %d times", told, same)
	if told == 0 {
		t.Error("no reader was told of a change")
	}
}

// Rules are told of what came after they read, however little late it is, but not of
// what they recorded themselves nor of what was removed.
func TestWhatComesLateForRules(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart.Add(-time.Hour), 1))
	read := testStart.Add(-15 * time.Second)
	m, err := db.Recorded(scoped(db), read.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	told := func() []past.Interval {
		t.Helper()
		out, err := db.CameLate(scoped(db), m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	sample := increment.Increment{Series: series(increment.Sample, "recorded"), Time: read.UnixMilli(), Value: 1}
	if _, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{sample}, Derived: true}); err != nil {
		t.Fatal(err)
	}
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	if got := told(); len(got) > 0 {
		t.Errorf("what rules recorded, or had not read, is told as late: %v", got)
	}
	db.mustAppend(tenant.Default, counterInc("c_total", testStart.Add(-30*time.Second), 1))
	if got := told(); len(got) != 1 || got[0].From != testStart.Add(-30*time.Second).UnixMilli() {
		t.Errorf("of an increment that came late is told %v", got)
	}
	m.Generation++
	if got := told(); len(got) > 0 {
		t.Errorf("a mark of another generation is told of %v", got)
	}
}
