package tsdb

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// DistinctSeries calls use with the series of kind distinct that the matchers select,
// sorted by labels; they can be read until use returns. Intervals, at least one, are
// sorted and disjoint. Annotations name the selected metrics of another kind. The
// open window shows at the present or at the end of the last interval, whichever
// comes first.
//
// An hour or a day of UTC that an interval has whole is counted as one set, for which
// a block may have the union at hand; it is exact up to sketch.CellExactMax ids. So
// the answer depends on the intervals, but on how data is stored only where a window
// has more ids than a sketch keeps one by one and is not stored in one place.
func (db *DB) DistinctSeries(ctx context.Context, in []sketch.Interval, use func([]sketch.Series) error, matchers ...*labels.Matcher) (annotations.Annotations, error) {
	mint, maxt := in[0].Lo, in[len(in)-1].Hi
	q := &querier{db: db, mint: mint, maxt: maxt}
	defer q.Close()
	v, params, err := q.pin(ctx)
	if err != nil || v == nil {
		return nil, err
	}
	from := floorTo(mint, params.grid) // a window that starts here shows after mint
	win := window{readMin: from, showMin: from, showMax: maxt, sampleMin: from, sampleMax: maxt}
	sels, err := selectSeries(ctx, v, &q.blocks, win, matchers)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(sels, func(a, b *selection) int { return labels.Compare(a.labels, b.labels) })
	r := &distinctReader{querier: q, view: params, in: in, from: from, to: maxt + 1}
	var out []sketch.Series
	var warnings annotations.Annotations
	for _, sel := range sels {
		if sel.kind != increment.Distinct {
			warnings.Add(fmt.Errorf("%w: %q is a %s, not a distinct metric", annotations.PromQLWarning, sel.labels.Get(model.MetricNameLabel), sel.kind))
			continue
		}
		out = append(out, sketch.Series{Labels: sel.labels, Unite: func(ctx context.Context, unions []sketch.Union) error {
			if err := r.unite(ctx, sel, unions); err != nil {
				return fmt.Errorf("read %s: %w", sel.labels, err)
			}
			return nil
		}})
	}
	if len(out) > 0 {
		warnings.Merge(epochWarnings(in, q.store.settings().UserEpochs))
	}
	return warnings, use(out)
}

// distinctReader unites the ids of one series after the other.
type distinctReader struct {
	*querier
	view     viewParams
	in       []sketch.Interval
	from, to int64 // windows start in [from, to)

	// Of the series that is being read.
	unions []sketch.Union
	parts  []distinctPart
	days   []int64
	cell   sketch.Union
}

// distinctPart is what a memtable or a block has of a series.
type distinctPart struct {
	mem points // of a memtable

	block  *block // nil: a memtable
	files  *blockFiles
	chunks []blockChunk
	dead   []span // of those
	unions seriesUnions
	loaded int // the chunk that windows are of, less 1; 0: none is
	wins   []encodedWindow
}

// unite adds the ids of a series' windows to the unions of the intervals.
func (r *distinctReader) unite(ctx context.Context, sel *selection, unions []sketch.Union) error {
	r.unions = unions
	if err := r.load(sel); err != nil {
		return err
	}
	for _, day := range r.days {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.day(day); err != nil {
			return err
		}
	}
	return nil
}

