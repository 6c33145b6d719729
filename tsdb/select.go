package tsdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/increment"
)

// selection is one series and where its increments are.
type selection struct {
	labels labels.Labels
	kind   increment.Kind
	mems   []memPart
	chunks []blockChunk
	dead   []deadPart // nil: nothing of it was deleted, or what was is not in it
}

// memPart is the part of a series that a memtable has.
type memPart struct {
	mem    *memtable
	series *memSeries
}

type blockChunk struct {
	block *block
	files *chunkFiles
	meta  chunkAt
}

// chunk returns the chunk's encoding and bytes, whose checksum it has verified.
func (c *blockChunk) chunk() (chunkenc.Encoding, []byte, error) { return c.files.chunk(c.meta.ref) }

// window is the part of time a selection reads. A series is selected where it has
// increments that can show in [showMin, showMax]; its increments are then read
// from readMin on, the midnight before, because totals count from there (I5).
//
// Samples show where they are, in [sampleMin, sampleMax].
type window struct {
	readMin, showMin, showMax int64
	sampleMin, sampleMax      int64
	view                      viewParams
	// reach is how far beside it samples are that say what shows in it; see thinnedReach.
	reach int64
}

// of returns the window of a series, which may show for less time than others do.
func (w window) of(series labels.Labels) window {
	if w.view.own == nil {
		return w
	}
	own := windowFor(w.view.of(series), w.sampleMin, w.sampleMax)
	own.reach = w.reach
	return own
}

// shown is where a series of a kind needs increments to be selected.
func (w window) shown(k increment.Kind) (mint, maxt int64) {
	if k == increment.Sample {
		return w.sampleMin - w.reach, w.sampleMax + w.reach
	}
	return w.showMin, w.showMax
}

// end is the last time of which anything is read.
func (w window) end() int64 { return w.showMax + w.reach }

// read is what is read of a series of a kind.
func (w window) read(k increment.Kind) (mint, maxt int64) {
	if k == increment.Sample {
		return w.sampleMin, w.sampleMax
	}
	return w.readMin, w.showMax
}

// windowFor returns what a view of [mint, maxt] depends on: a view begins a step
// before its data and outlives it by the idle timeout, the longest of those in question.
func windowFor(v viewParams, mint, maxt int64) window {
	show := mint - max(v.idleMost(), distinctSpan) - v.grid
	return window{readMin: dayStart(show), showMin: show, showMax: maxt + v.grid, sampleMin: mint, sampleMax: maxt, view: v}
}

// selector gathers the series of one version that matchers select.
type selector struct {
	ctx      context.Context
	blocks   *openBlocks
	win      window
	deleted  *deletions
	matchers []*labels.Matcher
	// byHash finds a series again; nil where all are in one place.
	byHash map[uint64][]*selection
	out    []*selection
	// Room for selections and their chunks, of many series at once.
	room   []selection
	chunks []blockChunk
}

// selectSeries returns the series in no particular order; the version must stay pinned,
// and the blocks open, while they are read. Some may have been made after the
// cut: they have no increments at it.
func selectSeries(ctx context.Context, v *version, blocks *openBlocks, win window, matchers []*labels.Matcher) (found []*selection, err error) {
	win.reach = thinnedReach(v, win)
	s := selector{ctx: ctx, blocks: blocks, win: win, deleted: &v.deleted, matchers: matchers}
	mems, inBlocks := partsIn(v, win)
	if len(mems)+len(inBlocks) > 1 {
		s.byHash = map[uint64][]*selection{}
	}
	for _, m := range mems {
		if err := s.addMemtable(m); err != nil {
			return nil, err
		}
	}
	for _, b := range inBlocks {
		if err := readMapped(func() error { return s.addBlock(b) }); err != nil {
			return nil, fmt.Errorf("select: %w", b.readError(err))
		}
	}
	// Series with increments only before what can show were taken along for the
	// totals of those that show.
	n := 0
	out := slices.DeleteFunc(s.out, func(sel *selection) bool {
		if n++; n%lookEvery == 0 && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return false
		}
		shows, e := sel.shows(win)
		err = errors.Join(err, e)
		return !shows
	})
	if err == nil {
		err = budget.From(ctx).AddSeries(len(out))
	}
	return out, err
}

