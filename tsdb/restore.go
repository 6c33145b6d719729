package tsdb

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

const (
	// restoringPrefix begins the name of a directory that is to be a tenant's. An open
	// removes what is left of it.
	restoringPrefix = "@restoring."
	// restoredPrefix begins, before the tenant's name, the name of a directory that is whole
	// and the tenant's from then on, whatever directory has its name. An open puts it in
	// that one's place.
	restoredPrefix = "@restored."
)

// ErrHalfRestored says that it is not known whether a crash would leave the tenant that was
// to be replaced or the other one.
var ErrHalfRestored = errors.New("the tenant is out of service until the server is started again, which finds out whether it was restored")

// RestoreOptions say how a tenant is restored.
type RestoreOptions struct {
	// Replace: what the tenant has is given up. Without it there must be no such tenant.
	Replace bool
	// NoEventIDs: events that the snapshot has count again where they are sent again.
	NoEventIDs bool
	// Begin is called when all is prepared, before the tenant is replaced; nil: nothing is.
	// An error of it ends the restore.
	Begin func() error
	// Replaced is called when the tenant is replaced, before any request finds the new one:
	// who has read files of the old one forgets them. It must not ask storage. nil: nothing
	// is called.
	Replaced func()
}

// Restored is what a tenant was restored with.
type Restored struct {
	Blocks   int
	Bytes    int64 // of the blocks
	EventIDs int
}

// Restore makes a tenant what it is in a snapshot: data, settings, event rules, rules and
// the key of user ids, and the ids of events that it counted. It has a new generation and
// what of its event ids came after the snapshot is forgotten, so that these events count
// where they are sent again. It is prepared beside the tenant, from links to the snapshot's
// files, which stay; then the tenant is replaced at once: a crash leaves the old one or the
// new one, whole. A batch is in the old one, which is given up, or in the new one, or
// refused with an *overload.Error. Queries that run go on with what they have pinned.
//
// Errors are ErrNoSnapshot, tenant.ErrExists, ErrHalfRestored, or what has failed; then the
// tenant is as it was.
func (db *DB) Restore(ctx context.Context, snapshot string, id tenant.ID, o RestoreOptions) (Restored, error) {
	if id.IsZero() {
		return Restored{}, errors.New("no tenant named")
	}
	if !isSnapshotName(snapshot) {
		return Restored{}, fmt.Errorf("snapshot %q: %w", snapshot, ErrNoSnapshot)
	}
	db.dropping.Lock()
	defer db.dropping.Unlock()
	out, err := db.restore(ctx, snapshot, id, &o)
	if err != nil {
		return out, fmt.Errorf("restore tenant %s from snapshot %s: %w", id, snapshot, err)
	}
	db.opts.Logger.Info("a tenant was restored", "tenant", id, "snapshot", snapshot, "blocks", out.Blocks, "event_ids", out.EventIDs)
	return out, db.releaseSegments()
}

// REQUIRES: db.dropping
func (db *DB) restore(ctx context.Context, snapshot string, id tenant.ID, o *RestoreOptions) (out Restored, err error) {
	if err := db.checkReplace(id, o); err != nil {
		return out, err
	}
	if _, err := db.opts.FS.ReadDir(filepath.Join(db.opts.Dir, restoredPrefix+id.String())); err == nil {
		return out, errors.New("an earlier restore of it has not ended: start the server again, which ends it, or delete the tenant")
	}
	from := filepath.Join(db.opts.Dir, snapshotDirName, snapshot)
	s, old, err := db.prepareRestore(ctx, filepath.Join(from, id.String()), id)
	if err != nil {
		return out, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abandon(!errors.Is(err, ErrHalfRestored)))
		}
	}()
	out.Blocks = len(s.man.Blocks)
	for _, b := range s.man.Blocks {
		out.Bytes += b.Bytes
	}
	if !o.NoEventIDs {
		had := [4]byte{}
		binary.BigEndian.PutUint32(had[:], old.EventTag)
		out.EventIDs, err = db.importIDs(filepath.Join(from, idDirName), had, s.settings().EventTag)
		if err != nil {
			return out, err
		}
	}
	if o.Begin != nil {
		if err := o.Begin(); err != nil {
			return out, err
		}
	}
	for done := false; err == nil && !done; {
		if err = ctx.Err(); err == nil {
			done, err = db.replaceTenant(s, o)
		}
	}
	return out, err
}

// importIDs is dedup's, with no other taking or writing ids meanwhile.
func (db *DB) importIDs(dir string, from, to [4]byte) (int, error) {
	db.ids.writing.Lock()
	defer db.ids.writing.Unlock()
	n, err := db.ids.Import(dir, from, to, db.opts.Now().UnixMilli())
	if err != nil {
		err = fmt.Errorf("%w (the tenant can be restored without its event ids)", err)
	}
	return n, err
}

