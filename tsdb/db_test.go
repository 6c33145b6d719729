package tsdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// All kinds come back from memtables, log and blocks alike.
func TestKindsSurviveFlushAndReopen(t *testing.T) {
	db := openTestDB(t, "", nil)
	h := &increment.Hist{}
	h.Observe(3)
	h.Observe(-12.5)
	incs := []increment.Increment{
		counterInc("c_total", testStart, 2.5, "a", "b"),
		{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "h"), increment.Histogram, nil), Time: floorTo(testStart.UnixMilli(), g), Hist: h},
		{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "d"), increment.Distinct, nil), Time: floorTo(testStart.UnixMilli(), g), IDs: []uint64{5, 6, 5}},
	}
	db.mustAppend(tenant.Default, incs...)
	want := db.stored(tenant.Default)
	if len(want) != 3 || total(want) != 2.5+2+2 {
		t.Fatalf("stored %v", want)
	}
	for _, step := range []string{"reopen", "flush", "reopen"} {
		if step == "flush" {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		} else {
			db = db.reopen(nil)
		}
		if err := diff(db.stored(tenant.Default), want); err != nil {
			t.Errorf("after %s: %v", step, err)
		}
		kinds, err := db.Kinds(tenant.Default)
		if err != nil || kinds["c_total"] != increment.Counter || kinds["h"] != increment.Histogram || kinds["d"] != increment.Distinct {
			t.Errorf("after %s: kinds %v, %v", step, kinds, err)
		}
	}
	// A second part of the same windows merges with the block's.
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1, "a", "b"),
		increment.Increment{Series: increment.NewSeries(incs[2].Labels, increment.Distinct, nil), Time: incs[2].Time, IDs: []uint64{6, 7}})
	if got := total(db.stored(tenant.Default)); got != 3.5+2+3 {
		t.Errorf("after more increments: %v", db.stored(tenant.Default))
	}
}

