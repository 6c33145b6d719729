package tsdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// CleanTombstones rewrites at once all that holds what was deleted from a tenant:
// when it returns nil that is on the disk no more, the log, snapshots and what
// running queries have pinned excepted.
func (db *DB) CleanTombstones(ctx context.Context, id tenant.ID) error {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return err
	}
	if err := s.clean(ctx); err != nil {
		return err
	}
	return db.releaseSegments()
}

// cleanLater is clean as background work: it rests after a failure.
func (s *store) cleanLater(ctx context.Context, now time.Time) error {
	if now.Before(s.cleanAfter) {
		return nil
	}
	err := s.clean(ctx)
	if err != nil {
		s.cleanAfter = now.Add(compactRetry)
	}
	return err
}

// clean writes memtables and blocks anew without what was deleted from them. A block that
// fails does not keep the others from it.
func (s *store) clean(ctx context.Context) (err error) {
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	v := s.versions.pin()
	idle := s.dropped || len(v.deleted.list) == 0
	s.versions.unpin(v)
	if idle {
		return nil
	}
	s.jobs.run()
	defer func() {
		if err != nil {
			err = fmt.Errorf("rewrite what was deleted from tenant %s: %w", s.id, err)
			s.jobs.fail(err)
		}
	}()
	if err := s.flush(ctx); err != nil {
		return err
	}
	v = s.versions.pin()
	defer s.versions.unpin(v)
	if len(v.deleted.list) == 0 {
		return nil // all of it was in memory
	}
	var untouched []*block
	rewritten := false
	for _, b := range v.blocks {
		if b.clean.Load() >= v.deleted.last {
			continue
		}
		touched, e := b.touchedBy(ctx, v.deleted.pending(b.clean.Load(), b.MinTime, b.MaxTime))
		switch {
		case e != nil:
		case !touched:
			untouched = append(untouched, b)
		default:
			rewritten = true
			_, e = s.rewrite(ctx, rewriting{sources: []*block{b}, seq: b.Seq, deleted: &v.deleted, step: b.Step})
		}
		err = errors.Join(err, e)
	}
	err = errors.Join(err, s.markClean(untouched, v.deleted.last))
	if rewritten {
		s.forgetSeries()
	}
	return err
}

// touchedBy reports whether a block has series that any of the deletions selects.
func (b *block) touchedBy(ctx context.Context, some []*deletion) (touched bool, err error) {
	if len(some) == 0 {
		return false, nil
	}
	files, err := b.cache.acquire(b)
	if err != nil {
		return false, b.readError(err)
	}
	defer b.cache.release(b)
	err = readMapped(func() error {
		for _, d := range some {
			p, err := tsdb.PostingsForMatchers(ctx, files.index, d.Matchers...)
			if err != nil {
				return err
			}
			if touched = p.Next(); touched {
				return nil
			}
			if err := p.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, b.readError(err)
	}
	return touched, nil
}

// rewriting is what is to be done with some blocks of a version.
type rewriting struct {
	sources []*block
	seq     uint64     // of the block that stands for them
	deleted *deletions // of the version
	past    *pastData  // nil: nothing
	// step is that of the block, and steps are those of its series; nil: what is coarse
	// stays so and nothing else becomes it.
	step  int64
	steps *coarseSteps
}

// rewrite replaces blocks by one that has what they have together, less what was deleted
// or is past: by none where nothing is left. It returns how many bytes the new one has.
//
// REQUIRES: s.rewriting
func (s *store) rewrite(ctx context.Context, w rewriting) (bytes int64, err error) {
	spec := blockSpec{
		tenantDir: s.dir, tenant: s.id.String(), generation: s.generation, id: s.db.newULID(), step: s.grid(), seq: w.seq,
		coarse: w.step, steps: w.steps,
	}
	var blocks openBlocks
	defer blocks.close()
	for _, b := range w.sources {
		if err := spec.addBlock(ctx, b, &blocks, &w); err != nil {
			return 0, err
		}
	}
	bi, ok, err := writeBlock(ctx, s.db.opts.FS, &spec)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, s.replaceBlocks(w.sources, nil, math.MaxInt64)
	}
	bi.Clean = w.deleted.last
	return bi.Bytes, s.replaceBlocks(w.sources, []*block{newBlock(s.db.blocks, s.home, bi)}, w.changed())
}

// changed is the time before which readers see something else after a rewriting, beside
// what was deleted, of which they have been told.
func (w *rewriting) changed() int64 {
	switch {
	case w.steps != nil: // between the multiples of the step
		return math.MaxInt64
	case w.past != nil:
		return w.past.end()
	}
	return math.MinInt64
}

// markClean notes that blocks have nothing of what was deleted up to a number.
//
// REQUIRES: s.rewriting
func (s *store) markClean(blocks []*block, number uint64) error {
	if len(blocks) == 0 {
		return nil
	}
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	next := *s.man
	next.Blocks = slices.Clone(next.Blocks)
	for i := range next.Blocks {
		if slices.ContainsFunc(blocks, func(b *block) bool { return b.ULID == next.Blocks[i].ULID }) {
			next.Blocks[i].Clean = number
		}
	}
	next.prune(s.frozen)
	if err := s.commit(&next); err != nil {
		return err
	}
	for _, b := range blocks {
		b.clean.Store(number)
	}
	s.showDeletions()
	return nil
}

// removeDeleted takes out of a selection of one block what was deleted of it: chunks that
// lie whole in what one deletion deletes, and for the others notes the times. It reports
// false where no chunk is left.
func (sel *selection) removeDeleted(b *block, pending []*deletion, step int64) bool {
	some := selecting(pending, sel.labels)
	if len(some) == 0 {
		return true
	}
	sel.chunks = slices.DeleteFunc(sel.chunks, func(c blockChunk) bool { return coversChunk(some, &c.meta) })
	if spans := spansOf(some, sel.kind, step); len(spans) > 0 {
		sel.dead = append(sel.dead, deadPart{block: b, spans: spans})
	}
	return len(sel.chunks) > 0
}

// coversChunk reports whether one of the deletions deletes a chunk whole.
func coversChunk(some []*deletion, m *chunkAt) bool {
	return slices.ContainsFunc(some, func(d *deletion) bool { return m.MinTime >= d.MinTime && m.MaxTime <= d.MaxTime })
}

// live reports whether a chunk has a window that begins in [mint, maxt] and is not
// deleted; where nothing was, that it may.
func (c *blockChunk) live(k increment.Kind, mint, maxt int64, dead []span) (bool, error) {
	if len(dead) == 0 {
		return true, nil
	}
	p := points{kind: k, raw: true}
	err := readMapped(func() error { return appendChunks([]blockChunk{*c}, mint, maxt+1, dead, &p) })
	if err != nil {
		return false, c.block.readError(err)
	}
	i, _ := slices.BinarySearch(p.last, mint)
	return i < p.len() && p.win[i] <= maxt, nil
}

// DeletionState is how far a deletion is.
type DeletionState string

// A deletion is durable, and seen by every query, from accepted on. Failed: what it
// deleted could not be rewritten yet, which is tried again.
const (
	DeletionAccepted DeletionState = "accepted"
	DeletionRunning  DeletionState = "running"
	DeletionDone     DeletionState = "done"
	DeletionFailed   DeletionState = "failed"
)

// DeletionStatus is what has become of one call of Delete.
type DeletionStatus struct {
	Number   uint64    // ascending by when they were accepted
	Accepted time.Time // when it was
	// MinTime and MaxTime are its range in milliseconds since 1970.
	MinTime, MaxTime int64
	Matchers         []*labels.Matcher // not to be changed
	State            DeletionState
	Err              error // of a failed one
	// Left is how many blocks and memtables are still to be looked at or rewritten.
	Left int
}

// deletionsDoneMax is how many deletions that are done are remembered, of each tenant.
const deletionsDoneMax = 100

// deletionJobs are a tenant's deletions as Deletions tells of them. Safe for concurrent
// use.
type deletionJobs struct {
	mu  sync.Mutex
	all []DeletionStatus // by number
}

func (j *deletionJobs) accept(d *deletion) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if slices.ContainsFunc(j.all, func(s DeletionStatus) bool { return s.Number == d.Number }) {
		return
	}
	j.all = append(j.all, DeletionStatus{
		Number: d.Number, Accepted: time.UnixMilli(d.Time), MinTime: d.MinTime, MaxTime: d.MaxTime, Matchers: d.Matchers, State: DeletionAccepted,
	})
}

