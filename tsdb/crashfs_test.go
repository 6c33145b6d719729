package tsdb

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/quipudb/quipu/internal/vfs"
)

// crashFS passes operations on to the operating system and keeps a model beside
// it of what a crash would leave. Before each changing operation it shows what the
// directory would be if the machine stopped there.
type crashFS struct {
	vfs.OS
	mu   sync.Mutex
	root *crashNode
	dir  string
	stop func(f *crashFS) // called with mu held
}

// survival is what of a directory a crash leaves.
type survival int

const (
	// syncedOnly: of a file what was synced, of a directory the entries it had when it
	// was synced.
	syncedOnly survival = iota
	// syncedAndZeros: also the length that room was reserved to, filled with zeros, and
	// of what was removed nothing: a directory may be written back at any time.
	syncedAndZeros
	// allWritten: all that was written, as after the process alone has died.
	allWritten
)

type crashNode struct {
	removed        bool
	data, synced   []byte
	length         int                   // at least; zeros follow the data
	names, durable map[string]*crashNode // of a directory
}

func newCrashDir() *crashNode {
	return &crashNode{names: map[string]*crashNode{}, durable: map[string]*crashNode{}}
}

// readCrashDir is the model of a directory that is all durable.
func readCrashDir(dir string) (*crashNode, error) {
	n := newCrashDir()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			sub, err := readCrashDir(path)
			if err != nil {
				return nil, err
			}
			n.names[e.Name()] = sub
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		n.names[e.Name()] = &crashNode{data: src, synced: src}
	}
	n.durable = maps.Clone(n.names)
	return n, err
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

func (c *crashFile) Reserve(n int) error {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	c.fs.stop(c.fs)
	c.node.length = max(c.node.length, len(c.node.data)+n/2)
	c.fs.stop(c.fs)
	c.node.length = max(c.node.length, len(c.node.data)+n)
	return c.File.Reserve(n)
}

// content is what a crash leaves of a file.
func (n *crashNode) content(s survival) []byte {
	src := n.synced
	if s == allWritten {
		src = n.data
	}
	if pad := n.length - len(src); s != syncedOnly && pad > 0 {
		return append(slices.Clone(src), make([]byte, pad)...)
	}
	return src
}

// entries are what a crash leaves of a directory.
func (n *crashNode) entries(s survival) map[string]*crashNode {
	switch s {
	case allWritten:
		return n.names
	case syncedOnly:
		return n.durable
	}
	left := maps.Clone(n.durable)
	maps.DeleteFunc(left, func(_ string, c *crashNode) bool { return c.removed })
	return left
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
	if src.names[a] == nil {
		return f.OS.Rename(from, to) // says that it is not there
	}
	dst.names[b] = src.names[a]
	delete(src.names, a)
	return f.OS.Rename(from, to)
}

func (f *crashFS) Link(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	src, a := f.parent(from)
	dst, b := f.parent(to)
	dst.names[b] = src.names[a]
	return f.OS.Link(from, to)
}

func (f *crashFS) Remove(name string) error { return f.RemoveAll(name) }

func (f *crashFS) RemoveAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop(f)
	dir, base := f.parent(name)
	if n := dir.names[base]; n != nil {
		n.removed = true
	}
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

// digest tells states of the directory apart.
func (n *crashNode) digest(h hash.Hash, s survival) {
	entries := n.entries(s)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		c := entries[name]
		if c.names != nil {
			fmt.Fprintf(h, "%s;", name)
			c.digest(h, s)
			continue
		}
		data := c.content(s)
		fmt.Fprintf(h, "%s %d %x;", name, len(data), sha256.Sum256(data))
	}
	fmt.Fprint(h, "end;")
}

// write makes the directory that a crash leaves.
func (n *crashNode) write(dir string, s survival) error {
	for name, c := range n.entries(s) {
		path := filepath.Join(dir, name)
		if c.names != nil {
			if err := errors.Join(os.MkdirAll(path, 0o755), c.write(path, s)); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, c.content(s), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// sweepCrashes lives a history on a directory and verifies what every crash would leave of
// it, once for each state of the directory and of what is known of it, which says what was
// done. It expects at least so many operations and states, of which it looks at one in
// sweepEvery.
func sweepCrashes(t *testing.T, least int, known func() string, live func(fs vfs.FS, dir string), verify func(dir string) error) {
	t.Helper()
	dir, left := t.TempDir(), t.TempDir()
	stops, states := 0, map[string]bool{}
	fs := &crashFS{root: newCrashDir(), dir: dir}
	fs.stop = func(f *crashFS) {
		stops++
		for _, s := range []survival{syncedOnly, syncedAndZeros, allWritten} {
			// The same state with the same acknowledged batches needs no second look.
			sum := sha256.New()
			f.root.digest(sum, s)
			state := fmt.Sprintf("%x %s", sum.Sum(nil), known())
			if states[state] {
				continue
			}
			states[state] = true
			if len(states)%sweepEvery != 0 {
				continue
			}
			copied := filepath.Join(left, fmt.Sprint(len(states)))
			if err := errors.Join(os.Mkdir(copied, 0o755), f.root.write(copied, s)); err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(verify(copied), os.RemoveAll(copied)); err != nil {
				t.Errorf("crash at operation %d, survival %d: %v", stops, s, err)
			}
		}
	}
	live(fs, dir)
	t.Logf("%d operations, %d states", stops, len(states))
	if stops < least || len(states) < least {
		t.Errorf("%d operations, %d states", stops, len(states))
	}
}
