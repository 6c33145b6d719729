package column

import (
	"math"

	"github.com/prometheus/prometheus/model/value"
)

// Run is a stretch of running totals, which begin at 0. It has the samples
//
//	Zero             0
//	First to Last    at every step the sum of the windows that have ended; none where
//	                 Last is before First
//	Open             the sum with the window that is open; 0: no such sample
//	Marker           a staleness marker; 0: no such sample
//
// in this order, and the windows [From, To) of its column.
type Run struct {
	Zero, First, Last, Open, Marker int64
	From, To                        int
}

var staleNaN = math.Float64frombits(value.StaleNaN)

// Expand turns the runs of c into samples.
func (c *Column) Expand() {
	if len(c.Runs) == 0 {
		return
	}
	n := 0
	for i := range c.Runs {
		r := &c.Runs[i]
		if n += 3; r.Last >= r.First {
			n += int((r.Last-r.First)/c.Step) + 1
		}
	}
	if cap(c.T) < n || cap(c.V) < n {
		c.T, c.V = make([]int64, n), make([]float64, n)
	}
	t, v := c.T[:n], c.V[:n]
	n = 0
	for i := range c.Runs {
		n += c.expandRun(&c.Runs[i], t[n:], v[n:])
	}
	c.T, c.V = t[:n], v[:n]
	c.Stale = len(c.Runs) > 1 || c.Runs[len(c.Runs)-1].Marker != 0
	c.Rising = len(c.Runs) == 1 && c.Whole // of others rounding may take a bit back
	c.Runs = c.Runs[:0]
}

// expandRun sets the samples of r and returns their number.
func (c *Column) expandRun(r *Run, t []int64, v []float64) int {
	t[0], v[0] = r.Zero, 0
	n := 1
	win, inc := c.Win[r.From:r.To], c.Inc[r.From:r.To]
	var sum Sum
	at := r.First
	for at <= r.Last && len(win) > 0 {
		if win[0] < at-c.Step { // off the grid
			sum.Add(inc[0])
			win, inc = win[1:], inc[1:]
			continue
		}
		dense := denseWindows(win, at-c.Step, c.Step, int((r.Last-at)/c.Step)+1)
		if dense == 0 { // idle until the next window
			gap := min((win[0]+2*c.Step-1-at)/c.Step, (r.Last-at)/c.Step+1)
			total := sum.Value()
			for range gap {
				t[n], v[n] = at, total
				n++
				at += c.Step
			}
			continue
		}
		if c.Whole {
			total := sum.sum
			out := v[n : n+dense]
			for i, x := range inc[:len(out)] {
				total += x
				out[i] = total
			}
			sum.sum = total
		} else {
			for i, x := range inc[:dense] {
				sum.Add(x)
				v[n+i] = sum.Value()
			}
		}
		for range dense {
			t[n] = at
			n++
			at += c.Step
		}
		win, inc = win[dense:], inc[dense:]
	}
	for total := sum.Value(); at <= r.Last; at += c.Step {
		t[n], v[n] = at, total
		n++
	}
	if r.Open != 0 {
		for len(win) > 0 && win[0] <= r.Open {
			sum.Add(inc[0])
			win, inc = win[1:], inc[1:]
		}
		t[n], v[n] = r.Open, sum.Value()
		n++
	}
	if r.Marker != 0 {
		t[n], v[n] = r.Marker, staleNaN
		n++
	}
	return n
}

// denseWindows is how many of the first windows follow one another from first on, at
// most most.
func denseWindows(win []int64, first, step int64, most int) int {
	n := min(len(win), most)
	if n > 0 && win[n-1] == first+int64(n-1)*step { // ascending, so all are there
		return n
	}
	for i := range n {
		if win[i] != first {
			return i
		}
		first += step
	}
	return n
}

// Sum is a sum whose rounding errors do not grow with its terms (Neumaier 1974,
// doi:10.1002/zamm.19740540106). Whole numbers below 2^53 add up exactly either way.
type Sum struct{ sum, c float64 }

// Add adds v.
func (s *Sum) Add(v float64) {
	t := s.sum + v
	if math.Abs(s.sum) >= math.Abs(v) {
		s.c += (s.sum - t) + v
	} else {
		s.c += (v - t) + s.sum
	}
	s.sum = t
}

// Value is the sum.
func (s *Sum) Value() float64 { return s.sum + s.c }