// A batch key counts once: at once, concurrently, after a reopen and after a
// flush; and again when it has expired.
func TestBatchKeyCountsOnce(t *testing.T) {
	db := openTestDB(t, "", nil)
	post := func() bool {
		b := &increment.Batch{HasKey: true, Key: [16]byte{1, 2, 3}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		dup, err := db.Append(context.Background(), tenant.Default, b)
		if err != nil {
			t.Fatal(err)
		}
		return dup
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 16 {
		wg.Go(func() {
			if !post() {
				mu.Lock()
				applied++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if applied != 1 {
		t.Errorf("%d of 16 concurrent batches with one key were applied", applied)
	}
	db = db.reopen(nil)
	if !post() {
		t.Error("applied again after a reopen")
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil)
	if !post() {
		t.Error("applied again after a flush and a reopen")
	}
	*db.now = testStart.Add(25 * time.Hour)
	if post() {
		t.Error("still a duplicate after 25 hours")
	}
	if got := total(db.stored(tenant.Default)); got != 2 {
		t.Errorf("counted %v times", got)
	}
}

// A series that a client names again and again is found in every storage it goes to:
// another tenant's, another one of the process, the same opened again.
func TestSeriesKeptByItsClientGoesWhereItBelongs(t *testing.T) {
	a, b, gauge := series(increment.Counter, "a_total"), series(increment.Counter, "b_total"), series(increment.Gauge, "a_level")
	at := floorTo(testStart.UnixMilli(), g)
	count := func(s *increment.Series) increment.Increment {
		return increment.Increment{Series: s, Time: at, At: at, Value: 1}
	}
	first, second := openTestDB(t, "", nil), openTestDB(t, "", nil)
	first.mustAppend(tenant.Default, count(a), count(b), count(gauge))
	second.mustAppend(tenant.Default, count(b), count(a))
	second.mustAppend(tenantID(t, "other"), count(gauge), count(a))
	first = first.reopen(nil)
	first.mustAppend(tenant.Default, count(gauge), count(b))
	first = first.reopen(nil)
	first.mustAppend(tenantID(t, "third"), count(gauge))
	first.mustAppend(tenant.Default, count(a))
	for _, c := range []struct {
		db   *testDB
		id   tenant.ID
		want map[string]float64
	}{
		{first, tenant.Default, map[string]float64{"a_total": 2, "b_total": 2, "a_level": 1}},
		{first, tenantID(t, "third"), map[string]float64{"a_level": 1}},
		{second, tenant.Default, map[string]float64{"a_total": 1, "b_total": 1}},
		{second, tenantID(t, "other"), map[string]float64{"a_total": 1, "a_level": 1}},
	} {
		want := map[string]float64{}
		for name, v := range c.want {
			want[fmt.Sprintf("{__name__=%q} %d", name, at)] = v
		}
		if err := diff(c.db.stored(c.id), want); err != nil {
			t.Errorf("tenant %s: %v", c.id, err)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	db := openTestDB(t, "", nil)
	_, err := Open(Options{Dir: db.dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second open: %v", err)
	}
}

// Label names and values know matchers and time.
func TestLabelQueries(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default,
		counterInc("events_total", testStart.Add(-72*time.Hour), 1, "page", "/old"),
		counterInc("events_total", testStart, 1, "page", "/a", "country", "DE"),
		counterInc("other_total", testStart, 1, "page", "/b"))
	for _, stage := range []string{"memory", "block"} {
		q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart)
		vals, _, err := q.LabelValues(q.ctx, "page", nil)
		if err != nil || strings.Join(vals, " ") != "/a /b" {
			t.Errorf("%s: values %v, %v", stage, vals, err)
		}
		m := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "events_total")
		vals, _, err = q.LabelValues(q.ctx, "page", nil, m)
		if err != nil || strings.Join(vals, " ") != "/a" {
			t.Errorf("%s: values of events_total %v, %v", stage, vals, err)
		}
		names, _, err := q.LabelNames(q.ctx, nil)
		if err != nil || strings.Join(names, " ") != "__name__ country page" {
			t.Errorf("%s: names %v, %v", stage, names, err)
		}
		names, _, err = q.LabelNames(q.ctx, nil, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "other.*"))
		if err != nil || strings.Join(names, " ") != "__name__ page" {
			t.Errorf("%s: names of other_total %v, %v", stage, names, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
}

// A batch that is refused leaves no series to be listed.
func TestRefusedBatchLeavesNoSeries(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("events_total", testStart, 1, "page", "/a"))
	b := &increment.Batch{Increments: []increment.Increment{
		counterInc("events_total", testStart, 1, "page", "/refused"), counterInc("events_total", testStart, -1, "page", "/a"),
	}}
	if _, err := db.Append(context.Background(), tenant.Default, b); err == nil {
		t.Fatal("a negative increment was taken")
	}
	q := db.querier(t, tenant.Default, testStart.Add(-24*time.Hour), testStart.Add(24*time.Hour))
	defer q.Close()
	m := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "events_total")
	if vals, _, err := q.LabelValues(q.ctx, "page", nil, m); err != nil || strings.Join(vals, " ") != "/a" {
		t.Errorf("values %v, %v", vals, err)
	}
	n := 0
	for set := q.Select(q.ctx, true, nil, m); set.Next(); n++ {
	}
	if n != 1 {
		t.Errorf("%d series, want 1", n)
	}
}

// What a crash left behind is swept, and a directory that lost its manifest is
// not taken for a new tenant.
func TestManifestIsTheOnlyAuthority(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 3))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(db.dir, "default")
	for _, name := range []string{"01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAX.tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "chunks"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != 3 {
		t.Errorf("stored %v, want 3", got)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	if len(names) != 1 {
		t.Errorf("directories %v, want one block", names)
	}
	if err := os.Remove(filepath.Join(dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil)
	_, err = db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 3)}})
	if err == nil || !strings.Contains(err.Error(), "no manifest.json") {
		t.Errorf("append without a manifest: %v", err)
	}
}

func TestTenantsNeverMeet(t *testing.T) {
	db := openTestDB(t, "", nil)
	a, b := tenantID(t, "a"), tenantID(t, "b")
	db.mustAppend(a, counterInc("c_total", testStart, 1, "secret", "of a"))
	db.mustAppend(b, counterInc("c_total", testStart, 2))
	q := db.querier(t, a, testStart.Add(-time.Hour), testStart)
	defer q.Close()
	all := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".*")
	if n := countSamples(t, q.Select(q.ctx, true, nil, all)); n == 0 {
		t.Error("tenant a sees nothing of its own")
	}
	// One querier does not change tenants, whatever context it is given.
	other := scope.With(context.Background(), scope.Scope{Tenant: b, Now: db.now.UnixMilli()})
	if set := q.Select(other, true, nil, all); set.Next() || set.Err() == nil {
		t.Error("a querier of tenant a answered for tenant b")
	}
	if set := q.Select(context.Background(), true, nil, all); set.Next() || set.Err() == nil {
		t.Error("a querier answered for no tenant")
	}
}
