package tsdb

import (
	"math"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
)

// newView returns the samples in [mint, maxt] that PromQL sees of a counter or a
// histogram: its running total at every grid point of its runs, as a Prometheus
// would hold it that scraped the series every step. p must begin at a midnight or
// before the first run that matters, and is kept.
func newView(p *points, v viewParams, mint, maxt int64) chunkenc.Iterator {
	n := v.visible(p.win)
	return &viewIterator{p: p, v: v, mint: mint, maxt: maxt, runs: v.runs(p.win[:n], p.sameBuckets()), run: -1}
}

// phase is what the iterator's current sample is.
type phase uint8

const (
	phaseBefore phase = iota // no sample of the run yet
	phaseZero
	phaseTotal
	phaseOpen
	phaseMarker
)

// viewIterator walks the runs; the total is kept by adding windows in order, so
// that every sample is the same sum however it is reached.
type viewIterator struct {
	p          *points
	v          viewParams
	mint, maxt int64
	runs       []run

	run   int // current; -1 before the first
	phase phase
	t     int64
	next  int            // the first window that is not in the total
	sum   compensated    // the total of a counter
	hist  increment.Hist // the total of a histogram
	done  bool
}

func (it *viewIterator) Next() chunkenc.ValueType {
	if it.run < 0 {
		return it.Seek(it.mint)
	}
	if it.done || !it.step() {
		return it.exhaust()
	}
	return it.settle()
}

// Seek goes to the first sample at or after t.
func (it *viewIterator) Seek(t int64) chunkenc.ValueType {
	t = max(t, it.mint)
	if it.done {
		return chunkenc.ValNone
	}
	if it.run >= 0 && it.t >= t {
		return it.valueType()
	}
	from := max(it.run, 0)
	i := from + sort.Search(len(it.runs)-from, func(i int) bool { return it.runs[from+i].end() >= t })
	if i == len(it.runs) {
		return it.exhaust()
	}
	if i != it.run {
		it.enter(i)
	}
	r := &it.runs[i]
	switch {
	case it.phase == phaseBefore && t <= r.zero:
		it.phase, it.t = phaseZero, r.zero
	case it.phase <= phaseTotal && t <= r.last:
		// The grid point at or after t; first is one.
		it.phase, it.t = phaseTotal, max(r.first, r.first+floorTo(t-r.first+it.v.grid-1, it.v.grid))
	case r.open != 0 && it.phase < phaseOpen && t <= r.open:
		it.phase, it.t = phaseOpen, r.open
	default:
		it.phase, it.t = phaseMarker, r.marker
	}
	return it.settle()
}

// step moves to the sample after the current one.
func (it *viewIterator) step() bool {
	r := &it.runs[it.run]
	switch {
	case it.phase == phaseBefore:
		it.phase, it.t = phaseZero, r.zero
	case it.phase == phaseZero && r.last >= r.first:
		it.phase, it.t = phaseTotal, r.first
	case it.phase == phaseTotal && it.t+it.v.grid <= r.last:
		it.t += it.v.grid
	case it.phase < phaseOpen && r.open != 0:
		it.phase, it.t = phaseOpen, r.open
	case it.phase < phaseMarker && r.marker != 0:
		it.phase, it.t = phaseMarker, r.marker
	default:
		if it.run+1 == len(it.runs) {
			return false
		}
		it.enter(it.run + 1)
		return it.step()
	}
	return true
}

func (it *viewIterator) enter(i int) {
	it.run, it.phase, it.next = i, phaseBefore, it.runs[i].from
	it.sum = compensated{}
	if it.p.kind != increment.Counter {
		it.hist = increment.Hist{Bounds: it.p.hist[it.next].Bounds}
	}
}

// settle brings the total up to the current sample.
func (it *viewIterator) settle() chunkenc.ValueType {
	if it.t > it.maxt {
		return it.exhaust()
	}
	r := &it.runs[it.run]
	upTo := it.t - it.v.grid // windows that start here or before have ended
	switch it.phase {
	case phaseOpen:
		upTo = it.t
	case phaseZero, phaseMarker:
		return it.valueType()
	}
	for it.next < r.to && it.p.win[it.next] <= upTo {
		if it.p.kind == increment.Counter {
			it.sum.add(it.p.value[it.next])
		} else {
			it.hist.Merge(it.p.hist[it.next])
		}
		it.next++
	}
	return it.valueType()
}

func (it *viewIterator) exhaust() chunkenc.ValueType {
	it.done = true
	return chunkenc.ValNone
}

func (it *viewIterator) valueType() chunkenc.ValueType {
	if it.p.kind != increment.Counter {
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

func (it *viewIterator) At() (int64, float64) {
	switch it.phase {
	case phaseZero:
		return it.t, 0
	case phaseMarker:
		return it.t, math.Float64frombits(value.StaleNaN)
	}
	return it.t, it.sum.value()
}

func (it *viewIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return it.t, nil // never asked for: Next says ValFloatHistogram
}

func (it *viewIterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	switch it.phase {
	case phaseZero:
		return it.t, (&increment.Hist{Bounds: it.hist.Bounds}).Float(fh)
	case phaseMarker:
		out := (&increment.Hist{Bounds: it.hist.Bounds}).Float(fh)
		out.Sum = math.Float64frombits(value.StaleNaN)
		return it.t, out
	}
	return it.t, it.hist.Float(fh)
}

func (it *viewIterator) AtT() int64  { return it.t }
func (it *viewIterator) AtST() int64 { return 0 }
func (it *viewIterator) Err() error  { return nil }

// compensated is a sum whose rounding errors do not grow with its terms
// (Neumaier 1974, doi:10.1002/zamm.19740540106). Whole increments below 2^53 add
// up exactly either way.
type compensated struct{ sum, c float64 }

func (s *compensated) add(v float64) {
	t := s.sum + v
	if math.Abs(s.sum) >= math.Abs(v) {
		s.c += (s.sum - t) + v
	} else {
		s.c += (v - t) + s.sum
	}
	s.sum = t
}

func (s *compensated) value() float64 { return s.sum + s.c }