func (s *selector) addMemtable(m *memtable) error {
	pending := s.deleted.pending(m.clean, m.start, m.end)
	return m.matching(s.ctx, s.matchers, func(ser *memSeries) error {
		dead := spansOf(selecting(pending, ser.labels), ser.kind, s.deleted.step)
		in, err := ser.overlaps(m.start, m.end, s.win.readMin, s.win.end()+1, dead)
		if err == nil && in {
			sel := s.selection(ser.labels, ser.kind)
			sel.mems = append(sel.mems, memPart{m, ser})
			if len(dead) > 0 {
				sel.dead = append(sel.dead, deadPart{mem: m, spans: dead})
			}
		}
		return err
	})
}

func (s *selector) addBlock(b *block) error {
	files, err := s.blocks.open(b)
	if err != nil {
		return err
	}
	ix := files.index
	p, err := tsdb.PostingsForMatchers(s.ctx, ix, s.matchers...)
	if err != nil {
		return err
	}
	d := newSeriesDecoder(ix)
	var kind increment.Kind
	var named uint32 // the metric that kind is of: one name is of one kind
	pending := s.deleted.pending(b.clean.Load(), b.MinTime, b.MaxTime)
	for n := 0; p.Next(); n++ {
		if n%lookEvery == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if err := d.decode(p.At()); err != nil {
			return err
		}
		metas := s.win.cut(d.metas)
		if len(metas) == 0 {
			continue
		}
		ls, err := d.labels()
		if err != nil {
			return err
		}
		some := selecting(pending, ls)
		metas = slices.DeleteFunc(metas, func(m chunkAt) bool { return coversChunk(some, &m) })
		if len(metas) == 0 {
			continue
		}
		if d.name == 0 || d.name != named {
			if kind, err = (&blockChunk{b, files.chunks, metas[0]}).kind(); err != nil {
				return fmt.Errorf("read chunk of %s: %w", ls, err)
			}
			named = d.name
		}
		sel := s.selection(ls, kind)
		s.addChunks(sel, b, files.chunks, metas)
		if dead := spansOf(some, kind, s.deleted.step); len(dead) > 0 {
			sel.dead = append(sel.dead, deadPart{block: b, spans: dead})
		}
	}
	return p.Err()
}

// kind is that of the chunk's series.
func (c *blockChunk) kind() (increment.Kind, error) {
	e, _, err := c.chunk()
	if err != nil {
		return 0, err
	}
	return kindOf(e)
}

// addChunks notes chunks of one block.
func (s *selector) addChunks(sel *selection, b *block, files *chunkFiles, metas []chunkAt) {
	if len(sel.chunks) == 0 {
		if len(metas) > cap(s.chunks)-len(s.chunks) {
			s.chunks = make([]blockChunk, 0, max(len(metas), min(1024, 2*len(s.out))))
		}
		n := len(s.chunks)
		s.chunks = s.chunks[:n+len(metas)]
		sel.chunks = s.chunks[n:n:len(s.chunks)]
	}
	for _, m := range metas {
		sel.chunks = append(sel.chunks, blockChunk{b, files, m})
	}
}

// selection returns the entry of a series, made where there is none.
func (s *selector) selection(ls labels.Labels, kind increment.Kind) *selection {
	if s.byHash == nil {
		return s.newSelection(ls, kind)
	}
	hash := ls.Hash()
	for _, sel := range s.byHash[hash] {
		if labels.Equal(sel.labels, ls) {
			return sel
		}
	}
	sel := s.newSelection(ls, kind)
	s.byHash[hash] = append(s.byHash[hash], sel)
	return sel
}