// checkReplace refuses to replace a tenant that is there where that is not asked for.
func (db *DB) checkReplace(id tenant.ID, o *RestoreOptions) error {
	if o.Replace {
		return nil
	}
	_, err := db.opts.FS.ReadFile(filepath.Join(db.tenantDir(id), manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("it %w: delete it first, or have what it has replaced", tenant.ErrExists)
	}
	return err
}

// prepareRestore makes a directory beside the tenant's, with links to the files of one in a
// snapshot and a new generation, and opens it, which verifies settings, keys and the heads
// of blocks. old is the snapshot's manifest.
func (db *DB) prepareRestore(ctx context.Context, from string, id tenant.ID) (s *store, old *manifest, err error) {
	fsys := db.opts.FS
	old, err = readManifest(fsys, from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNoSnapshot
	}
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(db.opts.Dir, restoringPrefix+db.newULID().String())
	defer func() {
		if err != nil {
			err = errors.Join(err, fsys.RemoveAll(dir))
		}
	}()
	if err := linkTenant(fsys, from, dir, old); err != nil {
		return nil, nil, err
	}
	at := newHome(fsys, from)
	for _, bi := range old.Blocks {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if err := checkBlockSize(fsys, filepath.Join(from, bi.ULID.String()), bi); err != nil {
			return nil, nil, err
		}
		if err := newBlock(db.blocks, at, bi).link(filepath.Join(dir, bi.ULID.String())); err != nil {
			return nil, nil, err
		}
	}
	next, err := old.asNew()
	if err != nil {
		return nil, nil, err
	}
	if err := next.write(fsys, dir); err != nil { // syncs the directory
		return nil, nil, err
	}
	s, err = openStoreAt(db, id, dir)
	if errors.Is(err, errNoTenant) {
		err = ErrNoSnapshot
	}
	if err != nil {
		return nil, nil, err
	}
	if err := s.openBlocks(); err != nil {
		return nil, nil, errors.Join(err, s.abandon(true))
	}
	return s, old, nil
}

// openBlocks opens all blocks once, which verifies the heads of their files, and reads what
// they say of themselves.
func (s *store) openBlocks() (err error) {
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for _, b := range v.blocks {
		if _, err := b.meta(); err != nil {
			return err
		}
		if _, err := s.db.blocks.acquire(b); err != nil {
			return err
		}
		s.db.blocks.release(b)
	}
	return nil
}

// asNew is the manifest of a tenant that has the same files and is another: nothing that the
// log or the event ids have is its own.
func (m *manifest) asNew() (*manifest, error) {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	next := *m
	next.Generation = binary.BigEndian.Uint64(random[:])
	next.EventTag = max(1, binary.BigEndian.Uint32(random[8:]))
	next.Watermark = position{}
	next.Blocks = slices.Clone(m.Blocks)
	for i := range next.Blocks {
		b := &next.Blocks[i]
		b.Generation = cmp.Or(b.Generation, m.Generation)
	}
	return &next, nil
}

// checkBlockSize returns an error where files of a block are cut or missing, as a copy's may
// be.
func checkBlockSize(fsys vfs.FS, dir string, bi blockInfo) error {
	size := int64(0)
	for _, sub := range []string{"", blockChunks} {
		entries, err := fsys.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return fmt.Errorf("block %s: %w", bi.ULID, err)
		}
		for _, e := range entries {
			if e.IsDir() || e.Name() == blockMetaName {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return fmt.Errorf("block %s: %w", bi.ULID, err)
			}
			size += info.Size()
		}
	}
	if size < bi.Bytes { // it has the headers of files too, which do not count
		return fmt.Errorf("block %s: %s has %d bytes, the manifest says %d or more: it was not copied whole", bi.ULID, dir, size, bi.Bytes)
	}
	return nil
}

// abandon gives up a store that was prepared and is in no use, with its directory where
// remove is set.
func (s *store) abandon(remove bool) error {
	s.home.gone.Store(remove)
	s.versions.close()
	return s.home.leave()
}

// replaceTenant puts a store that was prepared in the place of what has its name. It is done
// unless the tenant was made meanwhile.
//
// REQUIRES: db.dropping
func (db *DB) replaceTenant(next *store, o *RestoreOptions) (done bool, err error) {
	s, err := db.store(next.id, false)
	if err != nil {
		s = nil // it cannot be opened, and need not be
	}
	if s != nil {
		s.rewriting.Lock()
		defer s.rewriting.Unlock()
		s.flushMu.Lock()
		defer s.flushMu.Unlock()
		s.setRestored(true)
	}
	h, err := db.swapTenant(next, s, o)
	if errors.Is(err, errTenantMade) {
		return false, nil
	}
	if err != nil && !errors.Is(err, ErrHalfRestored) {
		if s != nil {
			s.setRestored(false)
		}
		return false, err
	}
	if s != nil {
		s.empty()
	}
	if h == nil { // it is not known which is the tenant's, so both stay
		return false, err
	}
	h.gone.Store(true)
	if err := h.leave(); err != nil {
		db.opts.Logger.Warn("what is left of a tenant that was replaced could not be removed, the next start does", "dir", h.path(), "err", err)
	}
	return true, nil
}

