package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// Analysis says what takes room of a tenant, in blocks and in the log.
type Analysis struct {
	Tenant tenant.ID
	// Stats counts what is only in the log as in memory, where a server would have it.
	Stats
	// LogRecords is how many records of the log the blocks do not have.
	LogRecords int
	// Err says why the tenant cannot be read; there is nothing else then.
	Err error
}

// AnalyzeOptions say what is analyzed.
type AnalyzeOptions struct {
	Dir string
	// Only is the one tenant to look at; zero: all.
	Only tenant.ID
	// Limit is how many entries each list has, the largest.
	Limit int
	// Names are the metrics of a tenant whose costs are asked for; nil: none.
	Names func(tenant.ID) []string
}

// Analyze reads a data directory that no server has open, or a snapshot, and changes
// nothing. The log is read as a server reads it when it starts, into memory. What was
// deleted and not rewritten yet is counted. Where a tenant or a block is damaged, that is
// said and the rest looked at; damage of the log, in logDamage, is of all tenants.
func Analyze(ctx context.Context, o AnalyzeOptions) (out []Analysis, logDamage []string, err error) {
	ids, lock, err := lockOffline(o.Dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	db := newOfflineDB(o.Dir)
	records := map[tenant.ID]int{}
	for _, id := range ids {
		if !o.Only.IsZero() && id != o.Only {
			continue
		}
		a := Analysis{Tenant: id}
		s, err := readStoreAt(db, id, db.tenantDir(id))
		if err != nil {
			a.Err = err
		} else {
			db.stores[id] = s
		}
		out = append(out, a)
	}
	if !o.Only.IsZero() && len(out) == 0 {
		return nil, nil, fmt.Errorf("tenant %s %w", o.Only, tenant.ErrUnknown)
	}
	if logDamage, err = db.replayOffline(ctx, records); err != nil {
		return nil, nil, err
	}
	for i := range out {
		a := &out[i]
		s := db.stores[a.Tenant]
		if f := db.failed[a.Tenant]; f != nil {
			a.Err = f.err
		}
		if a.Err != nil || s == nil {
			continue
		}
		c := newSurvey(ctx, math.MaxInt, math.MaxInt)
		v := s.versions.pin()
		err := c.addVersion(v)
		s.versions.unpin(v)
		if err != nil {
			return nil, nil, fmt.Errorf("analyze tenant %s: %w", a.Tenant, err)
		}
		var names []string
		if o.Names != nil {
			names = o.Names(a.Tenant)
		}
		a.Stats, a.LogRecords = c.stats(o.Limit, names), records[a.Tenant]
	}
	return out, logDamage, nil
}

// newOfflineDB is a DB of which only tenants are read and the log is replayed. Nothing on
// disk changes.
func newOfflineDB(dir string) *DB {
	// Nothing is dropped by settings here, whatever the server's configuration says.
	defaults := tenant.DefaultSettings()
	defaults.Retention = 0
	o := Options{Dir: dir, FS: readOnlyFS{}, Defaults: defaults}
	if err := o.fill(); err != nil {
		panic(err) // they are constants
	}
	db := &DB{opts: o, skipped: map[tenant.ID]int{}, metrics: newMetrics(prometheus.NewRegistry()), stores: map[tenant.ID]*store{}, failed: map[tenant.ID]*failedTenant{}}
	db.policy.Store(o.Policy)
	db.blocks = newBlockCache(1, o.Logger, db.metrics)
	return db
}

// replayOffline puts what the log alone has into the memtables of the tenants that are
// open, and counts its records by tenant.
func (db *DB) replayOffline(ctx context.Context, records map[tenant.ID]int) (damage []string, err error) {
	dir := filepath.Join(db.opts.Dir, walDirName)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a snapshot
	}
	r := walReader{fs: db.opts.FS, dir: dir, logger: slog.New(slog.DiscardHandler), metrics: db.metrics, check: &walCheck{
		damaged: func(segment uint64, offset int64, cause error) {
			damage = append(damage, fmt.Sprintf("%s at byte %d: %v", filepath.Join(walDirName, segmentName(segment)), offset, cause))
		},
		torn: func(uint64, int64) {}, // never acknowledged
	}}
	_, err = r.replay(func(pos position, rec *walRecord) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := db.stores[rec.tenant]
		if s == nil || s.generation != rec.generation || pos.before(s.man.Watermark) {
			return nil
		}
		if records[rec.tenant]++; rec.whole {
			records[rec.tenant] = 1 // it stands for those before
		}
		rec.exemplars, rec.metadata = nil, nil
		if err := s.replay(pos, rec); err != nil {
			db.failReplay(rec.tenant, s, pos, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return damage, nil
}

// readOnlyFS changes nothing: what opening would tidy up stays.
type readOnlyFS struct{ vfs.OS }

func (readOnlyFS) Create(name string) (vfs.File, error) {
	return nil, fmt.Errorf("%s is only to be read", name)
}
func (readOnlyFS) MkdirAll(string) error       { return nil }
func (readOnlyFS) Rename(string, string) error { return nil }
func (readOnlyFS) Link(string, string) error   { return nil }
func (readOnlyFS) Remove(string) error         { return nil }
func (readOnlyFS) RemoveAll(string) error      { return nil }
func (readOnlyFS) SyncDir(string) error        { return nil }
