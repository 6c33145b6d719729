package tsdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
)

// openQuiet is openTestDB without the background work that a deletion wakes.
func openQuiet(t testing.TB, dir string, change func(*Options)) *testDB {
	t.Helper()
	d := openTestDB(t, dir, change)
	d.stop()
	<-d.maintained
	return d
}

// reopenQuiet is reopen without background work.
func (d *testDB) reopenQuiet(change func(*Options)) *testDB {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.DB = nil
	return openQuiet(d.t, d.dir, change)
}

func equal(name, value string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, name, value)
}

func (d *testDB) mustDelete(id tenant.ID, from, to time.Time, matchers ...*labels.Matcher) {
	d.t.Helper()
	if _, err := d.Delete(context.Background(), id, from.UnixMilli(), to.UnixMilli(), matchers...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *testDB) mustFlush(id tenant.ID) {
	d.t.Helper()
	if err := d.Flush(context.Background(), id); err != nil {
		d.t.Fatal(err)
	}
}

func (d *testDB) mustClean(id tenant.ID) {
	d.t.Helper()
	if err := d.CleanTombstones(context.Background(), id); err != nil {
		d.t.Fatal(err)
	}
}

// everyKind is an increment of each kind on a page at a time.
func everyKind(page string, at time.Time) []increment.Increment {
	win := floorTo(at.UnixMilli(), g)
	hist, buckets := &increment.Hist{}, &increment.Hist{Bounds: []float64{1, 5}}
	hist.Observe(3)
	buckets.Observe(3)
	of := func(k increment.Kind, name string) *increment.Series { return series(k, name, "page", page) }
	return []increment.Increment{
		counterInc("events_total", at, 1, "page", page),
		{Series: of(increment.Histogram, "latency"), Time: win, Hist: hist},
		{Series: of(increment.Buckets, "load_seconds"), Time: win, Hist: buckets},
		{Series: of(increment.Distinct, "users"), Time: win, IDs: []uint64{uint64(win), 7}},
		{Series: of(increment.Gauge, "level"), Time: win, At: win + 3, Value: 2},
		{Series: of(increment.Sample, "scraped"), Time: win + 4, Value: 5},
	}
}

// fillKinds adds windows of an hour and a half on two pages, the last of them on the full
// hour before testStart, and returns what is then stored.
func (d *testDB) fillKinds() map[string]float64 {
	d.t.Helper()
	for _, page := range []string{"/a", "/b"} {
		for at := testStart.Add(-90 * time.Minute); at.Before(testStart); at = at.Add(5 * time.Minute) {
			d.mustAppend(tenant.Default, everyKind(page, at)...)
		}
	}
	return d.stored(tenant.Default)
}

// kept is what of stored windows stays when a page is deleted in a range.
func kept(t *testing.T, stored map[string]float64, page string, from, to time.Time) map[string]float64 {
	t.Helper()
	out := maps.Clone(stored)
	for key := range stored {
		var at int64
		i := len(key) - len("1772632800000")
		if _, err := fmt.Sscan(key[i:], &at); err != nil {
			t.Fatal(err)
		}
		sample, ls := int64(g), key[:i-1]
		if ls == labels.FromStrings(model.MetricNameLabel, "scraped", "page", page).String() {
			sample = 1
		}
		if at >= from.UnixMilli() && at+sample-1 <= to.UnixMilli() && ls[len(ls)-len(`page="/a"}`):] == fmt.Sprintf("page=%q}", page) {
			delete(out, key)
		}
	}
	return out
}

// Whatever holds what is deleted - memtables, blocks, both - it is in no answer from the
// moment that Delete returns, nor after a restart, a flush, a rewriting or a merge; all
// else stays; and what is posted later to the same series counts.
func TestDelete(t *testing.T) {
	from, to := testStart.Add(-time.Hour), testStart.Add(-20*time.Minute)
	for name, prepare := range map[string]func(*testDB){
		"memtables": func(*testDB) {},
		"blocks":    func(d *testDB) { d.mustFlush(tenant.Default) },
		"both": func(d *testDB) {
			d.mustFlush(tenant.Default)
			d.fillKinds()
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := openQuiet(t, "", nil)
			db.fillKinds()
			prepare(db)
			want := kept(t, db.stored(tenant.Default), "/a", from, to)
			check := func(when string) {
				t.Helper()
				if err := diff(db.stored(tenant.Default), want); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			db.mustDelete(tenant.Default, from, to, equal("page", "/a"))
			check("deleted")
			db = db.reopenQuiet(nil)
			check("replayed")
			db.mustAppend(tenant.Default, everyKind("/a", testStart.Add(-30*time.Minute))...)
			for _, inc := range everyKind("/a", testStart.Add(-30*time.Minute)) {
				key := storedKey(inc.Labels, inc.Time)
				want[key] = db.stored(tenant.Default, equal("page", "/a"))[key]
				if want[key] == 0 {
					t.Errorf("%s was posted after the deletion and is not there", key)
				}
			}
			check("posted again")
			db = db.reopenQuiet(nil)
			check("replayed with what was posted again")
			db.mustFlush(tenant.Default)
			check("flushed")
			db = db.reopenQuiet(nil)
			check("opened after the flush")
			db.mustClean(tenant.Default)
			check("rewritten")
			s := db.mustStore(tenant.Default)
			if len(s.man.Deletions) > 0 {
				t.Errorf("%d deletions are left after the rewriting", len(s.man.Deletions))
			}
			*db.now = testStart.Add(48 * time.Hour)
			if err := db.maintainBlocks(context.Background()); err != nil {
				t.Error(err)
			}
			check("merged")
			db = db.reopenQuiet(nil)
			check("opened at last")
			dir := db.dir
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db.DB = nil
			mustBeSound(t, dir)
		})
	}
}

func (d *testDB) mustStore(id tenant.ID) *store {
	d.t.Helper()
	s, err := d.store(id, false)
	if err != nil || s == nil {
		d.t.Fatal(s, err)
	}
	return s
}

// A window that the range has only a part of stays whole; one from grid point to grid
// point is the range's.
func TestDeleteTakesWholeWindows(t *testing.T) {
	for _, c := range []struct {
		from, to int64 // less the window's start
		gone     bool
	}{
		{0, g - 1, true}, {0, g, true}, {-g, g - 1, true}, {1, g, false}, {0, g - 2, false}, {1, g - 2, false},
	} {
		db := openQuiet(t, "", nil)
		db.mustAppend(tenant.Default, counterInc("events_total", testStart, 1))
		win := floorTo(testStart.UnixMilli(), g)
		for _, where := range []string{"memtable", "block"} {
			db.mustDelete(tenant.Default, time.UnixMilli(win+c.from), time.UnixMilli(win+c.to), equal(model.MetricNameLabel, "events_total"))
			if gone := len(db.stored(tenant.Default)) == 0; gone != c.gone {
				t.Errorf("%s, from %d to %d: gone %v, want %v", where, c.from, c.to, gone, c.gone)
			}
			db.mustFlush(tenant.Default)
		}
	}
}

// What cannot be meant is refused, and nothing is deleted.
func TestDeleteRefusesWhatItCannotMean(t *testing.T) {
	db := openQuiet(t, "", nil)
	want := db.fillKinds()
	name := func(s string) *labels.Matcher { return equal(model.MetricNameLabel, s) }
	now := testStart.UnixMilli()
	for what, matchers := range map[string][]*labels.Matcher{
		"nothing":        nil,
		"classic":        {name("load_seconds_bucket"), equal("le", "5")},
		"classic regexp": {labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "load_.*_count")},
		"not UTF-8":      {equal("page", "\xff")},
	} {
		var refused *SelectorError
		if _, err := db.Delete(context.Background(), tenant.Default, 0, now, matchers...); !errors.As(err, &refused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var refused *SelectorError
	if _, err := db.Delete(context.Background(), tenant.Default, now, 0, name("users")); !errors.As(err, &refused) {
		t.Errorf("a range that ends before it begins: %v", err)
	}
	if err := diff(db.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
	all := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "load_.*")
	if _, err := db.Delete(context.Background(), tenant.Default, math.MinInt64, math.MaxInt64, all); err != nil {
		t.Errorf("the histogram and its classic series: %v", err)
	}
	if got := db.stored(tenant.Default, name("load_seconds")); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	if _, err := db.Delete(context.Background(), tenantID(t, "nobody"), 0, now, name("users")); err != nil {
		t.Errorf("of a tenant that there is not: %v", err)
	}
}

// A running query reads what there was when it came, in memtables and blocks alike.
func TestDeleteUnderAReader(t *testing.T) {
	db := openQuiet(t, "", nil)
	db.fillKinds()
	db.mustFlush(tenant.Default)
	db.fillKinds()
	q := &querier{db: db.DB, maxt: never}
	defer q.Close()
	ctx := db.querier(t, tenant.Default, testStart, testStart).ctx
	v, _, err := q.pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[string]float64 {
		out := map[string]float64{}
		sels, err := selectSeries(ctx, v, &q.blocks, everything, allSeries())
		if err != nil {
			t.Fatal(err)
		}
		for _, sel := range sels {
			p, err := sel.read(0, never, q.cut)
			if err != nil {
				t.Fatal(err)
			}
			sumPoints(t, out, sel.labels, &p)
		}
		return out
	}
	want := read()
	db.mustDelete(tenant.Default, time.UnixMilli(0), testStart, allSeries()...)
	if err := diff(read(), want); err != nil {
		t.Errorf("after the deletion: %v", err)
	}
	db.mustClean(tenant.Default)
	if err := diff(read(), want); err != nil {
		t.Errorf("after the rewriting: %v", err)
	}
	if got := db.stored(tenant.Default); len(got) > 0 {
		t.Errorf("who comes later has %v", got)
	}
}

// Views, columns and distinct counts over deleted windows are what they are where those
// windows were never counted, before and after the rewriting.
func TestDeletedReadsAsNeverCounted(t *testing.T) {
	from, to := testStart.Add(-time.Hour), testStart.Add(-20*time.Minute)
	fill := func(db *testDB, deleted bool) {
		for i, page := range []string{"/a", "/b"} {
			for at := testStart.Add(-27 * time.Hour); at.Before(testStart); at = at.Add(time.Minute) {
				if i == 0 && deleted && !at.Before(from) && at.Before(to) {
					continue
				}
				db.mustAppend(tenant.Default, everyKind(page, at)...)
			}
		}
	}
	never := openQuiet(t, "", nil)
	fill(never, true)
	never.mustFlush(tenant.Default)
	db := openQuiet(t, "", nil)
	fill(db, false)
	check := func(when string) {
		t.Helper()
		got, want := db.answers(), never.answers()
		for what := range want {
			if got[what] != want[what] {
				t.Errorf("%s: %s differs", when, what)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d answers, want %d", when, len(got), len(want))
		}
	}
	db.mustDelete(tenant.Default, from, to.Add(-time.Millisecond), equal("page", "/a"))
	check("in memory")
	db.mustFlush(tenant.Default)
	check("flushed")

	blocks := openQuiet(t, "", nil)
	fill(blocks, false)
	blocks.mustFlush(tenant.Default)
	blocks.mustDelete(tenant.Default, from, to.Add(-time.Millisecond), equal("page", "/a"))
	db = blocks
	check("in blocks")
	db.mustClean(tenant.Default)
	check("rewritten")
}

// answers are the views, columns and distinct counts of all series.
func (d *testDB) answers() map[string]string {
	d.t.Helper()
	out := map[string]string{}
	mint, maxt := testStart.Add(-28*time.Hour), testStart.Add(time.Hour)
	q := d.querier(d.t, tenant.Default, mint, maxt)
	defer q.Close()
	name := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "events_total|latency|load_seconds.*|users|level|scraped")
	set := q.Select(q.ctx, true, nil, name)
	for set.Next() {
		out["view of "+set.At().Labels().String()] = samples(set.At().Iterator(nil))
	}
	if err := set.Err(); err != nil {
		d.t.Fatal(err)
	}
	hints := &storage.SelectHints{Start: mint.UnixMilli(), End: maxt.UnixMilli()}
	cols, _, err := q.Querier.(*querier).Columns(q.ctx, hints, name)
	if err != nil {
		d.t.Fatal(err)
	}
	err = cols.Reading(func() error {
		var c column.Column
		for i := range cols.Len() {
			if err := cols.Read(i, &c); err != nil {
				return err
			}
			out["column of "+cols.Labels(i).String()] = fmt.Sprint(c.Win, c.Inc, c.Runs, c.T, c.V, c.HT, c.H)
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, page := range []string{"/a", "/b"} {
		for _, hours := range []time.Duration{1, 2, 12, 27} {
			in := sketch.Interval{Lo: testStart.Add(-hours * time.Hour).UnixMilli(), Hi: testStart.UnixMilli()}
			out[fmt.Sprint("ids of ", page, hours)] = fmt.Sprint(d.countIDs(tenant.Default, testStart.UnixMilli(), in, equal("page", page), equal(model.MetricNameLabel, "users")))
		}
	}
	return out
}

// The exemplars of what was deleted go with it, for good.
func TestDeleteForgetsExemplars(t *testing.T) {
	db := openQuiet(t, "", nil)
	for i, page := range []string{"/a", "/b"} {
		inc := counterInc("events_total", testStart, 1, "page", page)
		b := &increment.Batch{Increments: []increment.Increment{inc}, Exemplars: []increment.Exemplar{{Series: inc.Labels, Labels: labels.FromStrings("trace_id", page), Time: inc.Time, Value: 1}}}
		if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			db.mustFlush(tenant.Default)
		}
	}
	count := func() int {
		exemplars, _ := db.mustStore(tenant.Default).notes.all()
		return len(exemplars)
	}
	db.mustFlush(tenant.Default) // both are in the file that the manifest names
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour), equal("page", "/a"))
	for _, next := range []func(){func() {}, func() { db = db.reopenQuiet(nil) }, func() { db.mustFlush(tenant.Default) }, func() { db = db.reopenQuiet(nil) }} {
		if next(); count() != 1 {
			t.Errorf("%d exemplars, want 1", count())
		}
	}
}

// Who keeps answers is told of the days that a deletion touches.
func TestDeletionIsNotedAsLate(t *testing.T) {
	db := openQuiet(t, "", nil)
	db.fillKinds()
	q := db.querier(t, tenant.Default, testStart, testStart)
	mark, err := db.Settle(q.ctx)
	if err != nil {
		t.Fatal(err)
	}
	db.mustDelete(tenant.Default, testStart.Add(-80*time.Minute), testStart, equal("page", "/a"))
	changed, err := db.Changed(q.ctx, mark)
	if err != nil || len(changed) != 1 || changed[0].From > testStart.Add(-80*time.Minute).UnixMilli() || changed[0].To < testStart.UnixMilli() {
		t.Errorf("changed %v, %v", changed, err)
	}
}

// Label listings, limits of series and the times of data are without what was deleted
// once it has been rewritten, and Deletions says how far that is.
func TestCleanGivesBack(t *testing.T) {
	db := openQuiet(t, "", func(o *Options) {
		o.Defaults = tenant.DefaultSettings()
		o.Defaults.Limits.SeriesPerMetric = 10
	})
	for i := range 9 {
		db.mustAppend(tenant.Default, increment.Increment{Series: series(increment.Gauge, "level", "page", fmt.Sprint("/", i)), Time: floorTo(testStart.UnixMilli(), g), At: floorTo(testStart.UnixMilli(), g)})
	}
	db.mustFlush(tenant.Default)
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour), equal("page", "/0"))
	status := func() DeletionStatus {
		t.Helper()
		all, err := db.Deletions(tenant.Default)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	if s := status(); s.State != DeletionAccepted || s.Left != 1 || s.Number != 1 || s.Matchers[0].Value != "/0" {
		t.Errorf("status %+v", s)
	}
	db.mustClean(tenant.Default)
	if s := status(); s.State != DeletionDone || s.Left != 0 {
		t.Errorf("status %+v", s)
	}
	q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour))
	defer q.Close()
	if pages, _, err := q.LabelValues(q.ctx, "page", nil); err != nil || len(pages) != 8 {
		t.Errorf("pages %v, %v", pages, err)
	}
	db.mustAppend(tenant.Default, increment.Increment{Series: series(increment.Gauge, "level", "page", "/new"), Time: floorTo(testStart.UnixMilli(), g), At: floorTo(testStart.UnixMilli(), g)})
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour), allSeries()...)
	db.mustClean(tenant.Default)
	if _, _, ok, err := db.DataRange(context.Background(), tenant.Default); ok || err != nil {
		t.Errorf("there is data after all of it was deleted: %v", err)
	}
	if n := len(db.mustStore(tenant.Default).man.Blocks); n != 0 {
		t.Errorf("%d blocks are left", n)
	}
}

