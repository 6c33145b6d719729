package tsdb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/tenant"
)

// Plans, as a specification: blocks as "day+days:size", the present as a day, and
// what is merged.
func TestCompactionPlan(t *testing.T) {
	for _, c := range []struct{ name, blocks, now, retention, want string }{
		{"one block is left alone", "0+1:10", "9", "", ""},
		{"a day that is over is merged", "0+1:10 0+1:10", "1.1", "", "0+1:10 0+1:10"},
		{"not while late events still come", "0+1:10 0+1:10", "1.01", "", ""},
		{"a day that grows is merged from four", "0+1:10 0+1:10 0+1:10", "0.5", "", ""},
		{"a day that grows is merged from four", "0+1:10 0+1:10 0+1:10 0+1:10", "0.5", "", "0+1:10 0+1:10 0+1:10 0+1:10"},
		{"a few late events do not rewrite a day", "0+1:1000 0+1:10", "5", "", ""},
		{"late events are merged among themselves", "0+1:1000 0+1:10 0+1:11", "5", "", "0+1:10 0+1:11"},
		{"many late events are worth it", "0+1:1000 0+1:300", "5", "", "0+1:300 0+1:1000"},
		{"days are merged to three when they are over", "0+1:10 1+1:10 2+1:10", "3.1", "", "0+1:10 1+1:10 2+1:10"},
		{"days of different spans are not", "2+1:10 3+1:10", "4", "", ""},
		{"three days to nine, nine to twenty-seven", "0+3:30 3+3:30 6+3:30", "9.1", "", "0+3:30 3+3:30 6+3:30"},
		{"three days to nine, nine to twenty-seven", "0+9:90 9+9:90 18+9:90", "28", "", "0+9:90 9+9:90 18+9:90"},
		{"a tenth of retention is the longest", "0+1:10 1+1:10 2+1:10", "3.1", "29d", ""},
		{"a tenth of retention is the longest", "0+1:10 1+1:10 2+1:10", "3.1", "30d", "0+1:10 1+1:10 2+1:10"},
		{"a day is merged whatever the retention", "0+1:10 0+1:10", "2", "2d", "0+1:10 0+1:10"},
		{"nor is more than a tenth of the size that is kept", "0+1:10 1+1:10 2+1:10", "3.1", "199B", ""},
		{"nor is more than a tenth of the size that is kept", "0+1:10 1+1:10 2+1:10", "3.1", "300B", "0+1:10 1+1:10 2+1:10"},
		{"a day is merged whatever the size", "0+1:10 0+1:10", "2", "2B", "0+1:10 0+1:10"},
		{"the largest spans hold no more", "0+27:500 27+27:500", "60", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			names := map[ulid.ULID]string{}
			var blocks []blockInfo
			for i, s := range strings.Fields(c.blocks) {
				var start, days, size int64
				if _, err := fmt.Sscanf(s, "%d+%d:%d", &start, &days, &size); err != nil {
					t.Fatal(err)
				}
				b := blockInfo{ULID: ulid.ULID{15: byte(i)}, MinTime: start * dayMillis, MaxTime: (start + days) * dayMillis, Bytes: size}
				names[b.ULID] = s
				blocks = append(blocks, b)
			}
			var day float64
			if _, err := fmt.Sscan(c.now, &day); err != nil {
				t.Fatal(err)
			}
			var settings tenant.Settings
			if strings.HasSuffix(c.retention, "B") {
				if size, err := tenant.ParseByteSize(c.retention); err != nil {
					t.Fatal(err)
				} else {
					settings.RetentionSize = size
				}
			} else if c.retention != "" {
				if err := settings.Retention.Set(c.retention); err != nil {
					t.Fatal(err)
				}
			}
			plan := planCompaction(blocks, time.UnixMilli(int64(day*dayMillis)), &settings).blocks
			var got []string
			for _, b := range plan {
				got = append(got, names[b.ULID])
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("merges %q, want %q", s, c.want)
			}
		})
	}
}

// However many blocks come, merging ends, and leaves a number of blocks that
// grows with the logarithm of their sizes.
func TestCompactionPlanConverges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var blocks []blockInfo
	rewritten, flushed := int64(0), int64(0)
	next := byte(0)
	for i := range 1000 {
		next++
		day := int64(i / 50)
		if r.IntN(5) == 0 {
			day = int64(r.IntN(int(day) + 1))
		}
		size := int64(1 + r.IntN(100))
		flushed += size
		blocks = append(blocks, blockInfo{ULID: ulid.ULID{0: next, 1: byte(i), 2: byte(i >> 8)}, MinTime: day * dayMillis, MaxTime: (day + 1) * dayMillis, Bytes: size})
		for range 100 {
			plan := planCompaction(blocks, time.UnixMilli(int64(i)*dayMillis/50), &tenant.Settings{}).blocks
			if plan == nil {
				break
			}
			merged := plan[0]
			merged.Bytes = 0
			rest := blocks[:0:0]
			for _, b := range blocks {
				in := false
				for _, p := range plan {
					in = in || p.ULID == b.ULID
				}
				if !in {
					rest = append(rest, b)
					continue
				}
				merged.MinTime, merged.MaxTime = min(merged.MinTime, b.MinTime), max(merged.MaxTime, b.MaxTime)
				merged.Bytes += b.Bytes
				rewritten += b.Bytes
			}
			blocks = append(rest, merged)
		}
	}
	t.Logf("%d blocks are left of 1000, each byte was rewritten %.1f times", len(blocks), float64(rewritten)/float64(flushed))
	if len(blocks) > 30 || float64(rewritten) > 15*float64(flushed) {
		t.Errorf("%d blocks are left, %d bytes rewritten for %d", len(blocks), rewritten, flushed)
	}
}

// Merging changes no increment and no answer, of any kind, while readers go on.
func TestCompactionKeepsEveryIncrement(t *testing.T) {
	t.Parallel()
	tw := newTwin(t, 21)
	db := tw.ours
	for i := range 6 {
		db.mustAppend(tenant.Default, counterInc("events_total", tw.from.Add(time.Duration(i)*time.Hour), 2, "page", "/late"))
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	*db.now = testStart.Add(72 * time.Hour)
	tw.now = db.now.UnixMilli()
	answers := func() string {
		var all []string
		for _, q := range []string{"events_total", "sum(rate(events_total[1h]))", "histogram_quantile(0.9, sum(rate(latency[6h])))"} {
			s, err := tw.run(db, q, tw.from, tw.to, 10*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		return strings.Join(all, "\n\n")
	}
	before, stored := answers(), db.stored(tenant.Default)
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	pinned := s.versions.pin()
	blocks := len(pinned.blocks)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	after := s.versions.pin()
	if len(after.blocks) >= blocks || len(after.blocks) > 3 {
		t.Errorf("%d blocks were merged to %d", blocks, len(after.blocks))
	}
	s.versions.unpin(after)
	for _, b := range pinned.blocks {
		if _, err := b.meta(); err != nil {
			t.Errorf("a block went while it was in use: %v", err)
		}
	}
	s.versions.unpin(pinned)
	for range 2 {
		if got := answers(); got != before {
			t.Error("answers changed: ", firstDifference(got, before))
		}
		if err := diff(db.stored(tenant.Default), stored); err != nil {
			t.Error(err)
		}
		tw.ours = db.reopen(nil)
		db = tw.ours
	}
}
