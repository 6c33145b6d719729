package promql

import (
	"math"

	"github.com/prometheus/prometheus/util/kahansum"
)

// kernel sets r to a function of float samples, of the spans of e. What it gives is
// what upstream's function of the same name gives, to the last bit.
type kernel func(e *evaluator, r *row)

// kernels are the functions that are worth one. All others are upstream's own.
var kernels = map[string]kernel{
	"rate":              func(e *evaluator, r *row) { e.extrapolated(r, true, true) },
	"increase":          func(e *evaluator, r *row) { e.extrapolated(r, true, false) },
	"delta":             func(e *evaluator, r *row) { e.extrapolated(r, false, false) },
	"irate":             func(e *evaluator, r *row) { e.lastTwo(r, true) },
	"idelta":            func(e *evaluator, r *row) { e.lastTwo(r, false) },
	"changes":           func(e *evaluator, r *row) { e.each(r, 1, changes) },
	"resets":            func(e *evaluator, r *row) { e.each(r, 1, resets) },
	"count_over_time":   func(e *evaluator, r *row) { e.each(r, 1, func(v []float64) float64 { return float64(len(v)) }) },
	"present_over_time": func(e *evaluator, r *row) { e.each(r, 1, func([]float64) float64 { return 1 }) },
	"first_over_time":   func(e *evaluator, r *row) { e.each(r, 1, func(v []float64) float64 { return v[0] }) },
	"last_over_time":    func(e *evaluator, r *row) { e.each(r, 1, func(v []float64) float64 { return v[len(v)-1] }) },
	"max_over_time":     func(e *evaluator, r *row) { e.each(r, 1, greatest) },
	"min_over_time":     func(e *evaluator, r *row) { e.each(r, 1, least) },
	"sum_over_time":     func(e *evaluator, r *row) { e.each(r, 1, total) },
}

// each sets r to what of gives of each range with at least n samples.
func (e *evaluator) each(r *row, n int, of func([]float64) float64) {
	full := true
	for i, s := range e.spans {
		if s.hi-s.lo < n {
			r.f[i], full = stale, false
			continue
		}
		r.f[i], r.some = of(e.col.V[s.lo:s.hi]), true
	}
	r.full = full
}

func changes(v []float64) float64 {
	n := 0.0
	prev := v[0]
	for _, x := range v[1:] {
		if x != prev && !(math.IsNaN(x) && math.IsNaN(prev)) {
			n++
		}
		prev = x
	}
	return n
}

func resets(v []float64) float64 {
	n := 0.0
	prev := v[0]
	for _, x := range v[1:] {
		if x < prev {
			n++
		}
		prev = x
	}
	return n
}

func greatest(v []float64) float64 {
	out := v[0]
	for _, x := range v[1:] {
		if x > out || math.IsNaN(out) {
			out = x
		}
	}
	return out
}

func least(v []float64) float64 {
	out := v[0]
	for _, x := range v[1:] {
		if x < out || math.IsNaN(out) {
			out = x
		}
	}
	return out
}

func total(v []float64) float64 {
	sum, c := 0.0, 0.0
	for _, x := range v {
		sum, c = kahansum.Inc(x, sum, c)
	}
	return sum + c
}

// lastTwo is irate, or idelta, of the last two samples of each range.
func (e *evaluator) lastTwo(r *row, rate bool) {
	full := true
	for i, s := range e.spans {
		if s.hi-s.lo < 2 {
			r.f[i], full = stale, false
			continue
		}
		a, b := e.col.V[s.hi-2], e.col.V[s.hi-1]
		v := b - a
		if rate {
			if b < a { // a reset
				v = b
			}
			v /= float64(e.col.T[s.hi-1]-e.col.T[s.hi-2]) / 1000
		}
		r.f[i], r.some = v, true
	}
	r.full = full
}

// extrapolation is what rate, increase and delta make of a range by the times of its
// samples alone.
type extrapolation struct {
	interval float64 // seconds from the first sample to the last; 0: less than two
	toStart  float64 // seconds that are added before the first
	toEnd    float64
	factor   float64 // by which the difference of the values is multiplied
}

// extrapolate is extrapolatedRate of upstream's promql/functions.go as far as it
// depends on times.
func extrapolate(first, last, lo, hi int64, n int) extrapolation {
	x := extrapolation{
		interval: float64(last-first) / 1000,
		toStart:  float64(first-lo) / 1000,
		toEnd:    float64(hi-last) / 1000,
	}
	average := x.interval / float64(n-1)
	threshold := average * 1.1
	if x.toStart >= threshold {
		x.toStart = average / 2
	}
	if x.toEnd >= threshold {
		x.toEnd = average / 2
	}
	return x
}

