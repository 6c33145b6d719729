package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/quipudb/quipu/internal/tenant"
)

// failedTenant is one whose directory, or whose records of the log, cannot be read.
// Its requests get the error; those of others go on.
type failedTenant struct {
	err error
	// held is the first segment with records of the tenant that were not replayed;
	// 0: none. Where there are some, they stay in the log and the tenant stays failed
	// until the directory is opened again: opened now, it would lack them.
	held    uint64
	records int
}

// failedError returns why a tenant cannot be opened before a restart; nil where it
// can be tried.
//
// REQUIRES: db.mu, shared
func (db *DB) failedError(id tenant.ID) error {
	f := db.failed[id]
	if f == nil || f.held == 0 {
		return nil
	}
	return fmt.Errorf("tenant %s is out of service until its directory is repaired and the server restarted: %w", id, f.err)
}

// fail notes that a tenant could not be opened, and says so the first time.
func (db *DB) fail(id tenant.ID, cause error) *failedTenant {
	db.mu.Lock()
	defer db.mu.Unlock()
	f := db.failed[id]
	if f == nil {
		f = &failedTenant{}
		db.failed[id] = f
	}
	if f.err == nil || f.err.Error() != cause.Error() {
		db.opts.Logger.Error("a tenant cannot be opened, its requests are refused; the others go on", "tenant", id, "err", cause)
	}
	f.err = cause
	return f
}

// failReplay takes a tenant out of service whose records cannot be replayed: s where
// it was opened before it failed. The log is kept from its first record on.
func (db *DB) failReplay(id tenant.ID, s *store, pos position, cause error) {
	f := db.fail(id, cause)
	f.held, f.records = pos.Segment, 1
	if s == nil {
		return
	}
	if first, ok := s.hold.first(); ok {
		f.held = min(f.held, first)
	}
	db.mu.Lock()
	delete(db.stores, id)
	db.mu.Unlock()
	s.state.forget()
	v := s.versions.pin()
	db.pressure.forget(v.mems)
	s.versions.unpin(v)
	s.versions.close()
}

// skipFailed counts a record of a tenant that is out of service.
func (db *DB) skipFailed(id tenant.ID) bool {
	f := db.failed[id]
	if f == nil || f.held == 0 {
		return false
	}
	f.records++
	return true
}

// reportHeld says what of the log waits for tenants to be repaired.
func (db *DB) reportHeld() {
	for id, f := range db.failed {
		if f.held != 0 {
			db.opts.Logger.Error("the log keeps the records of a tenant that cannot be opened: repair its directory and restart, or move it away to give them up",
				"tenant", id, "records", f.records, "segment", segmentName(f.held), "err", f.err)
		}
	}
}

// failedCount is how many tenants could not be opened when they were last tried.
func (db *DB) failedCount() int {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return len(db.failed)
}

// lostManifest returns an error where a tenant that the log has records of has a
// directory that was in use but no manifest. A directory that is not there, or has
// only settings, is of a tenant that was deleted.
func (db *DB) lostManifest(id tenant.ID) error {
	dir := db.tenantDir(id)
	_, err := db.opts.FS.ReadFile(filepath.Join(dir, idKeyName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("open tenant %s: %w", id, err)
	}
	return fmt.Errorf("open tenant %s: the log has records of it but %s is missing: restore it, or move the directory away",
		id, filepath.Join(dir, manifestName))
}