func (s *selector) newSelection(ls labels.Labels, kind increment.Kind) *selection {
	if len(s.room) == 0 {
		s.room = make([]selection, max(1, min(256, len(s.out))))
	}
	sel := &s.room[0]
	s.room = s.room[1:]
	sel.labels, sel.kind = ls, kind
	s.out = append(s.out, sel)
	return sel
}

// sortSelections sorts by labels, always: then what depends on the order of series (topk
// among equals, the last bits of a sum) does not depend on how data came or is stored.
func sortSelections(ctx context.Context, sels []*selection) error {
	n, stopped := 0, false
	slices.SortFunc(sels, func(a, b *selection) int {
		if n++; n%lookEvery == 0 && ctx.Err() != nil {
			stopped = true
		}
		if stopped {
			return 0 // the order does not matter, the end does
		}
		return labels.Compare(a.labels, b.labels)
	})
	return ctx.Err()
}

func (sel *selection) shows(win window) (bool, error) {
	mint, maxt := win.of(sel.labels).shown(sel.kind)
	for i := range sel.chunks {
		c := &sel.chunks[i]
		if c.meta.MaxTime < mint || c.meta.MinTime > maxt {
			continue
		}
		live, err := c.live(sel.kind, mint, maxt, sel.deadIn(c.block, nil))
		if err != nil || live {
			return live, err
		}
	}
	for _, m := range sel.mems {
		in, err := m.series.overlaps(m.mem.start, m.mem.end, mint, maxt+1, sel.deadIn(nil, m.mem))
		if err != nil || in {
			return in, err
		}
	}
	return false, nil
}

// read returns the merged increments that start at or after from, those of memtables
// as they were at a cut. They share no memory with what others see.
func (sel *selection) read(from, to int64, at cut) (points, error) {
	lo, hi := from, to
	if reach := sel.thinnedReach(); reach > 0 {
		lo, hi = from-reach, to+reach
	}
	parts, err := sel.chunkPoints(lo, hi)
	if err != nil {
		return points{}, err
	}
	for _, m := range sel.mems {
		p := points{kind: sel.kind}
		if err := m.series.snapshot(&p, lo, hi, at); err != nil {
			return points{}, fmt.Errorf("read %s: %w", sel.labels, err)
		}
		p.without(0, sel.deadIn(nil, m.mem))
		parts = append(parts, p)
	}
	bytes := 0
	for i := range parts {
		bytes += parts[i].bytes
	}
	thinned := thinnedParts(parts)
	p, err := mergePoints(sel.kind, parts)
	if err != nil {
		return points{}, fmt.Errorf("read %s: %w", sel.labels, err)
	}
	if len(thinned) > 0 {
		p.fillThinned(thinned, namesCounter(sel.labels))
	}
	p.bytes = bytes
	if len(thinned) > 0 {
		p.between(from, to)
		return p, nil
	}
	i, _ := slices.BinarySearch(p.win, from) // a chunk may begin before
	p.cut(i, p.len())
	return p, nil
}

// chunkPoints decodes the chunks of a selection that have windows in [mint, maxt);
// they may have others too.
func (sel *selection) chunkPoints(mint, maxt int64) ([]points, error) {
	return sel.chunkPointsOf(mint, maxt, false)
}

// rawPoints is chunkPoints for who merges coarse windows as such.
func (sel *selection) rawPoints(mint, maxt int64) ([]points, error) {
	return sel.chunkPointsOf(mint, maxt, true)
}