// A deletion that a block written later is not of is kept until the last block that it is
// of has been rewritten, and logging a tenant again does not lose it.
func TestDeletionOutlivesItsLogRecord(t *testing.T) {
	db := openQuiet(t, "", func(o *Options) { o.WALSegmentBytesMax = 1 })
	db.fillKinds()
	db.mustFlush(tenant.Default)
	db.mustDelete(tenant.Default, testStart.Add(-24*time.Hour), testStart, equal("page", "/a"))
	want := db.stored(tenant.Default)
	if did, err := db.mustStore(tenant.Default).relog(context.Background(), nil); !did || err != nil {
		t.Fatal(did, err)
	}
	if err := db.releaseSegments(); err != nil {
		t.Fatal(err)
	}
	if first := db.wal.oldestSegment(); first < db.wal.end().Segment {
		t.Errorf("the log is kept from segment %d on, it ends in %d", first, db.wal.end().Segment)
	}
	for range 2 {
		db = db.reopenQuiet(func(o *Options) { o.WALSegmentBytesMax = 1 })
		if err := diff(db.stored(tenant.Default), want); err != nil {
			t.Error(err)
		}
		db.mustFlush(tenant.Default)
	}
}

// What was deleted is rewritten in the background, without being asked for.
func TestDeletionWakesBackgroundWork(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fillKinds()
	db.mustFlush(tenant.Default)
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart, equal("page", "/a"))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		all, err := db.Deletions(tenant.Default)
		if err != nil || len(all) != 1 || time.Now().After(deadline) {
			t.Fatalf("deletions %+v, %v", all, err)
		}
		if all[0].State == DeletionDone {
			return
		}
	}
}

