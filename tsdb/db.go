package tsdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// Names in the data directory that are not tenants have a character that no
// tenant id has.
const (
	walDirName = "@wal"
	lockName   = "@lock"
)

// replayedMany is after how many records memory is given back to the system.
const replayedMany = 5000

// Options of a DB. The zero value of a field means its default.
type Options struct {
	Dir        string
	FS         vfs.FS // default: the operating system's; index and chunk files of blocks are always there
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// Defaults are the settings of tenants where neither the policy nor their own say.
	Defaults tenant.Settings
	// Policy decides the settings of tenants, until SetPolicy; nil: Defaults do.
	Policy *tenant.Policy
	// DedupWindow is how long the keys of batches and the ids of events are
	// remembered; default 24h.
	DedupWindow time.Duration
	// EventIDsMax is how many ids of events are remembered, of all tenants together:
	// past it the oldest hour is forgotten. They take 256 MiB of memory and 2 GiB of
	// disk at the default, 100 million.
	EventIDsMax int
	// WALBytesMax is the log's budget: past it the tenants that need its oldest
	// segment are flushed; default 512 MiB.
	WALBytesMax int64
	// WALSegmentBytesMax is where a segment ends; default an eighth of
	// WALBytesMax.
	WALSegmentBytesMax int64
	// WALSyncEvery is how often the log is synced while batches do not wait for it: a
	// power loss takes what was acknowledged since. 0: every batch waits.
	WALSyncEvery time.Duration
	// MemtableBytesMax is the budget of all memtables: past it the largest tenant
	// is flushed; default 2 GiB.
	MemtableBytesMax int64
	// OpenBlocksMax is how many blocks are kept open, of all tenants together: two
	// files each, or more for large blocks. More are open only while more are read at
	// once; default 1,000.
	OpenBlocksMax int
	// NewState makes what is kept of a tenant besides increments, empty; nil: nothing is
	// kept, and batches with State are refused.
	NewState func(id tenant.ID) State
	// MaintainInterval is how often background work looks for something to do;
	// default 5s.
	MaintainInterval time.Duration
}