// setRestored is setDropped for a store that another replaces.
//
// REQUIRES: s.rewriting, s.flushMu
func (s *store) setRestored(restored bool) {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.dropped, s.restored = restored, restored
}

// swapTenant names the directory of next so that it is the tenant's, which is what counts
// after a crash, then moves that of s away and it into its place. It returns where the old
// directory is; nil where there may be none to be removed. s is nil where there is no store.
func (db *DB) swapTenant(next, s *store, o *RestoreOptions) (*home, error) {
	db.openMu.Lock()
	defer db.openMu.Unlock()
	id, fsys := next.id, db.opts.FS
	db.mu.RLock()
	now := db.stores[id]
	db.mu.RUnlock()
	if now != s {
		return nil, errTenantMade
	}
	if err := db.checkReplace(id, o); err != nil {
		return nil, err
	}
	settings, err := next.settingsBy(db.policy.Load(), &next.own)
	if err != nil {
		return nil, err
	}
	next.use(settings) // the policy may have changed meanwhile
	if err := next.home.move(filepath.Join(db.opts.Dir, restoredPrefix+id.String())); err != nil {
		return nil, err
	}
	// From here on a crash leaves the new tenant, or it is not known which.
	h := newHome(fsys, db.tenantDir(id))
	if s != nil {
		h = s.home
	}
	if err = fsys.SyncDir(db.opts.Dir); err == nil {
		err = h.move(filepath.Join(db.opts.Dir, droppedPrefix+db.newULID().String()))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = next.home.move(db.tenantDir(id))
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrHalfRestored, err)
		db.failReplaced(id, s, err)
		return nil, err
	}
	if err := fsys.SyncDir(db.opts.Dir); err != nil { // a crash may undo both, and the next start does them again
		db.opts.Logger.Warn("the directory of a tenant that was restored could not be synced", "tenant", id, "err", err)
	}
	if o.Replaced != nil {
		o.Replaced()
	}
	next.dir = db.tenantDir(id)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.stores[id] = next
	delete(db.failed, id)
	return h, nil
}

// failReplaced takes a tenant out of service of which it is not known whether it is what it
// was, s, or what it was to be. The log keeps what it needs to be the former.
//
// REQUIRES: db.openMu
func (db *DB) failReplaced(id tenant.ID, s *store, cause error) {
	held := db.wal.end().Segment
	if s != nil {
		if first, ok := s.hold.first(); ok {
			held = min(held, first)
		}
	}
	f := db.fail(id, cause)
	db.mu.Lock()
	defer db.mu.Unlock()
	if f.held == 0 || held < f.held {
		f.held = held
	}
	delete(db.stores, id)
}

// finishRestores puts the directories of tenants that were restored in their places, and
// removes what is left of those that were not, at the start.
func (db *DB) finishRestores() error {
	fsys := db.opts.FS
	entries, err := fsys.ReadDir(db.opts.Dir)
	if err != nil {
		return err
	}
	synced := false
	for _, e := range entries {
		name := filepath.Join(db.opts.Dir, e.Name())
		if strings.HasPrefix(e.Name(), restoringPrefix) {
			if err := fsys.RemoveAll(name); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
			continue
		}
		text, ok := strings.CutPrefix(e.Name(), restoredPrefix)
		if !ok {
			continue
		}
		id, err := tenant.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !synced {
			// The name may not be durable yet: the old directory must not go before it is.
			if err := fsys.SyncDir(db.opts.Dir); err != nil {
				return err
			}
			synced = true
		}
		err = fsys.Rename(db.tenantDir(id), filepath.Join(db.opts.Dir, droppedPrefix+db.newULID().String()))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = fsys.Rename(name, db.tenantDir(id))
		}
		if err != nil {
			return fmt.Errorf("finish to restore tenant %s: %w", id, err)
		}
		db.opts.Logger.Info("a tenant that was being restored is", "tenant", id)
	}
	if synced {
		return fsys.SyncDir(db.opts.Dir)
	}
	return nil
}

// errReplaced refuses a batch of a tenant that another takes the place of.
func errReplaced(id tenant.ID) error {
	return &overload.Error{Reason: overload.ReasonRestore, Text: fmt.Sprintf("tenant %s was restored or made again while the request was on its way", id)}
}
