package tsdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// flush writes all memtables of a tenant to blocks and moves its watermark. It
// is true when the manifest is in place; a crash before leaves the old one in
// force and the increments in the log.
func (s *store) flush(ctx context.Context) (err error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	defer s.db.metrics.startTimer(s.db.metrics.flushSeconds)()
	defer func() {
		result := "ok"
		if err != nil {
			result = "failed"
		}
		s.db.metrics.flushes.WithLabelValues(result).Inc()
	}()

	keys, watermark := s.rotate()
	if len(s.frozen) == 0 && len(keys) == 0 {
		s.needs.Store(0)
		return nil
	}
	next := *s.man
	next.Watermark = watermark
	next.Blocks = slices.Clone(s.man.Blocks)
	blocks, err := s.writeFrozen(ctx, &next)
	if err == nil {
		err = s.writeFreshKeys(&next, keys)
	}
	if err == nil {
		err = next.write(s.db.opts.FS, s.dir)
	}
	if err != nil {
		// What was written is garbage that no manifest names; the memtables stay
		// frozen and readable, and the next flush takes them again.
		s.keys.giveBack(keys)
		for _, b := range blocks {
			err = errors.Join(err, s.db.opts.FS.RemoveAll(b.dir))
		}
		return fmt.Errorf("flush tenant %s: %w", s.id, err)
	}
	s.man = &next
	s.versions.replace(nil, s.frozen, blocks, nil)
	s.frozen = nil
	s.needs.Store(0)
	return nil
}

// rotate takes the memtables that appends went to; those that follow go to new
// ones. Every record before the returned position is in what was taken (I2).
//
// REQUIRES: s.flushMu
func (s *store) rotate() ([]batchKey, position) {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.mu.Lock()
	for _, m := range s.routing {
		s.frozen = append(s.frozen, m)
	}
	clear(s.routing)
	s.mu.Unlock()
	if first, ok := s.neededSegment(); ok {
		s.needs.Store(first)
	}
	s.oldest.Store(0)
	return s.keys.takeFresh(), s.db.wal.end()
}

// writeFrozen writes one block for each UTC day that the frozen memtables touch
// and names them in m.
//
// REQUIRES: s.flushMu
func (s *store) writeFrozen(ctx context.Context, m *manifest) ([]*block, error) {
	days := map[int64][]*memtable{}
	for _, mem := range s.frozen {
		d := dayStart(mem.start)
		days[d] = append(days[d], mem)
	}
	var out []*block
	for _, d := range slices.Sorted(maps.Keys(days)) {
		spec := blockSpec{
			tenantDir: s.dir, tenant: s.id.String(), generation: m.Generation, id: s.db.newULID(), step: s.grid(), level: 1,
		}
		for _, mem := range days[d] {
			for _, ser := range mem.all() {
				spec.series = append(spec.series, blockSeries{labels: ser.labels, kind: ser.kind, parts: ser.parts})
			}
		}
		bi, ok, err := writeBlock(ctx, s.db.opts.FS, &spec)
		if err != nil {
			return out, err
		}
		if ok {
			m.Blocks = append(m.Blocks, bi)
			out = append(out, newBlock(s.db.opts.FS, s.dir, bi))
		}
	}
	return out, nil
}

// parts is all of a memtable's series, copied.
func (s *memSeries) parts() ([]points, error) {
	p := points{kind: s.kind}
	err := s.snapshot(&p, math.MinInt64, math.MaxInt64)
	return []points{p}, err
}

// writeFreshKeys adds a file with keys to m and leaves out the files whose keys
// have all expired.
func (s *store) writeFreshKeys(m *manifest, keys []batchKey) error {
	oldest := s.db.opts.Now().Add(-s.db.opts.DedupWindow).UnixMilli()
	m.Keys = slices.DeleteFunc(slices.Clone(m.Keys), func(k keyFile) bool { return k.MaxTime < oldest })
	if len(keys) == 0 {
		return nil
	}
	kf, err := writeKeys(s.db.opts.FS, s.dir, s.db.newULID(), keys)
	if err != nil {
		return err
	}
	m.Keys = append(m.Keys, kf)
	return nil
}