func (o *Options) fill() error {
	if o.Dir == "" {
		return errors.New("open storage: no directory named")
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Defaults.Equal(&tenant.Settings{}) {
		o.Defaults = tenant.DefaultSettings()
	}
	o.DedupWindow = orDefault(o.DedupWindow, 24*time.Hour)
	o.EventIDsMax = orDefault(o.EventIDsMax, 100_000_000)
	o.WALBytesMax = orDefault(o.WALBytesMax, 512<<20)
	o.WALSegmentBytesMax = orDefault(o.WALSegmentBytesMax, max(1, o.WALBytesMax/8))
	o.MemtableBytesMax = orDefault(o.MemtableBytesMax, 2<<30)
	o.OpenBlocksMax = orDefault(o.OpenBlocksMax, 1000)
	o.MaintainInterval = orDefault(o.MaintainInterval, 5*time.Second)
	if o.Policy == nil {
		o.Policy = &tenant.Policy{Defaults: o.Defaults}
	}
	return o.Defaults.Validate()
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// DB is the storage of all tenants. Safe for concurrent use.
type DB struct {
	opts    Options
	metrics *metrics
	lock    fileutil.Releaser
	wal     *wal
	blocks  *blockCache
	ids     eventIDs
	refs    atomic.Uint64
	policy  atomic.Pointer[tenant.Policy]
	// memtables numbers them: see increment.Series.Place.
	memtables atomic.Uint32

	skipped map[tenant.ID]int // records of unknown tenants; only while opening
	// openMu is held while a tenant is opened or made, so that appends and queries
	// of others do not wait for its files.
	openMu sync.Mutex
	// dropping is held while a tenant is dropped: one at a time.
	dropping sync.Mutex

	mu     sync.RWMutex
	stores map[tenant.ID]*store
	failed map[tenant.ID]*failedTenant // never one of stores

	// pinned is how many bytes of the log only tenants need that failed or cannot be
	// flushed.
	pinned   atomic.Int64
	pressure pressure

	idle idleVisits // owned by the goroutine that rewrites blocks

	kick       chan struct{} // wakes background work early
	kickBlocks chan struct{} // the part of it that rewrites blocks
	stop       context.CancelFunc
	maintained chan struct{}
}

// Open opens or makes the data directory, replays its log and starts background
// work. A second process on the directory is refused.
func Open(opts Options) (db *DB, err error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	db = &DB{opts: opts, skipped: map[tenant.ID]int{}, metrics: newMetrics(opts.Registerer), stores: map[tenant.ID]*store{}, failed: map[tenant.ID]*failedTenant{}, kick: make(chan struct{}, 1), kickBlocks: make(chan struct{}, 1), maintained: make(chan struct{})}
	db.policy.Store(opts.Policy)
	db.pressure.begin(&opts)
	db.blocks = newBlockCache(opts.OpenBlocksMax, opts.Logger, db.metrics)
	walDir := filepath.Join(opts.Dir, walDirName)
	if err := opts.FS.MkdirAll(walDir); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if db.lock, _, err = fileutil.Flock(filepath.Join(opts.Dir, lockName)); err != nil {
		return nil, fmt.Errorf("data directory %s is in use by another process, or cannot be locked: %w", opts.Dir, err)
	}
	lock := db.lock
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Release())
		}
	}()
	if err := opts.FS.SyncDir(filepath.Dir(filepath.Clean(opts.Dir))); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if err := errors.Join(db.finishRestores(), db.sweepDropped(), db.sweepSnapshots()); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	started := time.Now()
	if err := db.openIDs(); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	r := walReader{fs: opts.FS, dir: walDir, logger: opts.Logger, metrics: db.metrics}
	records := 0
	end, err := r.replay(func(pos position, rec *walRecord) error {
		records++
		if len(rec.ids) > 0 {
			db.ids.Restore(rec.ids, rec.idsTime)
			db.ids.hold.use(pos.Segment)
		}
		db.replay(pos, rec)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	for id, n := range db.skipped {
		opts.Logger.Warn("log has records of a tenant that does not exist, deleted it seems: skipped", "tenant", id, "records", n)
	}
	db.reportHeld()
	if end.id == (ulid.ULID{}) {
		end.id = db.newULID()
	}
	if db.wal, err = startWAL(&db.opts, walDir, end, db.metrics, db.logGrown); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if records >= replayedMany {
		debug.FreeOSMemory() // what reading the log took is not needed again
	}
	opts.Logger.Info("storage is open", "dir", opts.Dir, "replayed", records, "took", time.Since(started).Round(time.Millisecond))
	ctx, stop := context.WithCancel(context.Background())
	db.stop = stop
	db.registerGauges()
	go db.background(ctx)
	return db, nil
}

func (db *DB) registerGauges() {
	gauge := func(name, help string, f func() float64) {
		db.opts.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("quipu_tsdb_wal_size_bytes", "Bytes of the write-ahead log on disk.", func() float64 { return float64(db.wal.size()) })
	gauge("quipu_tsdb_memtable_bytes", "Bytes of increments in memory, about.", func() float64 { return float64(db.pressure.memory.Load()) })
	gauge("quipu_tsdb_open_blocks", "Blocks whose files are open; more than the bound only while all are being read.", func() float64 { return float64(db.blocks.count()) })
	gauge("quipu_tsdb_failed_tenants", "Tenants that could not be opened when they were last tried: their requests are refused.", func() float64 { return float64(db.failedCount()) })
	gauge("quipu_ingest_dedup_window_seconds", "For how long the ids of events are known: the de-duplication window, or less where there were too many.", func() float64 {
		return db.ids.Remembered(db.opts.Now().UnixMilli()).Seconds()
	})
	gauge("quipu_tsdb_event_ids", "Ids of events that are remembered.", func() float64 { return float64(db.ids.Len()) })
	gauge("quipu_tsdb_open_tenants", "Tenants in memory.", func() float64 { return float64(len(db.openStores())) })
}

// Close stops background work, makes what waits durable and gives the directory
// free. What is in memtables stays in the log.
func (db *DB) Close() error {
	db.stop()
	<-db.maintained
	err := errors.Join(db.wal.close(), db.ids.Close())
	for _, s := range db.openStores() {
		s.versions.close()
	}
	return errors.Join(err, db.lock.Release())
}

// Append applies a batch durably and settles its reservation: when it returns nil, a crash does not lose it.
// duplicate reports that its key was applied within the de-duplication window,
// and then nothing was done. A *KindError refuses the batch whole; ErrReadOnly
// says that storage takes no writes, an *overload.Error that it takes none now.
func (db *DB) Append(ctx context.Context, id tenant.ID, b *increment.Batch) (duplicate bool, err error) {
	logged := false
	if ids := reservationOf(b); ids != nil {
		db.ids.barrier.RLock()
		defer func() {
			ids.Settle(logged)
			db.ids.barrier.RUnlock()
		}()
	}
	s, err := db.store(id, true)
	if err != nil {
		return false, err
	}
	duplicate, logged, err = s.append(ctx, b)
	return duplicate, err
}

// Tenant returns what the write path needs to know of a tenant, which is made
// where it does not exist and the policy allows it: tenant.ErrUnknown otherwise, and
// tenant.ErrSuspended where nothing is taken of it.
func (db *DB) Tenant(id tenant.ID) (tenant.Profile, error) {
	s, err := db.store(id, true)
	if err != nil {
		return tenant.Profile{}, err
	}
	profile := s.settings()
	if profile.Suspended {
		return tenant.Profile{}, fmt.Errorf("tenant %s %w", id, tenant.ErrSuspended)
	}
	return *profile, nil
}

// Settings returns a tenant's settings; those that one would be made with where it does
// not exist.
func (db *DB) Settings(id tenant.ID) (tenant.Settings, error) {
	s, err := db.store(id, false)
	if err != nil {
		return tenant.Settings{}, err
	}
	if s == nil {
		return db.policy.Load().Settings(id, &tenant.Patch{}, 0)
	}
	return s.settings().Settings, nil
}

// Kinds returns the kind of every metric of a tenant, by name.
func (db *DB) Kinds(id tenant.ID) (map[string]increment.Kind, error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return nil, err
	}
	return s.admission.kindsByName(), nil
}

// HasCounts reports whether a name shows counts that are stored as increments: it is a
// counter's, or of the classic family of a histogram with buckets.
func (db *DB) HasCounts(id tenant.ID, metric string) (bool, error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return false, err
	}
	return s.admission.hasCounts(metric), nil
}

