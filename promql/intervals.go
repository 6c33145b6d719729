package promql

import (
	"slices"

	"github.com/quipudb/quipu/internal/sketch"
)

// stretch is the consecutive intervals [first, last) that a range consists of.
type stretch struct{ first, last int }

// intervals cuts time at every beginning and end of the ranges of c. It returns the
// pieces that are in a range, and for each evaluation time those of its range. Both
// ends of a range move forward with evaluation time.
func (c *call) intervals() ([]sketch.Interval, []stretch) {
	n := c.times.count()
	cuts := make([]int64, 0, 2*n)
	for i := range n {
		lo, hi := c.window(c.times.at(i))
		cuts = append(cuts, lo, hi)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)

	var in []sketch.Interval
	ranges := make([]stretch, n)
	begun, ended := 0, 0 // ranges that begin, and end, at or before the cut
	for i, cut := range cuts {
		for ; begun < n; begun++ {
			if lo, _ := c.window(c.times.at(begun)); lo > cut {
				break
			}
			ranges[begun].first = len(in)
		}
		for ; ended < n; ended++ {
			if _, hi := c.window(c.times.at(ended)); hi > cut {
				break
			}
			ranges[ended].last = len(in)
		}
		if begun > ended {
			in = append(in, sketch.Interval{Lo: cut, Hi: cuts[i+1]})
		}
	}
	return in, ranges
}
