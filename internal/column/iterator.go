package column

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// AppendSamples appends all samples of it.
func (c *Column) AppendSamples(it chunkenc.Iterator) error {
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		switch vt {
		case chunkenc.ValFloat:
			t, v := it.At()
			c.Float(t, v, it.AtST())
		case chunkenc.ValHistogram, chunkenc.ValFloatHistogram:
			t, h := it.AtFloatHistogram(nil)
			c.Histogram(t, h, it.AtST())
		default:
			return fmt.Errorf("sample of unknown type %v", vt)
		}
	}
	return it.Err()
}

// Float appends a float sample; st is its start timestamp, 0 where it has none.
func (c *Column) Float(t int64, v float64, st int64) {
	c.ST = appendStart(c.ST, len(c.T), st)
	c.T, c.V = append(c.T, t), append(c.V, v)
	c.Stale = c.Stale || value.IsStaleNaN(v)
}

// Histogram appends a histogram, which is kept.
func (c *Column) Histogram(t int64, h *histogram.FloatHistogram, st int64) {
	c.HST = appendStart(c.HST, len(c.HT), st)
	c.HT, c.H = append(c.HT, t), append(c.H, h)
}

// appendStart appends the start timestamp of the n-th sample. As long as none has one
// there are none.
func appendStart(starts []int64, n int, st int64) []int64 {
	if st == 0 && len(starts) == 0 {
		return starts
	}
	for len(starts) < n {
		starts = append(starts, 0)
	}
	return append(starts, st)
}
