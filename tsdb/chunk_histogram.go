package tsdb

import (
	"encoding/binary"
	"fmt"

	"github.com/quipudb/quipu/internal/increment"
)

// A histogram chunk, after its header: the schema (1 byte), then per window the
// gap to the window before less one (uvarint, absent for the first), the zero
// count (uvarint), the sum (see appendFloat), and positive and negative buckets:
// their number (uvarint), then for each the distance of its index from the one
// before (varint) and its count (uvarint).

func appendHists(dst []byte, win []int64, hists []*increment.Hist, step int64) []byte {
	dst = append(dst, increment.Schema)
	for i, h := range hists {
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64((win[i]-win[i-1])/step)-1)
		}
		dst = appendHist(dst, h)
	}
	return dst
}

func appendHist(dst []byte, h *increment.Hist) []byte {
	dst = binary.AppendUvarint(dst, h.Zero)
	dst = appendFloat(dst, h.Sum)
	for _, bs := range [2][]increment.Bucket{h.Pos, h.Neg} {
		dst = binary.AppendUvarint(dst, uint64(len(bs)))
		prev := int32(0)
		for _, b := range bs {
			dst = binary.AppendVarint(dst, int64(b.Index)-int64(prev))
			dst = binary.AppendUvarint(dst, b.Count)
			prev = b.Index
		}
	}
	return dst
}

func decodeHists(src []byte, h chunkHeader, p *points) error {
	d := decoder{src: src}
	if schema := int8(d.byte()); d.err == nil && schema != increment.Schema {
		return fmt.Errorf("histogram chunk has schema %d, only %d is known", schema, increment.Schema)
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
		hist, err := d.hist()
		if err != nil {
			return err
		}
		p.win = append(p.win, win*h.step)
		p.hist = append(p.hist, hist)
	}
	return nil
}

func (d *decoder) hist() (*increment.Hist, error) {
	h := &increment.Hist{Zero: d.uvarint(), Sum: d.float()}
	h.Pos = d.buckets()
	h.Neg = d.buckets()
	if d.err != nil {
		return nil, d.err
	}
	return h, h.Validate()
}

func (d *decoder) buckets() []increment.Bucket {
	n := d.uvarint()
	if n == 0 || n > uint64(len(d.src))/2 { // a bucket takes at least 2 bytes
		if n > 0 && d.err == nil {
			d.err = errCutShort
		}
		return nil
	}
	out := make([]increment.Bucket, n)
	prev := int64(0)
	for i := range out {
		prev += d.varint()
		out[i] = increment.Bucket{Index: int32(prev), Count: d.uvarint()}
	}
	return out
}
