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
const snapshotDirName = "@snapshots"

// Snapshot flushes a tenant and links its files to @snapshots/<name>/<tenant>/ in the
// data directory, so that @snapshots/<name> is a data directory of its own, as of the
// flush. Where skipHead is set nothing is flushed: then it has what is in blocks, and the
// rest where the log is put beside it as @wal. Event ids are not in it.
//
// Appends go on while files are linked. Who wants a snapshot deletes its directory when
// it is not needed any more; until then blocks that were merged or deleted keep their
// place on the disk.
func (db *DB) Snapshot(ctx context.Context, id tenant.ID, skipHead bool) (name string, err error) {
	s, err := db.existing(id)
	if err == nil && !skipHead {
		err = s.flush(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("snapshot of tenant %s: %w", id, err)
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("snapshot of tenant %s: %w", id, err)
	}
	name = fmt.Sprintf("%s-%016x", db.opts.Now().UTC().Format("20060102T150405Z0700"), binary.BigEndian.Uint64(random[:])>>1)
	if err := s.snapshot(ctx, name); err != nil {
		return "", fmt.Errorf("snapshot of tenant %s: %w", id, err)
	}
	return name, nil
}

// snapshot links what the manifest names into a directory that gets its name when it is
// whole.
func (s *store) snapshot(ctx context.Context, name string) (err error) {
	fsys := s.db.opts.FS
	all := filepath.Join(s.db.opts.Dir, snapshotDirName)
	final := filepath.Join(all, name)
	tmp := final + ".tmp"
	dir := filepath.Join(tmp, s.id.String())
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, vfs.ErrUncertain) {
			err = errors.Join(err, fsys.RemoveAll(tmp))
		}
	}()
	man, v, err := s.linkSmall(dir)
	if err != nil {
		return err
	}
	defer s.versions.unpin(v)
	for _, b := range v.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.link(filepath.Join(dir, b.ULID.String())); err != nil {
			return err
		}
	}
	if err := man.write(fsys, dir); err != nil { // syncs the directory
		return err
	}
	if err := fsys.SyncDir(tmp); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, final); err != nil {
		return err
	}
	for _, d := range []string{all, s.db.opts.Dir} {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w: %w", d, vfs.ErrUncertain, err)
		}
	}
	return nil
}

// linkSmall links or copies all files of the tenant's directory but blocks, and returns
// the manifest and the version that has its blocks, pinned. Who changes the manifest
// waits for it, appends do not.
func (s *store) linkSmall(dir string) (*manifest, *version, error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.dropped {
		return nil, nil, errUnknown(s.id)
	}
	fsys := s.db.opts.FS
	man := *s.man
	for _, name := range man.files() {
		if err := fsys.Link(filepath.Join(s.dir, name), filepath.Join(dir, name)); err != nil {
			return nil, nil, err
		}
	}
	if err := copyFiles(fsys, s.dir, dir, func(name string) bool { return name != manifestName && !isOurs(name) }); err != nil {
		return nil, nil, err
	}
	err := copyFiles(fsys, filepath.Join(s.dir, tenant.RulesDir), filepath.Join(dir, tenant.RulesDir), func(name string) bool { return !strings.HasSuffix(name, ".tmp") })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	return &man, s.versions.pin(), nil
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
		if strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, e.Name())
		}
	}
	return names, err
}
