package tsdb

import (
	"context"
	"math/rand/v2"
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
