package promql

import (
	"time"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/quipudb/quipu/internal/column"
)

// counts are the samples that the engine would say it had looked at, by point.
type counts struct {
	total, first []int64 // first: those that the point before had not
	pending      int64   // series with the spans of the evaluator, not counted yet
	chunks       int
	bytes        int
}

func newCounts(n int) counts { return counts{total: make([]int64, n), first: make([]int64, n)} }

// read notes what a column took.
func (c *counts) read(col *column.Column) {
	c.chunks += col.Chunks
	c.bytes += col.Bytes
}

// add counts n samples of an instant.
func (c *counts) add(i int, n int64) {
	c.total[i] += n
	c.first[i] += n
}

// ranges counts the samples of a series' ranges: once for all series that share them.
func (c *counts) ranges(*evaluator) { c.pending++ }

// flush counts what is pending.
func (c *counts) flush(spans []span) {
	if c.pending == 0 {
		return
	}
	seen := 0
	for i, s := range spans {
		c.total[i] += c.pending * int64(s.hi-s.lo)
		c.first[i] += c.pending * int64(s.hi-min(max(s.lo, seen), s.hi))
		seen = s.hi
	}
	c.pending = 0
}

// histograms counts the histograms of a series' ranges.
func (c *counts) histograms(e *evaluator) {
	if len(e.col.H) == 0 {
		return
	}
	sums := make([]int64, len(e.col.H)+1)
	for i, h := range e.col.H {
		sums[i+1] = sums[i] + size(h)
	}
	seen := 0
	for i, s := range e.hspans {
		c.total[i] += sums[s.hi] - sums[s.lo]
		c.first[i] += sums[s.hi] - sums[min(max(s.lo, seen), s.hi)]
		seen = s.hi
	}
}

// merge adds what another goroutine counted.
func (c *counts) merge(o *counts) {
	for i := range o.total {
		c.total[i] += o.total[i]
		c.first[i] += o.first[i]
	}
	c.chunks += o.chunks
	c.bytes += o.bytes
}

// size is the number of samples that the engine takes a histogram for.
func size(h *histogram.FloatHistogram) int64 { return int64((h.Size() + 8) / 16) }

// directStats is what a direct computation did.
type directStats struct {
	series  int
	groups  int
	counts  counts
	inOrder bool    // not in the way of simple aggregations
	values  []int64 // samples of the result, by point
	emitted int     // series of the result
	took    time.Duration
}

func (s *directStats) reset() { s.counts = counts{} }