// retain drops the blocks whose newest data is older than the tenant's retention.
func (s *store) retain(now time.Time) error {
	keep := time.Duration(s.profile.Retention)
	if keep == 0 {
		return nil
	}
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	oldest := now.Add(-keep).UnixMilli()
	next := *s.man
	next.Blocks = nil
	gone := map[string]bool{}
	for _, b := range s.man.Blocks {
		if b.MaxTime <= oldest {
			gone[b.ULID.String()] = true
		} else {
			next.Blocks = append(next.Blocks, b)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := next.write(s.db.opts.FS, s.dir); err != nil {
		return fmt.Errorf("drop old blocks of tenant %s: %w", s.id, err)
	}
	s.man = &next
	v := s.versions.pin()
	var drop []*block
	for _, b := range v.blocks {
		if gone[b.ULID.String()] {
			b.obsolete.Store(true)
			drop = append(drop, b)
		}
	}
	s.versions.replace(nil, nil, nil, drop)
	s.versions.unpin(v)
	s.admission.forget()
	s.db.metrics.blocksDropped.Add(float64(len(drop)))
	return nil
}

// flushDue reports whether a flush is worth its blocks: a range has passed, has
// been quiet since, and holds enough.
func (s *store) flushDue(now time.Time) bool {
	const (
		quiet    = 10 * time.Minute
		bytesMin = 256 << 10 // less is not worth a block
	)
	v := s.versions.pin()
	defer s.versions.unpin(v)
	passed, bytes := false, int64(0)
	for _, m := range v.mems {
		bytes += m.bytes.Load()
		ended := time.UnixMilli(max(m.end, m.lastAppend.Load())).Add(quiet)
		passed = passed || now.After(ended)
	}
	return passed && bytes >= bytesMin
}

// maintain runs until ctx ends.
func (db *DB) maintain(ctx context.Context) {
	defer close(db.maintained)
	tick := time.NewTicker(db.opts.MaintainInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-db.kick:
		}
		if err := db.maintainOnce(ctx); err != nil && ctx.Err() == nil {
			db.opts.Logger.Error("background work failed, trying again", "err", err)
		}
	}
}

// maintainOnce flushes what is due, drops what is too old and gives back log
// segments.
func (db *DB) maintainOnce(ctx context.Context) error {
	var err error
	now := db.opts.Now()
	for _, s := range db.openStores() {
		if s.flushDue(now) {
			err = errors.Join(err, s.flush(ctx))
		}
		err = errors.Join(err, s.retain(now))
		s.keys.expire(now.Add(-db.opts.DedupWindow).UnixMilli())
	}
	err = errors.Join(err, db.flushLargest(ctx), db.flushOldest(ctx))
	return errors.Join(err, db.releaseSegments())
}

// flushLargest flushes tenants, the largest first, until memtables are within
// their budget.
func (db *DB) flushLargest(ctx context.Context) error {
	for {
		var largest *store
		total, most := int64(0), int64(0)
		for _, s := range db.openStores() {
			n := s.memBytes()
			total += n
			if n > most {
				largest, most = s, n
			}
		}
		if total <= db.opts.MemtableBytesMax || largest == nil {
			return nil
		}
		if err := largest.flush(ctx); err != nil {
			return err
		}
	}
}

// flushOldest flushes the tenants that hold back the oldest segments until the
// log is within its budget.
func (db *DB) flushOldest(ctx context.Context) error {
	for db.wal.size() > db.opts.WALBytesMax {
		before := db.wal.oldestSegment()
		for _, s := range db.openStores() {
			if first, ok := s.neededSegment(); ok && first <= before {
				if err := s.flush(ctx); err != nil {
					return err
				}
			}
		}
		if err := db.releaseSegments(); err != nil {
			return err
		}
		if db.wal.oldestSegment() == before {
			return nil // only the open segment is left
		}
	}
	return nil
}

// releaseSegments removes the segments whose increments are all in live blocks.
func (db *DB) releaseSegments() error {
	keep := uint64(math.MaxUint64)
	db.mu.RLock()
	for _, s := range db.stores {
		if first, ok := s.neededSegment(); ok {
			keep = min(keep, first)
		}
	}
	db.mu.RUnlock()
	return db.wal.release(keep)
}

// Flush writes all increments of a tenant that are in memory to blocks.
func (db *DB) Flush(ctx context.Context, id tenant.ID) error {
	s, err := db.store(id, false)
	if err != nil {
		return err
	}
	if s == nil {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	return db.releaseSegments()
}
