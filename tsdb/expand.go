package tsdb

import (
	"math"

	"github.com/quipudb/quipu/internal/increment"
)

// Readers see a coarse window as windows of the tenant's grid, from its first to its last:
// what it has is spread over them evenly. It is a function of the window alone, both ends
// are among them, and their sum is exact. So totals are those of before at every multiple
// of the step, and runs are cut where they were: no gap inside a window is longer than a
// step, and that is at most the idle timeout.

// expand appends the coarse windows of src to p. Of sets of ids it cannot be said who came
// when: those of a step that is longer than what a selector looks back show nothing.
func (p *points) expand(src *points, h *coarseHeader) error {
	p.fractions = p.fractions || src.fractions
	if p.kind == increment.Distinct && h.step > distinctSpan {
		return nil
	}
	for i, from := range src.win {
		n := (src.last[i]-from)/h.grid + 1
		switch p.kind {
		case increment.Counter:
			p.expandCount(from, h.grid, n, src.value[i])
		case increment.Distinct:
			p.win, p.ids = append(p.win, from), append(p.ids, src.ids[i])
			if n > 1 {
				again, err := src.ids[i].Clone() // each is merged with others by itself
				if err != nil {
					return err
				}
				p.win, p.ids = append(p.win, src.last[i]), append(p.ids, &again)
			}
		default:
			p.expandHist(from, h.grid, n, src.hist[i])
		}
	}
	return nil
}

func (p *points) addValue(win int64, v float64) {
	p.win, p.value = append(p.win, win), append(p.value, v)
}

// expandCount appends a count v of n windows. A whole one is of v ones or, where that is
// more than there are windows, of what makes the total rise by whole numbers.
func (p *points) expandCount(from, grid, n int64, v float64) {
	whole := v == math.Trunc(v) && v >= 0 && v < wholeMax
	switch {
	case n == 1:
		p.addValue(from, v)
	case whole && v < 2:
		p.addValue(from, v)
		p.addValue(from+(n-1)*grid, 0)
	case whole && int64(v) <= n:
		ones := int64(v)
		for e := range ones {
			p.addValue(from+ceilDiv(e*(n-1), ones-1)*grid, 1)
		}
	case whole:
		each, rest := (int64(v)-1)/(n-1), (int64(v)-1)%(n-1) // of n-1 windows
		p.addValue(from, 1)
		for j := int64(1); j < n; j++ {
			p.addValue(from+j*grid, float64(each+j*rest/(n-1)-(j-1)*rest/(n-1)))
		}
	default:
		c := newCut(v, n)
		for j := range n {
			p.addValue(from+j*grid, c.next(j))
		}
	}
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// expandHist appends a histogram of n windows: its observations in turn to as many of them
// as there are observations, at least the first and the last.
func (p *points) expandHist(from, grid, n int64, h *increment.Hist) {
	if n == 1 {
		p.win, p.hist = append(p.win, from), append(p.hist, h)
		return
	}
	m := n
	if c := h.Count(); c < uint64(n) {
		m = max(2, int64(c))
	}
	sums := newCut(h.Sum, m)
	for k := range m {
		part := &increment.Hist{Bounds: h.Bounds, Sum: sums.next(k)}
		turn := turns{m: uint64(m), k: uint64(k)}
		part.Zero = turn.of(h.Zero)
		part.Pos = turn.ofBuckets(h.Pos)
		part.Neg = turn.ofBuckets(h.Neg)
		p.win, p.hist = append(p.win, from+k*(n-1)/(m-1)*grid), append(p.hist, part)
	}
}

// turns counts the observations that are the k-th of m to have their turn.
type turns struct{ m, k, before uint64 }

// upTo is how many of the first n have the turn.
func (t *turns) upTo(n uint64) uint64 { return n/t.m + min(1, n%t.m/(t.k+1)) }

// of is how many of the next n have it.
func (t *turns) of(n uint64) uint64 {
	had := t.upTo(t.before)
	t.before += n
	return t.upTo(t.before) - had
}

func (t *turns) ofBuckets(bs []increment.Bucket) []increment.Bucket {
	var out []increment.Bucket
	for _, b := range bs {
		if n := t.of(b.Count); n > 0 {
			out = append(out, increment.Bucket{Index: b.Index, Count: n})
		}
	}
	return out
}

// cutBits is how much smaller than a value the unit is that it is cut into: as much less
// than the 52 bits of a float64 as totals may be larger for their sums to be exact.
const cutBits = 30

// sumCut is a value in n parts that are about the same and whose sum, in their order, is
// exactly it.
type sumCut struct {
	v, unit, sum float64
	n            int64
}

func newCut(v float64, n int64) *sumCut {
	c := &sumCut{v: v, n: n}
	switch {
	case v == 0 || math.IsNaN(v) || math.IsInf(v, 0):
	case v == math.Trunc(v) && math.Abs(v) < wholeMax:
		c.unit = 1 // sums of whole numbers are exact as they are
	default:
		c.unit = math.Ldexp(1, max(math.Ilogb(v)-cutBits, -1074))
	}
	return c
}

// next is the j-th part; they are asked for in order.
func (c *sumCut) next(j int64) float64 {
	switch {
	case c.unit == 0: // it cannot be cut
		if j == 0 {
			return c.v
		}
		return 0
	case j == c.n-1:
		return c.v - c.sum
	}
	upTo := math.Floor(c.v*(float64(j+1)/float64(c.n))/c.unit) * c.unit
	part := upTo - c.sum
	c.sum = upTo
	return part
}
