package tsdb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// flush writes all memtables of a tenant to blocks and moves its watermark. It
// is true when the manifest is in place; a crash before leaves the old one in
// force and the increments in the log.
func (s *store) flush(ctx context.Context) (err error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.dropped {
		return nil
	}
	return s.flushAt(ctx, s.rotate)
}

// flushAt is flush at the position where rotate takes what is flushed.
//
// REQUIRES: s.flushMu
func (s *store) flushAt(ctx context.Context, rotate func() rotated) (err error) {
	defer s.db.metrics.startTimer(s.db.metrics.flushSeconds)()
	defer func() {
		result := "ok"
		if err != nil {
			result = "failed"
		}
		s.db.pressure.noteFlush(s, err != nil && ctx.Err() == nil)
		s.db.metrics.flushes.WithLabelValues(result).Inc()
	}()

	taken := rotate()
	keys, noted, state := taken.keys, taken.notes, taken.state
	if len(s.frozen) == 0 && len(keys) == 0 && noted == nil && state == nil && !s.unsaid {
		s.hold.flushed()
		return nil
	}
	next := *s.man
	next.Watermark = taken.at
	next.Blocks = slices.Clone(s.man.Blocks)
	// The ids of the events that the blocks will have are in the log alone.
	err = s.db.wal.syncAll()
	var blocks []*block
	if err == nil {
		blocks, err = s.writeFrozen(ctx, &next)
	}
	if err == nil {
		err = s.writeFreshKeys(&next, keys)
	}
	if err == nil && noted != nil {
		err = s.writeNotes(&next, noted)
	}
	if err == nil && state != nil {
		err = s.writeState(&next, state)
	}
	if err == nil {
		next.prune(nil)
		err = s.commit(&next)
	}
	if err != nil {
		// The memtables stay frozen and readable, and the next flush takes them
		// again.
		s.keys.giveBack(keys)
		if noted != nil {
			s.notes.giveBack()
		}
		if state != nil {
			s.state.giveBack()
		}
		return fmt.Errorf("flush tenant %s: %w", s.id, errors.Join(err, s.discard(&next)))
	}
	s.versions.replace(nil, s.frozen, blocks, nil)
	s.db.pressure.forget(s.frozen)
	s.frozen = nil
	s.hold.flushed()
	s.showDeletions()
	return nil
}

// commit replaces the manifest. On success the files that only the old one named
// are left to their readers, key files excepted.
//
// REQUIRES: s.flushMu
func (s *store) commit(next *manifest) error {
	if s.uncertain != nil {
		return fmt.Errorf("restart to find out which blocks are live: %w", s.uncertain)
	}
	err := next.write(s.db.opts.FS, s.dir)
	if errors.Is(err, vfs.ErrUncertain) {
		s.uncertain = err
	}
	if err != nil {
		return err
	}
	old := s.man
	s.man, s.unsaid = next, false
	for _, name := range old.files() {
		if slices.Contains(next.files(), name) {
			continue
		}
		if err := s.db.opts.FS.Remove(filepath.Join(s.dir, name)); err != nil {
			s.db.opts.Logger.Warn("a file that was superseded could not be removed, the next start does", "tenant", s.id, "name", name, "err", err)
		}
	}
	return nil
}

// discard removes what was written for a manifest that is not in force, unless it
// may yet be.
//
// REQUIRES: s.flushMu
func (s *store) discard(next *manifest) error {
	if s.uncertain != nil {
		return nil
	}
	var err error
	for _, b := range next.Blocks {
		if !slices.Contains(s.man.Blocks, b) {
			err = errors.Join(err, s.db.opts.FS.RemoveAll(filepath.Join(s.dir, b.ULID.String())))
		}
	}
	for _, name := range next.files() {
		if !slices.Contains(s.man.files(), name) {
			err = errors.Join(err, s.db.opts.FS.Remove(filepath.Join(s.dir, name)))
		}
	}
	return err
}

// rotated is what a flush takes at one position of the log, beside the frozen memtables.
type rotated struct {
	at    position
	keys  []batchKey
	notes *notesSnapshot // nil: as the file has them
	state *stateSnapshot // nil: as the file has it
}

// rotate takes the memtables that appends went to; those that follow go to new
// ones. Every record before the returned position is in what was taken (I2).
//
// REQUIRES: s.flushMu
func (s *store) rotate() rotated {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.freeze()
	return rotated{s.db.wal.end(), s.keys.takeFresh(), s.notes.takeFresh(), s.state.takeFresh()}
}

// writeFrozen writes the frozen memtables to blocks, one for each UTC day or for a longer
// span that is over, and names them in m.
//
// REQUIRES: s.flushMu
func (s *store) writeFrozen(ctx context.Context, m *manifest) ([]*block, error) {
	var out []*block
	seq := m.nextSeq()
	for _, g := range groupBySpan(s.frozen, s.db.opts.Now(), &s.settings().Settings) {
		bi, ok, err := s.writeGroup(ctx, m, g.mems, seq)
		if err != nil {
			return out, err
		}
		if ok {
			bi.Clean = m.Deleted
			seq++ // each its own: a merge must know which side of it another block is on
			m.Blocks = append(m.Blocks, bi)
			out = append(out, newBlock(s.db.blocks, s.home, bi))
		}
	}
	return out, nil
}

// writeGroup writes memtables to one block.
//
// REQUIRES: s.flushMu
func (s *store) writeGroup(ctx context.Context, m *manifest, mems []*memtable, seq uint64) (blockInfo, bool, error) {
	deleted := deletions{step: s.grid(), list: m.Deletions}
	spec := blockSpec{
		tenantDir: s.dir, tenant: s.id.String(), generation: m.Generation, id: s.db.newULID(), step: s.grid(), seq: seq, level: 1,
	}
	for _, mem := range mems {
		// Encoded, increments take a fraction of what they take here. Where they
		// take more, the block gets one more file.
		spec.chunkBytes += mem.bytes.Load() / 4
		pending := deleted.pending(mem.clean, mem.start, mem.end)
		var reader memReader
		for _, ser := range mem.all() {
			spans := spansOf(selecting(pending, ser.labels), ser.kind, deleted.step)
			spec.series = append(spec.series, blockSeries{
				labels: ser.labels, kind: ser.kind, mint: mem.start, maxt: mem.end,
				parts: func(mint, maxt int64) ([]points, error) { return reader.parts(ser, mint, maxt, spans) },
			})
		}
	}
	return writeBlock(ctx, s.db.opts.FS, &spec)
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
