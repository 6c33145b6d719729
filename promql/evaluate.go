package promql

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/column"
)

// row is the values of one series, one for each point of a direct computation.
type row struct {
	f    []float64                   // stale where there is none
	h    []*histogram.FloatHistogram // nil: no histogram at all
	some bool                        // there is a value
	full bool                        // there is a float at every point
}

// reset makes r a row of n points without values.
func (r *row) reset(n int) {
	if cap(r.f) < n {
		r.f = make([]float64, n)
	}
	r.f = r.f[:n]
	r.h, r.some, r.full = nil, false, false
}

// histogram sets the i-th value.
func (r *row) histogram(i int, h *histogram.FloatHistogram) {
	if r.h == nil {
		r.h = make([]*histogram.FloatHistogram, len(r.f))
	}
	r.f[i], r.h[i], r.some = stale, h, true
}

// clone is a copy of r, whose floats may be used again.
func (r *row) clone() *row {
	out := *r
	out.f = append([]float64(nil), r.f...)
	return &out
}

// evaluator turns series into rows, one after the other. Each goroutine has its own.
type evaluator struct {
	d      *direct
	kernel kernel // nil: upstream's function
	n      int    // points
	width  float64

	col   column.Column
	spans []span
	// of are the times that spans were made for: series with the same times share them.
	of []int64
	// Of the spans: what rate and its kin make of them. gapless: each has two samples;
	// sliding: each is the one before, a sample further; interval and toStart are the
	// least and the greatest of fixed.
	fixed             []extrapolation
	factors           []float64
	gapless, sliding  bool
	interval, toStart float64

	// For upstream's functions.
	floats     []upstream.FPoint
	histograms []upstream.HPoint
	hspans     []span
	enh        upstream.EvalNodeHelper
	args       parser.Expressions
	selector   *parser.VectorSelector
	values     []upstream.Vector
	matrix     upstream.Matrix
	starts     upstream.StartTimestamps

	annos   annotations.Annotations
	counted counts
	named   string // the last metric that was looked at, see warnName
}

// span is the samples [lo, hi) of a column.
type span struct{ lo, hi int }

func newEvaluator(d *direct) *evaluator {
	e := &evaluator{d: d, n: d.points(), spans: make([]span, d.points()), matrix: make(upstream.Matrix, 1)}
	e.counted = newCounts(e.n)
	if d.call == nil {
		return e
	}
	e.width = d.matrix.Range.Seconds()
	if !d.startTimes && !d.selector.Anchored && !d.selector.Smoothed {
		e.kernel = kernels[d.call.Func.Name]
	}
	e.enh.LookbackDelta = d.lookback
	for _, a := range d.call.Args {
		if _, ok := unparen(a).(*parser.MatrixSelector); ok {
			// Of its own: the offset is set before each call.
			vs, ms := *d.selector, *d.matrix
			e.selector, ms.VectorSelector = &vs, &vs
			e.args = append(e.args, &ms)
			continue
		}
		v, _ := constant(a)
		e.args = append(e.args, a)
		e.values = append(e.values, upstream.Vector{{F: v}})
	}
	return e
}

// eval sets r to the values of the i-th series of set.
func (e *evaluator) eval(set column.Set, i int, r *row) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = recovered(p)
		}
	}()
	if err := set.Read(i, &e.col); err != nil {
		return &evaluationError{err}
	}
	e.counted.read(&e.col)
	r.reset(e.n)
	if e.d.call == nil {
		if len(e.col.Runs) > 0 && sparse(&e.col, e.n) {
			e.gridInstants(r)
			return nil
		}
		e.col.Expand()
		e.instants(r)
		return nil
	}
	if k := gridKernels[e.d.call.Func.Name]; k != nil && e.kernel != nil && len(e.col.Runs) > 0 && sparse(&e.col, e.n) {
		k(e, r)
	} else {
		e.col.Expand()
		e.dropStale()
		if e.kernel != nil && len(e.col.H) == 0 {
			e.cut()
			e.kernel(e, r)
			e.counted.ranges(e)
		} else {
			e.apply(set.Labels(i), r)
		}
	}
	if r.some {
		e.warnName(set, i, r)
	}
	return nil
}

// dropStale removes staleness markers: ranges do not see them.
func (e *evaluator) dropStale() {
	c := &e.col
	if c.Stale {
		n := 0
		for i, v := range c.V {
			if value.IsStaleNaN(v) {
				continue
			}
			c.T[n], c.V[n] = c.T[i], v
			if len(c.ST) > 0 {
				c.ST[n] = c.ST[i]
			}
			n++
		}
		c.T, c.V = c.T[:n], c.V[:n]
		if len(c.ST) > 0 {
			c.ST = c.ST[:n]
		}
		c.Stale = false
	}
	n := 0
	for i, h := range c.H {
		if value.IsStaleNaN(h.Sum) {
			continue
		}
		c.HT[n], c.H[n] = c.HT[i], h
		if len(c.HST) > 0 {
			c.HST[n] = c.HST[i]
		}
		n++
	}
	c.HT, c.H = c.HT[:n], c.H[:n]
	if len(c.HST) > 0 {
		c.HST = c.HST[:n]
	}
}

