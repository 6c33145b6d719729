package tsdb

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
)

// Columns returns the views that Select returns, whole series at a time.
func (q *querier) Columns(ctx context.Context, hints *storage.SelectHints, matchers ...*labels.Matcher) (column.Set, annotations.Annotations, error) {
	v, params, err := q.pin(ctx)
	if err != nil || v == nil {
		return &columnSet{}, nil, err
	}
	params.evalEnd = hints.End
	view := params.selecting(matchers)
	win := windowFor(view, hints.Start, hints.End)
	var keep []string
	if hints.ProjectionInclude {
		keep = hints.ProjectionLabels
	}
	kept := keep
	if view.own != nil {
		kept = nil // a series' name says its idle timeout
	}
	set := &columnSet{q: q, params: view, win: win, mint: hints.Start, maxt: hints.End}
	if err := set.selectSeries(ctx, v, matchers, kept); err != nil {
		return nil, nil, err
	}
	classic, err := q.classic(ctx, v, params, hints.Start, hints.End, matchers, keep)
	if err != nil {
		return nil, nil, err
	}
	set.classic = classic.series
	if len(set.classic) > 0 {
		if set.order = classic.order(); set.order == nil || set.stored() > 0 {
			set.sortBoth()
		}
	}
	if hints.Limit > 0 && set.Len() > hints.Limit {
		set.limit = hints.Limit
	}
	return set, set.coarseWarnings(), nil
}

// columnSet implements column.Set.
type columnSet struct {
	q          *querier
	params     viewParams
	win        window
	mint, maxt int64
	// The series are in one block, or in several places.
	inBlock *blockSelection // nil: in series
	series  []*selection
	classic []*classicSeries
	// order is that of series and then classic by labels; nil where there are none of
	// the latter.
	order []int32
	limit int // 0: none
}

func (s *columnSet) sortBoth() {
	s.order = make([]int32, s.stored()+len(s.classic))
	for i := range s.order {
		s.order[i] = int32(i)
	}
	slices.SortFunc(s.order, func(a, b int32) int { return labels.Compare(s.labels(int(a)), s.labels(int(b))) })
}

// selectSeries selects the series that are stored, by labels.
func (s *columnSet) selectSeries(ctx context.Context, v *version, matchers []*labels.Matcher, keep []string) (err error) {
	if s.inBlock, err = selectInBlock(ctx, v, &s.q.blocks, s.win, matchers, keep); err != nil || s.inBlock != nil {
		return err
	}
	if s.series, err = selectSeries(ctx, v, &s.q.blocks, s.win, matchers); err != nil {
		return err
	}
	return sortSelections(ctx, s.series)
}

func (s *columnSet) coarseWarnings() annotations.Annotations {
	if s.inBlock == nil {
		return coarseWarnings(s.series, s.params)
	}
	return s.inBlock.coarseWarnings(s.params)
}

// stored is how many series are stored; the others are classic.
func (s *columnSet) stored() int {
	if s.inBlock != nil {
		return s.inBlock.n
	}
	return len(s.series)
}

// labels are those of a series by its place among the stored and then the classic ones.
func (s *columnSet) labels(at int) labels.Labels {
	n := s.stored()
	switch {
	case at >= n:
		return s.classic[at-n].labels
	case s.inBlock != nil:
		return s.inBlock.labels(at)
	}
	return s.series[at].labels
}

// LabelSets implements column.Alike.
func (s *columnSet) LabelSets() int {
	if s.inBlock == nil || len(s.classic) > 0 {
		return 0
	}
	return len(s.inBlock.labelSets)
}

// LabelSet implements column.Alike.
func (s *columnSet) LabelSet(i int) int { return s.inBlock.labelSet(i) }

func (s *columnSet) at(i int) int {
	if s.order != nil {
		return int(s.order[i])
	}
	return i
}

func (s *columnSet) Len() int {
	if s.limit > 0 {
		return s.limit
	}
	return s.stored() + len(s.classic)
}

