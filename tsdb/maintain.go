package tsdb

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flushDue reports whether a flush is worth its blocks: a range has passed, has
// been quiet since, and holds enough.
func (s *store) flushDue(now time.Time) bool {
	const quiet = 10 * time.Minute
	v := s.versions.pin()
	defer s.versions.unpin(v)
	passed, bytes := false, int64(0)
	for _, m := range v.mems {
		bytes += m.bytes.Load()
		ended := time.UnixMilli(max(m.end, m.lastAppend.Load())).Add(quiet)
		passed = passed || now.After(ended)
	}
	return passed && bytes >= blockBytesMin
}

// background runs until ctx ends: memory and log are kept within their budgets on
// one goroutine, blocks are dropped and merged on another, which may take long.
func (db *DB) background(ctx context.Context) {
	defer close(db.maintained)
	var blocks sync.WaitGroup
	blocks.Go(func() { db.repeat(ctx, db.kickBlocks, db.maintainBlocks) })
	db.repeat(ctx, db.kick, db.maintainMemory)
	blocks.Wait()
}

// repeat calls work at every tick and kick.
func (db *DB) repeat(ctx context.Context, kick <-chan struct{}, work func(context.Context) error) {
	tick := time.NewTicker(db.opts.MaintainInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-kick:
		}
		if err := work(ctx); err != nil && ctx.Err() == nil {
			db.opts.Logger.Error("background work failed, trying again", "err", err)
		}
	}
}

// maintainBlocks drops what is too old, rewrites what was deleted from and merges what is
// worth it.
func (db *DB) maintainBlocks(ctx context.Context) error {
	now := db.opts.Now()
	err := db.visitIdle(now)
	for _, s := range db.openStores() {
		err = errors.Join(err, s.retain(now), s.retainByRules(ctx, now), s.retainMemory(ctx, now), s.cleanLater(ctx, now), s.compact(ctx, now))
	}
	return err
}

// maintainMemory flushes what is due and gives back log segments.
func (db *DB) maintainMemory(ctx context.Context) error {
	var err error
	now := db.opts.Now()
	for _, s := range db.openStores() {
		err = errors.Join(err, s.settleDue(ctx))
		if s.flushDue(now) {
			err = errors.Join(err, s.flush(ctx))
		}
		s.keys.expire(now.Add(-db.opts.DedupWindow).UnixMilli())
	}
	err = errors.Join(err, db.maintainIDs(), db.flushLargest(ctx), db.flushOldest(ctx))
	return errors.Join(err, db.releaseSegments())
}

// flushLargest flushes tenants, the largest first, until memtables are within
// their budget. A tenant whose flush fails keeps its memtables, and the next one is
// flushed.
func (db *DB) flushLargest(ctx context.Context) (failed error) {
	skip := map[*store]bool{}
	for {
		var largest *store
		total, most := int64(0), int64(0)
		for _, s := range db.openStores() {
			n := s.memBytes()
			total += n
			if n > most && !skip[s] {
				largest, most = s, n
			}
		}
		if total <= db.opts.MemtableBytesMax || largest == nil {
			return failed
		}
		if err := largest.flush(ctx); err != nil {
			skip[largest] = true
			failed = errors.Join(failed, err)
		}
	}
}

// flushOldest flushes the tenants that hold back the oldest segments until the log
// is within its budget, what only failed tenants need not counted. Small ones are
// logged again instead, until that has filled half the budget: then what is logged
// again is at most as much as what is new. A tenant that fails does not keep others
// from being flushed.
func (db *DB) flushOldest(ctx context.Context) (failed error) {
	again := int64(0)
	skip := map[*store]bool{}
	for {
		before := db.neededSegment(skip)
		if db.wal.sizeFrom(before) <= db.opts.WALBytesMax {
			return failed
		}
		if first, ok := db.ids.hold.first(); ok && first <= before {
			if err := db.flushIDs(); err != nil {
				return errors.Join(failed, err)
			}
		}
		for _, s := range db.openStores() {
			if first, ok := s.hold.first(); !ok || first > before || skip[s] {
				continue
			}
			if err := db.giveBackLog(ctx, s, &again); err != nil {
				skip[s] = true
				failed = errors.Join(failed, err)
			}
		}
		if err := db.releaseSegments(); err != nil {
			return errors.Join(failed, err)
		}
		if db.neededSegment(skip) == before {
			return failed // only the open segment is left
		}
	}
}

// giveBackLog makes a tenant need none of the log before its end. A small one is
// logged again, and again grows by what that took, until it has filled half the
// budget; any other is flushed.
func (db *DB) giveBackLog(ctx context.Context, s *store, again *int64) error {
	if *again <= db.opts.WALBytesMax/2 && s.memBytes() < blockBytesMin {
		size := db.wal.size() // grows by what others append too
		did, err := s.relog(ctx, nil)
		if *again += db.wal.size() - size; did || err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// neededSegment is the first segment of the log that a tenant needs, those of skip
// and those that failed left out; the open one where none does.
func (db *DB) neededSegment(skip map[*store]bool) uint64 {
	// The end of the log is read first: what is appended while the tenants are
	// asked is in that segment or later.
	needed := db.wal.end().Segment
	if first, ok := db.ids.hold.first(); ok {
		needed = min(needed, first)
	}
	for _, s := range db.openStores() {
		if first, ok := s.hold.first(); ok && !skip[s] {
			needed = min(needed, first)
		}
	}
	return needed
}

// releaseSegments removes the segments whose increments are all in live blocks or
// were logged again. Those with records of a failed tenant stay until it can be
// opened.
func (db *DB) releaseSegments() error {
	needed := db.neededSegment(nil)
	keep := needed
	db.mu.RLock()
	for _, f := range db.failed {
		if f.held != 0 {
			keep = min(keep, f.held)
		}
	}
	db.mu.RUnlock()
	err := db.wal.release(keep)
	if stuck := db.stuckStores(); len(stuck) > 0 {
		needed = db.neededSegment(stuck)
	}
	counted := db.wal.sizeFrom(needed)
	db.pinned.Store(db.wal.size() - counted)
	db.pressure.log.Store(counted)
	return err
}
