package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// ErrNoSnapshot says that there is no snapshot of a name, or that it does not have a tenant.
var ErrNoSnapshot = errors.New("there is no such snapshot")

// snapshotName is what a snapshot's directory may be called, which an operator may have
// put there.
var snapshotName = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,99}$`)

// SnapshotInfo is what is known of a snapshot.
type SnapshotInfo struct {
	Name string
	// Time is when it was made; of one that an operator has put there and named, when what
	// is in it was changed last.
	Time    time.Time
	Tenants []SnapshotTenant // by id
}

// SnapshotTenant is a tenant in a snapshot.
type SnapshotTenant struct {
	ID     tenant.ID
	Blocks int
	Bytes  int64 // of the blocks, which it may share with what is live
	// Err is why its manifest cannot be read; nil where it can.
	Err error
}

// snapshotNames are the snapshots that there are, in order.
func (db *DB) snapshotNames() ([]string, error) {
	entries, err := db.opts.FS.ReadDir(filepath.Join(db.opts.Dir, snapshotDirName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && isSnapshotName(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

func isSnapshotName(name string) bool {
	return snapshotName.MatchString(name) && !strings.HasSuffix(name, unfinished)
}

// Snapshots are those that there are, the newest first.
func (db *DB) Snapshots() ([]SnapshotInfo, error) {
	names, err := db.snapshotNames()
	if err != nil {
		return nil, err
	}
	out := make([]SnapshotInfo, 0, len(names))
	for _, name := range names {
		info, err := db.snapshotInfo(name)
		if errors.Is(err, ErrNoSnapshot) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	slices.SortStableFunc(out, func(a, b SnapshotInfo) int { return b.Time.Compare(a.Time) })
	return out, nil
}

func (db *DB) snapshotInfo(name string) (SnapshotInfo, error) {
	dir := filepath.Join(db.opts.Dir, snapshotDirName, name)
	out := SnapshotInfo{Name: name}
	entries, err := db.opts.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("snapshot %s: %w", name, ErrNoSnapshot)
	}
	if err != nil {
		return out, fmt.Errorf("snapshot %s: %w", name, err)
	}
	made, _, _ := strings.Cut(name, "-")
	out.Time, err = time.Parse(snapshotTime, made)
	ours := err == nil
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !ours && info.ModTime().After(out.Time) {
			out.Time = info.ModTime().UTC()
		}
		id, err := tenant.Parse(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		t := SnapshotTenant{ID: id}
		man, err := readManifest(db.opts.FS, filepath.Join(dir, e.Name()))
		if t.Err = err; err == nil {
			t.Blocks = len(man.Blocks)
			for _, b := range man.Blocks {
				t.Bytes += b.Bytes
			}
		}
		out.Tenants = append(out.Tenants, t)
	}
	return out, nil
}

// DeleteSnapshot deletes a snapshot, or fails with ErrNoSnapshot. It waits for tenants that
// are being restored.
func (db *DB) DeleteSnapshot(ctx context.Context, name string) error {
	db.dropping.Lock()
	defer db.dropping.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !isSnapshotName(name) {
		return fmt.Errorf("snapshot %q: %w", name, ErrNoSnapshot)
	}
	dir := filepath.Join(db.opts.Dir, snapshotDirName, name)
	// Half of one must not be taken for a whole one.
	err := db.opts.FS.Rename(dir, dir+unfinished)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("snapshot %s: %w", name, ErrNoSnapshot)
	}
	if err == nil {
		err = db.opts.FS.SyncDir(filepath.Dir(dir))
	}
	if err == nil {
		err = db.opts.FS.RemoveAll(dir + unfinished)
	}
	if err != nil {
		return fmt.Errorf("delete snapshot %s: %w", name, err)
	}
	return nil
}