// load sets the parts and days of a series.
func (r *distinctReader) load(sel *selection) error {
	r.parts, r.days = r.parts[:0], r.days[:0]
	for i := 0; i < len(sel.chunks); {
		b, j := sel.chunks[i].block, i
		for ; j < len(sel.chunks) && sel.chunks[j].block == b; j++ {
			r.addDay(sel.chunks[j].meta.MinTime)
		}
		files, err := r.blocks.open(b)
		if err != nil {
			return b.readError(err)
		}
		p := r.addPart()
		p.block, p.files, p.chunks, p.dead, p.loaded = b, files, sel.chunks[i:j], sel.deadIn(b, nil), 0
		p.unions.reset()
		if files.unions != nil {
			err := readMapped(func() error { return p.unions.read(&files.unions.unionsContent, labels.StableHash(sel.labels)) })
			if err != nil {
				p.unionsFailed(err)
			}
		}
		i = j
	}
	for _, m := range sel.mems {
		p := r.addPart()
		p.block = nil
		if err := m.series.snapshot(&p.mem, r.from, r.to, r.cut); err != nil {
			return err
		}
		p.mem.without(0, sel.deadIn(nil, m.mem))
		for _, w := range p.mem.win {
			r.addDay(w)
		}
	}
	slices.Sort(r.days)
	r.days = slices.Compact(r.days)
	return nil
}

// addPart returns a part that was used before, for its buffers, or a new one.
func (r *distinctReader) addPart() *distinctPart {
	if len(r.parts) == cap(r.parts) {
		r.parts = append(r.parts, distinctPart{})
	} else {
		r.parts = r.parts[:len(r.parts)+1]
	}
	return &r.parts[len(r.parts)-1]
}

func (r *distinctReader) addDay(t int64) {
	if day := dayStart(t); len(r.days) == 0 || r.days[len(r.days)-1] != day {
		r.days = append(r.days, day)
	}
}

