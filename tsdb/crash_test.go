package tsdb

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// crashFS passes operations on to the operating system and keeps a model beside
// it of what a power loss would leave: of a file what was synced, of a directory
// the entries it had when it was synced. Before each changing operation it shows
// what the directory would be if the machine stopped there.
type crashFS struct {
	vfs.OS
	mu   sync.Mutex
	root *crashNode
	dir  string
	stop func(f *crashFS) // called with mu held
}

type crashNode struct {
	data, synced   []byte
	names, durable map[string]*crashNode // of a directory
}

func newCrashDir() *crashNode {
	return &crashNode{names: map[string]*crashNode{}, durable: map[string]*crashNode{}}
}

// REQUIRES: f.mu
func (f *crashFS) parent(name string) (dir *crashNode, base string) {
	rel, err := filepath.Rel(f.dir, name)
	if err != nil {
		panic(err)
	}
	dir = f.root
	parts := strings.Split(rel, string(filepath.Separator))
	for _, p := range parts[:len(parts)-1] {
		next := dir.names[p]
		if next == nil {
			next = newCrashDir()
			dir.names[p] = next
		}
		dir = next
	}
	return dir, parts[len(parts)-1]
}

func (f *crashFS) Create(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	dir, base := f.parent(name)
	node := &crashNode{}
	dir.names[base] = node
	file, err := f.OS.Create(name)
	return &crashFile{file, f, node}, err
}

type crashFile struct {
	vfs.File
	fs   *crashFS
	node *crashNode
}

func (c *crashFile) Write(p []byte) (int, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	whole := c.node.data
	c.node.data = append(whole[:len(whole):len(whole)], p[:len(p)/2]...) // torn
	c.fs.stop(c.fs)
	c.node.data = append(whole, p...)
	return c.File.Write(p)
}

func (c *crashFile) Sync() error {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	c.fs.stop(c.fs)
	c.node.synced = slices.Clone(c.node.data)
	return nil // the real file needs no sync: the model is what counts
}

func (f *crashFS) Adopt(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	src, err := os.ReadFile(name)
	dir, base := f.parent(name)
	dir.names[base] = &crashNode{data: src, synced: src}
	return err
}

func (f *crashFS) MkdirAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	if name != f.dir {
		f.parent(filepath.Join(name, "x"))
	}
	return f.OS.MkdirAll(name)
}

func (f *crashFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	src, a := f.parent(from)
	dst, b := f.parent(to)
	dst.names[b] = src.names[a]
	delete(src.names, a)
	return f.OS.Rename(from, to)
}

func (f *crashFS) Remove(name string) error { return f.RemoveAll(name) }

func (f *crashFS) RemoveAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	dir, base := f.parent(name)
	delete(dir.names, base)
	return f.OS.RemoveAll(name)
}

func (f *crashFS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	if rel, err := filepath.Rel(f.dir, name); err != nil || strings.HasPrefix(rel, "..") {
		return nil // above the data directory
	}
	dir, _ := f.parent(filepath.Join(name, "x"))
	dir.durable = maps.Clone(dir.names)
	return nil
}

// leave writes what a crash now leaves into a directory: only what is durable, or
// all that was written, as after the process alone has died.
//
// REQUIRES: f.mu
func (f *crashFS) leave(dir string, all bool) error { return f.root.write(dir, all) }

// digest tells states of the directory apart.
func (n *crashNode) digest(h hash.Hash, all bool) {
	entries := n.durable
	if all {
		entries = n.names
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		c := entries[name]
		data := c.synced
		if all {
			data = c.data
		}
		fmt.Fprintf(h, "%s %v %d %x;", name, c.names != nil, len(data), data)
		if c.names != nil {
			c.digest(h, all)
		}
	}
	fmt.Fprint(h, "end;")
}

func (n *crashNode) write(dir string, all bool) error {
	entries := n.durable
	if all {
		entries = n.names
	}
	for name, c := range entries {
		path := filepath.Join(dir, name)
		if c.names != nil {
			if err := errors.Join(os.MkdirAll(path, 0o755), c.write(path, all)); err != nil {
				return err
			}
			continue
		}
		data := c.synced
		if all {
			data = c.data
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// history is a scripted life of a data directory; batches are numbered, and the
// model is which of them were acknowledged.
type history struct {
	t     *testing.T
	db    *DB
	now   time.Time
	acked map[int]bool
	sent  int
	// dropped: retention has been at work, so that what is acknowledged may be
	// gone, but still not in part.
	dropped bool
}

func (h *history) open(fs vfs.FS, dir string) error {
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(20 * 24 * time.Hour)
	var err error
	h.db, err = Open(Options{
		Dir: dir, FS: fs, Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(), MaintainInterval: time.Hour, WALSegmentBytesMax: 400, WALBytesMax: 1 << 30,
		Defaults: settings, DedupWindow: 30 * 24 * time.Hour, // longer than the history
	})
	return err
}

// batch is the n-th one: it has a page of its own.
func (h *history) batch(n int) (tenant.ID, *increment.Batch) {
	id := tenant.Default
	if n%3 == 2 {
		id = tenantID(h.t, "other")
	}
	page := fmt.Sprint("/", n)
	ts := testStart.Add(-time.Duration(n%2*30) * time.Hour)
	hist := &increment.Hist{}
	hist.Observe(float64(n))
	win := floorTo(ts.UnixMilli(), g)
	return id, &increment.Batch{HasKey: true, Key: [16]byte{byte(n), 1}, Increments: []increment.Increment{
		counterInc("events_total", ts, float64(n+1), "page", page),
		{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "event_value", "page", page), increment.Histogram, nil), Time: win, Hist: hist},
		{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "event_users", "page", page), increment.Distinct, nil), Time: win, IDs: []uint64{uint64(n) + 1}},
	}}
}

