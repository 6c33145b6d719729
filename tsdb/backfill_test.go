package tsdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	backfillYear   = 365
	backfillCount  = 40_000
	backfillBudget = 300 << 10 // of memory
)

// backfilled is what storage looks like when a year of events was posted at once.
type backfilled struct {
	spans      []string // of blocks, when they are merged
	bytes      int64
	blocksMost int
	memoryMost int64
}

// backfill posts the events of a year, in the order given, to a tenant that has nothing.
func backfill(t *testing.T, days []int) (out backfilled) {
	end := testStart.Truncate(24 * time.Hour).Add(3 * time.Hour)
	db := openTestDB(t, "", func(o *Options) {
		o.FS, o.MemtableBytesMax, o.WALBytesMax, o.MaintainInterval = noSyncFS{}, backfillBudget, 16<<20, time.Hour
	})
	*db.now = end
	r := rand.New(rand.NewPCG(9, 9))
	var series []*increment.Series
	for page := range 30 {
		series = append(series, counterInc("page_views_total", end, 1, "page", fmt.Sprint("/", page)).Series)
	}
	ctx := context.Background()
	var b increment.Batch
	for i, day := range days {
		at := end.Add(-3 * time.Hour).Add(-time.Duration(backfillYear-day) * 24 * time.Hour).Add(time.Duration(r.IntN(86_400)) * time.Second)
		b.Increments = append(b.Increments, increment.Increment{Series: series[r.IntN(len(series))], Time: floorTo(at.UnixMilli(), g), Value: 1})
		if len(b.Increments) < 500 && i < len(days)-1 {
			continue
		}
		for {
			_, err := db.Append(ctx, tenant.Default, &b)
			if busy := (*overload.Error)(nil); !errors.As(err, &busy) {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if err := db.maintainMemory(ctx); err != nil {
				t.Fatal(err)
			}
		}
		b.Increments = b.Increments[:0]
		out.memoryMost = max(out.memoryMost, db.mustStore(tenant.Default).memBytes())
		if err := db.maintainMemory(ctx); err != nil {
			t.Fatal(err)
		}
		out.blocksMost = max(out.blocksMost, db.mustStore(tenant.Default).usage().Blocks)
		if i%5000 == 4999 { // as background work comes now and then
			if err := db.maintainBlocks(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := errors.Join(db.Flush(ctx, tenant.Default), db.maintainBlocks(ctx))
	*db.now = db.now.Add(compactSettled + compactQuiet)
	if err = errors.Join(err, db.maintainBlocks(ctx)); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(tenant.Default)); got != float64(len(days)) {
		t.Errorf("%v events are stored, %d were posted", got, len(days))
	}
	for _, b := range db.mustStore(tenant.Default).man.Blocks {
		span := spanAt(b.MinTime, compactRanges[0])
		for _, r := range compactRanges {
			if s := spanAt(b.MinTime, r); s.covers(blockSpan{b.MinTime, b.MaxTime}) {
				span = s
				break
			}
		}
		out.spans = append(out.spans, fmt.Sprint(span))
		out.bytes += b.Bytes
	}
	slices.Sort(out.spans)
	return out
}

// A year of events in random order takes no more memory than its budget and few blocks on
// the way, and is stored in the end as the same in order is.
func TestBackfillInRandomOrder(t *testing.T) {
	t.Parallel()
	days := make([]int, backfillCount)
	for i := range days {
		days[i] = i * backfillYear / backfillCount
	}
	ordered := backfill(t, days)
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(days), func(i, j int) { days[i], days[j] = days[j], days[i] })
	random := backfill(t, days)
	t.Logf("in order %d blocks, %d bytes; in random order %d bytes, at most %d blocks and %d bytes of memory", len(ordered.spans), ordered.bytes, random.bytes, random.blocksMost, random.memoryMost)
	if !slices.Equal(random.spans, ordered.spans) {
		t.Errorf("blocks of the spans\n%v, in order\n%v", random.spans, ordered.spans)
	}
	if ratio := float64(random.bytes) / float64(ordered.bytes); ratio > 1.1 || ratio < 0.9 {
		t.Errorf("%d bytes, in order %d", random.bytes, ordered.bytes)
	}
	if random.memoryMost > backfillBudget*3/2 || random.blocksMost > 8*len(ordered.spans) {
		t.Errorf("%d bytes of memory of %d, and %d blocks", random.memoryMost, backfillBudget, random.blocksMost)
	}
}