func (s *columnSet) Labels(i int) labels.Labels { return s.labels(s.at(i)) }

// Reading keeps blocks from being closed while f reads them.
func (s *columnSet) Reading(f func() error) error {
	if s.q == nil {
		return f()
	}
	return s.q.blocks.read(func() error { return readMapped(f) })
}

// Read sets c to the i-th series.
func (s *columnSet) Read(i int, c *column.Column) error {
	c.Reset()
	if i = s.at(i); i >= s.stored() {
		return s.readClassic(s.classic[i-s.stored()], c)
	}
	sel := &s.scratch(c).sel
	if s.inBlock != nil {
		s.inBlock.selection(i, sel)
	} else {
		sel = s.series[i]
	}
	from, to := s.win.read(sel.kind)
	switch sel.kind {
	case increment.Counter:
		return s.readCounter(sel, from, to, c)
	case increment.Sample:
		return s.readSamples(sel, from, to, c)
	case increment.Gauge:
		return s.readGauge(sel, from, to, c)
	}
	p, err := sel.read(from, to+1, s.q.cut)
	if err != nil {
		return err
	}
	c.Chunks, c.Bytes = len(sel.chunks), p.bytes
	return c.AppendSamples(s.view(sel, &p))
}

// view is the iterator over points that Select hands out.
func (s *columnSet) view(sel *selection, p *points) chunkenc.Iterator {
	switch sel.kind {
	case increment.Distinct:
		return newDistinctView(p, s.params, s.mint, s.maxt)
	}
	return newView(p, s.params.of(sel.labels), s.mint, s.maxt)
}

// readCounter sets c to the runs of a counter.
func (s *columnSet) readCounter(sel *selection, from, to int64, c *column.Column) error {
	scratch := s.scratch(c)
	p := &scratch.p
	decoded, err := sel.readInto(p, from, to+1, s.q.cut, c)
	if err != nil {
		return err
	}
	c.Bytes = p.bytes
	n := s.params.visible(p.win)
	c.Win, c.Inc, c.Step = p.win[:n], p.value[:n], s.params.grid
	c.Whole = decoded && !p.fractions || whole(c.Inc)
	scratch.appendRuns(c, s.params.of(sel.labels))
	return nil
}

// columnScratch is what reading a set's series uses again.
type columnScratch struct {
	set *columnSet
	sel selection // the series that is read, where all are in one block
	p   points
	// run is that of n windows without a gap from first on with an idle timeout, if n is
	// not 0: series that are counted all the time have the same one.
	run   column.Run
	first int64
	idle  int64
	n     int
	// buckets are those of the histogram bucketsOf.
	buckets   bucketCounts
	bucketsOf *classicHistogram
}

// scratch returns what c has for reading from s.
func (s *columnSet) scratch(c *column.Column) *columnScratch {
	scratch, ok := c.Scratch.(*columnScratch)
	if !ok || scratch.set != s {
		scratch = &columnScratch{set: s}
		c.Scratch = scratch
	}
	return scratch
}

// appendRuns appends the runs of c's windows.
func (s *columnScratch) appendRuns(c *column.Column, v viewParams) {
	n := len(c.Win)
	dense := n > 0 && c.Win[n-1]-c.Win[0] == int64(n-1)*c.Step
	if dense && n == s.n && c.Win[0] == s.first && v.idle == s.idle {
		c.Runs = append(c.Runs, s.run)
		return
	}
	c.Runs = appendColumnRuns(c.Runs, c.Win, v)
	if s.n = 0; dense && len(c.Runs) == 1 {
		s.run, s.first, s.idle, s.n = c.Runs[0], c.Win[0], v.idle, n
	}
}

// whole reports whether all values are whole numbers that float64 holds.
func whole(values []float64) bool {
	var not uint64
	for _, v := range values {
		not |= math.Float64bits(float64(int64(v))) ^ math.Float64bits(v)
	}
	return not == 0
}