// run says that work on all that are not done has begun.
func (j *deletionJobs) run() { j.set(DeletionRunning, nil) }

// fail says that it could not be finished.
func (j *deletionJobs) fail(err error) { j.set(DeletionFailed, err) }

func (j *deletionJobs) set(state DeletionState, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.all {
		if s := &j.all[i]; s.State != DeletionDone {
			s.State, s.Err = state, err
		}
	}
}

// done says which are not done; the oldest of the others are forgotten.
func (j *deletionJobs) done(but []*deletion) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for i := range j.all {
		s := &j.all[i]
		if !slices.ContainsFunc(but, func(d *deletion) bool { return d.Number == s.Number }) {
			s.State, s.Err = DeletionDone, nil
			n++
		}
	}
	j.all = slices.DeleteFunc(j.all, func(s DeletionStatus) bool {
		if s.State != DeletionDone || n <= deletionsDoneMax {
			return false
		}
		n--
		return true
	})
}

// Deletions returns the deletions of a tenant that are not done yet, and the last of
// those that were since the start, the oldest first.
func (db *DB) Deletions(id tenant.ID) ([]DeletionStatus, error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return nil, err
	}
	s.jobs.mu.Lock()
	out := slices.Clone(s.jobs.all)
	s.jobs.mu.Unlock()
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for i := range out {
		out[i].look(v)
	}
	return out, nil
}

// look counts what is left to be done in a version.
func (d *DeletionStatus) look(v *version) {
	if d.State == DeletionDone {
		return
	}
	for _, m := range v.mems {
		if m.clean < d.Number {
			d.Left++
		}
	}
	for _, b := range v.blocks {
		if b.clean.Load() < d.Number {
			d.Left++
		}
	}
}

// Deletion returns one of a tenant by its number; of one that was done long ago, or before
// the start, it is only known that it is done. ok is false where there was none.
func (db *DB) Deletion(id tenant.ID, number uint64) (d DeletionStatus, ok bool, err error) {
	all, err := db.Deletions(id)
	if err != nil {
		return DeletionStatus{}, false, err
	}
	if i := slices.IndexFunc(all, func(d DeletionStatus) bool { return d.Number == number }); i >= 0 {
		return all[i], true, nil
	}
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return DeletionStatus{}, false, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	return DeletionStatus{Number: number, State: DeletionDone}, number > 0 && number <= v.deleted.last, nil
}
