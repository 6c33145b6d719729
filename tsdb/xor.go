package tsdb

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/value"

	"github.com/quipudb/quipu/internal/column"
)

// appendXORChunk appends the samples of one of Prometheus's XOR chunks to a column: what its
// iterator yields, in one loop (Pelkonen et al. 2015, doi:10.14778/2824032.2824078;
// upstream's tsdb/chunkenc/xor.go).
func appendXORChunk(src []byte, c *column.Column) error {
	if len(src) < sampleChunkMin {
		return errChunkShort
	}
	n := int(binary.BigEndian.Uint16(src))
	src = src[2:]
	t, size := binary.Varint(src)
	if n == 0 || size <= 0 || len(src) < size+8 || n > 4*len(src) { // two bits a sample
		return errChunkShort
	}
	bits := binary.BigEndian.Uint64(src[size:])
	src = src[size+8:]
	if k := len(c.T); k > 0 && t <= c.T[k-1] {
		return fmt.Errorf("sample at %d follows one at %d", t, c.T[k-1])
	}
	at := len(c.T)
	c.T, c.V = grow(c.T, n), grow(c.V, n)
	ts, vs := c.T[at:at+n], c.V[at:at+n]
	ts[0], vs[0] = t, math.Float64frombits(bits)
	if n > 1 {
		delta, size := binary.Uvarint(src)
		if size <= 0 {
			return errChunkShort
		}
		d := xorDecoder{src: src[size:], t: t, delta: int64(delta), bits: bits, width: 64}
		if err := d.read(ts[1:], vs[1:]); err != nil {
			return err
		}
	}
	c.T, c.V = c.T[:at+n], c.V[:at+n]
	if len(c.ST) > 0 {
		for len(c.ST) < len(c.T) {
			c.ST = append(c.ST, 0)
		}
	}
	for _, v := range vs {
		if v != v && value.IsStaleNaN(v) {
			c.Stale = true
		}
	}
	return nil
}

// grow makes room for n more.
func grow[T any](s []T, n int) []T {
	if cap(s)-len(s) >= n {
		return s
	}
	out := make([]T, len(s), max(2*cap(s), len(s)+n))
	copy(out, s)
	return out
}

// xorDecoder reads the bits of a chunk from its second sample's value on.
type xorDecoder struct {
	src   []byte
	acc   uint64 // unread bits, left-aligned; more may follow that are read again
	n     uint   // how many
	t     int64
	delta int64
	bits  uint64 // of the value before
	// Of the significant bits of the last difference, to the right of which are others.
	width, right uint
}

// refill makes at least 56 bits unread, or all that are left.
func refill(src []byte, acc uint64, n uint) ([]byte, uint64, uint) {
	if len(src) >= 8 {
		acc |= binary.BigEndian.Uint64(src) >> (n & 63)
		taken := (63 - n) / 8
		return src[taken:], acc, n + taken*8
	}
	for n <= 56 && len(src) > 0 {
		acc |= uint64(src[0]) << (56 - n)
		src = src[1:]
		n += 8
	}
	return src, acc, n
}

// read sets ts and vs to the samples that follow.
func (d *xorDecoder) read(ts []int64, vs []float64) error {
	src, acc, n := d.src, d.acc, d.n
	t, delta, bits := d.t, d.delta, d.bits
	width, right := d.width, d.right
	vs = vs[:len(ts)]
	for i := range ts {
		if n < 32 {
			src, acc, n = refill(src, acc, n)
		}
		// Most are as far from the one before as that is from the one before it, and have
		// another value, whose significant bits are where they were: 0, 1, 0.
		if acc>>61 == 0b010 && i > 0 && n >= width+3 && delta > 0 {
			acc <<= 3
			bits ^= acc >> ((64 - width) & 63) << (right & 63)
			acc <<= width & 63
			n -= width + 3
			t += delta
			ts[i], vs[i] = t, math.Float64frombits(bits)
			continue
		}
		if i > 0 { // the first one's delta is known
			if acc>>63 == 0 {
				acc <<= 1
				n--
			} else {
				var dod int64
				var ok bool
				if dod, src, acc, n, ok = readDelta(src, acc, n); !ok {
					return errChunkShort
				}
				delta += dod
				src, acc, n = refill(src, acc, n)
			}
		}
		if delta <= 0 {
			return fmt.Errorf("sample at %d follows one at %d", t+delta, t)
		}
		t += delta
		ts[i] = t
		if acc>>63 == 0 { // the same value
			acc <<= 1
			n--
		} else {
			if acc>>62 == 0b11 {
				leading := uint(acc>>57) & 31
				if width = uint(acc>>51) & 63; width == 0 {
					width = 64
				}
				if leading+width > 64 {
					return fmt.Errorf("chunk has %d bits after %d", width, leading)
				}
				right = 64 - leading - width
				acc <<= 13
				n -= 13
			} else {
				acc <<= 2
				n -= 2
			}
			if int(n) < int(width) {
				if int(n) < 0 {
					return errChunkShort
				}
				src, acc, n = refill(src, acc, n)
			}
			if n >= width && width < 64 {
				bits ^= acc >> ((64 - width) & 63) << (right & 63)
				acc <<= width & 63
				n -= width
			} else { // more than are unread at once
				high := width - 32
				x := acc >> (64 - high) << 32
				acc <<= high
				if n -= high; int(n) < 0 {
					return errChunkShort
				}
				src, acc, n = refill(src, acc, n)
				x |= acc >> 32
				acc <<= 32
				n -= 32
				bits ^= x << right
			}
		}
		if int(n) < 0 {
			return errChunkShort
		}
		vs[i] = math.Float64frombits(bits)
	}
	return nil
}

// readDelta reads a difference of differences of times, which begins with a 1.
func readDelta(src []byte, acc uint64, n uint) (dod int64, _ []byte, _ uint64, _ uint, ok bool) {
	prefix, width := uint(4), uint(64)
	switch {
	case acc>>62 == 0b10:
		prefix, width = 2, 14
	case acc>>61 == 0b110:
		prefix, width = 3, 17
	case acc>>60 == 0b1110:
		prefix, width = 4, 20
	}
	acc <<= prefix
	n -= prefix
	if width < 64 {
		x := int64(acc >> (64 - width))
		if x > 1<<(width-1) {
			x -= 1 << width
		}
		acc <<= width
		n -= width
		return x, src, acc, n, int(n) >= 0
	}
	for range 2 {
		src, acc, n = refill(src, acc, n)
		dod = dod<<32 | int64(acc>>32)
		acc <<= 32
		n -= 32
	}
	return dod, src, acc, n, int(n) >= 0
}
