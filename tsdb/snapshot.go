package tsdb

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// snapshotDirName is where snapshots are: <name>/<tenant>/ below it.
const (
	snapshotDirName = "@snapshots"
	// unfinished ends the name of one that is being made or deleted.
	unfinished = ".tmp"
	// snapshotTime is how the name of one begins.
	snapshotTime = "20060102T150405Z0700"
)

// snapshotsMax is how many snapshots there are before no more are made.
const snapshotsMax = 1000

// Snapshot flushes a tenant and links its files to @snapshots/<name>/<tenant>/ in the
// data directory, and those of event ids beside it, so that @snapshots/<name> is a data
// directory of its own, as of the flush: it has an event if and only if it has the event's
// id. Where skipHead is set nothing is flushed: then it has what is in blocks, no ids, and
// the rest where the log is put beside it as @wal.
//
// Appends go on while files are linked. Who wants a snapshot deletes its directory when
// it is not needed any more; until then blocks that were merged or deleted keep their
// place on the disk.
func (db *DB) Snapshot(ctx context.Context, id tenant.ID, skipHead bool) (name string, err error) {
	name, _, err = db.SnapshotAll(ctx, []tenant.ID{id}, skipHead)
	return name, err
}

// SnapshotAll is Snapshot of several tenants, which are in it one after the other; nil: all.
// Of all, those that cannot be opened are left out, and failed has why. The event ids are
// those of when the last one was flushed: of the others, an event that came after its flush
// counts as seen where it is sent to the snapshot.
func (db *DB) SnapshotAll(ctx context.Context, ids []tenant.ID, skipHead bool) (name string, failed map[tenant.ID]error, err error) {
	all := len(ids) == 0
	if all {
		if ids, err = db.Tenants(); err != nil {
			return "", nil, fmt.Errorf("snapshot: %w", err)
		}
		if len(ids) == 0 {
			return "", nil, errors.New("snapshot: there is no tenant")
		}
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", nil, fmt.Errorf("snapshot: %w", err)
	}
	name = fmt.Sprintf("%s-%016x", db.opts.Now().UTC().Format(snapshotTime), binary.BigEndian.Uint64(random[:])>>1)
	sn := snapshot{db: db, skipHead: skipHead, tmp: filepath.Join(db.opts.Dir, snapshotDirName, name+unfinished)}
	if err := db.roomForSnapshot(); err != nil {
		return "", nil, err
	}
	failed = map[tenant.ID]error{}
	err = sn.make(func() error {
		for i, id := range ids {
			err := sn.add(ctx, id, i == len(ids)-1)
			if err == nil {
				continue
			}
			err = fmt.Errorf("snapshot of tenant %s: %w", id, err)
			if !all || ctx.Err() != nil || sn.begun(id) {
				return err
			}
			if !errors.Is(err, tenant.ErrUnknown) { // else it was dropped meanwhile
				failed[id] = err
			}
		}
		return sn.addIDs(nil)
	})
	if err != nil {
		return "", nil, err
	}
	return name, failed, nil
}

// roomForSnapshot refuses one more snapshot where there are too many.
func (db *DB) roomForSnapshot() error {
	names, err := db.snapshotNames()
	if err == nil && len(names) >= snapshotsMax {
		err = fmt.Errorf("there are %d snapshots, no more are made: delete some", len(names))
	}
	return err
}

// snapshot is one that is being made.
type snapshot struct {
	db       *DB
	skipHead bool
	tmp      string // its directory until it is whole
	ids      bool   // it has the event ids
}

// make makes the directory, which fill fills, and gives it its name when it is whole.
func (sn *snapshot) make(fill func() error) (err error) {
	fsys := sn.db.opts.FS
	final := strings.TrimSuffix(sn.tmp, unfinished)
	all := filepath.Dir(final)
	if err := fsys.MkdirAll(sn.tmp); err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, vfs.ErrUncertain) {
			err = errors.Join(err, fsys.RemoveAll(sn.tmp))
		}
	}()
	if err := fill(); err != nil {
		return err
	}
	if err := fsys.SyncDir(sn.tmp); err != nil {
		return err
	}
	if err := fsys.Rename(sn.tmp, final); err != nil {
		return err
	}
	for _, d := range []string{all, sn.db.opts.Dir} {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w: %w", d, vfs.ErrUncertain, err)
		}
	}
	return nil
}

// begun reports whether the snapshot has something of a tenant.
func (sn *snapshot) begun(id tenant.ID) bool {
	_, err := sn.db.opts.FS.ReadDir(filepath.Join(sn.tmp, id.String()))
	return err == nil
}

// add adds a tenant; with the last one the ids that there are when it is flushed.
func (sn *snapshot) add(ctx context.Context, id tenant.ID, last bool) error {
	s, err := sn.db.existing(id)
	if err != nil {
		return err
	}
	dir := filepath.Join(sn.tmp, id.String())
	var man *manifest
	var v *version
	if last && !sn.skipHead {
		err = sn.addIDs(func() error {
			man, v, err = s.linkSmall(ctx, dir, s.rotateWithIDs)
			return err
		})
	} else if sn.skipHead {
		man, v, err = s.linkSmall(ctx, dir, nil)
	} else {
		man, v, err = s.linkSmall(ctx, dir, s.rotate)
	}
	if v != nil {
		defer s.versions.unpin(v)
	}
	if err != nil {
		return err
	}
	for _, b := range v.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.link(filepath.Join(dir, b.ULID.String())); err != nil {
			return err
		}
	}
	return man.write(sn.db.opts.FS, dir) // syncs the directory
}

