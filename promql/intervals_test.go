package promql

import (
	"math/rand/v2"
	"testing"

	"github.com/quipudb/quipu/internal/sketch"
)

// Every range is its consecutive intervals, none is in no range, and none has a
// beginning or an end of a range inside.
func TestIntervals(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		c := call{width: 1 + r.Int64N(40), offset: r.Int64N(20) - 10, times: steps{start: r.Int64N(50), interval: 1 + r.Int64N(30)}}
		c.times.end = c.times.start + r.Int64N(200)
		if r.IntN(5) == 0 {
			c.at = new(r.Int64N(100))
		}
		in, ranges := c.intervals()
		wanted := make([]bool, len(in))
		for i, v := range in {
			if v.Lo >= v.Hi || i > 0 && v.Lo < in[i-1].Hi {
				t.Fatalf("%+v: intervals %v", c, in)
			}
		}
		for i, s := range ranges {
			lo, hi := c.window(c.times.at(i))
			at := lo
			for k := s.first; k < s.last; k++ {
				if in[k].Lo != at {
					t.Fatalf("%+v: range %d to %d is %v of %v", c, lo, hi, s, in)
				}
				at, wanted[k] = in[k].Hi, true
			}
			if at != hi {
				t.Fatalf("%+v: range %d to %d is %v of %v", c, lo, hi, s, in)
			}
			for _, v := range in {
				if v.Lo < lo && lo < v.Hi || v.Lo < hi && hi < v.Hi {
					t.Fatalf("%+v: range %d to %d cuts %v", c, lo, hi, v)
				}
			}
		}
		for k, ok := range wanted {
			if !ok {
				t.Fatalf("%+v: nobody asks for %v", c, in[k])
			}
		}
	}
}

// Ranges of a day by steps of an hour, at whole hours, are of hours.
func TestIntervalsOfSlidingDays(t *testing.T) {
	const hour = 3_600_000
	c := call{width: 24 * hour, times: steps{start: 48 * hour, end: 52 * hour, interval: hour}}
	in, _ := c.intervals()
	if len(in) != 9 || in[0] != (sketch.Interval{Lo: 24 * hour, Hi: 25 * hour}) || in[4] != (sketch.Interval{Lo: 28 * hour, Hi: 48 * hour}) || in[8] != (sketch.Interval{Lo: 51 * hour, Hi: 52 * hour}) {
		t.Errorf("%v", in)
	}
}
