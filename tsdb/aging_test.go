package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// hourly is what is stored in each hour of each page, which no aging of data may change:
// "events_total /a 12" is a count, "users /a 12 34" that a user was there.
type hourly map[string]float64

// agingPages are the pages that events are of. What is of devPage is kept for three days.
var agingPages = []string{"/a", "/b", devPage}

const (
	devPage   = "/dev"
	agingHour = 3_600_000
)

const agingSettings = `
downsample: [{after: 2d, to: 5m}, {after: 6d, to: 1h}]
retention_rules: [{match: '{page="/dev"}', retention: 3d}]
`

// agingHistory is a life of a directory in which data gets old: it is downsampled, deleted
// and dropped by rules while more comes late.
type agingHistory struct {
	t           testing.TB
	db          *testDB
	now         time.Time
	sure, maybe hourly
}

func (h *agingHistory) open(fs vfs.FS, dir string) error {
	settings, err := tenant.ParseSettings([]byte(agingSettings), tenant.DefaultSettings())
	if err != nil {
		return err
	}
	db, err := Open(Options{
		Dir: dir, FS: fs, Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		MaintainInterval: time.Hour, WALSegmentBytesMax: 2000, WALBytesMax: 1 << 30, Defaults: settings,
	})
	if err == nil {
		db.stop()
		<-db.maintained
	}
	h.db = &testDB{DB: db, t: h.t, dir: dir, now: &h.now}
	return err
}

// do is one operation, after which there is what change makes of what there was.
func (h *agingHistory) do(op func() error, change func(hourly)) {
	h.t.Helper()
	next := maps.Clone(h.sure)
	if change != nil {
		change(next)
	}
	h.maybe = next
	if err := op(); err != nil {
		h.t.Fatal(err)
	}
	h.sure = next
}

// post posts an event of every kind at some times.
func (h *agingHistory) post(page string, at ...time.Time) {
	var batch []increment.Increment
	for _, t := range at {
		batch = append(batch, everyKind(page, t)...)
	}
	h.do(func() error { h.db.mustAppend(tenant.Default, batch...); return nil }, func(m hourly) {
		for _, t := range at {
			win := floorTo(t.UnixMilli(), g)
			of := fmt.Sprint(" ", page, " ", win/agingHour)
			m["events_total"+of]++
			m["latency"+of]++
			m["load_seconds"+of]++
			m[fmt.Sprint("users", of, " ", win)] = 1
			m[fmt.Sprint("users", of, " 7")] = 1
			m["level"+of], m["scraped"+of] = 2, 5
		}
	})
}

// drop removes what hours of a page have.
func (m hourly) drop(page string, goes func(hour int64) bool) {
	maps.DeleteFunc(m, func(key string, _ float64) bool {
		var name, of string
		var hour int64
		fmt.Sscan(key, &name, &of, &hour)
		return of == page && goes(hour)
	})
}

// delete deletes whole hours of a page.
func (h *agingHistory) delete(page string, from, to int64) {
	h.do(func() error {
		_, err := h.db.Delete(context.Background(), tenant.Default, from*agingHour, to*agingHour-1, equal("page", page))
		return err
	}, func(m hourly) { m.drop(page, func(hour int64) bool { return hour >= from && hour < to }) })
}

// maintain lets time pass, and blocks age by it. What rules drop is gone as of a midnight.
func (h *agingHistory) maintain(after time.Duration) {
	h.now = h.now.Add(after)
	h.do(func() error { return h.db.maintainBlocks(context.Background()) }, nil)
}

