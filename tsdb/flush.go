package tsdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	defer s.db.metrics.startTimer(s.db.metrics.flushSeconds)()
	defer func() {
		result := "ok"
		if err != nil {
			result = "failed"
		}
		s.db.pressure.noteFlush(s, err != nil && ctx.Err() == nil)
		s.db.metrics.flushes.WithLabelValues(result).Inc()
	}()

	keys, watermark, noted, state := s.rotate()
	if len(s.frozen) == 0 && len(keys) == 0 && noted == nil && state == nil && !s.unsaid {
		s.hold.flushed()
		return nil
	}
	next := *s.man
	next.Watermark = watermark
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

// rotate takes the memtables that appends went to; those that follow go to new
// ones. Every record before the returned position is in what was taken (I2).
//
// REQUIRES: s.flushMu
func (s *store) rotate() ([]batchKey, position, *notesSnapshot, *stateSnapshot) {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.freeze()
	return s.keys.takeFresh(), s.db.wal.end(), s.notes.takeFresh(), s.state.takeFresh()
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
	seq := m.nextSeq()
	deleted := deletions{step: s.grid(), list: m.Deletions}
	for _, d := range slices.Sorted(maps.Keys(days)) {
		spec := blockSpec{
			tenantDir: s.dir, tenant: s.id.String(), generation: m.Generation, id: s.db.newULID(), step: s.grid(), seq: seq, level: 1,
		}
		for _, mem := range days[d] {
			// Encoded, increments take a fraction of what they take here. Where they
			// take more, the block gets one more file.
			spec.chunkBytes += mem.bytes.Load() / 4
			pending := deleted.pending(mem.clean, mem.start, mem.end)
			for _, ser := range mem.all() {
				spans := spansOf(selecting(pending, ser.labels), ser.kind, deleted.step)
				spec.series = append(spec.series, blockSeries{
					labels: ser.labels, kind: ser.kind, mint: mem.start, maxt: mem.end,
					parts: func(mint, maxt int64) ([]points, error) { return ser.parts(mint, maxt, spans) },
				})
			}
		}
		bi, ok, err := writeBlock(ctx, s.db.opts.FS, &spec)
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
