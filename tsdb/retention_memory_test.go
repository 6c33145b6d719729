package tsdb

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// inMemory appends an increment of 1 a day to some series, at noon of so many days, and
// flushes nothing.
func (d *testDB) inMemory(id tenant.ID, n int, lbls ...[]string) (first time.Time) {
	first = testStart.Truncate(24 * time.Hour).Add(12 * time.Hour)
	for day := range n {
		*d.now = first.Add(time.Duration(day)*24*time.Hour + time.Hour)
		for _, l := range lbls {
			d.mustAppend(id, counterInc("c_total", first.Add(time.Duration(day)*24*time.Hour), 1, l...))
		}
	}
	return first
}

// selected sums what is stored of the series whose labels contain a text.
func (d *testDB) selected(id tenant.ID, text string) (sum float64) {
	for key, n := range d.stored(id) {
		if strings.Contains(key, text) {
			sum += n
		}
	}
	return sum
}

func (d *testDB) mustForgetMemory(t *testing.T, reason string) {
	t.Helper()
	if n := testutil.ToFloat64(d.metrics.retentionMemory.WithLabelValues(reason)); n <= 0 {
		t.Errorf("%v bytes of memory went by %s", n, reason)
	}
}

// A tenant that never has enough for a block loses what is too old from memory, from
// answers and from the log, also when nobody has asked for it since the start.
func TestRetentionInMemoryByAge(t *testing.T) {
	settings := retaining(t, "retention: 3d")
	options := func(o *Options) { o.Defaults = settings }
	for _, restart := range []bool{false, true} {
		db := openTestDB(t, "", options)
		first := db.inMemory(tenant.Default, 3, []string{"page", "/"})
		reopen := func() {
			now := *db.now
			db = db.reopen(options)
			*db.now = now
		}
		if restart {
			reopen()
		}
		s := db.mustStore(tenant.Default)
		before := s.memBytes()
		db.mustMaintain(t)
		if got := total(db.stored(tenant.Default)); got != 3 {
			t.Errorf("%v increments before any is too old, want 3", got)
		}
		*db.now = first.Add(4*24*time.Hour + 3*time.Hour) // of the first two
		db.mustMaintain(t)
		if got := total(db.stored(tenant.Default)); got != 1 || s.usage().Blocks != 0 {
			t.Errorf("%v increments and %d blocks, want the one that is not too old in memory", got, s.usage().Blocks)
		}
		if after := s.memBytes(); after >= before || db.pressure.memory.Load() != after {
			t.Errorf("memory takes %d bytes, %d in all, it took %d", after, db.pressure.memory.Load(), before)
		}
		if mint, _, ok, err := db.DataRange(context.Background(), tenant.Default); err != nil || !ok || mint != first.Add(48*time.Hour).UnixMilli() {
			t.Errorf("data begins at %v, %v, %v", time.UnixMilli(mint).UTC(), ok, err)
		}
		db.mustForgetMemory(t, removedByAge)
		db.mustRetain(t, 0, 0, 0)
		reopen()
		if got := total(db.stored(tenant.Default)); got != 1 {
			t.Errorf("%v increments come back from the log, want 1", got)
		}
		*db.now = db.now.Add(10 * 24 * time.Hour)
		db.mustMaintain(t)
		db.mustAppend(tenant.Default, counterInc("c_total", *db.now, 5, "page", "/"))
		if got := total(db.stored(tenant.Default)); got != 5 {
			t.Errorf("%v increments after all have gone, want 5", got)
		}
		reopen()
		if got := total(db.stored(tenant.Default)); got != 5 {
			t.Errorf("%v increments after the restart, want 5", got)
		}
		mustBeSoundAfter(t, db)
	}
}

