package tsdb

import (
	"fmt"
	"math"
	"slices"

	"github.com/quipudb/quipu/internal/column"
	"github.com/quipudb/quipu/internal/increment"
)

// bucketCounts are the increments of all buckets of a histogram that has had one set of
// bounds: what its classic series count, side by side and small, as all of them are read
// but not one after the other.
type bucketCounts struct {
	bounds []float64
	win    []int64
	// upTo has a row for each window: the observations up to each bound, the last of
	// all.
	upTo []uint32

	row []increment.Bucket // of the window that is decoded
}

func (c *bucketCounts) width() int { return len(c.bounds) + 1 }

// appendRow adds a window; false where it has more observations than are counted here.
func (c *bucketCounts) appendRow(win int64, buckets []increment.Bucket) bool {
	c.win = append(c.win, win)
	n := len(c.upTo)
	if cap(c.upTo)-n < c.width() {
		c.upTo = slices.Grow(c.upTo, c.width())
	}
	c.upTo = c.upTo[:n+c.width()]
	row := c.upTo[n:]
	sum, at := uint64(0), 0
	for _, b := range buckets {
		for ; at < int(b.Index); at++ {
			row[at] = uint32(sum)
		}
		sum += b.Count
	}
	for ; at < len(row); at++ {
		row[at] = uint32(sum)
	}
	return sum <= math.MaxUint32
}

// reset empties c; it keeps capacity.
func (c *bucketCounts) reset() { c.bounds, c.win, c.upTo = nil, c.win[:0], c.upTo[:0] }

// bucketCounts sets c to the counts of a histogram; false where it is not of one set of
// bounds, too large, or empty.
func (sel *selection) bucketCounts(c *bucketCounts, from, to int64, at cut) (ok bool, err error) {
	c.reset()
	if len(sel.mems) == 0 && sel.oneBlock() {
		err := readMapped(func() (err error) {
			ok, err = sel.decodeBucketCounts(c, from, to)
			return err
		})
		if err != nil {
			return false, fmt.Errorf("read chunk of %s: %w", sel.labels, sel.chunks[0].block.readError(err))
		}
		return ok, nil
	}
	p, err := sel.read(from, to, at)
	if err != nil || p.len() == 0 {
		return false, err
	}
	c.bounds = p.hist[0].Bounds
	for i, h := range p.hist {
		if !increment.SameBounds(h.Bounds, c.bounds) || !c.appendRow(p.win[i], h.Pos) {
			return false, nil
		}
	}
	return true, nil
}

