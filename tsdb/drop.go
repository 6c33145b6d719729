package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// droppedPrefix begins the name of a directory that was a tenant's until it was
// dropped. An open removes what is left of it.
const droppedPrefix = "@dropped."

// home is the directory of a tenant's blocks. It moves when the tenant is dropped,
// and readers go on with what they have pinned; the last one removes it.
type home struct {
	fs vfs.FS
	// moving is held shared while files are opened by their names.
	moving sync.RWMutex
	dir    atomic.Pointer[string]
	users  atomic.Int64 // blocks of some version, and the store
	gone   atomic.Bool  // remove it when nobody uses it
}

func newHome(fsys vfs.FS, dir string) *home {
	h := &home{fs: fsys}
	h.dir.Store(&dir)
	h.users.Store(1)
	return h
}

func (h *home) path() string { return *h.dir.Load() }

// leave ends one use.
func (h *home) leave() error {
	if h.users.Add(-1) > 0 || !h.gone.Load() {
		return nil
	}
	return h.fs.RemoveAll(h.path())
}

// move renames the directory while nobody looks for a file in it. One that is not there
// counts as moved: another may be made in its place.
func (h *home) move(to string) error {
	h.moving.Lock()
	defer h.moving.Unlock()
	err := h.fs.Rename(h.path(), to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		h.dir.Store(&to)
	}
	return err
}

// DropTenant deletes a tenant: its blocks, settings, event rules and the key of its
// user ids. It is gone when DropTenant returns nil, whatever crash follows; before,
// a crash leaves all of it or nothing. Queries that run go on with what they have
// pinned, and the disk has its space back when the last of them is done. What the log
// has of the tenant carries its generation, and is passed over from here on; its
// event ids, hashed under a key that no longer exists, expire like all others. A batch
// that was on its way is refused with tenant.ErrDropped. Snapshots stay.
//
// A tenant that there is not, or that cannot be opened, is dropped all the same. One
// that is made under the name later has none of its data. After an error with
// vfs.ErrUncertain in its chain the tenant is not served any more, but a crash may bring
// it back: drop it again.
func (db *DB) DropTenant(ctx context.Context, id tenant.ID) error {
	if id.IsZero() {
		return errors.New("no tenant named")
	}
	db.dropping.Lock()
	defer db.dropping.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		done, err := db.drop(id)
		if err != nil {
			return fmt.Errorf("drop tenant %s: %w", id, err)
		}
		if done {
			return db.releaseSegments()
		}
	}
}

// drop is done unless the tenant was made meanwhile.
//
// REQUIRES: db.dropping
func (db *DB) drop(id tenant.ID) (done bool, err error) {
	s, err := db.store(id, false)
	if err != nil {
		s = nil // it cannot be opened, and need not be
	}
	if s != nil {
		s.rewriting.Lock()
		defer s.rewriting.Unlock()
		s.flushMu.Lock()
		defer s.flushMu.Unlock()
		s.setDropped(true)
	}
	h, err := db.forgetTenant(id, s)
	switch {
	case errors.Is(err, errTenantMade):
		return false, nil
	case h == nil || err != nil && !errors.Is(err, vfs.ErrUncertain):
		if s != nil {
			s.setDropped(false)
		}
		return err == nil, err
	}
	// What is not known to be moved for good stays whole.
	h.gone.Store(err == nil)
	if s != nil {
		s.empty()
	}
	if err := h.leave(); err != nil {
		db.opts.Logger.Warn("what is left of a tenant that was dropped could not be removed, the next start does", "dir", h.path(), "err", err)
	}
	db.metrics.forget(id)
	if err == nil {
		db.opts.Logger.Info("a tenant was dropped", "tenant", id)
	}
	return true, err
}

// errTenantMade says that there is a tenant where there was none.
var errTenantMade = errors.New("made meanwhile")

// forgetTenant moves a tenant's directory out of the way and forgets the tenant. It
// returns where the directory is, nil where there was none.
func (db *DB) forgetTenant(id tenant.ID, s *store) (*home, error) {
	db.openMu.Lock()
	defer db.openMu.Unlock()
	db.mu.RLock()
	now := db.stores[id]
	db.mu.RUnlock()
	if now != s {
		return nil, errTenantMade
	}
	// One that was to take the tenant's place must not do so at the next start.
	undone := filepath.Join(db.opts.Dir, restoringPrefix+db.newULID().String())
	err := db.opts.FS.Rename(filepath.Join(db.opts.Dir, restoredPrefix+id.String()), undone)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h := newHome(db.opts.FS, db.tenantDir(id))
	if s != nil {
		h = s.home
	}
	err = h.move(filepath.Join(db.opts.Dir, droppedPrefix+db.newULID().String()))
	there := !errors.Is(err, fs.ErrNotExist)
	if err != nil && there {
		return nil, err
	}
	// Also where there is no directory: the one that dropped it may have failed here.
	if err = db.opts.FS.SyncDir(db.opts.Dir); err != nil {
		err = fmt.Errorf("sync %s: %w: %w", db.opts.Dir, vfs.ErrUncertain, err)
	}
	if !there && s == nil {
		h = nil
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.stores, id)
	delete(db.failed, id)
	return h, err
}

// setDropped makes a store refuse appends and all work on its files, or take them
// again. No append is under way when it returns.
//
// REQUIRES: s.rewriting, s.flushMu
func (s *store) setDropped(dropped bool) {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.dropped = dropped
}

// empty gives up all that a dropped store holds but what readers have pinned.
//
// REQUIRES: s.rewriting, s.flushMu
func (s *store) empty() {
	v := s.versions.pin()
	defer s.versions.unpin(v)
	s.mu.Lock()
	clear(s.routing)
	s.mu.Unlock()
	s.frozen = nil
	s.state.forget()
	s.db.pressure.forget(v.mems)
	s.db.pressure.noteFlush(s, false)
	s.versions.replace(nil, v.mems, nil, v.blocks)
}

// sweepDropped removes what is left of tenants that were dropped.
func (db *DB) sweepDropped() error {
	entries, err := db.opts.FS.ReadDir(db.opts.Dir)
	if err != nil {
		return err
	}
	synced := false
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), droppedPrefix) {
			continue
		}
		if !synced {
			// The rename may not be durable yet: a crash must not bring back a tenant
			// that has lost a part of its files.
			if err := db.opts.FS.SyncDir(db.opts.Dir); err != nil {
				return err
			}
			synced = true
		}
		if err := db.opts.FS.RemoveAll(filepath.Join(db.opts.Dir, e.Name())); err != nil {
			db.opts.Logger.Warn("what is left of a tenant that was dropped could not be removed, the next start tries again", "name", e.Name(), "err", err)
		}
	}
	return nil
}
