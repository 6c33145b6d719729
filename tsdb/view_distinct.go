package tsdb

import (
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/sketch"
)

// distinctSpan is how far back a bare selector of a distinct series looks.
const distinctSpan = 5 * 60 * 1000

// stretch is consecutive times at which a distinct series has a value.
type stretch struct {
	first, last int64 // grid points; last < first where only the open sample is
	open        int64 // 0: none
	marker      int64 // 0: none
}

func (s *stretch) end() int64 { return max(s.last, s.open, s.marker) }

// stretches are the grid points t at which a window starts in [t-span, t), with
// the open sample and the staleness marker after each.
func (v viewParams) stretches(win []int64) []stretch {
	var out []stretch
	open := floorTo(v.now, v.grid)
	reach := floorTo(distinctSpan, v.grid)
	for _, w := range win {
		first, last := w+v.grid, w+reach
		if n := len(out); n > 0 && first <= out[n-1].last+v.grid {
			out[n-1].last = last
		} else {
			out = append(out, stretch{first: first, last: last})
		}
		s := &out[len(out)-1]
		if at := min(v.now, v.evalEnd); w == open && at > open {
			s.open = at
		}
	}
	for i := range out {
		s := &out[i]
		if m := s.last + v.grid; m <= v.now {
			s.marker = m
		}
		s.last = min(s.last, open)
	}
	if n := len(out); n > 0 && out[n-1].last < out[n-1].first && out[n-1].open == 0 {
		out = out[:n-1] // only the open window, and the query ends before it
	}
	return out
}

// newDistinctView returns the samples in [mint, maxt] that PromQL sees of a
// distinct series: the number of ids in the trailing five minutes, at every grid
// point where that is not empty. p is kept. The grid must divide into the span;
// where it is coarser the view is empty.
func newDistinctView(p *points, v viewParams, mint, maxt int64) chunkenc.Iterator {
	if v.grid > distinctSpan {
		return chunkenc.NewNopIterator()
	}
	n := v.visible(p.win)
	return &distinctIterator{p: p, n: n, v: v, mint: mint, maxt: maxt, spans: v.stretches(p.win[:n]), cur: -1}
}

type distinctIterator struct {
	p          *points
	n          int // visible windows
	v          viewParams
	mint, maxt int64
	spans      []stretch

	cur   int
	t     int64
	phase phase
	err   error
	done  bool
}

func (it *distinctIterator) Next() chunkenc.ValueType {
	switch {
	case it.cur < 0:
		return it.Seek(it.mint)
	case it.done:
		return chunkenc.ValNone
	}
	s := &it.spans[it.cur]
	switch {
	case it.phase == phaseTotal && it.t+it.v.grid <= s.last:
		it.t += it.v.grid
	case it.phase < phaseOpen && s.open != 0:
		it.phase, it.t = phaseOpen, s.open
	case it.phase < phaseMarker && s.marker != 0:
		it.phase, it.t = phaseMarker, s.marker
	case it.cur+1 < len(it.spans):
		return it.Seek(it.t + 1)
	default:
		return it.exhaust()
	}
	return it.settle()
}

func (it *distinctIterator) Seek(t int64) chunkenc.ValueType {
	t = max(t, it.mint)
	if it.done {
		return chunkenc.ValNone
	}
	if it.cur >= 0 && it.t >= t {
		return chunkenc.ValFloat
	}
	from := max(it.cur, 0)
	i := from + sort.Search(len(it.spans)-from, func(i int) bool { return it.spans[from+i].end() >= t })
	if i == len(it.spans) {
		return it.exhaust()
	}
	it.cur = i
	s := &it.spans[i]
	switch {
	case s.first <= s.last && t <= s.last:
		it.phase, it.t = phaseTotal, max(s.first, s.first+floorTo(t-s.first+it.v.grid-1, it.v.grid))
	case t <= s.open:
		it.phase, it.t = phaseOpen, s.open
	default:
		it.phase, it.t = phaseMarker, s.marker
	}
	return it.settle()
}

func (it *distinctIterator) settle() chunkenc.ValueType {
	if it.t > it.maxt {
		return it.exhaust()
	}
	return chunkenc.ValFloat
}

func (it *distinctIterator) exhaust() chunkenc.ValueType {
	it.done = true
	return chunkenc.ValNone
}

// At unites the windows of the trailing span when it is asked, not before: most
// samples are stepped over.
func (it *distinctIterator) At() (int64, float64) {
	if it.phase == phaseMarker {
		return it.t, math.Float64frombits(value.StaleNaN)
	}
	end := it.t // exclusive bound on window starts
	if it.phase == phaseOpen {
		end = floorTo(it.t, it.v.grid) + it.v.grid
	}
	lo, _ := slices.BinarySearch(it.p.win[:it.n], end-distinctSpan)
	hi, _ := slices.BinarySearch(it.p.win[:it.n], end)
	var u sketch.Union
	for _, s := range it.p.ids[lo:hi] {
		if err := u.Add(s); err != nil {
			it.err = err
		}
	}
	n, err := u.Estimate()
	if err != nil {
		it.err = err
	}
	return it.t, n
}

func (it *distinctIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return it.t, nil // never asked for: Next says ValFloat
}

func (it *distinctIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return it.t, nil // never asked for: Next says ValFloat
}

func (it *distinctIterator) AtT() int64  { return it.t }
func (it *distinctIterator) AtST() int64 { return 0 }
func (it *distinctIterator) Err() error  { return it.err }