// chunkBounds returns the bounds of a histogram that is in the chunks of one block and has
// one set of them, without decoding more; nil: it may have others.
func (sel *selection) chunkBounds(from, to int64) (bounds []float64, err error) {
	if len(sel.mems) > 0 || !sel.oneBlock() {
		return nil, nil
	}
	same := true
	err = readMapped(func() error {
		return sel.eachBucketChunk(from, to, func(_ chunkHeader, found []float64, _ *decoder) (bool, error) {
			same = bounds == nil || slices.Equal(found, bounds)
			bounds = found
			return same, nil
		})
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read chunk of %s: %w", sel.labels, sel.chunks[0].block.readError(err))
	case !same:
		return nil, nil
	}
	return bounds, nil
}

// eachBucketChunk calls f with the header and the bounds of every chunk that has windows
// in [from, to), and what follows them, until it returns false.
func (sel *selection) eachBucketChunk(from, to int64, f func(h chunkHeader, bounds []float64, rest *decoder) (bool, error)) error {
	for i := range sel.chunks {
		at := &sel.chunks[i]
		if at.meta.MaxTime < from || at.meta.MinTime >= to {
			continue
		}
		_, src, err := at.chunk()
		if err != nil {
			return err
		}
		var h chunkHeader
		if src, err = h.decode(src); err != nil {
			return err
		}
		d := decoder{src: src}
		bounds, err := d.readBounds()
		if err != nil {
			return err
		}
		if more, err := f(h, bounds, &d); err != nil || !more {
			return err
		}
	}
	return nil
}

// decodeBucketCounts reads what decodeBucketHists would, without a histogram for each
// window.
func (sel *selection) decodeBucketCounts(c *bucketCounts, from, to int64) (ok bool, err error) {
	err = sel.eachBucketChunk(from, to, func(h chunkHeader, bounds []float64, d *decoder) (bool, error) {
		if ok = c.bounds == nil || slices.Equal(bounds, c.bounds); !ok {
			return false, nil
		}
		c.bounds = bounds
		ok, err = c.decode(h, d, from, to)
		return ok, err
	})
	return ok, err
}

// decode appends the windows of a chunk that start in [from, to); false where there are
// more observations than can be counted here.
func (c *bucketCounts) decode(h chunkHeader, d *decoder, from, to int64) (bool, error) {
	if h.n > len(d.src) { // a window takes a byte and more
		return false, errChunkShort
	}
	c.win, c.upTo = slices.Grow(c.win, h.n), slices.Grow(c.upTo, h.n*c.width())
	win := h.first
	for k := range h.n {
		if k > 0 {
			gap := d.uvarint()
			if gap > 1<<40 {
				return false, fmt.Errorf("histogram chunk has a gap of %d windows", gap)
			}
			win += int64(gap) + 1
		}
		var err error
		if c.row, err = d.positive(c.row[:0], len(c.bounds)); err != nil {
			return false, err
		}
		if t := win * h.step; t >= from && t < to && !c.appendRow(t, c.row) {
			return false, nil
		}
	}
	return true, nil
}

// positive appends the buckets of a histogram with bounds and skips all else of it.
func (d *decoder) positive(dst []increment.Bucket, bounds int) ([]increment.Bucket, error) {
	d.uvarint()
	d.float()
	n := d.uvarint()
	at := int64(0)
	for i := range n {
		step := d.varint()
		if at += step; d.err != nil || at < 0 || at > int64(bounds) || i > 0 && step <= 0 {
			return nil, errChunkShort
		}
		dst = append(dst, increment.Bucket{Index: int32(at), Count: d.uvarint()})
	}
	if negative := d.uvarint(); d.err == nil && negative > 0 {
		return nil, fmt.Errorf("histogram with bounds has %d negative buckets", negative)
	}
	return dst, d.err
}

// readClassic sets c to a classic series.
func (s *columnSet) readClassic(one *classicSeries, c *column.Column, scratch *columnScratch) error {
	counts, err := s.counts(one.of, scratch)
	if err != nil {
		return err
	}
	if counts == nil || one.part == classicSum {
		p, err := one.of.held()
		if err != nil {
			return err
		}
		return c.AppendSamples(newClassicView(p, one.view, one.part, one.bound, one.mint, one.maxt))
	}
	at := len(counts.bounds)
	if one.part == classicBucket && !math.IsInf(one.bound, 1) {
		at, _ = slices.BinarySearch(counts.bounds, one.bound)
	}
	n := one.view.visible(counts.win)
	c.Win = append(c.Win, counts.win[:n]...)
	for k := at; len(c.Inc) < n; k += counts.width() {
		c.Inc = append(c.Inc, float64(counts.upTo[k]))
	}
	c.Step, c.Whole = one.view.grid, true
	appendColumnRuns(c, one.view)
	return nil
}

// counts returns the counts of a histogram, nil where there are none: kept for its other
// series, unless those are read next.
func (s *columnSet) counts(of *classicHistogram, scratch *columnScratch) (*bucketCounts, error) {
	if !s.byHistogram {
		return of.bucketCounts()
	}
	if scratch.of == of {
		return &scratch.counts, nil
	}
	scratch.of = nil
	ok, err := of.count(&scratch.counts)
	if err != nil || !ok {
		return nil, err
	}
	scratch.of = of
	return &scratch.counts, nil
}

// appendColumnRuns appends the runs of c's windows.
func appendColumnRuns(c *column.Column, v viewParams) {
	var few [8]run
	for _, r := range v.appendRuns(few[:0], c.Win, nil) {
		c.Runs = append(c.Runs, column.Run{
			Zero: r.zero, First: r.first, Last: r.last, Open: r.open, Marker: r.marker, From: r.from, To: r.to,
		})
	}
}