// day unites one day, whole where an interval has the whole of it, else by hours, and
// what no interval has whole by windows.
func (r *distinctReader) day(day int64) error {
	did, err := r.whole(day, dayMillis)
	if did || err != nil {
		return err
	}
	if hourMillis%r.view.grid != 0 {
		return r.windows(day, day+dayMillis, r.shows)
	}
	for hour := day; hour < day+dayMillis; hour += hourMillis {
		did, err := r.whole(hour, hourMillis)
		if !did && err == nil {
			err = r.windows(hour, hour+hourMillis, r.shows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shows returns the union of the interval in which the window that starts at w shows,
// nil where none has it.
func (r *distinctReader) shows(w int64) *sketch.Union {
	end := w + r.view.grid
	if end > r.view.now {
		if end = min(r.view.now, r.view.evalEnd); end <= w {
			return nil
		}
	}
	if i, ok := sketch.Find(r.in, end); ok {
		return &r.unions[i]
	}
	return nil
}

// whole unites an hour or a day as one set; did is false where it must be looked at
// more closely: an interval ends in it or it is not over.
func (r *distinctReader) whole(start, span int64) (did bool, err error) {
	first, last := start+r.view.grid, start+span // of the times at which its windows show
	i, ok := sketch.Find(r.in, first)
	switch {
	case !ok && (i == len(r.in) || r.in[i].Lo >= last):
		return true, nil // nobody asks for it
	case !ok || r.in[i].Hi < last || last > r.view.now:
		return false, nil
	}
	var only *distinctPart
	n := 0
	for k := range r.parts {
		if p := &r.parts[k]; p.has(start, last) {
			only = p
			n++
		}
	}
	switch {
	case n == 0:
		return true, nil
	case n == 1 && only.addUnion(start, span == dayMillis, &r.unions[i]):
		return true, nil // as stored
	}
	r.cell.Reset()
	for k := range r.parts {
		p := &r.parts[k]
		if !p.has(start, last) || p.addUnion(start, span == dayMillis, &r.cell) {
			continue
		}
		if err := p.hours(start, last, &r.cell); err != nil {
			return true, err
		}
	}
	r.cell.Settle()
	r.unions[i].AddUnion(&r.cell)
	return true, nil
}

// windows unites the windows that start in [from, to), each with what of returns.
func (r *distinctReader) windows(from, to int64, of func(w int64) *sketch.Union) error {
	for k := range r.parts {
		if p := &r.parts[k]; p.has(from, to) {
			if err := p.windows(from, to, of); err != nil {
				return err
			}
		}
	}
	return nil
}

// has reports whether p may have windows that start in [from, to).
func (p *distinctPart) has(from, to int64) bool {
	if p.block == nil {
		i, _ := slices.BinarySearch(p.mem.win, from)
		return i < len(p.mem.win) && p.mem.win[i] < to
	}
	i := p.chunkAt(from)
	return i < len(p.chunks) && p.chunks[i].meta.MinTime < to
}

// chunkAt is the first chunk that ends after a time.
func (p *distinctPart) chunkAt(t int64) int {
	return sort.Search(len(p.chunks), func(i int) bool { return p.chunks[i].meta.MaxTime >= t })
}

// addUnion adds the stored union of an hour or a day; false where there is none that
// can be read, or it has windows that were deleted.
func (p *distinctPart) addUnion(start int64, day bool, to *sketch.Union) bool {
	end := start + hourMillis
	if day {
		end = start + dayMillis
	}
	if p.block == nil || slices.ContainsFunc(p.dead, func(s span) bool { return s.from < end && s.to >= start }) {
		return false
	}
	c := p.unions.find(day, start)
	if c == nil {
		return false
	}
	err := readMapped(func() error {
		src, err := p.files.unions.cell(c)
		if err != nil {
			return err
		}
		return to.AddCell(src)
	})
	if err != nil {
		p.unionsFailed(err)
	}
	return err == nil
}

// unionsFailed gives the unions of the series up: its windows have all ids too.
func (p *distinctPart) unionsFailed(err error) {
	p.block.unionsError(err)
	p.unions.reset()
}

// hours adds what starts in [from, to), whole hours, to one union: of hours that have
// none stored the windows.
func (p *distinctPart) hours(from, to int64, into *sketch.Union) error {
	all := func(int64) *sketch.Union { return into }
	rest := from // all before it is in
	cells := p.unions.hours
	i := sort.Search(len(cells), func(k int) bool { return cells[k].start >= from })
	for ; i < len(cells) && cells[i].start < to; i++ {
		c := &cells[i]
		if !p.addUnion(c.start, false, into) {
			continue
		}
		if rest < c.start {
			if err := p.windows(rest, c.start, all); err != nil {
				return err
			}
		}
		rest = c.start + hourMillis
	}
	if rest == to {
		return nil
	}
	return p.windows(rest, to, all)
}

// windows adds the windows that start in [from, to), each to what of returns.
func (p *distinctPart) windows(from, to int64, of func(w int64) *sketch.Union) error {
	if p.block != nil {
		err := readMapped(func() error { return p.chunkWindows(from, to, of) })
		if err != nil {
			return p.block.readError(err)
		}
		return nil
	}
	i, _ := slices.BinarySearch(p.mem.win, from)
	for ; i < len(p.mem.win) && p.mem.win[i] < to; i++ {
		if u := of(p.mem.win[i]); u != nil {
			if err := u.Add(p.mem.ids[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *distinctPart) chunkWindows(from, to int64, of func(w int64) *sketch.Union) error {
	for i := p.chunkAt(from); i < len(p.chunks) && p.chunks[i].meta.MinTime < to; i++ {
		if p.loaded != i+1 {
			p.loaded = 0
			e, src, err := p.chunks[i].chunk()
			if err != nil {
				return err
			}
			if p.wins, err = appendEncodedWindows(p.wins[:0], e, src); err != nil {
				return fmt.Errorf("decode: %w", err)
			}
			p.loaded = i + 1
		}
		first := sort.Search(len(p.wins), func(k int) bool { return p.wins[k].start >= from })
		for k := first; k < len(p.wins) && p.wins[k].start < to; k++ {
			w := &p.wins[k]
			if slices.ContainsFunc(p.dead, func(s span) bool { return s.has(w.first) && s.has(w.last) }) {
				continue
			}
			u := of(w.start)
			if u == nil || w.start > w.first && w.first >= from && u == of(w.first) {
				continue // nobody asks for it, or has it already
			}
			if err := u.AddEncoded(w.sketch); err != nil {
				return err
			}
		}
	}
	return nil
}
