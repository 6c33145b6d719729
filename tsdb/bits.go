package tsdb

import (
	"encoding/binary"
	"errors"
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
