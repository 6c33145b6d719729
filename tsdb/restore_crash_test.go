package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// restoreHistory is a scripted life of a directory in which a tenant is restored. Every
// operation is one step from what the tenant was to what it is.
type restoreHistory struct {
	t           *testing.T
	db          *testDB
	now         time.Time
	sure, maybe restoreState
}

// restoreState is what a tenant is: which events it has, its rules, whether it is there.
type restoreState struct {
	there  bool
	events [restoreEvents]bool
	rules  string
}

const restoreEvents = 8

func (h *restoreHistory) open(fs vfs.FS, dir string) error {
	db, err := Open(Options{
		Dir: dir, FS: fs, Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		MaintainInterval: time.Hour, WALSegmentBytesMax: 600, WALBytesMax: 1 << 30,
	})
	if err == nil {
		db.stop()
		<-db.maintained
	}
	h.db = &testDB{DB: db, t: h.t, dir: dir, now: &h.now}
	return err
}

func (h *restoreHistory) do(next restoreState, op func() error) {
	h.t.Helper()
	h.maybe = next
	if err := op(); err != nil {
		h.t.Fatal(err)
	}
	h.sure = next
}

func (h *restoreHistory) post(n int) {
	next := h.sure
	next.there, next.events[n] = true, true
	h.do(next, func() error { _, err := h.db.post(tenant.Default, n+1); return err })
}

// setRules changes what is beside the data, as a part of the model as it is a part of what
// is restored. Files that storage does not write are there at once.
func (h *restoreHistory) setRules(fs vfs.FS, rules string) {
	next := h.sure
	next.rules = rules
	h.do(next, func() error {
		return vfs.WriteFile(fs, filepath.Join(h.db.dir, "default", tenant.EventRulesFile), []byte(rules))
	})
}

func (h *restoreHistory) live(fs vfs.FS, dir string) {
	ctx, id := context.Background(), tenant.Default
	same := func(op func() error) { h.t.Helper(); h.do(h.sure, op) }
	restore := func(name string, to restoreState, o RestoreOptions) {
		h.t.Helper()
		h.do(to, func() error { _, err := h.db.Restore(ctx, name, id, o); return err })
	}
	names, states := [2]string{}, [2]restoreState{}
	snapshot := func(i int) {
		same(func() (err error) { names[i], err = h.db.Snapshot(ctx, id, false); return err })
		states[i] = h.sure
	}
	restart := func() { same(func() error { return errors.Join(h.db.Close(), h.open(fs, dir)) }) }
	same(func() error { return h.open(fs, dir) })
	h.post(0)
	h.setRules(fs, "first")
	h.post(1)
	snapshot(0)
	h.post(2)
	same(h.db.flushIDs)
	h.setRules(fs, "second")
	h.post(3)
	snapshot(1)
	h.post(4)
	restore(names[0], states[0], RestoreOptions{Replace: true})
	h.post(2)
	h.post(5)
	restart()
	h.post(6)
	same(func() error { _, err := h.db.EraseUsers(ctx, id); return err })
	restore(names[1], states[1], RestoreOptions{Replace: true})
	same(func() error { _, err := h.db.EraseUsers(ctx, id); return err })
	restart()
	h.post(4)
	same(func() error { return errors.Join(h.db.Flush(ctx, id), h.db.releaseSegments()) })
	h.do(restoreState{}, func() error { return h.db.DropTenant(ctx, id) })
	restore(names[0], states[0], RestoreOptions{})
	h.post(7)
	same(func() error { return h.db.DeleteSnapshot(ctx, names[0]) })
	restart()
	same(func() error { return errors.Join(h.db.Flush(ctx, id), h.db.flushIDs(), h.db.releaseSegments()) })
	same(func() error { return h.db.DeleteSnapshot(ctx, names[1]) })
	same(h.db.Close)
}

// state is what the tenant is; an error where that is in part or not consistent.
func (h *restoreHistory) state() (out restoreState, err error) {
	s, err := h.db.store(tenant.Default, false)
	if err != nil || s == nil {
		return out, err
	}
	out.there = true
	rules, err := os.ReadFile(filepath.Join(h.db.dir, "default", tenant.EventRulesFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return out, err
	}
	out.rules = string(rules)
	got := h.db.stored(tenant.Default)
	for n := range out.events {
		key := storedKey(counterInc("posted_total", testStart, 1, "n", fmt.Sprint(n+1)).Labels, floorTo(testStart.UnixMilli(), g))
		out.events[n] = got[key] == 1
		delete(got, key)
	}
	if len(got) > 0 {
		return out, fmt.Errorf("there is also %v", got)
	}
	return out, nil
}

// verify opens what a crash left: the tenant is what it was or what it becomes, whole, and
// all of its events, and no others, are known when they are sent again.
func (h *restoreHistory) verify(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, walDirName)); err != nil {
		return nil
	}
	if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) > 0 {
		return fmt.Errorf("check: %v, %w", problems, err)
	}
	if err := h.open(noSyncFS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer h.db.Close()
	got, err := h.state()
	if err != nil {
		return err
	}
	fresh := restoreState{there: true} // made, and nothing in it yet
	if got != h.sure && got != h.maybe && !(got == fresh && !h.sure.there) {
		return fmt.Errorf("the tenant is %+v, want %+v or %+v", got, h.sure, h.maybe)
	}
	if left := leftBehind(h.t, dir); len(left) > 0 {
		return fmt.Errorf("left behind: %v", left)
	}
	for n, has := range got.events {
		counted, err := h.db.post(tenant.Default, n+1)
		if err != nil || (counted == 0) != has {
			return fmt.Errorf("event %d sent again counts: %d, %w; it is stored: %v", n, counted, err, has)
		}
	}
	snapshots, err := h.db.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if len(s.Tenants) != 1 || s.Tenants[0].Err != nil {
			return fmt.Errorf("snapshot %+v is not whole", s)
		}
		if _, problems, err := Check(context.Background(), filepath.Join(dir, snapshotDirName, s.Name)); err != nil || len(problems) > 0 {
			return fmt.Errorf("check of snapshot %s: %v, %w", s.Name, problems, err)
		}
	}
	return nil
}

// Whatever operation the machine stops at while snapshots are taken, restored and deleted:
// the tenant is the old one or the new one, whole.
func TestCrashSweepOfRestore(t *testing.T) {
	t.Parallel()
	h := &restoreHistory{t: t, now: testStart}
	known := func() string { return fmt.Sprintf("%+v %+v", h.sure, h.maybe) }
	sweepCrashes(t, 300, known, h.live, func(dir string) error { then := *h; then.db = nil; return then.verify(dir) })
}