// A block that cannot be rewritten does not keep the others from it, is said of the
// deletion, and is tried again.
func TestFailedRewritingIsTriedAgain(t *testing.T) {
	fault := &hookFS{}
	db := openQuiet(t, "", func(o *Options) { o.FS = fault })
	for range 2 {
		db.fillKinds()
		db.mustFlush(tenant.Default)
	}
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart, equal("page", "/a"))
	want := db.stored(tenant.Default)
	first := true
	fault.setHook(func(op, name string) error {
		if op == "rename" && first && filepath.Base(name) != manifestName {
			first = false
			return errInjected
		}
		return nil
	})
	if err := db.CleanTombstones(context.Background(), tenant.Default); !errors.Is(err, errInjected) {
		t.Fatalf("clean: %v", err)
	}
	all, err := db.Deletions(tenant.Default)
	if err != nil || len(all) != 1 || all[0].State != DeletionFailed || !errors.Is(all[0].Err, errInjected) || all[0].Left != 1 {
		t.Errorf("deletions %+v, %v", all, err)
	}
	if err := diff(db.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
	mustHoldOnly(t, db.mustStore(tenant.Default))
	db.mustClean(tenant.Default)
	if all, err := db.Deletions(tenant.Default); err != nil || all[0].State != DeletionDone || all[0].Err != nil {
		t.Errorf("deletions %+v, %v", all, err)
	}
	if err := diff(db.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
}

// Deletions that nothing makes done are refused past a bound, and taken again when they
// are done.
func TestDeletionsPileUpToABound(t *testing.T) {
	db := openQuiet(t, "", func(o *Options) { o.FS = noSyncFS{} })
	db.mustAppend(tenant.Default, counterInc("events_total", testStart, 1))
	for range deletionsMax {
		db.mustDelete(tenant.Default, testStart, testStart, equal("page", "/a"))
	}
	var full *overload.Error
	_, err := db.Delete(context.Background(), tenant.Default, 0, 1, equal("page", "/a"))
	if !errors.As(err, &full) || full.Reason != overload.ReasonDeletions {
		t.Errorf("one more: %v", err)
	}
	db.mustClean(tenant.Default)
	db.mustDelete(tenant.Default, testStart, testStart, equal("page", "/a"))
	if got := total(db.stored(tenant.Default)); got != 1 {
		t.Errorf("%v events, want 1", got)
	}
	if all, err := db.Deletions(tenant.Default); err != nil || len(all) != deletionsDoneMax+1 {
		t.Errorf("%d deletions are told of, %v", len(all), err)
	}
}

// A manifest that a merge wrote knows of a deletion before the memtables that it is of were
// flushed: their records are replayed, and are without what was deleted all the same; what
// was posted afterwards, to the same memtable's time, counts.
func TestDeletionIsReplayedThatTheManifestHas(t *testing.T) {
	db := openQuiet(t, "", nil)
	for range 4 {
		db.fillKinds()
		db.mustFlush(tenant.Default)
	}
	db.fillKinds()
	db.mustDelete(tenant.Default, testStart.Add(-24*time.Hour), testStart, equal("page", "/a"))
	db.mustAppend(tenant.Default, counterInc("events_total", testStart.Add(-time.Minute), 1, "page", "/a"))
	want := db.stored(tenant.Default)
	if got := total(db.stored(tenant.Default, equal("page", "/a"))); got != 1 {
		t.Fatalf("%v events of what was posted after the deletion, want 1", got)
	}
	s := db.mustStore(tenant.Default)
	if did, err := s.compactOnce(context.Background(), *db.now); !did || err != nil || s.man.Deleted != 1 || s.unsaid {
		t.Fatalf("merge: %v, %v, manifest %+v", did, err, s.man)
	}
	db = db.reopenQuiet(nil)
	if err := diff(db.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
}
