package tsdb

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

const (
	settingsName = "settings.yaml"
	idKeyName    = "id.key"
	// idKeyNew is the name of the key before there is a manifest: a directory with a key
	// and no manifest has lost that, as the log may have records of it.
	idKeyNew = "id.key.new"
)

// store is one tenant's data.
type store struct {
	db       *DB
	id       tenant.ID
	dir      string
	home     *home                          // the same, for who may still read when the tenant is dropped
	profile  atomic.Pointer[tenant.Profile] // see settings
	madeGrid model.Duration                 // the grid that the tenant was made with
	// generation tells this tenant from an earlier one of the same name.
	generation uint64

	// barrier is held shared from routing a batch to memtables until it is
	// applied, and exclusively while a flush takes the memtables away: everything
	// logged before the flush's position is then in what it took (I2).
	barrier sync.RWMutex
	hold    logHold

	// rewriting is held by who replaces or removes blocks, of which there is one at a
	// time: what it reads stays live meanwhile.
	rewriting  sync.Mutex
	settingsMu sync.Mutex   // held while settings change, which waits for the disk
	own        tenant.Patch // what the tenant says of itself

	compactAfter time.Time     // owned by the goroutine that merges blocks
	cleanAfter   time.Time     // owned by it too
	byRules      ruleRetention // and it too
	memoryAfter  time.Time     // and it too
	stuck        atomic.Bool   // the last flush failed

	keys      *keySet
	versions  *versions
	cuts      cuts
	admission *admission
	notes     notes
	state     keptState
	late      *lateLog
	recorded  *lateLog // the same, of what rules have recorded

	// dropped: nothing is appended or written any more. Changed with rewriting, flushMu
	// and barrier held.
	dropped  bool
	restored bool // dropped, because another takes its place

	flushMu sync.Mutex // one change of the manifest at a time; guards what follows
	man     *manifest
	// uncertain is why it is not known which manifest a crash would leave: then
	// no block is written or removed until the directory is opened again.
	uncertain error
	// unsaid: a deletion is in the log alone. man has it, the file does not.
	unsaid bool
	frozen []*memtable // taken by a deletion, or by a flush that failed
	// deleted is man.Deleted; changed with barrier held exclusively.
	deleted atomic.Uint64
	jobs    deletionJobs

	mu      sync.Mutex
	routing map[blockSpan]*memtable // memtables that take appends, none of which overlap
}

func (s *store) grid() int64 { return s.settings().GridMillis() }

// endOf is when a window ends that begins at t, or a sample of t.
func (s *store) endOf(k increment.Kind, t int64) int64 {
	if k == increment.Sample {
		return t + 1
	}
	return t + s.grid()
}

// createStore makes the directory of a new tenant, which says own of itself; nil: what a
// file that is there already says, or nothing. Its manifest is written last: a directory
// without one is no tenant.
func createStore(db *DB, id tenant.ID, own *tenant.Patch) error {
	dir := db.tenantDir(id)
	if err := db.opts.FS.MkdirAll(dir); err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	// Before anything is in it: what is acknowledged must not lie in a directory
	// that a power loss takes away.
	if err := db.opts.FS.SyncDir(db.opts.Dir); err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	if err := onlyPreparation(db.opts.FS, dir); err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	s, err := newSettings(db, id, own)
	if err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	var random [28]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	if err := vfs.WriteFile(db.opts.FS, filepath.Join(dir, idKeyNew), random[:16]); err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	m := manifest{
		Generation: binary.BigEndian.Uint64(random[16:]), Grid: s.GridMillis() / 1000, IDKeySum: crc32.Checksum(random[:16], castagnoli),
		EventTag: max(1, binary.BigEndian.Uint32(random[24:])),
	}
	err = m.write(db.opts.FS, dir)
	if err == nil {
		err = placeIDKey(db.opts.FS, dir)
	}
	if err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	return nil
}

// newSettings writes the settings of a new tenant, unless own is nil and there are some,
// and returns those in force.
func newSettings(db *DB, id tenant.ID, own *tenant.Patch) (tenant.Settings, error) {
	dir, policy := db.tenantDir(id), db.policy.Load()
	if own == nil {
		found, err := readSettings(db.opts.FS, dir)
		if err == nil {
			s, err := policy.Settings(id, &found, 0)
			if err != nil {
				err = fmt.Errorf("%s: %w", filepath.Join(dir, settingsName), err)
			}
			return s, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return tenant.Settings{}, err
		}
		own = &tenant.Patch{}
	}
	s, err := policy.Settings(id, own, 0)
	if err != nil {
		return s, err
	}
	said, grid := *own, tenant.Duration(s.Grid)
	said.Grid = &grid
	return s, vfs.WriteFile(db.opts.FS, filepath.Join(dir, settingsName), said.File(policy.Defaults))
}

