package tsdb

import (
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// distinctSpan is how far back a bare selector of a distinct series looks.
const distinctSpan = 5 * 60 * 1000

// stretch is consecutive times at which a distinct series or a gauge has a value.
type stretch struct {
	first, last int64 // grid points; last < first where only the open sample is
	open        int64 // 0: none
	marker      int64 // 0: none
}

func (s *stretch) end() int64 { return max(s.last, s.open, s.marker) }

// stretches are the grid points t at which a window starts in [t-reach, t), with
// the open sample and the staleness marker after each. reach is a multiple of the
// grid.
func (v viewParams) stretches(win []int64, reach int64) []stretch {
	var out []stretch
	open := floorTo(v.now, v.grid)
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
	return newSpanIterator(p, v, floorTo(distinctSpan, v.grid), mint, maxt)
}

// newGaugeView returns the samples in [mint, maxt] that PromQL sees of a gauge: the
// value it had last, at every grid point until the idle timeout after the window of
// that value, as a Prometheus would hold it that scraped the gauge every step. p is
// kept.
func newGaugeView(p *points, v viewParams, mint, maxt int64) chunkenc.Iterator {
	return newSpanIterator(p, v, v.grid+v.idle, mint, maxt)
}

func newSpanIterator(p *points, v viewParams, reach, mint, maxt int64) *spanIterator {
	n := v.visible(p.win)
	return &spanIterator{p: p, n: n, v: v, mint: mint, maxt: maxt, spans: v.stretches(p.win[:n], reach), cur: -1}
}

// spanIterator walks stretches; each value is that of some of the windows before it.
type spanIterator struct {
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

func (it *spanIterator) Next() chunkenc.ValueType {
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

func (it *spanIterator) Seek(t int64) chunkenc.ValueType {
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

func (it *spanIterator) settle() chunkenc.ValueType {
	if it.t > it.maxt {
		return it.exhaust()
	}
	return chunkenc.ValFloat
}

func (it *spanIterator) exhaust() chunkenc.ValueType {
	it.done = true
	return chunkenc.ValNone
}

// At works out the value when it is asked, not before: most samples are stepped over.
func (it *spanIterator) At() (int64, float64) {
	if it.phase == phaseMarker {
		return it.t, math.Float64frombits(value.StaleNaN)
	}
	end := it.t // exclusive bound on window starts
	if it.phase == phaseOpen {
		end = floorTo(it.t, it.v.grid) + it.v.grid
	}
	hi, _ := slices.BinarySearch(it.p.win[:it.n], end)
	if it.p.kind == increment.Gauge {
		return it.t, it.p.value[hi-1]
	}
	lo, _ := slices.BinarySearch(it.p.win[:it.n], end-distinctSpan)
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

func (it *spanIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return it.t, nil // never asked for: Next says ValFloat
}

func (it *spanIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return it.t, nil // never asked for: Next says ValFloat
}

func (it *spanIterator) AtT() int64  { return it.t }
func (it *spanIterator) AtST() int64 { return 0 }
func (it *spanIterator) Err() error  { return it.err }
