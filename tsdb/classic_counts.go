package tsdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
)

// bucketCounts are the increments of all buckets of a histogram that has had one set of
// bounds: what its classic series count.
type bucketCounts struct {
	bounds []float64
	win    []int64
	// inc are the observations up to each bound, then of all: for each a row by window,
	// of a number of windows that there is room for.
	inc  []float64
	room int

	runs []column.Run
	n    int // visible windows
}

// countsMax is where float64 stops holding every whole number.
const countsMax = 1 << 53

// reset makes c empty, with room for windows.
func (c *bucketCounts) reset(bounds []float64, windows int) {
	c.bounds, c.win, c.room = bounds, c.win[:0], windows
	n := (len(bounds) + 1) * windows
	c.inc = slices.Grow(c.inc[:0], n)[:n]
	clear(c.inc)
}

// row is the observations up to the i-th bound.
func (c *bucketCounts) row(i int) []float64 { return c.inc[i*c.room:][:len(c.win)] }

// accumulate makes of the observations in each bucket those up to its bound. It reports
// false where there are more than float64 counts.
func (c *bucketCounts) accumulate() bool {
	for i := range c.bounds {
		from, to := c.row(i), c.row(i+1)
		to = to[:len(from)]
		for k, v := range from {
			to[k] += v
		}
	}
	return !slices.ContainsFunc(c.row(len(c.bounds)), func(v float64) bool { return v >= countsMax })
}

// show cuts the windows into runs.
func (c *bucketCounts) show(v viewParams) {
	c.n = v.visible(c.win)
	c.runs = appendColumnRuns(c.runs[:0], c.win[:c.n], v)
}

// column sets col to the i-th row.
func (c *bucketCounts) column(i int, col *column.Column, v viewParams) {
	col.Win, col.Inc = c.win[:c.n], c.row(i)[:c.n]
	col.Step, col.Whole = v.grid, true
	col.Runs = append(col.Runs, c.runs...)
}

// bucketCounts returns the counts of points, nil where they are not of one set of bounds, or
// too many.
func (p *points) bucketCounts() *bucketCounts {
	if p.len() == 0 {
		return nil
	}
	c := &bucketCounts{}
	c.reset(p.hist[0].Bounds, p.len())
	for k, h := range p.hist {
		if !increment.SameBounds(h.Bounds, c.bounds) {
			return nil
		}
		c.win = append(c.win, p.win[k])
		for _, b := range h.Pos {
			c.inc[int(b.Index)*c.room+k] = float64(b.Count)
		}
	}
	if !c.accumulate() {
		return nil
	}
	return c
}

// decode reads what decodeBucketHists would of the chunks of a selection that are of one
// block and have the same bounds, without a histogram for each window. It reports false
// where there are too many observations.
func (c *bucketCounts) decode(sel *selection, bounds []float64, from, to int64, col *column.Column) (bool, error) {
	windows := 0
	err := sel.eachBuckets(from, to, func(h *chunkHeader, src []byte) error {
		if h.n > len(src) { // a window takes a byte and more
			return errChunkShort
		}
		windows += h.n
		return nil
	})
	if err != nil {
		return false, err
	}
	c.reset(bounds, windows)
	err = sel.eachBuckets(from, to, func(h *chunkHeader, src []byte) error {
		col.Chunks++
		col.Bytes += len(src)
		return c.appendChunk(h, src, from, to)
	})
	return err == nil && c.accumulate(), err
}

// eachBuckets calls f with the chunks that have windows in [from, to); where the blocks
// are held open.
func (sel *selection) eachBuckets(from, to int64, f func(h *chunkHeader, src []byte) error) error {
	for i := range sel.chunks {
		at := &sel.chunks[i]
		if at.meta.MaxTime < from || at.meta.MinTime >= to {
			continue
		}
		_, src, err := at.chunk()
		var h chunkHeader
		if err == nil {
			src, err = h.decode(src)
		}
		if err == nil {
			err = f(&h, src)
		}
		if err != nil {
			return fmt.Errorf("read chunk of %s: %w", sel.labels, at.block.readError(err))
		}
	}
	return nil
}