// readInto sets p to the increments that start in [from, to). What p has room for is
// used again where they are in one place or in blocks that follow one another, as most
// are. It reports whether they are of chunks alone, so that p knows of fractions.
func (sel *selection) readInto(p *points, from, to int64, at cut, c *column.Column) (decoded bool, err error) {
	p.reset(sel.kind)
	c.Chunks = len(sel.chunks)
	switch {
	case len(sel.mems) == 1 && len(sel.chunks) == 0:
		if err := sel.mems[0].series.snapshot(p, from, to, at); err != nil {
			return false, fmt.Errorf("read %s: %w", sel.labels, err)
		}
		p.without(0, sel.deadIn(nil, sel.mems[0].mem))
		return false, nil
	case len(sel.mems) == 0:
		follow, err := sel.appendFollowing(p, from, to)
		if err != nil {
			return false, err
		}
		if follow {
			p.between(from, to)
			return true, nil
		}
		p.reset(sel.kind)
	}
	all, err := sel.read(from, to, at)
	if err == nil {
		*p = all
	}
	return false, err
}

// appendFollowing appends the increments of chunks; false where those of one block do
// not come after those of the block before: they are to be merged then.
func (sel *selection) appendFollowing(p *points, from, to int64) (bool, error) {
	for i := 0; i < len(sel.chunks); {
		b, j := sel.chunks[i].block, i+1
		for j < len(sel.chunks) && sel.chunks[j].block == b {
			j++
		}
		n := p.len()
		if err := appendChunks(sel.chunks[i:j], from, to, sel.deadIn(b, nil), p); err != nil {
			return false, fmt.Errorf("read chunk of %s: %w", sel.labels, b.readError(err))
		}
		if n > 0 && p.len() > n && p.win[n] <= p.win[n-1] {
			return false, nil
		}
		i = j
	}
	return true, nil
}

// oneBlock reports whether all chunks are of one block.
func (sel *selection) oneBlock() bool {
	return len(sel.chunks) > 0 && sel.chunks[0].block == sel.chunks[len(sel.chunks)-1].block
}

// readSamples sets c to Prometheus samples.
func (s *columnSet) readSamples(sel *selection, from, to int64, c *column.Column) error {
	c.Chunks = len(sel.chunks)
	if len(sel.mems) > 0 || len(sel.dead) > 0 || sel.thinned() || !sel.oneBlock() && !sel.followingFloats() {
		p, err := sel.read(from, to+1, s.q.cut)
		if err != nil {
			return err
		}
		c.Bytes = p.bytes
		return c.AppendSamples(newSampleView(&p, from, to))
	}
	for i := range sel.chunks {
		if m := &sel.chunks[i].meta; m.MaxTime < from || m.MinTime > to {
			continue
		}
		e, src, err := sel.chunks[i].chunk()
		if err == nil {
			err = appendSamples(e, src, c)
		}
		if err != nil {
			return fmt.Errorf("read chunk of %s: %w", sel.labels, sel.chunks[i].block.readError(err))
		}
	}
	return nil
}

// followingFloats reports whether the chunks of several blocks come one after the other,
// as far as their times say, and hold no histograms: the counter reset hint of a block's
// first depends on those of the block before.
func (sel *selection) followingFloats() bool {
	for i := range sel.chunks {
		if i > 0 && sel.chunks[i].meta.MinTime <= sel.chunks[i-1].meta.MaxTime {
			return false
		}
		e, _, err := sel.chunks[i].chunk()
		if err != nil || e != chunkenc.EncXOR && e != chunkenc.EncXOR2 {
			return false
		}
	}
	return true
}

// appendSamples appends the samples of one chunk.
func appendSamples(e chunkenc.Encoding, src []byte, c *column.Column) error {
	c.Bytes += len(src)
	if e == chunkenc.EncXOR {
		return appendXORChunk(src, c)
	}
	p := points{kind: increment.Sample}
	if err := appendSampleChunk(e, src, &p); err != nil {
		return err
	}
	return c.AppendSamples(&sampleIterator{p: &p, i: -1})
}