// Rules take whole days of series out of memtables; the others stay, and so does what
// readers have pinned; places below the limit of series come back.
func TestRetentionInMemoryByRule(t *testing.T) {
	settings := retaining(t, `
retention: 30d
retention_rules:
  - {match: '{env="dev", keep="yes"}', retention: 0s}
  - {match: '{env="dev"}', retention: 2d}
`)
	options := func(o *Options) { o.Defaults = settings }
	db := openTestDB(t, "", options)
	dev, kept, prod := []string{"env", "dev"}, []string{"env", "dev", "keep", "yes"}, []string{"env", "prod"}
	first := db.inMemory(tenant.Default, 6, dev, kept, prod)
	q := &querier{db: db.DB, maxt: never}
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: never})
	v, _, err := q.pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	readers := map[string]float64{}
	for key, n := range db.stored(tenant.Default) {
		readers[key] = n
	}
	s := db.mustStore(tenant.Default)
	s.late.settle(math.MaxInt64)
	seq := s.late.settle(first.UnixMilli())
	expect := func(wantDev float64) {
		t.Helper()
		for lbls, want := range map[string]float64{`env="dev"}`: wantDev, `keep="yes"}`: 6, `env="prod"}`: 6} {
			if got := db.selected(tenant.Default, lbls); got != want {
				t.Errorf("%v increments are left of %s, want %v", got, lbls, want)
			}
		}
	}
	db.mustMaintain(t) // 13:00 of the sixth day: dev before the fourth
	expect(3)
	if s.late.settle(first.UnixMilli()) == seq {
		t.Error("nothing says that the past has changed")
	}
	db.mustForgetMemory(t, removedByRule)
	// The reader sees what there was, less nothing that came and nothing that went.
	db.mustAppend(tenant.Default, counterInc("c_total", *db.now, 100, prod...))
	readVersionAt(t, v, q.cut, readers)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	db.mustAppend(tenant.Default, counterInc("c_total", first.Add(48*time.Hour), 1, dev...))
	*db.now = db.now.Add(memoryRulesEvery)
	db.mustMaintain(t) // what came for a day that is past
	if got := db.selected(tenant.Default, `env="dev"}`); got != 3 {
		t.Errorf("%v increments of dev after a late one, want 3", got)
	}
	now := *db.now
	db = db.reopen(options)
	*db.now = now
	if got := db.selected(tenant.Default, `env="dev"}`); got != 3 || db.mustStore(tenant.Default).usage().Blocks != 0 {
		t.Errorf("%v increments of dev after the restart, want 3 in memory", got)
	}
	*db.now = now.Add(5 * 24 * time.Hour)
	db.mustMaintain(t)
	if got := db.selected(tenant.Default, `env="dev"}`); got != 0 {
		t.Errorf("%v increments of dev are left", got)
	}
	if st := statsOf(t, db, tenant.Default, 10); st.Series != 2 {
		t.Errorf("%d series are left, want 2", st.Series)
	}
	mustBeSoundAfter(t, db)
}

// Of what came late, and is together in memory for many days, rules take the days that
// are past.
func TestRetentionInMemoryOfLateSpans(t *testing.T) {
	settings := retaining(t, "retention_rules: [{match: '{env=\"dev\"}', retention: 60d}]")
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	first := testStart.Truncate(24 * time.Hour)
	*db.now = first.Add(40 * 24 * time.Hour)
	for day := range 28 {
		for _, env := range []string{"dev", "prod"} {
			db.mustAppend(tenant.Default, counterInc("c_total", first.Add(time.Duration(day)*24*time.Hour), 1, "env", env))
		}
	}
	if n := len(db.mustStore(tenant.Default).routing); n > 4 {
		t.Fatalf("%d memtables, want a few of many days", n)
	}
	left := 28.0
	for range 60 {
		*db.now = db.now.Add(24 * time.Hour)
		db.mustMaintain(t)
		age := db.now.Sub(first).Hours()/24 - 60
		got := db.selected(tenant.Default, `env="dev"}`)
		if whole := math.Min(28, math.Max(0, 28-age)); got < whole || got > whole+7 || got > left {
			t.Errorf("%v increments of dev when %v days are past, %v before that", got, age, left)
		}
		left = got
	}
	if got := db.selected(tenant.Default, `env="prod"}`); left != 0 || got != 28 {
		t.Errorf("%v increments of dev and %v of prod are left, want 0 and 28", left, got)
	}
	mustBeSoundAfter(t, db)
}

