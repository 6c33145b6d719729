package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/quipudb/quipu/internal/tenant"
)

// lockOffline locks a data directory, or a snapshot, which has no log, against a server,
// and returns the tenants that it has. It changes nothing but that it makes the lock file.
func lockOffline(dir string) (ids []tenant.ID, lock fileutil.Releaser, err error) {
	ids, err = tenantsIn(dir)
	if err == nil && len(ids) == 0 {
		_, err = os.Stat(filepath.Join(dir, walDirName))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no data directory: %w", dir, err)
	}
	lock, _, err = fileutil.Flock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, nil, fmt.Errorf("data directory %s is in use, then stop the server first, or cannot be locked: %w", dir, err)
	}
	return ids, lock, nil
}

// tenantsIn are the tenants of a data directory, in order, also those that cannot be
// opened.
func tenantsIn(dir string) ([]tenant.ID, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	var out []tenant.ID
	for _, e := range entries { // in order of names
		id, err := tenant.Parse(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, id.String(), manifestName)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out = append(out, id)
	}
	return out, nil
}
