package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/quipudb/quipu/internal/increment"
)

// A counter chunk, after its header:
//
//	span    uvarint: 0 in a sparse chunk; in a dense one the windows of the grid
//	        from the first to the last, both included
//	gaps    sparse: packed (pack.go), the windows left out before each but the first
//	base    uvarint: the least value plus 1; 0 where values are floats
//	values  packed, less the least; floats: bits, each as Gorilla XOR with the one
//	        before, see writeXOR
//
// Values are the increments. Only those of a dense chunk that spans more windows than
// it has stand for every window of the span: 0 where none is stored, and the base
// is 1. So dense chunks are of one column of numbers, with a few more of them, and
// sparse ones of two. The smaller form is taken.

// wholeMax is where float64 stops holding every whole number.
const wholeMax = 1 << packBitsMax

// denseSpread bounds how many windows of the grid a dense chunk has for each that is
// stored: further apart, zeros are larger than gaps.
const denseSpread = 4

func appendCounts(dst []byte, win []int64, counts []float64, step int64) []byte {
	n := int64(len(win))
	span := (win[n-1]-win[0])/step + 1
	if span == n {
		return appendValues(binary.AppendUvarint(dst, uint64(span)), counts)
	}
	gaps := make([]uint64, n-1)
	for i := range gaps {
		gaps[i] = uint64((win[i+1]-win[i])/step) - 1
	}
	sparse := appendValues(appendPacked([]byte{0}, gaps), counts)
	if least, whole := leastWhole(counts); whole && least > 0 && span <= denseSpread*n {
		every := make([]float64, span)
		for i, w := range win {
			every[(w-win[0])/step] = counts[i]
		}
		if dense := appendValues(binary.AppendUvarint(nil, uint64(span)), every); len(dense) <= len(sparse) {
			return append(dst, dense...)
		}
	}
	return append(dst, sparse...)
}

// appendValues appends base and values.
func appendValues(dst []byte, values []float64) []byte {
	least, whole := leastWhole(values)
	if !whole {
		w := bitWriter{buf: append(dst, 0)}
		xor := xorState{leading: 64}
		for _, v := range values {
			w.writeXOR(&xor, math.Float64bits(v))
		}
		return w.bytes()
	}
	numbers := make([]uint64, len(values))
	for i, v := range values {
		numbers[i] = uint64(v) - least
	}
	return appendPacked(binary.AppendUvarint(dst, least+1), numbers)
}

// leastWhole returns the least of the values; whole is false where float64 would not
// hold them as whole numbers.
func leastWhole(values []float64) (least uint64, whole bool) {
	least = wholeMax
	for _, v := range values {
		if v != math.Trunc(v) || v < 0 || v >= wholeMax {
			return 0, false
		}
		least = min(least, uint64(v))
	}
	return least, true
}

// DecodeCounter appends the windows of a chunk of encoding 0x71 to win, their starts
// in milliseconds since 1970, and their increments to counts. It is for tools that
// read the chunk files of a block themselves.
func DecodeCounter(chunk []byte, win []int64, counts []float64) ([]int64, []float64, error) {
	p := points{kind: increment.Counter, win: win, value: counts}
	_, err := appendChunk(encodingOf(increment.Counter), chunk, nil, &p)
	return p.win, p.value, err
}

// decodeCounts appends the windows of a chunk to p; after an error p has none of
// them.
func decodeCounts(src []byte, h chunkHeader, p *points) error {
	span, size := binary.Uvarint(src)
	if size <= 0 {
		return errChunkShort
	}
	src = src[size:]
	// What was written has a byte for every block of numbers, or eight floats.
	most := packBlock * uint64(len(src))
	if uint64(h.n) > most || span > most || int64(span) > windowMax(h.step)-h.first {
		return fmt.Errorf("counter chunk of %d windows of %d has %d bytes", h.n, span, len(src))
	}
	i := len(p.win)
	p.win, p.value = slices.Grow(p.win, h.n), slices.Grow(p.value, h.n)
	win, counts := p.win[i:i+h.n], p.value[i:i+h.n]
	var err error
	switch span {
	case 0:
		if src, err = decodeGaps(win, src, h); err == nil {
			p.fractions, err = decodeValues(counts, src, p.fractions)
		}
	case uint64(h.n):
		t := h.first * h.step
		for k := range win {
			win[k] = t
			t += h.step
		}
		p.fractions, err = decodeValues(counts, src, p.fractions)
	default:
		err = decodeSpread(win, counts, src, h, int(span))
	}
	if err != nil {
		return err
	}
	p.win, p.value = p.win[:i+h.n], p.value[:i+h.n]
	return nil
}