// readVersionAt expects what a reader of a version sees at its cut.
func readVersionAt(t *testing.T, v *version, at cut, want map[string]float64) {
	t.Helper()
	got := map[string]float64{}
	readVersion(t, v, func(sels []*selection) {
		for _, sel := range sels {
			p, err := sel.read(0, never, at)
			if err != nil {
				t.Fatal(err)
			}
			sumPoints(t, got, sel.labels, &p)
		}
	})
	if err := diff(got, want); err != nil {
		t.Errorf("a reader: %v", err)
	}
}

// Every kind that stays is as it was, in memory and after a restart.
func TestRetentionInMemoryKeepsEveryKind(t *testing.T) {
	settings := retaining(t, "retention_rules: [{match: '{page=\"/a\"}', retention: 1d}]")
	options := func(o *Options) { o.Defaults = settings }
	db := openTestDB(t, "", options)
	for range 2 {
		db.mustAppend(tenant.Default, everyKind("/a", testStart)...)
		db.mustAppend(tenant.Default, everyKind("/b", testStart)...)
	}
	want := db.stored(tenant.Default, equal("page", "/b"))
	*db.now = testStart.Add(48 * time.Hour)
	db.mustMaintain(t)
	for _, where := range []string{"in memory", "after a restart", "in a block"} {
		if err := diff(db.stored(tenant.Default), want); err != nil || len(want) == 0 {
			t.Errorf("%s: %v", where, err)
		}
		switch where {
		case "in memory":
			db = db.reopen(options)
		case "after a restart":
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustBeSoundAfter(t, db)
}

// A tenant that is not small is flushed and its blocks retained; one whose log cannot be
// written keeps what it has.
func TestRetentionInMemoryOfOthers(t *testing.T) {
	settings := retaining(t, "retention: 3d")
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	var incs []increment.Increment
	for i := range 2000 {
		incs = append(incs, counterInc("c_total", testStart, 1, "page", strings.Repeat("x", 1+i)))
	}
	for len(incs) > 0 {
		db.mustAppend(tenant.Default, incs[:500]...)
		incs = incs[500:]
	}
	if n := db.mustStore(tenant.Default).memBytes(); n < blockBytesMin {
		t.Fatalf("%d bytes are little", n)
	}
	*db.now = testStart.Add(5 * 24 * time.Hour)
	db.mustMaintain(t)
	db.mustMaintain(t)
	if got := total(db.stored(tenant.Default)); got != 0 {
		t.Errorf("%v increments are left", got)
	}
	small := tenantID(t, "small")
	db.mustAppend(small, counterInc("c_total", *db.now, 1))
	failed := errors.New("no more")
	db.wal.mu.Lock()
	db.wal.failed = failed
	db.wal.mu.Unlock()
	*db.now = db.now.Add(5 * 24 * time.Hour)
	if err := db.maintainBlocks(context.Background()); !errors.Is(err, failed) || !strings.Contains(err.Error(), "from the memory of tenant small") {
		t.Errorf("with a log that takes nothing: %v", err)
	}
	if got := total(db.stored(small)); got != 1 {
		t.Errorf("%v increments are left, want 1", got)
	}
	db.wal.mu.Lock()
	db.wal.failed = nil
	db.wal.mu.Unlock()
	*db.now = db.now.Add(compactRetry)
	db.mustMaintain(t)
	if got := total(db.stored(small)); got != 0 {
		t.Errorf("%v increments are left after it was tried again", got)
	}
}