// placeIDKey gives the key of a tenant that has a manifest its name.
func placeIDKey(fsys vfs.FS, dir string) error {
	if err := fsys.Rename(filepath.Join(dir, idKeyNew), filepath.Join(dir, idKeyName)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// readIDKey returns the key of user ids and the name of its file: that which it had
// before there was a manifest, where a crash came in between.
func readIDKey(fsys vfs.FS, dir string, m *manifest) (key []byte, name string, err error) {
	key, err = fsys.ReadFile(filepath.Join(dir, idKeyName))
	if m.IDKeySum == 0 || err == nil && crc32.Checksum(key, castagnoli) == m.IDKeySum {
		return key, idKeyName, err
	}
	if first, e := fsys.ReadFile(filepath.Join(dir, idKeyNew)); e == nil && crc32.Checksum(first, castagnoli) == m.IDKeySum {
		return first, idKeyNew, nil
	}
	return key, idKeyName, err
}

// onlyPreparation returns an error unless a directory without a manifest holds
// nothing but what may be there before a tenant is: then it is no tenant's that
// lost its manifest.
func onlyPreparation(fsys vfs.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n != settingsName && n != tenant.EventRulesFile && n != tenant.RulesDir && n != idKeyName && n != idKeyNew && !strings.HasSuffix(n, ".tmp") {
			return fmt.Errorf("%s has %s but no %s: restore the manifest, or move the directory away", dir, n, manifestName)
		}
	}
	return nil
}

// errNoTenant says that a tenant has no manifest.
var errNoTenant = errors.New("no such tenant")

// errUnknown is what whoever names a tenant that there is not is told.
func errUnknown(id tenant.ID) error { return fmt.Errorf("tenant %s %w", id, tenant.ErrUnknown) }

// readStoreAt reads the manifest and the settings of an existing tenant in a directory that
// may get the tenant's name later; the error is errNoTenant where there is none. What its
// blocks hold is not looked at.
func readStoreAt(db *DB, id tenant.ID, dir string) (*store, error) {
	s := &store{db: db, id: id, dir: dir, home: newHome(db.opts.FS, dir), keys: newKeySet(), late: newLateLog(), recorded: newLateLog(), routing: map[blockSpan]*memtable{}}
	var err error
	if s.man, err = readManifest(db.opts.FS, s.dir); errors.Is(err, fs.ErrNotExist) {
		if err := onlyPreparation(db.opts.FS, s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open tenant %s: %w", id, err)
		}
		return nil, errNoTenant
	} else if err != nil {
		return nil, fmt.Errorf("open tenant %s: %w", id, err)
	}
	s.madeGrid = model.Duration(time.Duration(s.man.Grid) * time.Second)
	if err := s.readProfile(); err != nil {
		return nil, fmt.Errorf("open tenant %s: %w", id, err)
	}
	s.generation = s.man.Generation
	blocks := make([]*block, len(s.man.Blocks))
	for i, bi := range s.man.Blocks {
		blocks[i] = newBlock(db.blocks, s.home, bi)
	}
	s.versions = newVersions(db.opts.Logger, blocks)
	for _, d := range s.man.Deletions {
		s.jobs.accept(d)
	}
	s.deleted.Store(s.man.Deleted)
	s.showDeletions()
	s.admission = newAdmission(s.versions, &s.settings().Limits)
	return s, nil
}

// openStore opens an existing tenant; the error is errNoTenant where there is
// none.
func openStore(db *DB, id tenant.ID) (*store, error) { return openStoreAt(db, id, db.tenantDir(id)) }

// openStoreAt is openStore in a directory that may get the tenant's name later.
func openStoreAt(db *DB, id tenant.ID, dir string) (*store, error) {
	s, err := readStoreAt(db, id, dir)
	if err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("open tenant %s: %w", id, err)
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for _, b := range v.blocks {
		kinds, err := b.kinds()
		if err != nil {
			return nil, fmt.Errorf("open tenant %s: %w", id, err)
		}
		for name, k := range kinds {
			if err := s.admission.setKind(name, k); err != nil {
				return nil, fmt.Errorf("open tenant %s: block %s: %w", id, b.ULID, err)
			}
		}
	}
	for _, kf := range s.man.Keys {
		keys, err := readKeys(db.opts.FS, filepath.Join(s.dir, kf.Name))
		if err != nil {
			return nil, fmt.Errorf("open tenant %s: %w", id, err)
		}
		for _, k := range keys {
			s.keys.restore(k, false)
		}
	}
	if err := errors.Join(s.openNotes(), s.openState()); err != nil {
		return nil, fmt.Errorf("open tenant %s: %w", id, err)
	}
	return s, nil
}

func (s *store) readProfile() error {
	own, err := readSettings(s.db.opts.FS, s.dir)
	if err != nil {
		return err
	}
	settings, err := s.settingsBy(s.db.policy.Load(), &own)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(s.dir, settingsName), err)
	}
	profile := &tenant.Profile{Settings: settings, Generation: s.man.Generation}
	if tag := s.man.EventTag; tag != 0 {
		binary.BigEndian.PutUint32(profile.EventTag[:], tag)
	}
	key, name, err := readIDKey(s.db.opts.FS, s.dir, s.man)
	if err == nil && name == idKeyNew {
		err = placeIDKey(s.db.opts.FS, s.dir)
	}
	if err != nil {
		return fmt.Errorf("read the key of user ids: %w", err)
	}
	if len(key) != len(profile.IDKey) {
		return fmt.Errorf("%s has %d bytes, want %d", filepath.Join(s.dir, idKeyName), len(key), len(profile.IDKey))
	}
	if sum := s.man.IDKeySum; sum != 0 && crc32.Checksum(key, castagnoli) != sum {
		return fmt.Errorf("%s is not the key that the tenant was made with: checksum is wrong", filepath.Join(s.dir, idKeyName))
	}
	copy(profile.IDKey[:], key)
	profile.EventKey, profile.UserEpochs = eventKeyOf(s.man, key), s.man.UserEpochs
	s.own = own
	s.profile.Store(profile)
	return nil
}

