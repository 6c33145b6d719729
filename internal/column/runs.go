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

// wholeMax is where float64 stops holding every whole number.
const wholeMax = 1 << 53

// Expand turns the runs of c into samples.
func (c *Column) Expand() {
	if len(c.Runs) == 0 {
		c.expanded = Run{} // T is not of a run
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
		c.expanded = Run{}
	}
	one := c.Runs[0]
	one.From, one.To = 0, int(c.Step)
	c.SameTimes = len(c.Runs) == 1 && one == c.expanded
	t, v := c.T[:n], c.V[:n]
	n = 0
	for i := range c.Runs {
		r := &c.Runs[i]
		if !c.SameTimes {
			c.times(r, t[n:])
		}
		n += c.totals(r, v[n:])
	}
	c.T, c.V = t[:n], v[:n]
	c.Stale = len(c.Runs) > 1 || c.Runs[0].Marker != 0
	c.Rising = len(c.Runs) == 1 && c.Whole // of others rounding may take a bit back
	c.expanded = Run{}
	if len(c.Runs) == 1 {
		c.expanded = one
	}
	c.Runs = c.Runs[:0]
}

// times sets the times of r's samples.
func (c *Column) times(r *Run, t []int64) {
	t[0] = r.Zero
	n := 1
	for at := r.First; at <= r.Last; at += c.Step {
		t[n] = at
		n++
	}
	for _, at := range [...]int64{r.Open, r.Marker} {
		if at != 0 {
			t[n] = at
			n++
		}
	}
}

// totals sets the values of r's samples and returns their number.
func (c *Column) totals(r *Run, v []float64) int {
	v[0] = 0
	n := 1
	win, inc := c.Win[r.From:r.To], c.Inc[r.From:r.To]
	var sum Sum
	for at := r.First; at <= r.Last; {
		left := int((r.Last-at)/c.Step) + 1
		if len(win) == 0 { // idle to the end
			left = fill(v[n:n+left], sum.Value())
			n += left
			break
		}
		if win[0] < at-c.Step { // off the grid
			sum.Add(inc[0])
			win, inc = win[1:], inc[1:]
			continue
		}
		dense := denseWindows(win, at-c.Step, c.Step, left)
		if dense == 0 { // idle until the next window
			dense = fill(v[n:n+min(int((win[0]+2*c.Step-1-at)/c.Step), left)], sum.Value())
		} else {
			c.prefixSums(v[n:n+dense], inc, &sum)
			win, inc = win[dense:], inc[dense:]
		}
		n += dense
		at += int64(dense) * c.Step
	}
	if c.Whole && sum.sum >= wholeMax { // not exact any more
		c.Whole = false
		return c.totals(r, v)
	}
	if r.Open != 0 {
		for len(win) > 0 && win[0] <= r.Open {
			sum.Add(inc[0])
			win, inc = win[1:], inc[1:]
		}
		v[n] = sum.Value()
		n++
	}
	if r.Marker != 0 {
		v[n] = staleNaN
		n++
	}
	return n
}

func fill(v []float64, with float64) int {
	for i := range v {
		v[i] = with
	}
	return len(v)
}

// prefixSums sets v to the sums up to each of inc.
func (c *Column) prefixSums(v, inc []float64, sum *Sum) {
	inc = inc[:len(v)]
	if !c.Whole {
		for i, x := range inc {
			sum.Add(x)
			v[i] = sum.Value()
		}
		return
	}
	// Four at a time, so that an addition need not wait for the one before: exact, as
	// all numbers are whole.
	total := sum.sum
	for len(inc) >= 4 {
		in, out := (*[4]float64)(inc), (*[4]float64)(v)
		two, next := in[0]+in[1], in[2]+in[3]
		out[0], out[1] = total+in[0], total+two
		out[2] = total + (two + in[2])
		total += two + next
		out[3] = total
		inc, v = inc[4:], v[4:]
	}
	for i, x := range inc {
		total += x
		v[i] = total
	}
	sum.sum = total
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