// DataRange returns the start of a tenant's oldest window and the end of its
// newest, in milliseconds since 1970; ok is false where it has no data. What was deleted
// counts until it has been rewritten.
func (db *DB) DataRange(_ context.Context, id tenant.ID) (mint, maxt int64, ok bool, err error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return 0, 0, false, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	mint, maxt, ok = v.times()
	return mint, maxt, ok, nil
}

// store returns the tenant's store, opened at its first use. Where there is no
// such tenant it is made if create is set, else nil is returned.
func (db *DB) store(id tenant.ID, create bool) (*store, error) {
	db.mu.RLock()
	s, err := db.stores[id], db.failedError(id)
	db.mu.RUnlock()
	if s != nil || err != nil {
		return s, err
	}
	if id.IsZero() {
		return nil, errors.New("no tenant named")
	}
	if !create {
		return db.openStore(id, nil)
	}
	return db.openStore(id, func() error {
		if db.policy.Load().NoCreate {
			return fmt.Errorf("tenant %s %w: this server has tenants made by an administrator only (create_tenants)", id, tenant.ErrUnknown)
		}
		return createStore(db, id, nil)
	})
}

// openStore opens a tenant, which create makes where it is not there; nil where create is
// nil.
func (db *DB) openStore(id tenant.ID, create func() error) (*store, error) {
	db.openMu.Lock()
	defer db.openMu.Unlock()
	db.mu.RLock()
	s := db.stores[id]
	db.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	s, err := openStore(db, id)
	if errors.Is(err, errNoTenant) {
		if create == nil {
			return nil, nil
		}
		if err := create(); err != nil {
			return nil, err
		}
		s, err = openStore(db, id)
	}
	if err != nil {
		db.fail(id, err)
		return nil, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.stores[id] = s
	delete(db.failed, id)
	return s, nil
}

func (db *DB) openStores() []*store {
	db.mu.RLock()
	defer db.mu.RUnlock()
	out := make([]*store, 0, len(db.stores))
	for _, s := range db.stores {
		out = append(out, s)
	}
	return out
}

// replay applies a logged batch. One that its tenant cannot take puts that tenant
// out of service, not the others.
func (db *DB) replay(pos position, rec *walRecord) {
	if db.skipFailed(rec.tenant) {
		return
	}
	s, err := db.store(rec.tenant, false)
	if err == nil && s == nil {
		err = db.lostManifest(rec.tenant)
	}
	switch {
	case err != nil:
	case s == nil || s.generation != rec.generation:
		db.skipped[rec.tenant]++
	default:
		err = s.replay(pos, rec)
	}
	if err != nil {
		db.failReplay(rec.tenant, s, pos, err)
	}
}

// logGrown wakes background work when the log or memtables are past their budget.
func (db *DB) logGrown(size int64) {
	log := size - db.pinned.Load()
	db.pressure.log.Store(log)
	// What fails to be flushed is tried again at every tick, not at every batch.
	memory := db.pressure.memory.Load() > db.opts.MemtableBytesMax && db.pressure.stuck.Load() == 0
	if log <= db.opts.WALBytesMax && !memory {
		return
	}
	select {
	case db.kick <- struct{}{}:
	default:
	}
}

func (db *DB) tenantDir(id tenant.ID) string { return filepath.Join(db.opts.Dir, id.String()) }
func (db *DB) nextRef() uint64               { return db.refs.Add(1) }

func (db *DB) newULID() ulid.ULID {
	return ulid.MustNew(ulid.Timestamp(db.opts.Now()), rand.Reader)
}
