package tsdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quipudb/quipu/internal/increment"
)

// compactRetry is how long a tenant's merges rest after one failed.
const compactRetry = 5 * time.Minute

// compact merges blocks until the plan is empty; reads and writes go on. Like a
// flush it is true when the manifest is in place.
func (s *store) compact(ctx context.Context, now time.Time) error {
	if now.Before(s.compactAfter) {
		return nil
	}
	for {
		did, err := s.compactOnce(ctx, now)
		if err != nil {
			// What fails now would most likely fail at the next tick too.
			s.compactAfter = now.Add(compactRetry)
			s.db.metrics.compactions.WithLabelValues("failed").Inc()
			return fmt.Errorf("compact tenant %s: %w", s.id, err)
		}
		if !did {
			return nil
		}
		s.db.metrics.compactions.WithLabelValues("ok").Inc()
	}
}

func (s *store) compactOnce(ctx context.Context, now time.Time) (did bool, err error) {
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if s.dropped {
		return false, nil
	}
	// A flush only adds blocks, so the sources stay live while they are merged without
	// flushMu.
	v := s.versions.pin()
	defer s.versions.unpin(v)
	plan := planCompaction(v.infos(), now, &s.settings().Settings)
	if len(plan.blocks) == 0 {
		return false, nil
	}
	w := rewriting{sources: v.named(plan.blocks), seq: place(plan.blocks), deleted: &v.deleted, step: plan.step}
	if plan.step > 0 {
		w.steps = &coarseSteps{step: plan.step, settings: &s.settings().Settings}
	}
	bytes, err := s.rewrite(ctx, w)
	if err == nil {
		s.db.metrics.countDownsampled(plan, bytes)
	}
	return true, err
}

// replaceBlocks commits a manifest in which next stand for sources and removes
// the sources when their last reader is done. Readers are told that samples of the sources
// have changed before some time.
func (s *store) replaceBlocks(sources, next []*block, changed int64) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	man := *s.man
	man.Blocks = slices.DeleteFunc(slices.Clone(s.man.Blocks), func(b blockInfo) bool {
		return slices.ContainsFunc(sources, func(o *block) bool { return o.ULID == b.ULID })
	})
	for _, b := range next {
		man.Blocks = append(man.Blocks, b.blockInfo)
	}
	man.prune(s.frozen)
	if err := s.commit(&man); err != nil {
		return errors.Join(err, s.discard(&man))
	}
	for _, b := range sources {
		b.obsolete.Store(true)
	}
	if changed > math.MinInt64 {
		s.drop(sources, next, changed)
	} else {
		s.versions.replace(nil, nil, next, sources)
	}
	s.showDeletions()
	return nil
}

// addBlock adds the series of a block, less what was deleted or is past, to what a block is
// written from. The blocks must stay open until then.
func (spec *blockSpec) addBlock(ctx context.Context, b *block, blocks *openBlocks, w *rewriting) error {
	meta, err := b.meta()
	if err != nil {
		return err
	}
	spec.level = max(spec.level, meta.Compaction.Level+1)
	spec.sources = append(spec.sources, meta.Compaction.Sources...)
	files, err := blocks.open(b)
	if err != nil {
		return b.readError(err)
	}
	spec.chunkBytes += files.chunks.Size()
	sels, err := b.series(ctx, blocks)
	pending := w.deleted.pending(b.clean.Load(), b.MinTime, b.MaxTime)
	for _, sel := range sels {
		if !sel.removeDeleted(b, pending, w.deleted.step) || w.past != nil && !sel.removePast(w.past) {
			continue
		}
		one := blockSeries{labels: sel.labels, kind: sel.kind, mint: b.MinTime, maxt: b.MaxTime, parts: sel.chunkPoints}
		if spec.coarse > 0 {
			one.parts = sel.rawPoints
		}
		spec.series = append(spec.series, one)
	}
	return err
}

// kindOfFirst reads a selection's kind off its first chunk.
func (sel *selection) kindOfFirst() (increment.Kind, error) {
	if len(sel.chunks) == 0 {
		return 0, errors.New("a series has no chunks")
	}
	c := sel.chunks[0]
	e, _, err := c.chunk()
	if err != nil {
		return 0, fmt.Errorf("read chunk of %s: %w", sel.labels, err)
	}
	kind, err := kindOf(e)
	if err != nil {
		return 0, fmt.Errorf("read chunk of %s: %w", sel.labels, err)
	}
	return kind, nil
}