// decodeGaps sets win, which is as long as the chunk, to the starts of its windows.
func decodeGaps(win []int64, src []byte, h chunkHeader) (rest []byte, err error) {
	if rest, err = unpack(win[1:], src, 1); err != nil {
		return nil, err
	}
	win[0] = 0
	last, lastMax := h.first, windowMax(h.step)
	for i, d := range win {
		if last += d; last > lastMax {
			return nil, fmt.Errorf("counter chunk has window %d", last)
		}
		win[i] = last * h.step
	}
	return rest, nil
}

// decodeValues sets counts to a chunk's values. It reports whether they, or others
// before, need not be whole numbers.
func decodeValues(counts []float64, src []byte, before bool) (fractions bool, err error) {
	base, size := binary.Uvarint(src)
	if size <= 0 || base > wholeMax {
		return before, fmt.Errorf("counter chunk has base %d", base)
	}
	if src = src[size:]; base > 0 {
		_, err := unpack(counts, src, int64(base)-1)
		return before, err
	}
	r := bitReader{src: src}
	xor := xorState{leading: 64}
	for i := range counts {
		counts[i] = math.Float64frombits(r.readXOR(&xor))
		if r.short { // xor is not to be read with again
			return true, errChunkShort
		}
	}
	return true, nil
}

// decodeSpread sets win and counts to those of the windows of span that have a value
// other than 0.
func decodeSpread(win []int64, counts []float64, src []byte, h chunkHeader, span int) (err error) {
	if len(src) == 0 || src[0] != 1 {
		return errors.New("dense counter chunk has no base of 1")
	}
	src = src[1:]
	counts = counts[:len(win)]
	var block [packBlock]float64
	t, j := h.first*h.step, 0
	for i := 0; i < span; i += packBlock {
		n := min(packBlock, span-i)
		if src, err = unpackBlock(&block, src, n, 0); err != nil {
			return err
		}
		for _, v := range block[:n] {
			if uint(j) >= uint(len(win)) {
				return fmt.Errorf("counter chunk has more than its %d windows", len(win))
			}
			win[j], counts[j] = t, v
			t += h.step
			j += int(-math.Float64bits(v) >> 63) // 1 unless v is 0, without a branch
		}
	}
	if j < len(win) || win[0] != h.first*h.step || win[j-1] != t-h.step {
		return fmt.Errorf("counter chunk of %d windows of %d has %d", len(win), span, j)
	}
	return nil
}

// xorState is the previous value and the window of its significant bits
// (Pelkonen et al. 2015, Gorilla, section 4.1.2, doi:10.14778/2824032.2824078).
type xorState struct {
	prev              uint64
	leading, trailing uint // leading 64: no window yet
}

// writeXOR codes v as its difference from the previous value: 0 the same; 10 the
// significant bits in the window before; 11, 5 bits of leading zeros, 6 bits of
// length less one, the significant bits.
func (w *bitWriter) writeXOR(s *xorState, v uint64) {
	d := v ^ s.prev
	s.prev = v
	if d == 0 {
		w.write(0, 1)
		return
	}
	leading, trailing := min(uint(bits.LeadingZeros64(d)), 31), uint(bits.TrailingZeros64(d))
	if s.leading < 64 && leading >= s.leading && trailing >= s.trailing {
		w.write(0b10, 2)
		w.write(d>>s.trailing, 64-s.leading-s.trailing)
		return
	}
	s.leading, s.trailing = leading, trailing
	w.write(0b11, 2)
	w.write(uint64(leading), 5)
	w.write(uint64(63-leading-trailing), 6)
	w.write(d>>trailing, 64-leading-trailing)
}

func (r *bitReader) readXOR(s *xorState) uint64 {
	if r.read(1) == 0 {
		return s.prev
	}
	if r.read(1) == 1 {
		s.leading = uint(r.read(5))
		length := uint(r.read(6)) + 1
		if s.leading+length > 64 {
			r.short = true
			return 0
		}
		s.trailing = 64 - s.leading - length
	} else if s.leading == 64 {
		r.short = true
		return 0
	}
	s.prev ^= r.read(64-s.leading-s.trailing) << s.trailing
	return s.prev
}