// sweep removes what no manifest names: leftovers of a crash.
func (s *store) sweep() error {
	entries, err := s.db.opts.FS.ReadDir(s.dir)
	if err != nil {
		return err
	}
	live := map[string]bool{settingsName: true, tenant.EventRulesFile: true, tenant.RulesDir: true, idKeyName: true, manifestName: true}
	for _, b := range s.man.Blocks {
		live[b.ULID.String()] = true
	}
	for _, name := range s.man.files() {
		live[name] = true
	}
	synced := false
	for _, e := range entries {
		name := e.Name()
		if live[name] || !isOurs(name) {
			continue
		}
		if !synced {
			// The manifest that was read may not be durable yet, and the one before
			// it may name this.
			if err := s.db.opts.FS.SyncDir(s.dir); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
			synced = true
		}
		s.db.opts.Logger.Info("removing what a crash left behind", "tenant", s.id, "name", name)
		if err := s.db.opts.FS.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}

// routed is where one increment goes.
type routed struct {
	mem    *memtable
	series *memSeries
}

// append logs and applies a batch. duplicate says that its key was applied
// before, and then nothing is done; logged that a replay would count it, error or not. A
// batch of which every increment is refused uses up neither its key nor its ids.
func (s *store) append(ctx context.Context, b *increment.Batch) (duplicate, logged bool, err error) {
	if err := s.db.pressure.refuse(s); err != nil {
		return false, false, err
	}
	if err := s.makeRoom(ctx); err != nil {
		return false, false, err
	}
	now := s.db.opts.Now().UnixMilli()
	key := batchKey{hash: b.Key, time: now}
	s.barrier.RLock()
	defer s.barrier.RUnlock()
	if err := s.refuse(b); err != nil {
		return false, false, err
	}
	// The key is settled under the barrier too: a flush that covers the batch then
	// writes the key (I2).
	if b.HasKey {
		if !s.keys.reserve(b.Key, now-s.db.opts.DedupWindow.Milliseconds()) {
			return true, false, nil
		}
		defer func() { s.keys.settle(key, logged) }()
	}
	logged, err = s.appendLocked(ctx, b, now)
	return false, logged, err
}

// appendLocked is append for a batch whose key is reserved.
//
// REQUIRES: s.barrier, shared or not
func (s *store) appendLocked(ctx context.Context, b *increment.Batch, now int64) (logged bool, err error) {
	if len(b.State) > 0 && s.state.State == nil {
		return false, errNoState
	}
	work := appenders.Get().(*appender)
	defer work.release()
	work.holds = append(work.holds, &s.hold)
	if err := work.route(ctx, s, b, now); err != nil {
		return false, err
	}
	if len(b.Increments) == 0 && len(b.Refused) > 0 && len(b.Metadata) == 0 && len(b.State) == 0 {
		return false, nil // nothing to apply, and what it is called may come again
	}
	head := recordHead{tenant: s.id, generation: s.generation, step: s.grid(), exemplars: b.Exemplars, metadata: b.Metadata, state: b.State}
	if b.HasKey {
		head.keys = []batchKey{{hash: b.Key, time: now}}
	}
	if ids := reservationOf(b); ids != nil {
		head.ids, head.idsTime = ids.Fresh(), ids.Time()
		work.holds = append(work.holds, &s.db.ids.hold)
	}
	if work.encode(s.db.wal, &head, b.Increments); len(work.payload) > walPayloadMax {
		return false, errBatchTooLarge
	}
	if _, err := s.db.wal.append(walWrite{frame: work.frame, to: work.to, segment: work.segment, fresh: work.fresh, holds: work.holds}); err != nil {
		return false, err
	}
	return true, errors.Join(work.apply(s, b, now), s.state.apply(b.State))
}

// refuse returns why nothing is appended to the tenant now. A batch that was not refused
// before the tenant was suspended is in what a flush after that takes.
//
// REQUIRES: s.barrier, shared
func (s *store) refuse(b *increment.Batch) error {
	switch {
	case s.restored, b.Generation != 0 && b.Generation != s.generation:
		return errReplaced(s.id)
	case s.dropped:
		return fmt.Errorf("tenant %s %w", s.id, tenant.ErrDropped)
	case s.settings().Suspended:
		return fmt.Errorf("tenant %s %w", s.id, tenant.ErrSuspended)
	}
	return nil
}

// replay applies a logged record that the watermark does not cover.
func (s *store) replay(pos position, rec *walRecord) error {
	covered := pos.before(s.man.Watermark)
	if rec.whole && !covered {
		s.forgetMemory() // the record has it all
	}
	for _, k := range rec.keys {
		s.keys.restore(k, !covered)
	}
	if covered {
		return nil
	}
	if rec.step != s.grid() {
		return fmt.Errorf("tenant %s has a grid of %s, the log one of %s", s.id, s.settings().Grid, time.Duration(rec.step)*time.Millisecond)
	}
	if rec.deletion != nil {
		s.replayDeletion(rec.deletion)
		s.hold.use(pos.Segment)
		return nil
	}
	s.hold.use(pos.Segment)
	s.notes.replay(rec)
	if err := s.state.replay(rec); err != nil {
		return err
	}
	for i := range rec.runs {
		if err := s.replayRun(&rec.runs[i]); err != nil {
			return err
		}
	}
	for i := range rec.logs {
		if err := s.replayLog(&rec.logs[i]); err != nil {
			return err
		}
	}
	return nil
}

// replayLog applies the points of one series, which are sorted. Memtables may have other
// spans than when they were logged.
func (s *store) replayLog(l *recordLog) error {
	for rest := l.points; rest.len() > 0; {
		to, err := s.routeReplayed(l.series, rest.win[0])
		if err != nil {
			return err
		}
		part := rest
		part.between(to.mem.start, to.mem.end)
		rest.between(to.mem.end, math.MaxInt64)
		grown, err := to.series.absorb(&part)
		if err != nil {
			return err
		}
		to.mem.wrote(part.win[0], s.endOf(l.series.kind, part.win[part.len()-1]), grown)
	}
	return nil
}

func (s *store) replayRun(run *recordRun) error {
	inc := increment.Increment{}
	var mem *memtable
	grown := 0
	for i, rs := range run.series {
		to, err := s.routeReplayed(rs, run.time)
		if err != nil {
			return err
		}
		if to.mem != mem {
			if mem != nil {
				mem.wrote(run.time, s.endOf(run.kind, run.time), grown)
			}
			mem, grown = to.mem, 0
		}
		run.increment(i, &inc)
		more, err := to.series.add(&inc, cutsInUse{})
		if err != nil {
			return err
		}
		grown += more
	}
	if mem != nil {
		mem.wrote(run.time, s.endOf(run.kind, run.time), grown)
	}
	return nil
}

// routeReplayed finds or makes the series of a logged increment, which was admitted
// before it was logged.
func (s *store) routeReplayed(rs *replayedSeries, t int64) (routed, error) {
	if to := rs.to; to.mem != nil && t >= to.mem.start && t < to.mem.end && !to.mem.closed {
		return to, nil
	}
	if err := s.admission.setKind(rs.labels.Get(model.MetricNameLabel), rs.kind); err != nil {
		return routed{}, err
	}
	m := s.memtable(t)
	m.lastAppend.Store(s.db.opts.Now().UnixMilli())
	hash := rs.labels.Hash()
	ser := m.get(hash, rs.labels)
	if ser == nil {
		ser = m.getOrCreate(hash, rs.labels, rs.kind, s.db.nextRef)
	}
	rs.to = routed{m, ser}
	return rs.to, nil
}

// memBytes is about what the tenant's memtables take.
func (s *store) memBytes() int64 {
	v := s.versions.pin()
	defer s.versions.unpin(v)
	n := int64(0)
	for _, m := range v.mems {
		n += m.bytes.Load()
	}
	return n
}