// cut finds what each point reads.
func (e *evaluator) cut() {
	if t := e.col.T; len(t) == len(e.of) && len(t) > 0 && t[0] == e.of[0] && (e.col.SameTimes || equalTimes(t, e.of)) {
		return
	}
	e.counted.flush(e.spans)
	e.of = append(e.of[:0], e.col.T...)
	e.spansOf(e.col.T, e.spans)
	e.fixed = e.fixed[:0]
}

// equalTimes reports whether two series of times of one length are the same.
func equalTimes(a, b []int64) bool {
	var diff int64
	b = b[:len(a)]
	for i, t := range a {
		diff |= t ^ b[i]
	}
	return diff == 0
}

// spansOf sets spans to the samples in each point's window.
func (e *evaluator) spansOf(t []int64, spans []span) {
	lo, hi := 0, 0
	for i := range spans {
		from, to := e.d.window(i)
		for hi < len(t) && t[hi] <= to {
			hi++
		}
		for lo < hi && t[lo] <= from {
			lo++
		}
		spans[i] = span{lo, hi}
	}
}

// apply calls upstream's function at each point.
func (e *evaluator) apply(ls labels.Labels, r *row) {
	c := &e.col
	e.cut()
	e.hspans = append(e.hspans[:0], e.spans...)
	e.spansOf(c.HT, e.hspans)
	e.floats, e.histograms = e.floats[:0], e.histograms[:0]
	for i, t := range c.T {
		e.floats = append(e.floats, upstream.FPoint{T: t, F: c.V[i]})
	}
	for i, t := range c.HT {
		e.histograms = append(e.histograms, upstream.HPoint{T: t, H: c.H[i]})
	}
	function := upstream.FunctionCalls[e.d.call.Func.Name]
	e.matrix[0].Metric = ls
	full := true
	for i := range e.n {
		f, h := e.spans[i], e.hspans[i]
		r.f[i] = stale
		if f.lo == f.hi && h.lo == h.hi {
			full = false
			continue
		}
		e.matrix[0].Floats, e.matrix[0].Histograms = e.floats[f.lo:f.hi:f.hi], e.histograms[h.lo:h.hi:h.hi]
		e.moment(i)
		e.startTimes(f, h)
		out, annos := function(e.values, e.matrix, e.args, &e.enh)
		e.annos.Merge(annos)
		e.enh.Out = out[:0]
		switch {
		case len(out) == 0:
			full = false
		case out[0].H != nil:
			r.histogram(i, out[0].H)
			full = false
		default:
			r.f[i], r.some = out[0].F, true
		}
	}
	r.full = full
	e.counted.ranges(e)
	e.counted.histograms(e)
}

// moment sets the evaluation time and the offset that the engine would have.
func (e *evaluator) moment(i int) {
	t, offset := e.d.times.at(i), e.d.offset
	if e.d.at != nil {
		offset += t - *e.d.at
	}
	e.enh.Ts, e.selector.Offset = t, time.Duration(offset)*time.Millisecond
}

// startTimes gives the function the start timestamps of its samples.
func (e *evaluator) startTimes(f, h span) {
	if !e.d.startTimes {
		return
	}
	e.starts = upstream.StartTimestamps{}
	if len(e.col.ST) > 0 {
		e.starts.Floats = e.col.ST[f.lo:f.hi]
	}
	if len(e.col.HST) > 0 {
		e.starts.Histograms = e.col.HST[h.lo:h.hi]
	}
	e.enh.StartTimestamps = &e.starts
}

// warnName adds the engine's remark on rates of what is not named as a counter.
func (e *evaluator) warnName(set column.Set, i int, r *row) {
	if f := e.d.call.Func.Name; f != "rate" && f != "increase" {
		return
	}
	name := set.Labels(i).Get(model.MetricNameLabel)
	if name == "" || name == e.named {
		return
	}
	if r.h != nil { // a float among histograms?
		some := false
		for _, v := range r.f {
			some = some || !value.IsStaleNaN(v)
		}
		if !some {
			return
		}
	}
	e.named = name
	for _, suffix := range [...]string{"_total", "_sum", "_count", "_bucket"} {
		if strings.HasSuffix(name, suffix) {
			return
		}
	}
	e.annos.Add(annotations.NewPossibleNonCounterInfo(name, e.d.call.Args[0].PositionRange()))
}

// instants sets r to the values of a selector: of the last sample that is no older
// than lookback, if it is no staleness marker.
func (e *evaluator) instants(r *row) {
	c := &e.col
	f, h := 0, 0
	full := true
	for i := range r.f {
		from, to := e.d.window(i)
		if i == 0 {
			f, _ = slices.BinarySearch(c.T, to+1)
		}
		for f < len(c.T) && c.T[f] <= to {
			f++
		}
		for h < len(c.HT) && c.HT[h] <= to {
			h++
		}
		r.f[i] = stale
		switch {
		case h > 0 && c.HT[h-1] > from && (f == 0 || c.HT[h-1] > c.T[f-1]):
			full = false
			if !value.IsStaleNaN(c.H[h-1].Sum) {
				r.histogram(i, c.H[h-1])
				e.counted.add(i, size(c.H[h-1]))
			}
		case f > 0 && c.T[f-1] > from && !value.IsStaleNaN(c.V[f-1]):
			r.f[i], r.some = c.V[f-1], true
			e.counted.add(i, 1)
		default:
			full = false
		}
	}
	r.full = full
}
