package tsdb

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/increment"
)

// blockSelection is the series of one block that a selector selects, by labels: numbers in
// pages instead of an object for each, so that to select a hundred thousand allocates
// little and the garbage collector has nothing to look at in them.
type blockSelection struct {
	block *block // nil: no series
	files *chunkFiles
	// labelSets are the different labels that series have.
	labelSets []labels.Labels
	pages     []*selectionPage
	n         int
}

const pageSeries = 1024

// selectionPage is pageSeries series, fewer in the last page.
type selectionPage struct {
	labels [pageSeries]uint32 // in labelSets
	kinds  [pageSeries]increment.Kind
	end    [pageSeries]uint32 // of their chunks
	chunks []chunkAt
}

// selectInBlock selects series where all are in one block of which nothing waits to be
// deleted; it returns nil where it is not so: then other places, or all labels, say what
// there is. They may have no labels but those to keep, unless that is nil.
func selectInBlock(ctx context.Context, v *version, blocks *openBlocks, win window, matchers []*labels.Matcher, keep []string) (*blockSelection, error) {
	win.reach = thinnedReach(v, win)
	mems, inBlocks := partsIn(v, win)
	if len(mems) > 0 || len(inBlocks) > 1 {
		return nil, nil
	}
	t := &blockSelection{}
	if len(inBlocks) == 0 {
		return t, nil
	}
	b := inBlocks[0]
	if len(v.deleted.pending(b.clean.Load(), b.MinTime, b.MaxTime)) > 0 {
		return nil, nil
	}
	t.block = b
	files, err := blocks.open(b)
	if err == nil {
		t.files = files.chunks
		s := selector{ctx: ctx, win: win, matchers: matchers}
		err = readMapped(func() error { return s.fill(t, files.index, keep) })
	}
	if err != nil {
		return nil, fmt.Errorf("select: %w", b.readError(err))
	}
	return t, budget.From(ctx).AddSeries(t.n)
}

// fill adds the series of a block that show.
func (s *selector) fill(t *blockSelection, ix *mappedIndex, keep []string) error {
	p, err := tsdb.PostingsForMatchers(s.ctx, ix, s.matchers...)
	if err != nil {
		return err
	}
	d := newSeriesDecoder(ix)
	d.keep = keep
	var kind increment.Kind
	var named uint32
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
		if d.name == 0 || d.name != named { // see addBlock
			if kind, err = (&blockChunk{t.block, t.files, metas[0]}).kind(); err != nil {
				return fmt.Errorf("read chunk of a series: %w", err)
			}
			named = d.name
		}
		if !s.win.showsAny(kind, metas) {
			continue
		}
		ls, err := d.labelSet()
		if err != nil {
			return err
		}
		if s.win.view.own != nil && !s.win.of(d.labelSets[ls]).showsAny(kind, metas) {
			continue // its own idle timeout is shorter than the longest
		}
		t.add(ls, kind, metas)
	}
	t.labelSets = d.labelSets
	return p.Err()
}

func (t *blockSelection) add(ls uint32, kind increment.Kind, metas []chunkAt) {
	at := t.n % pageSeries
	if at == 0 {
		room := pageSeries * len(metas)
		if t.n == 0 {
			room = 8 // there may be no more
		}
		t.pages = append(t.pages, &selectionPage{chunks: make([]chunkAt, 0, room)})
	}
	p := t.pages[len(t.pages)-1]
	p.chunks = append(p.chunks, metas...)
	p.labels[at], p.kinds[at], p.end[at] = ls, kind, uint32(len(p.chunks))
	t.n++
}

// labelSet is the place of a series' labels in labelSets.
func (t *blockSelection) labelSet(i int) int { return int(t.pages[i/pageSeries].labels[i%pageSeries]) }

func (t *blockSelection) labels(i int) labels.Labels { return t.labelSets[t.labelSet(i)] }

func (t *blockSelection) kind(i int) increment.Kind { return t.pages[i/pageSeries].kinds[i%pageSeries] }

func (t *blockSelection) coarseWarnings(v viewParams) annotations.Annotations {
	var out annotations.Annotations
	if t.block == nil || max(v.grid, t.block.Step) <= distinctSpan {
		return out
	}
	for i := range t.n {
		if t.kind(i) == increment.Distinct {
			out.Add(coarseWarning(t.labels(i)))
		}
	}
	return out
}

// selection sets sel to a series.
func (t *blockSelection) selection(i int, sel *selection) {
	p, at := t.pages[i/pageSeries], i%pageSeries
	from := uint32(0)
	if at > 0 {
		from = p.end[at-1]
	}
	sel.labels, sel.kind, sel.chunks = t.labelSets[p.labels[at]], p.kinds[at], sel.chunks[:0]
	for _, c := range p.chunks[from:p.end[at]] {
		sel.chunks = append(sel.chunks, blockChunk{t.block, t.files, c})
	}
}

// partsIn are the memtables and blocks of v that a window reads.
func partsIn(v *version, win window) ([]*memtable, []*block) {
	mems := slices.DeleteFunc(slices.Clone(v.mems), func(m *memtable) bool { return m.end <= win.readMin || m.start > win.end() })
	inBlocks := slices.DeleteFunc(slices.Clone(v.blocks), func(b *block) bool { return b.MaxTime <= win.readMin || b.MinTime > win.end() })
	return mems, inBlocks
}

// cut removes the chunks that are not read.
func (w window) cut(metas []chunkAt) []chunkAt {
	return slices.DeleteFunc(metas, func(m chunkAt) bool { return m.MaxTime < w.readMin || m.MinTime > w.end() })
}

// showsAny reports whether one of the chunks of a series can show.
func (w window) showsAny(k increment.Kind, metas []chunkAt) bool {
	mint, maxt := w.shown(k)
	return slices.ContainsFunc(metas, func(m chunkAt) bool { return m.MaxTime >= mint && m.MinTime <= maxt })
}
