package tsdb

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A gauge chunk, after its header: per window the gap to the window before less one
// (uvarint, absent for the first), the milliseconds from the window's start to when
// the value was had (uvarint), and the value as appendXOR codes it after the value
// before.

func appendGauges(dst []byte, win, at []int64, values []float64, step int64) []byte {
	prev := uint64(0)
	for i, v := range values {
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64((win[i]-win[i-1])/step)-1)
		}
		dst = binary.AppendUvarint(dst, uint64(at[i]-win[i]))
		dst = appendXOR(dst, prev, v)
		prev = math.Float64bits(v)
	}
	return dst
}

func decodeGauges(src []byte, h chunkHeader, p *points) error {
	d := decoder{src: src}
	win, prev := h.first, uint64(0)
	for i := range h.n {
		if i > 0 {
			gap := d.uvarint()
			if gap > 1<<40 {
				return fmt.Errorf("gauge chunk has a gap of %d windows", gap)
			}
			win += int64(gap) + 1
		}
		after := d.uvarint()
		v := d.xor(prev)
		switch {
		case d.err != nil:
			return d.err
		case after >= uint64(h.step):
			return fmt.Errorf("gauge chunk has a value %d ms into a window of %d", after, h.step)
		}
		prev = math.Float64bits(v)
		p.win = append(p.win, win*h.step)
		p.at = append(p.at, win*h.step+int64(after))
		p.value = append(p.value, v)
	}
	return nil
}
