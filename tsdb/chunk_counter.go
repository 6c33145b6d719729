package tsdb

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// A counter chunk, after its header:
//
//	mode   1 byte: 0 whole increments >= 1, 1 whole increments >= 0, 2 floats
//	kGap   1 byte: Rice parameter of the gaps between windows
//	kVal   1 byte: Rice parameter of the increments (modes 0 and 1)
//	bits   per window: Rice(gap-1) except for the first, then
//	       modes 0, 1: Rice(increment - base), base 1 in mode 0, else 0
//	       mode 2: Gorilla XOR with the previous increment, see writeXOR
//
// Whole increments on a grid are small and dense, so that both Rice codes sit
// near the entropy of a Poisson process: 0.3 bytes a window at one event a
// window, where XOR of a running total takes 1.2.
const (
	countsFromOne  = 0
	countsFromZero = 1
	countsFloat    = 2
)

// wholeMax is where float64 stops holding every whole number.
const wholeMax = 1 << 53

func appendCounts(dst []byte, win []int64, counts []float64, step int64) []byte {
	mode, sum := byte(countsFromOne), 0.0
	for _, v := range counts {
		switch {
		case v != math.Trunc(v) || v < 0 || v >= wholeMax:
			mode = countsFloat
		case v == 0 && mode == countsFromOne:
			mode = countsFromZero
		}
		sum += v
	}
	base := 1 - float64(min(mode, 1))
	n := len(win)
	gaps := float64((win[n-1]-win[0])/step) - float64(n-1)
	kGap := riceParameter(n-1, gaps)
	kVal := uint(0)
	if mode != countsFloat {
		kVal = riceParameter(n, sum-base*float64(n))
	}
	w := bitWriter{buf: append(dst, mode, byte(kGap), byte(kVal))}
	xor := xorState{leading: 64}
	for i, v := range counts {
		if i > 0 {
			w.writeRice(uint64((win[i]-win[i-1])/step)-1, kGap)
		}
		if mode == countsFloat {
			w.writeXOR(&xor, math.Float64bits(v))
		} else {
			w.writeRice(uint64(v-base), kVal)
		}
	}
	return w.bytes()
}

func decodeCounts(src []byte, h chunkHeader, p *points) error {
	if len(src) < 3 {
		return errChunkShort
	}
	mode, kGap, kVal := src[0], uint(src[1]), uint(src[2])
	if mode > countsFloat || kGap > 40 || kVal > 40 {
		return fmt.Errorf("counter chunk has mode %d and Rice parameters %d and %d", mode, kGap, kVal)
	}
	r := bitReader{src: src[3:]}
	base := 1 - float64(min(mode, 1))
	xor := xorState{leading: 64}
	win := h.first
	p.win, p.value = slices.Grow(p.win, h.n), slices.Grow(p.value, h.n)
	for i := range h.n {
		if i > 0 {
			gap := r.readRice(kGap)
			if gap > 1<<40 {
				return fmt.Errorf("counter chunk has a gap of %d windows", gap)
			}
			win += int64(gap) + 1
		}
		v := 0.0
		if mode == countsFloat {
			v = math.Float64frombits(r.readXOR(&xor))
		} else {
			v = float64(r.readRice(kVal)) + base
		}
		if r.short {
			return errChunkShort
		}
		p.win = append(p.win, win*h.step)
		p.value = append(p.value, v)
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