func (sel *selection) chunkPointsOf(mint, maxt int64, raw bool) ([]points, error) {
	parts := make([]points, 0, 1+len(sel.mems))
	for i := 0; i < len(sel.chunks); {
		b, j := sel.chunks[i].block, i+1
		for j < len(sel.chunks) && sel.chunks[j].block == b { // those of one block follow one another
			j++
		}
		p := points{kind: sel.kind, raw: raw}
		dead := sel.deadIn(b, nil)
		err := readMapped(func() error {
			if sel.kind == increment.Sample && b.Step > 0 {
				return sel.appendThinned(sel.chunks[i:j], mint, maxt, dead, &p)
			}
			return appendChunks(sel.chunks[i:j], mint, maxt, dead, &p)
		})
		if err != nil {
			return nil, fmt.Errorf("read chunk of %s: %w", sel.labels, b.readError(err))
		}
		if p.len() > 0 {
			parts = append(parts, p)
		}
		i = j
	}
	return parts, nil
}

// appendChunks appends the points of those chunks of one block that have windows in
// [mint, maxt), less those that are in one of the dead spans.
func appendChunks(all []blockChunk, mint, maxt int64, dead []span, p *points) error {
	begin := p.len() // of those that are not expanded
	for i := range all {
		c := &all[i]
		if c.meta.MaxTime < mint || c.meta.MinTime >= maxt {
			continue
		}
		e, src, err := c.chunk()
		if err != nil {
			return err
		}
		coarse := isCoarse(e) && !p.raw
		if coarse {
			p.without(begin, dead)
		}
		if _, err := appendChunk(e, src, dead, p); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		if coarse {
			begin = p.len()
		}
		p.bytes += len(src)
	}
	p.without(begin, dead)
	return nil
}

// labelNames and labelValues of series that show in a window.

func collectLabelValues(ctx context.Context, v *version, blocks *openBlocks, win window, name string, matchers []*labels.Matcher) ([]string, error) {
	seen := map[string]struct{}{}
	if len(matchers) > 0 {
		sels, err := selectSeries(ctx, v, blocks, win, matchers)
		for _, sel := range sels {
			if val := sel.labels.Get(name); val != "" {
				seen[val] = struct{}{}
			}
		}
		return sortedKeys(seen), err
	}
	return collectIndexed(ctx, v, blocks, win, name)
}

func collectLabelNames(ctx context.Context, v *version, blocks *openBlocks, win window, matchers []*labels.Matcher) ([]string, error) {
	if len(matchers) > 0 {
		seen := map[string]struct{}{}
		sels, err := selectSeries(ctx, v, blocks, win, matchers)
		for _, sel := range sels {
			sel.labels.Range(func(l labels.Label) { seen[l.Name] = struct{}{} })
		}
		return sortedKeys(seen), err
	}
	return collectIndexed(ctx, v, blocks, win, "")
}

// collectIndexed unites the label names of all memtables and blocks in a window, or
// the values of one name where that is set.
func collectIndexed(ctx context.Context, v *version, blocks *openBlocks, win window, name string) ([]string, error) {
	seen := map[string]struct{}{}
	for _, m := range v.mems {
		if m.end > win.showMin && m.start <= win.showMax {
			if err := m.addStrings(ctx, name, seen); err != nil {
				return nil, fmt.Errorf("list labels: %w", err)
			}
		}
	}
	for _, b := range v.blocks {
		if b.MaxTime <= win.showMin || b.MinTime > win.showMax {
			continue
		}
		if err := readMapped(func() error { return b.addStrings(ctx, blocks, name, seen) }); err != nil {
			return nil, fmt.Errorf("list labels: %w", b.readError(err))
		}
	}
	return sortedKeys(seen), nil
}

func sortedKeys(set map[string]struct{}) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// addStrings adds the label names of a block to seen, or the values of one name where
// that is set.
func (b *block) addStrings(ctx context.Context, blocks *openBlocks, name string, seen map[string]struct{}) error {
	files, err := blocks.open(b)
	if err != nil {
		return err
	}
	found, err := files.index.LabelNames(ctx)
	if name != "" {
		found, err = files.index.LabelValues(ctx, name, nil)
	}
	for _, s := range found {
		seen[strings.Clone(s)] = struct{}{} // a block's strings are in its mapped file
	}
	return err
}