// appendChunk appends the windows of a chunk that start in [from, to), the buckets of
// each by themselves.
func (c *bucketCounts) appendChunk(h *chunkHeader, src []byte, from, to int64) error {
	n, at := smallUvarint(src, 0)
	if n != uint64(len(c.bounds)) {
		return errChunkShort
	}
	at += 8 * len(c.bounds) // which are known
	win := h.first
	for k := range h.n {
		var v uint64
		if k > 0 {
			if v, at = smallUvarint(src, at); v > 1<<40 {
				return fmt.Errorf("histogram chunk has a gap of %d windows", v)
			}
			win += int64(v) + 1
		}
		t := win * h.step
		in := c.inc[len(c.win):]
		if t >= from && t < to {
			c.win = append(c.win, t)
		} else {
			in = nil
		}
		var err error
		if at, err = c.bucketsOf(src, at, in); err != nil {
			return err
		}
	}
	return nil
}

// bucketsOf reads what appendHist wrote of a histogram with bounds, from src[at:], and
// puts the number in each bucket into in, a row apart; in may be nil.
func (c *bucketCounts) bucketsOf(src []byte, at int, in []float64) (next int, err error) {
	_, at = smallUvarint(src, at) // observations of zero, of which there are none
	if at >= len(src) {
		return 0, errChunkShort
	}
	if tag := src[at]; tag == 0 { // the sum
		at += 9
	} else {
		_, at = smallUvarint(src, at+1)
	}
	buckets, at := smallUvarint(src, at)
	index := int64(0)
	for i := range buckets {
		var step, count uint64
		step, at = smallUvarint(src, at)
		count, at = smallUvarint(src, at)
		by := int64(step>>1) ^ -int64(step&1) // as binary.Varint has it
		if index += by; at > len(src) || index < 0 || index > int64(len(c.bounds)) || i > 0 && by <= 0 {
			return 0, errChunkShort
		}
		if in != nil {
			in[int(index)*c.room] = float64(count)
		}
	}
	negative, at := smallUvarint(src, at)
	switch {
	case at > len(src):
		return 0, errChunkShort
	case negative > 0:
		return 0, fmt.Errorf("histogram with bounds has %d negative buckets", negative)
	}
	return at, nil
}

// smallUvarint reads a number that is mostly small from src[at:]. What it returns for
// the next is more than len(src) where there is none, from then on.
func smallUvarint(src []byte, at int) (v uint64, next int) {
	if at < len(src) && src[at] < 0x80 {
		return uint64(src[at]), at + 1
	}
	return largeUvarint(src, at)
}

func largeUvarint(src []byte, at int) (v uint64, next int) {
	if at < len(src) {
		if v, n := binary.Uvarint(src[at:]); n > 0 {
			return v, at + n
		}
	}
	return 0, len(src) + 1
}

// sharedReads is how many reads of a histogram's buckets decode it for themselves: a
// reader takes all of them one after the other, or several readers share them. From then
// on its counts are kept.
const sharedReads = 2

// readClassic sets c to a classic series.
func (s *columnSet) readClassic(one *classicSeries, c *column.Column) error {
	h := one.of
	scratch := s.scratch(c)
	counts := &scratch.buckets
	switch {
	case one.part == classicSum:
		counts = nil
	case scratch.bucketsOf == h:
	case h.bounds != nil && h.reads.Add(1) <= sharedReads:
		ok, err := counts.decode(h.sel, h.bounds, h.from, h.to, c)
		if err != nil {
			return err
		}
		if scratch.bucketsOf = h; !ok {
			scratch.bucketsOf, counts = nil, nil
			break
		}
		counts.show(one.view)
	default:
		var err error
		if counts, err = h.bucketCounts(one.view); err != nil {
			return err
		}
	}
	if counts == nil {
		p, err := h.held()
		if err != nil {
			return err
		}
		return c.AppendSamples(newClassicView(p, one.view, one.part, one.bound, one.mint, one.maxt))
	}
	at := len(counts.bounds)
	if one.part == classicBucket && !math.IsInf(one.bound, 1) {
		at, _ = slices.BinarySearch(counts.bounds, one.bound)
	}
	counts.column(at, c, one.view)
	return nil
}

// appendColumnRuns appends the runs of windows.
func appendColumnRuns(out []column.Run, win []int64, v viewParams) []column.Run {
	var few [8]run
	for _, r := range v.appendRuns(few[:0], win, nil) {
		out = append(out, column.Run{
			Zero: r.zero, First: r.first, Last: r.last, Open: r.open, Marker: r.marker, From: r.from, To: r.to,
		})
	}
	return out
}