// of returns the extrapolated difference of two values; perSecond is the range in
// seconds where that is asked for, or 1. A counter is not taken to have been
// negative.
func (x *extrapolation) of(first, difference float64, counter bool, perSecond float64) float64 {
	toStart := x.toStart
	if counter && difference > 0 && first >= 0 {
		toStart = min(toStart, x.interval*(first/difference))
	}
	return difference * ((x.interval + toStart + x.toEnd) / x.interval / perSecond)
}

// extrapolated is rate, increase or delta.
func (e *evaluator) extrapolated(r *row, counter, rate bool) {
	perSecond := 1.0
	if rate {
		perSecond = e.width
	}
	if len(e.fixed) != e.n {
		e.fixExtrapolations(perSecond)
	}
	v := e.col.V
	falls := counter && !e.col.Rising && fallsAnywhere(v)
	at := 0
	if counter && !falls && e.gapless {
		at = e.gaplessCounter(r, perSecond)
	}
	full, some := true, at > 0
	out, fixed := r.f[:len(e.spans)], e.fixed[:len(e.spans)]
	for i := at; i < len(out); i++ {
		s, x := e.spans[i], &fixed[i]
		if x.interval == 0 {
			out[i], full = stale, false
			continue
		}
		first := v[s.lo]
		d := v[s.hi-1] - first
		if falls {
			d = afterResets(v[s.lo:s.hi], d)
		}
		some = true
		if counter && d > 0 && first >= 0 && first*x.interval < d*x.toStart*(1+1e-12) {
			out[i] = x.of(first, d, true, perSecond)
			continue
		}
		out[i] = d * x.factor
	}
	r.full, r.some = full, some
}

// gaplessCounter sets r where every range has two samples and no value is less than the
// one before; it returns how many it did.
func (e *evaluator) gaplessCounter(r *row, perSecond float64) int {
	v := e.col.V
	if len(v) == 0 || v[0] < 0 || math.IsNaN(v[0]) || math.IsNaN(v[len(v)-1]) || !e.col.Rising {
		return 0
	}
	// Values only rise: where the first of a range is large enough for all that can
	// be added in one, so are those of the ranges after it.
	most := v[e.spans[len(e.spans)-1].hi-1] - v[0]
	i := 0
	for ; i < len(e.spans); i++ {
		s, x := e.spans[i], &e.fixed[i]
		first := v[s.lo]
		d := v[s.hi-1] - first
		if first*e.interval >= most*e.toStart*(1+1e-12) {
			break
		}
		r.f[i] = x.of(first, d, true, perSecond)
	}
	out, spans := r.f[i:], e.spans[i:]
	factors := e.factors[i:]
	factors = factors[:len(out)]
	if len(out) > 0 && e.sliding {
		first, last := v[spans[0].lo:], v[spans[0].hi-1:]
		first, last = first[:len(out)], last[:len(out)]
		for k, f := range factors {
			out[k] = (last[k] - first[k]) * f
		}
		return len(r.f)
	}
	spans = spans[:len(out)]
	for k, s := range spans {
		out[k] = (v[s.hi-1] - v[s.lo]) * factors[k]
	}
	return len(r.f)
}

func (e *evaluator) fixExtrapolations(perSecond float64) {
	e.fixed, e.factors = e.fixed[:0], e.factors[:0]
	e.gapless, e.sliding = true, true
	e.interval, e.toStart = math.Inf(1), 0
	for i, s := range e.spans {
		var x extrapolation
		if n := s.hi - s.lo; n >= 2 {
			lo, hi := e.d.window(i)
			x = extrapolate(e.col.T[s.lo], e.col.T[s.hi-1], lo, hi, n)
			x.factor = (x.interval + x.toStart + x.toEnd) / x.interval / perSecond
			e.interval, e.toStart = min(e.interval, x.interval), max(e.toStart, x.toStart)
		} else {
			e.gapless = false
		}
		if i > 0 && (s.lo != e.spans[i-1].lo+1 || s.hi != e.spans[i-1].hi+1) {
			e.sliding = false
		}
		e.fixed, e.factors = append(e.fixed, x), append(e.factors, x.factor)
	}
}

// fallsAnywhere reports whether a value is less than the one before it.
func fallsAnywhere(v []float64) bool {
	if len(v) == 0 {
		return false
	}
	prev := v[0]
	for _, x := range v {
		if x < prev {
			return true
		}
		prev = x
	}
	return false
}

// afterResets adds the values before each reset to a difference.
func afterResets(v []float64, sum float64) float64 {
	prev := v[0]
	for _, x := range v[1:] {
		if x < prev {
			sum += prev
		}
		prev = x
	}
	return sum
}