// rotateWithIDs is rotate that takes the ids of all events too: no event comes between.
//
// REQUIRES: s.flushMu, s.db.ids.writing
func (s *store) rotateWithIDs() rotated {
	ids := &s.db.ids
	ids.barrier.Lock()
	defer ids.barrier.Unlock()
	ids.take()
	return s.rotate()
}

// addIDs writes and links the event ids that take takes, nil: all that there are; unless it
// did before.
func (sn *snapshot) addIDs(take func() error) error {
	if sn.ids || sn.skipHead {
		return nil
	}
	ids := &sn.db.ids
	ids.writing.Lock()
	defer ids.writing.Unlock()
	if take == nil {
		ids.barrier.Lock()
		ids.take()
		ids.barrier.Unlock()
	} else if err := take(); err != nil {
		return err
	}
	if err := sn.db.writeIDs(); err != nil {
		return err
	}
	sn.ids = true
	return ids.Link(filepath.Join(sn.tmp, idDirName))
}

// linkSmall flushes what rotate takes, unless that is nil, links or copies all files of
// the tenant's directory but blocks, and returns the manifest and the version that has its
// blocks, pinned. Who changes the manifest waits for it, appends do not.
func (s *store) linkSmall(ctx context.Context, dir string, rotate func() rotated) (*manifest, *version, error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.dropped {
		return nil, nil, errUnknown(s.id)
	}
	if rotate != nil {
		if err := s.flushAt(ctx, rotate); err != nil {
			return nil, nil, err
		}
	}
	man := *s.man
	if err := linkTenant(s.db.opts.FS, s.dir, dir, &man); err != nil {
		return nil, nil, err
	}
	return &man, s.versions.pin(), nil
}

// linkTenant links or copies all files of a tenant's directory, which a manifest names or
// which are changed where they are, but blocks and the manifest.
func linkTenant(fsys vfs.FS, from, to string, man *manifest) error {
	if err := fsys.MkdirAll(to); err != nil {
		return err
	}
	for _, name := range man.files() {
		if err := fsys.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if err := copyFiles(fsys, from, to, func(name string) bool { return name != manifestName && !isOurs(name) }); err != nil {
		return err
	}
	err := copyFiles(fsys, filepath.Join(from, tenant.RulesDir), filepath.Join(to, tenant.RulesDir), func(name string) bool { return !strings.HasSuffix(name, ".tmp") })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// copyFiles copies the files of a directory, whose names are to be taken, to another, which
// it makes durable. Settings and rules are changed where they are: a link would change too.
// The error is fs.ErrNotExist where there is no such directory.
func copyFiles(fsys vfs.FS, from, to string, take func(name string) bool) error {
	entries, err := fsys.ReadDir(from)
	if err != nil {
		return err
	}
	if err := fsys.MkdirAll(to); err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || !take(e.Name()) {
			continue
		}
		src, err := fsys.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rules may go meanwhile
		}
		if err == nil {
			err = vfs.WriteFile(fsys, filepath.Join(to, e.Name()), src)
		}
		if err != nil {
			return err
		}
	}
	return fsys.SyncDir(to)
}

// isOurs reports whether a file of a tenant's directory has a name of those that a
// manifest names, or is a leftover.
func isOurs(name string) bool {
	stem := strings.TrimSuffix(name, ".tmp")
	for _, suffix := range [...]string{keySuffix, exemplarSuffix, stateSuffix} {
		stem = strings.TrimSuffix(stem, suffix)
	}
	_, err := ulid.ParseStrict(stem)
	return err == nil || strings.HasSuffix(name, ".tmp")
}

// link gives the files of a block a second name, in a directory that it makes durable.
func (b *block) link(to string) error {
	b.home.moving.RLock()
	defer b.home.moving.RUnlock()
	chunkDir := filepath.Join(b.dir(), blockChunks)
	if err := b.fs.MkdirAll(filepath.Join(to, blockChunks)); err != nil {
		return err
	}
	entries, err := b.fs.ReadDir(chunkDir)
	if err != nil {
		return err
	}
	names := []string{blockMetaName, blockIndex}
	if b.Unions > 0 {
		names = append(names, blockUnions)
	}
	for _, e := range entries {
		names = append(names, filepath.Join(blockChunks, e.Name()))
	}
	for _, name := range names {
		if err := b.fs.Link(filepath.Join(b.dir(), name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return errors.Join(b.fs.SyncDir(filepath.Join(to, blockChunks)), b.fs.SyncDir(to))
}

// sweepSnapshots removes those that a crash left unfinished.
func (db *DB) sweepSnapshots() error {
	dir := filepath.Join(db.opts.Dir, snapshotDirName)
	names, err := unfinishedSnapshots(db.opts.FS, dir)
	for _, name := range names {
		err = errors.Join(err, db.opts.FS.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}

func unfinishedSnapshots(fsys vfs.FS, dir string) (names []string, err error) {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			names = append(names, e.Name())
		}
	}
	return names, err
}
