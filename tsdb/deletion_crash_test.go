package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// deletionHistory is a scripted life of a directory in which much is deleted. Every
// operation is one step from what was stored before to what is stored after.
type deletionHistory struct {
	t   *testing.T
	db  *testDB
	now time.Time
	// sure is what is stored, by tenant; maybe what is where the operation under way
	// counts already.
	sure, maybe map[tenant.ID]map[string]float64
}

func (h *deletionHistory) open(fs vfs.FS, dir string) error {
	db, err := Open(Options{
		Dir: dir, FS: fs, Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		MaintainInterval: time.Hour, WALSegmentBytesMax: 2000, WALBytesMax: 1 << 30,
	})
	if err == nil {
		// Background work is done where the script says.
		db.stop()
		<-db.maintained
	}
	h.db = &testDB{DB: db, t: h.t, dir: dir, now: &h.now}
	return err
}

// do is one operation, after which a tenant has what change makes of what it had.
func (h *deletionHistory) do(id tenant.ID, op func() error, change func(map[string]float64)) {
	h.t.Helper()
	next := maps.Clone(h.sure)
	next[id] = maps.Clone(h.sure[id])
	if next[id] == nil {
		next[id] = map[string]float64{}
	}
	if change != nil {
		change(next[id])
	}
	h.maybe = next
	if err := op(); err != nil {
		h.t.Fatal(err)
	}
	h.sure = next
}

func (h *deletionHistory) post(id tenant.ID, page string, ages ...time.Duration) {
	for _, age := range ages {
		at := testStart.Add(-age)
		h.do(id, func() error { h.db.mustAppend(id, everyKind(page, at)...); return nil }, func(m map[string]float64) {
			incs := everyKind(page, at)
			for i, v := range []float64{1, 1, 1, 2, 2, 6} {
				key := storedKey(incs[i].Labels, incs[i].Time)
				if i < 3 {
					m[key] += v
				} else {
					m[key] = v
				}
			}
		})
	}
}

// delete deletes a page in the days that end some days before the start.
func (h *deletionHistory) delete(id tenant.ID, page string, from, to time.Time) {
	h.do(id, func() error {
		_, err := h.db.Delete(context.Background(), id, from.UnixMilli(), to.UnixMilli(), equal("page", page))
		return err
	}, func(m map[string]float64) {
		left := kept(h.t, m, page, from, to)
		maps.DeleteFunc(m, func(key string, _ float64) bool { _, ok := left[key]; return !ok })
	})
}

func (h *deletionHistory) live(fs vfs.FS, dir string) {
	ctx := context.Background()
	a, other := tenant.Default, tenantID(h.t, "other")
	none := func(op func() error) { h.t.Helper(); h.do(a, op, nil) }
	flush := func() error { return errors.Join(h.db.Flush(ctx, a), h.db.Flush(ctx, other), h.db.releaseSegments()) }
	const hour, day = time.Hour, 24 * time.Hour
	long, now := testStart.Add(-20*day), testStart
	none(func() error { return h.open(fs, dir) })
	h.post(a, "/a", hour, 2*hour, day)
	h.post(a, "/b", hour)
	h.post(other, "/a", hour)
	none(flush)
	h.post(a, "/a", hour, 3*hour)
	h.delete(a, "/a", now.Add(-150*time.Minute), now) // of blocks and memtables a part
	h.post(a, "/a", hour)                             // counts
	none(func() error {
		_, err := h.db.mustStore(other).relog(ctx, nil)
		return errors.Join(err, h.db.releaseSegments())
	})
	none(flush)
	h.delete(a, "/b", long, now)
	none(func() error { // only the deletion is in the log
		_, err := h.db.mustStore(a).relog(ctx, nil)
		return errors.Join(err, h.db.releaseSegments())
	})
	none(func() error { return errors.Join(h.db.Close(), h.open(fs, dir)) })
	none(func() error { return h.db.CleanTombstones(ctx, a) })
	h.post(a, "/b", hour)
	none(flush)
	h.post(a, "/b", day)
	h.delete(a, "/none", long, now)
	none(func() error { return h.db.maintainBlocks(ctx) }) // nothing to rewrite
	none(func() error { _, err := h.db.Snapshot(ctx, a, false); return err })
	h.delete(a, "/a", long, now)
	h.now = h.now.Add(5 * day)
	none(func() error { return h.db.mustStore(a).compact(ctx, h.now) }) // merges before it rewrites
	none(func() error { return h.db.maintainBlocks(ctx) })
	h.do(other, func() error { return h.db.DropTenant(ctx, other) }, func(m map[string]float64) { clear(m) })
	h.post(other, "/b", hour)
	h.delete(other, "/b", long, now)
	h.post(other, "/b", 2*hour)
	none(func() error { return errors.Join(h.db.Close(), h.open(fs, dir)) })
	none(flush)
	none(func() error { return h.db.maintainBlocks(ctx) })
	none(h.db.Close)
}

// verify opens what a crash left and looks at it after each step of what follows.
func (h *deletionHistory) verify(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, walDirName)); err != nil {
		return nil // crashed before there was anything
	}
	if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) > 0 {
		return fmt.Errorf("check: %v, %w", problems, err)
	}
	if err := h.open(noSyncFS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { h.db.Close() }()
	ctx, ids := context.Background(), []tenant.ID{tenant.Default, tenantID(h.t, "other")}
	want := h.sure
	compare := func() (err error) {
		for _, id := range ids {
			err = errors.Join(err, diff(h.db.stored(id), want[id]))
		}
		return err
	}
	if err := compare(); err != nil {
		want = h.maybe
		if other := compare(); other != nil {
			return fmt.Errorf("neither before nor after the operation: %w; %w", err, other)
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"logged again", func() (err error) {
			for _, id := range ids {
				if s, _ := h.db.store(id, false); s != nil {
					_, e := s.relog(ctx, nil)
					err = errors.Join(err, e)
				}
			}
			return errors.Join(err, h.db.releaseSegments())
		}},
		{"reopened", func() error { return errors.Join(h.db.Close(), h.open(noSyncFS{}, dir)) }},
		{"flushed", func() error { return errors.Join(h.db.Flush(ctx, ids[0]), h.db.Flush(ctx, ids[1])) }},
		{"rewritten and merged", func() error { h.now = h.now.Add(48 * time.Hour); return h.db.maintainBlocks(ctx) }},
		{"reopened at last", func() error { return errors.Join(h.db.Close(), h.open(noSyncFS{}, dir)) }},
	} {
		if err := errors.Join(step.do(), compare()); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// Whatever operation the machine stops at, what was deleted before does not come back, by
// replay, logging again, flush, rewriting or merge; what was acknowledged and not deleted
// is there; and an operation that was under way counts whole or not at all, the dropping
// of a tenant included.
func TestDeletionNeverReturns(t *testing.T) {
	t.Parallel()
	h := &deletionHistory{t: t, now: testStart, sure: map[tenant.ID]map[string]float64{}}
	known := func() string { return fmt.Sprint(h.sure, h.maybe) }
	sweepCrashes(t, 300, known, h.live, func(dir string) error { then := *h; return then.verify(dir) })
}