func (h *history) send(from, to int) {
	for n := from; n < to; n++ {
		h.sent = max(h.sent, n+1)
		id, b := h.batch(n)
		if _, err := h.db.Append(context.Background(), id, b); err == nil {
			h.acked[n] = true
		}
	}
}

// live runs the script.
func (h *history) live(fs vfs.FS, dir string) {
	ctx := context.Background()
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	flush := func() {
		must(h.db.Flush(ctx, tenant.Default))
		must(h.db.Flush(ctx, tenantID(h.t, "other")))
	}
	must(h.open(fs, dir))
	h.send(0, 4)
	flush()
	h.send(4, 7)
	flush()
	h.send(7, 9)
	must(h.db.Close())
	must(h.open(fs, dir))
	h.send(9, 12)
	flush()
	h.now = h.now.Add(5 * 24 * time.Hour)
	must(h.db.maintainBlocks(ctx)) // merges
	h.send(12, 15)                 // the 14th is the other tenant's
	s, err := h.db.store(tenantID(h.t, "other"), false)
	must(err)
	_, err = s.relog(ctx)
	must(err)
	must(h.db.releaseSegments())
	h.send(15, 18)
	must(h.db.Close())
	must(h.open(fs, dir))
	flush()
	must(h.db.maintainBlocks(ctx))
	h.now = h.now.Add(17 * 24 * time.Hour)
	h.dropped = true
	must(h.db.maintainBlocks(ctx)) // retention drops what is oldest
	must(h.db.Close())
}

// verify compares a directory that the crash left with the model, sends the
// batches that were not acknowledged again, and compares again.
func (h *history) verify(dir string) error {
	if err := h.checkSound(dir); err != nil {
		return err
	}
	if err := h.open(noSyncFS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer h.db.Close()
	for n := range h.sent {
		got, err := h.counted(n)
		if err != nil {
			return err
		}
		if !got && h.acked[n] && !h.dropped {
			return fmt.Errorf("acknowledged batch %d is lost", n)
		}
		if h.dropped {
			continue // its key may be known and its increments gone
		}
		id, b := h.batch(n)
		duplicate, err := h.db.Append(context.Background(), id, b)
		if err != nil {
			return fmt.Errorf("send batch %d again: %w", n, err)
		}
		if duplicate != got {
			return fmt.Errorf("batch %d sent again: duplicate %v, but counted %v", n, duplicate, got)
		}
		if got, err = h.counted(n); err != nil || !got {
			return fmt.Errorf("batch %d sent again is counted: %v, %w", n, got, err)
		}
	}
	return nil
}

func (h *history) checkSound(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, walDirName)); err != nil {
		return nil // crashed before there was anything
	}
	_, problems, err := Check(context.Background(), dir)
	if err != nil || len(problems) > 0 {
		return fmt.Errorf("check: %v, %w", problems, err)
	}
	return nil
}

// counted reports whether batch n is stored: whole and once, or not at all.
func (h *history) counted(n int) (bool, error) {
	id, b := h.batch(n)
	d := &testDB{DB: h.db, t: h.t}
	m := labels.MustNewMatcher(labels.MatchEqual, "page", fmt.Sprint("/", n))
	got := d.stored(id, m)
	if len(got) == 0 {
		return false, nil
	}
	want := map[string]float64{}
	for i, v := range []float64{float64(n + 1), 1, 1} {
		want[fmt.Sprintf("%s %d", b.Increments[i].Labels, b.Increments[i].Time)] = v
	}
	if err := diff(got, want); err != nil {
		return false, fmt.Errorf("batch %d is counted in part or twice: %w", n, err)
	}
	return true, nil
}

// noSyncFS saves the time of syncing what is thrown away.
type noSyncFS struct{ vfs.OS }

type noSyncFile struct{ vfs.File }

func (noSyncFS) Create(name string) (vfs.File, error) {
	f, err := vfs.OS{}.Create(name)
	return noSyncFile{f}, err
}
func (noSyncFS) SyncDir(string) error { return nil }
func (noSyncFile) Sync() error        { return nil }

// Whatever operation the machine stops at, and whether or not what was not synced
// survives: every acknowledged batch is there once, every other whole or not at
// all, and once when it is sent again.
func TestCrashSweep(t *testing.T) {
	h := &history{t: t, now: testStart, acked: map[int]bool{}}
	dir, left := t.TempDir(), t.TempDir()
	stops, states := 0, map[string]bool{}
	fs := &crashFS{root: newCrashDir(), dir: dir}
	fs.stop = func(f *crashFS) {
		stops++
		for _, all := range []bool{false, true} {
			// The same state with the same acknowledged batches needs no second look.
			sum := sha256.New()
			f.root.digest(sum, all)
			state := fmt.Sprintf("%x %d %v", sum.Sum(nil), len(h.acked), h.dropped)
			if states[state] {
				continue
			}
			states[state] = true
			then := &history{t: t, now: h.now, acked: maps.Clone(h.acked), sent: h.sent, dropped: h.dropped}
			copied := filepath.Join(left, fmt.Sprint(len(states)))
			if err := errors.Join(os.Mkdir(copied, 0o755), f.leave(copied, all)); err != nil {
				t.Error(err)
				return
			}
			if err := then.verify(copied); err != nil {
				t.Errorf("crash at operation %d, unsynced data kept %v: %v", stops, all, err)
			}
			if err := os.RemoveAll(copied); err != nil {
				t.Error(err)
			}
		}
	}
	h.live(fs, dir)
	t.Logf("%d operations, %d states", stops, len(states))
	if stops < 300 || len(states) < 300 || len(h.acked) != 18 {
		t.Errorf("%d operations, %d states, %d batches", stops, len(states), len(h.acked))
	}
}