// stored is what there is, users counted.
func (h *agingHistory) stored() (hourly, error) {
	out := hourly{}
	s, err := h.db.store(tenant.Default, false)
	if err != nil || s == nil {
		return out, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	users := map[string]bool{}
	readVersion(h.t, v, func(sels []*selection) {
		for _, sel := range sels {
			name, page := sel.labels.Get("__name__"), sel.labels.Get("page")
			key := func(win int64) string { return fmt.Sprint(name, " ", page, " ", floorTo(win, agingHour)/agingHour) }
			var p points
			if p, err = sel.read(0, never, newest); err != nil {
				return
			}
			for i, w := range p.win {
				switch sel.kind {
				case increment.Counter:
					out[key(w)] += p.value[i]
				case increment.Histogram, increment.Buckets:
					out[key(w)] += float64(p.hist[i].Float(nil).Count)
				case increment.Gauge:
					out[key(w)] = p.value[i]
				case increment.Sample:
					if !p.isMarker(i) {
						out[key(w)] = p.value[i]
					}
				}
			}
			if sel.kind == increment.Distinct {
				users[page] = true
			}
		}
	})
	for page := range users {
		for hour := range h.hours() {
			in := sketch.Interval{Lo: hour * agingHour, Hi: (hour + 1) * agingHour}
			if n := h.db.countIDs(tenant.Default, never, in, equal("__name__", "users"), equal("page", page)); n[0] > 0 {
				out[fmt.Sprint("users ", page, " ", hour)] = n[0]
			}
		}
	}
	return out, err
}

// hours are those that something was posted in.
func (h *agingHistory) hours() map[int64]bool {
	out := map[int64]bool{}
	for _, m := range []hourly{h.sure, h.maybe} {
		for key := range m {
			var name, page string
			var hour int64
			fmt.Sscan(key, &name, &page, &hour)
			out[hour], out[hour-1], out[hour+1] = true, true, true
		}
	}
	return out
}

// counted is m with users counted.
func (m hourly) counted() hourly {
	out := hourly{}
	for key, n := range m {
		if f := strings.Fields(key); f[0] == "users" {
			out[strings.Join(f[:3], " ")]++
		} else {
			out[key] += n
		}
	}
	return out
}

// compare compares what there is with what there should be. Of samples that were thinned
// some show in hours that had none between others; and what rules may have dropped may be
// there.
func (h *agingHistory) compare(want hourly) error {
	got, err := h.stored()
	if err != nil {
		return err
	}
	want = want.counted()
	past := floorTo(h.now.Add(-3*24*time.Hour).UnixMilli(), dayMillis) / agingHour
	for _, m := range []hourly{got, want} {
		m.drop(devPage, func(hour int64) bool { return hour < past })
	}
	for key := range got {
		if _, ok := want[key]; !ok && strings.HasPrefix(key, "scraped") {
			delete(got, key)
		}
	}
	return diff(got, want)
}

func (h *agingHistory) live(fs vfs.FS, dir string) {
	ctx := context.Background()
	none := func(op func() error) { h.t.Helper(); h.do(op, nil) }
	flush := func() {
		h.t.Helper()
		none(func() error { return errors.Join(h.db.Flush(ctx, tenant.Default), h.db.releaseSegments()) })
	}
	reopen := func() { h.t.Helper(); none(func() error { return errors.Join(h.db.Close(), h.open(fs, dir)) }) }
	const hour, day = time.Hour, 24 * time.Hour
	hourOf := func(at time.Time) int64 { return at.UnixMilli() / agingHour }
	none(func() error { return h.open(fs, dir) })
	first := testStart.Truncate(day)
	for i, page := range agingPages {
		at := first.Add(time.Duration(i) * 20 * time.Minute)
		h.post(page, at, at.Add(15*time.Second), at.Add(3*time.Minute), at.Add(70*time.Minute), at.Add(5*hour))
	}
	flush()
	h.post("/a", first.Add(hour+time.Second), first.Add(26*hour))
	h.maintain(3 * day) // in windows of 5 minutes
	h.post("/a", first.Add(90*time.Second), first.Add(2*hour))
	h.delete("/b", hourOf(first), hourOf(first)+1)
	none(func() error { return h.db.CleanTombstones(ctx, tenant.Default) })
	flush()
	reopen()
	h.maintain(day) // what came late is merged with it; rules drop
	h.post("/b", first.Add(30*time.Minute), first.Add(3*day))
	none(func() error {
		_, err := h.db.mustStore(tenant.Default).relog(ctx, nil)
		return errors.Join(err, h.db.releaseSegments())
	})
	h.maintain(7 * day) // in windows of an hour
	h.delete("/a", hourOf(first)+5, hourOf(first)+6)
	h.post("/a", first.Add(5*hour), first.Add(5*hour+10*time.Minute))
	none(func() error { _, err := h.db.Snapshot(ctx, tenant.Default, false); return err })
	h.maintain(20 * day)
	reopen()
	h.maintain(day)
	none(h.db.Close)
}

// verify opens what a crash left, and looks at it after each step of what follows.
func (h *agingHistory) verify(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, walDirName)); err != nil {
		return nil
	}
	if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) > 0 {
		return fmt.Errorf("check: %v, %w", problems, err)
	}
	if err := h.open(noSyncFS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { h.db.Close() }()
	want := h.sure
	if err := h.compare(want); err != nil {
		want = h.maybe
		if other := h.compare(want); other != nil {
			return fmt.Errorf("neither before nor after the operation: %w; %w", err, other)
		}
	}
	ctx := context.Background()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"flushed", func() error { return h.db.Flush(ctx, tenant.Default) }},
		{"months old", func() error { h.now = h.now.Add(60 * 24 * time.Hour); return h.db.maintainBlocks(ctx) }},
		{"reopened", func() error { return errors.Join(h.db.Close(), h.open(noSyncFS{}, dir)) }},
	} {
		if err := errors.Join(step.do(), h.compare(want)); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// Whatever operation the machine stops at while data is downsampled, deleted and dropped by
// rules: no count is lost and none is there twice.
func TestCrashSweepOfAging(t *testing.T) {
	t.Parallel()
	h := &agingHistory{t: t, now: testStart, sure: hourly{}}
	known := func() string { return fmt.Sprint(h.sure, h.maybe) }
	sweepCrashes(t, 250, known, h.live, func(dir string) error { then := *h; return then.verify(dir) })
}

// In whatever order events come, time passes, data is deleted and the tenant dropped, made
// again and restored, every count is there once.
func TestAging(t *testing.T) {
	for seed := range uint64(12 / seedsOf) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 77))
			h := &agingHistory{t: t, now: testStart, sure: hourly{}}
			dir := t.TempDir()
			if err := h.open(noSyncFS{}, dir); err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			var names []string // of snapshots
			var snapshots []hourly
			for op := range 120 {
				switch n := r.IntN(23); {
				case n < 9:
					at := h.now.Add(-time.Duration(r.Int64N(int64(10 * 24 * time.Hour)))).Truncate(time.Second)
					if r.IntN(2) == 0 {
						at = h.now.Add(-time.Duration(r.Int64N(int64(2 * time.Hour)))).Truncate(time.Second)
					}
					var times []time.Time
					for range 1 + r.IntN(20) {
						times = append(times, at.Add(time.Duration(r.IntN(3))*time.Duration(r.IntN(400))*time.Second).Add(-20*time.Minute))
					}
					h.post(agingPages[r.IntN(3)], times...)
				case n < 11:
					h.do(func() error { return h.db.Flush(ctx, tenant.Default) }, nil)
				case n < 15:
					h.maintain(time.Duration(r.IntN(40)) * time.Hour)
				case n < 16:
					from := h.now.Add(-time.Duration(r.IntN(200))*time.Hour).UnixMilli() / agingHour
					h.delete(agingPages[r.IntN(3)], from, from+1+r.Int64N(10))
				case n < 17:
					h.do(func() error { return h.db.CleanTombstones(ctx, tenant.Default) }, nil)
				case n < 18:
					h.do(func() error { return errors.Join(h.db.Close(), h.open(noSyncFS{}, dir)) }, nil)
				case n < 19:
					if s, _ := h.db.store(tenant.Default, false); s != nil {
						h.do(func() error { _, err := s.relog(ctx, nil); return err }, nil)
					}
				case n < 20:
					h.do(func() error {
						name, err := h.db.Snapshot(ctx, tenant.Default, false)
						if errors.Is(err, tenant.ErrUnknown) {
							return nil
						}
						names, snapshots = append(names, name), append(snapshots, maps.Clone(h.sure))
						return err
					}, nil)
				case n < 21 && len(names) > 0:
					i := r.IntN(len(names))
					h.do(func() error {
						_, err := h.db.Restore(ctx, names[i], tenant.Default, RestoreOptions{Replace: true})
						return err
					}, func(m hourly) { clear(m); maps.Copy(m, snapshots[i]) })
				case n < 22 && r.IntN(3) == 0:
					h.do(func() error {
						err := h.db.DropTenant(ctx, tenant.Default)
						if errors.Is(err, tenant.ErrUnknown) {
							err = nil
						}
						return err
					}, func(m hourly) { clear(m) })
				default:
					if err := h.compare(h.sure); err != nil {
						t.Fatalf("operation %d: %v", op, err)
					}
				}
			}
			if err := h.compare(h.sure); err != nil {
				t.Fatal(err)
			}
			mustBeSoundAfter(t, h.db)
		})
	}
}
