package promql

import (
	"math"
	"slices"

	"github.com/quipudb/quipu/internal/column"
)

// gridKernels compute functions from runs of increments without the samples between:
// how many there are and when is arithmetic on the grid, and what they are is a sum of
// increments.
var gridKernels = map[string]kernel{
	"rate":              func(e *evaluator, r *row) { e.gridExtrapolated(r, true, true) },
	"increase":          func(e *evaluator, r *row) { e.gridExtrapolated(r, true, false) },
	"delta":             func(e *evaluator, r *row) { e.gridExtrapolated(r, false, false) },
	"count_over_time":   func(e *evaluator, r *row) { e.gridEach(r, func(s *gridSpan) float64 { return float64(s.n) }) },
	"present_over_time": func(e *evaluator, r *row) { e.gridEach(r, func(*gridSpan) float64 { return 1 }) },
	"first_over_time":   func(e *evaluator, r *row) { e.gridEach(r, func(s *gridSpan) float64 { return s.firstV }) },
	"last_over_time":    func(e *evaluator, r *row) { e.gridEach(r, func(s *gridSpan) float64 { return s.lastV }) },
}

// sparse reports whether it is cheaper to compute points values from the runs of c than
// from its samples.
func sparse(c *column.Column, points int) bool {
	if points <= 4 {
		return true
	}
	samples := 0
	for i := range c.Runs {
		samples += c.Runs[i].Samples(c.Step)
	}
	return samples > len(c.Inc)+20*points // what a value costs, in samples
}

// gridSpan is the samples of a column in one window.
type gridSpan struct {
	n             int
	firstT, lastT int64
	firstV, lastV float64
	lost          float64 // the totals of the runs that ended before the last
	fresh         int     // samples that the window before did not have
}

const minTime = math.MinInt64

// gridWalk moves windows forward over the runs of a column.
type gridWalk struct {
	c         *column.Column
	low, high int // the first and the last run that the window may touch
	first     column.Cursor
	last      column.Cursor
	to        int64 // of the window before
}

// next sets s to the samples in (from, to]; false where there are none.
func (w *gridWalk) next(from, to int64, s *gridSpan) bool {
	runs, step := w.c.Runs, w.c.Step
	for w.low < len(runs) && runs[w.low].LastSample() <= from {
		w.low++
	}
	w.high = max(w.high, w.low)
	for w.high+1 < len(runs) && runs[w.high+1].Zero <= to {
		w.high++
	}
	*s = gridSpan{}
	for i := w.low; i <= w.high && i < len(runs); i++ {
		upTo := runs[i].CountUpTo(to, step)
		s.n += upTo - runs[i].CountUpTo(from, step)
		s.fresh += upTo - runs[i].CountUpTo(max(from, w.to), step)
	}
	w.to = to
	if s.n == 0 {
		return false
	}
	low, high := w.low, w.high
	for runs[high].Zero > to { // the window ends before the run that was found begins
		high--
	}
	s.firstT = runs[low].FirstAfter(from, step)
	s.lastT = runs[high].LastUpTo(to, step)
	s.firstV = w.first.At(w.c, low, s.firstT)
	s.lastV = w.last.At(w.c, high, s.lastT)
	for i := low; i < high; i++ {
		s.lost += w.c.RunTotal(i)
	}
	return true
}

func (e *evaluator) gridEach(r *row, of func(*gridSpan) float64) {
	w := gridWalk{c: &e.col, to: minTime}
	var s gridSpan
	full := true
	for i := range r.f {
		from, to := e.d.window(i)
		if !w.next(from, to, &s) {
			r.f[i], full = stale, false
			continue
		}
		e.counted.total[i] += int64(s.n)
		e.counted.first[i] += int64(s.fresh)
		r.f[i], r.some = of(&s), true
	}
	r.full = full
}

// gridExtrapolated is extrapolated.
func (e *evaluator) gridExtrapolated(r *row, counter, rate bool) {
	perSecond := 1.0
	if rate {
		perSecond = e.width
	}
	w := gridWalk{c: &e.col, to: minTime}
	var s gridSpan
	full := true
	for i := range r.f {
		from, to := e.d.window(i)
		some := w.next(from, to, &s)
		e.counted.total[i] += int64(s.n)
		e.counted.first[i] += int64(s.fresh)
		if !some || s.n < 2 {
			r.f[i], full = stale, false
			continue
		}
		d := s.lastV - s.firstV
		if counter {
			d += s.lost
		}
		x := extrapolate(s.firstT, s.lastT, from, to, s.n)
		r.f[i], r.some = x.of(s.firstV, d, counter, perSecond), true
	}
	r.full = full
}

// gridInstants is instants.
func (e *evaluator) gridInstants(r *row) {
	c := &e.col
	run := 0
	var cursor column.Cursor
	full := true
	for i := range r.f {
		from, to := e.d.window(i)
		r.f[i] = stale
		if i == 0 && len(c.Runs) > 8 {
			run, _ = slices.BinarySearchFunc(c.Runs, to, func(r column.Run, t int64) int { return int(min(max(r.Zero-t, -1), 1)) })
			run = max(run-1, 0)
		}
		for run+1 < len(c.Runs) && c.Runs[run+1].Zero <= to {
			run++
		}
		at := &c.Runs[run]
		if at.Zero > to || at.Marker != 0 && at.Marker <= to {
			full = false
			continue
		}
		t := at.LastUpTo(to, c.Step)
		if t <= from {
			full = false
			continue
		}
		r.f[i], r.some = cursor.At(c, run, t), true
		e.counted.add(i, 1)
	}
	r.full = full
}
