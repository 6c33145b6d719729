package tsdb

import (
	"context"
	"errors"
	"fmt"
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
// the entries it had when it was synced. Its k-th changing operation and all that
// follow fail, as if the machine had stopped there.
type crashFS struct {
	vfs.OS
	mu   sync.Mutex
	left int // operations until the crash
	ops  int
	root *crashNode
	dir  string
}

var errCrash = errors.New("crashed")

type crashNode struct {
	data, synced   []byte
	names, durable map[string]*crashNode // of a directory
}

func newCrashDir() *crashNode {
	return &crashNode{names: map[string]*crashNode{}, durable: map[string]*crashNode{}}
}

func newCrashFS(dir string, after int) *crashFS {
	return &crashFS{left: after, root: newCrashDir(), dir: dir}
}

// op counts one changing operation.
func (f *crashFS) op() error {
	if f.left <= 0 {
		return errCrash
	}
	f.left--
	f.ops++
	return nil
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
	if err := f.op(); err != nil {
		return nil, err
	}
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
	if err := c.fs.op(); err != nil {
		c.node.data = append(c.node.data, p[:len(p)/2]...) // torn
		return 0, err
	}
	c.node.data = append(c.node.data, p...)
	return c.File.Write(p)
}

func (c *crashFile) Sync() error {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	if err := c.fs.op(); err != nil {
		return err
	}
	c.node.synced = slices.Clone(c.node.data)
	return nil // the real file needs no sync: the model is what counts
}

func (f *crashFS) Adopt(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
	src, err := os.ReadFile(name)
	dir, base := f.parent(name)
	dir.names[base] = &crashNode{data: src, synced: src}
	return err
}

func (f *crashFS) MkdirAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
	if name != f.dir {
		f.parent(filepath.Join(name, "x"))
	}
	return f.OS.MkdirAll(name)
}

func (f *crashFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
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
	if err := f.op(); err != nil {
		return err
	}
	dir, base := f.parent(name)
	delete(dir.names, base)
	return f.OS.RemoveAll(name)
}

func (f *crashFS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return err
	}
	if rel, err := filepath.Rel(f.dir, name); err != nil || strings.HasPrefix(rel, "..") {
		return nil // above the data directory
	}
	dir, _ := f.parent(filepath.Join(name, "x"))
	dir.durable = maps.Clone(dir.names)
	return nil
}

// leave writes what the crash leaves into a new directory: only what is durable,
// or all that was written, as after the process alone has died.
func (f *crashFS) leave(t *testing.T, all bool) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	dir := t.TempDir()
	if err := f.root.write(dir, all); err != nil {
		t.Fatal(err)
	}
	return dir
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
	ts := testStart.Add(-time.Duration(n*n%50) * time.Hour)
	hist := &increment.Hist{}
	hist.Observe(float64(n))
	win := floorTo(ts.UnixMilli(), g)
	return id, &increment.Batch{HasKey: true, Key: [16]byte{byte(n), 1}, Increments: []increment.Increment{
		counterInc("events_total", ts, float64(n+1), "page", page),
		{Labels: labels.FromStrings(model.MetricNameLabel, "event_value", "page", page), Kind: increment.Histogram, Time: win, Hist: hist},
		{Labels: labels.FromStrings(model.MetricNameLabel, "event_users", "page", page), Kind: increment.Distinct, Time: win, IDs: []uint64{uint64(n) + 1}},
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

// live runs the script; after the crash every step fails and changes nothing.
func (h *history) live(fs vfs.FS, dir string) {
	ctx := context.Background()
	if h.open(fs, dir) != nil {
		return
	}
	flush := func() {
		_ = h.db.Flush(ctx, tenant.Default) // an error is the crash
		_ = h.db.Flush(ctx, tenantID(h.t, "other"))
	}
	h.send(0, 4)
	flush()
	h.send(4, 7)
	flush()
	h.send(7, 9)
	_ = h.db.Close()
	if h.open(fs, dir) != nil {
		return
	}
	h.send(9, 12)
	flush()
	h.now = h.now.Add(5 * 24 * time.Hour)
	_ = h.db.maintainBlocks(ctx)
	h.send(12, 14)
	_ = h.db.maintainMemory(ctx)
	if s, err := h.db.store(tenantID(h.t, "other"), false); err == nil && s != nil {
		_, _ = s.relog(ctx)
	}
	_ = h.db.releaseSegments()
	h.send(14, 16)
	_ = h.db.Close()
	if h.open(fs, dir) != nil {
		return
	}
	flush()
	_ = h.db.maintainBlocks(ctx)
	_ = h.db.Close()
}

// verify compares a directory that the crash left with the model, sends the
// batches that were not acknowledged again, and compares again.
func (h *history) verify(dir string) error {
	if err := h.checkSound(dir); err != nil {
		return err
	}
	if err := h.open(vfs.OS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer h.db.Close()
	for n := range h.sent {
		got, err := h.counted(n)
		if err != nil {
			return err
		}
		if !got && h.acked[n] {
			return fmt.Errorf("acknowledged batch %d is lost", n)
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

// Whatever operation the machine stops at, and whether or not what was not synced
// survives: every acknowledged batch is there once, every other whole or not at
// all, and once when it is sent again.
func TestCrashSweep(t *testing.T) {
	crashes := 0
	for k := 0; ; k++ {
		h := &history{t: t, now: testStart, acked: map[int]bool{}}
		dir := t.TempDir()
		fs := newCrashFS(dir, k)
		h.live(fs, dir)
		for _, all := range []bool{false, true} {
			if err := h.verify(fs.leave(t, all)); err != nil {
				t.Fatalf("crash at operation %d, unsynced data kept %v: %v", k, all, err)
			}
		}
		if fs.left > 0 {
			if len(h.acked) != 16 {
				t.Errorf("only %d batches were acknowledged without a crash", len(h.acked))
			}
			break
		}
		crashes++
	}
	t.Logf("%d crashes", crashes)
	if crashes < 100 {
		t.Errorf("only %d operations to crash at", crashes)
	}
}
