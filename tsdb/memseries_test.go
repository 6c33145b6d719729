package tsdb

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// A series takes what its log and its open window take: what a window took while it
// was open is given back when it is closed.
func TestSeriesCountsItsBytes(t *testing.T) {
	for i := range modelKinds {
		k := &modelKinds[i]
		r := rand.New(rand.NewPCG(1, uint64(i)))
		s := newMemSeries(1, k.kind, labels.EmptyLabels(), 0)
		total := 0
		for n := range 600 {
			inc := increment.Increment{Series: &increment.Series{Kind: k.kind}, Time: testStart.UnixMilli() + int64(n/3%50)*g}
			k.fill(r, &inc)
			grown, err := s.add(&inc, cutsInUse{})
			if err != nil {
				t.Fatal(err)
			}
			total += grown
			if n%10 == 0 {
				s.state() // a reader: what it shares is cloned
			}
		}
		want := cap(s.log.bytes)
		if s.open.wide != nil {
			want += s.open.wide.bytes()
		}
		if total != want {
			t.Errorf("%s: grew by %d bytes, has %d", k.name, total, want)
		}
	}
}

// Queries that overlap, so that there is always one, do not make a series keep what
// only those needed that have ended.
func TestReadersThatHaveGoneCostNothing(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: never})
	reader := func() *querier {
		q := &querier{db: db.DB, maxt: never}
		if _, _, err := q.pin(ctx); err != nil {
			t.Fatal(err)
		}
		return q
	}
	last := reader()
	for range 100 {
		next := reader()
		db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
		if err := last.Close(); err != nil {
			t.Fatal(err)
		}
		last = next
	}
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	ser := s.memtable(testStart.UnixMilli()).all()[0]
	if n := len(*ser.undo); n > 2 {
		t.Errorf("%d states are kept for one reader", n)
	}
	if got := storedAt(t, last, ctx)[`{__name__="c_total"} 1772636400000`]; got != 100 {
		t.Errorf("the last reader sees %v events, want 100", got)
	}
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
}

// Who appends may use the memory of a batch again.
func TestNativeHistogramIsCopied(t *testing.T) {
	db := openTestDB(t, "", nil)
	h := &histogram.FloatHistogram{Count: 1, Sum: 2, ZeroCount: 1}
	inc := increment.Increment{Series: series(increment.Sample, "s"), Time: testStart.UnixMilli(), Native: &increment.Native{Float: h}}
	db.mustAppend(tenant.Default, inc)
	want := db.stored(tenant.Default)
	h.Count = 7
	if err := diff(db.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
}

// A window that is a set of registers by now is read, by several at once, while it is
// added to, closed and logged again.
func TestLargeSetsAreReadWhileTheyGrow(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} })
	users := series(increment.Distinct, "users")
	r := rand.New(rand.NewPCG(1, 7))
	more := func(n, window int) increment.Increment {
		inc := increment.Increment{Series: users, Time: floorTo(testStart.UnixMilli(), g) + int64(window)*g, IDs: make([]uint64, n)}
		for i := range inc.IDs {
			inc.IDs[i] = r.Uint64()
		}
		return inc
	}
	db.mustAppend(tenant.Default, more(3000, 0))
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					db.stored(tenant.Default)
				}
			}
		})
	}
	for i := range 60 {
		db.mustAppend(tenant.Default, more(50, i%3))
		if i%10 == 9 {
			if _, err := s.relog(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}
