package tsdb

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

var errChunkShort = errors.New("chunk is cut short")

// bitWriter appends bits, most significant first.
type bitWriter struct {
	buf  []byte
	acc  uint64 // the last n bits written and not yet in buf, in its low bits
	bits uint   // < 8
}

func (w *bitWriter) write(v uint64, n uint) {
	for n > 0 {
		take := min(n, 56-w.bits)
		w.acc = w.acc<<take | v>>(n-take)&(1<<take-1)
		w.bits += take
		n -= take
		for w.bits >= 8 {
			w.bits -= 8
			w.buf = append(w.buf, byte(w.acc>>w.bits))
		}
	}
}

// bytes pads the last byte with zeros.
func (w *bitWriter) bytes() []byte {
	if w.bits > 0 {
		return append(w.buf, byte(w.acc<<(8-w.bits)))
	}
	return w.buf
}

// bitReader reads what bitWriter wrote; past the end it reads zeros and sets
// short.
type bitReader struct {
	src   []byte
	acc   uint64 // unread bits, left-aligned
	n     uint   // how many
	short bool
}

// fill makes at least 57 bits unread, or all that are left.
func (r *bitReader) fill() {
	if len(r.src) >= 8 {
		r.acc |= binary.BigEndian.Uint64(r.src) >> r.n
		taken := (64 - r.n) / 8
		r.src = r.src[taken:]
		r.n += taken * 8
		// Bits past n belong to the next byte, which is read again: clear them.
		r.acc &= ^uint64(0) << (64 - r.n)
		return
	}
	for r.n <= 56 && len(r.src) > 0 {
		r.acc |= uint64(r.src[0]) << (56 - r.n)
		r.src = r.src[1:]
		r.n += 8
	}
}

func (r *bitReader) read(n uint) uint64 {
	if n > 32 {
		return r.read(n-32)<<32 | r.read(32)
	}
	if r.n < n {
		if r.fill(); r.n < n {
			r.short = true
			return 0
		}
	}
	v := r.acc >> (64 - n) // n == 0 shifts by 64: 0
	r.acc <<= n
	r.n -= n
	return v
}

// riceEscape is the length of the unary part that says that 64 plain bits follow,
// so that one outlier costs 96 bits and not its magnitude.
const riceEscape = 32

// writeRice codes v as v>>k in unary (ones ended by a zero) and its low k bits
// (Rice & Plaunt 1971, doi:10.1109/TCOM.1971.1090789).
func (w *bitWriter) writeRice(v uint64, k uint) {
	q := v >> k
	if q >= riceEscape {
		w.write(1<<riceEscape-1, riceEscape)
		w.write(v, 64)
		return
	}
	w.write(1<<(q+1)-2, uint(q)+1)
	w.write(v, k)
}

// readRice reads the usual code first: a short unary part, and all bits at hand.
func (r *bitReader) readRice(k uint) uint64 {
	q := uint(bits.LeadingZeros64(^r.acc))
	if n := q + 1 + k; q < riceEscape && n <= r.n {
		v := uint64(q)<<k | r.acc<<(q+1)>>1>>(63-k)
		r.acc <<= n
		r.n -= n
		return v
	}
	return r.readRiceSlow(k)
}

func (r *bitReader) readRiceSlow(k uint) uint64 {
	if r.n < riceEscape+1 {
		r.fill()
	}
	q := uint(bits.LeadingZeros64(^r.acc))
	if q >= riceEscape {
		r.read(riceEscape)
		return r.read(64)
	}
	r.read(q + 1)
	return uint64(q)<<k | r.read(k)
}

// riceParameter returns the k that codes values with the given count and sum
// well: near log2 of their mean.
func riceParameter(values int, sum float64) uint {
	if values == 0 {
		return 0
	}
	mean := sum / float64(values)
	k := uint(0)
	for k < 40 && float64(uint64(1)<<k)*1.5 < mean {
		k++
	}
	return k
}
