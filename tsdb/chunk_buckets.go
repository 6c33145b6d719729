package tsdb

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/quipudb/quipu/internal/increment"
)

// A chunk of a histogram with buckets, after its header: the bounds (uvarint number,
// 8 bytes each, little endian), then per window the gap to the window before less one
// (uvarint, absent for the first) and what appendHist writes. All windows have the
// chunk's bounds.

func appendBucketHists(dst []byte, win []int64, hists []*increment.Hist, step int64) []byte {
	dst = appendBounds(dst, hists[0].Bounds)
	for i, h := range hists {
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64((win[i]-win[i-1])/step)-1)
		}
		dst = appendHist(dst, h)
	}
	return dst
}

func decodeBucketHists(src []byte, h chunkHeader, p *points) error {
	d := decoder{src: src}
	bounds, err := d.readBounds()
	if err != nil {
		return err
	}
	win := h.first
	for i := range h.n {
		if i > 0 {
			gap := d.uvarint()
			if gap > 1<<40 {
				return fmt.Errorf("histogram chunk has a gap of %d windows", gap)
			}
			win += int64(gap) + 1
		}
		hist, err := d.histWith(bounds)
		if err != nil {
			return err
		}
		p.win = append(p.win, win*h.step)
		p.hist = append(p.hist, hist)
	}
	return nil
}

func appendBounds(dst []byte, bounds []float64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(bounds)))
	for _, v := range bounds {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	}
	return dst
}

// readBounds returns bounds that are valid, not nil.
func (d *decoder) readBounds() ([]float64, error) {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.src))/8 {
		return nil, errCutShort
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Float64frombits(binary.LittleEndian.Uint64(d.bytes(8)))
	}
	return out, increment.ValidateBounds(out)
}

// How an entry of a log has its bounds.
const (
	boundsSame = 0 // as the entry before
	boundsHere = 1 // they follow
)

// appendBucketHist codes a histogram with buckets: a byte that says whether it has the
// bounds of the one before, else they follow; then what appendHist writes.
func appendBucketHist(dst []byte, h *increment.Hist, prev []float64) []byte {
	if prev != nil && increment.SameBounds(prev, h.Bounds) {
		dst = append(dst, boundsSame)
	} else {
		dst = appendBounds(append(dst, boundsHere), h.Bounds)
	}
	return appendHist(dst, h)
}

func (d *decoder) bucketHist(prev []float64) (*increment.Hist, error) {
	bounds := prev
	switch tag := d.byte(); {
	case d.err != nil:
		return nil, d.err
	case tag == boundsHere:
		var err error
		if bounds, err = d.readBounds(); err != nil {
			return nil, err
		}
	case tag != boundsSame || prev == nil:
		return nil, fmt.Errorf("histogram's bounds are told by %d", tag)
	}
	return d.histWith(bounds)
}

// histWith reads what appendHist wrote of a histogram with bounds.
func (d *decoder) histWith(bounds []float64) (*increment.Hist, error) {
	h, err := d.hist()
	if err != nil {
		return nil, err
	}
	h.Bounds = bounds
	return h, h.Validate()
}

// sameBuckets tells whether the i-th point's buckets are those of the point before; nil
// where all points' are the same.
func (p *points) sameBuckets() func(i int) bool {
	if p.kind != increment.Buckets {
		return nil
	}
	return func(i int) bool { return increment.SameBounds(p.hist[i-1].Bounds, p.hist[i].Bounds) }
}
