package tsdb

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Whole numbers are packed in blocks of packBlock, the last of what is left:
//
//	head     1 byte: low 6 bits the width w, 0 to 53; high 2 bits the number of
//	         patches, 3 where a byte with it follows
//	numbers  the low w bits of each, from the least significant bit of each byte
//	         on; the last byte is filled with zeros
//	patches  of the numbers that are wider: 1 byte, the low 6 bits the place in the
//	         block, the high 2 bits what is above w bits less one; where they are 3
//	         it follows as a uvarint
//
// So an outlier costs its own bits, not the block a width (PFOR: Zukowski et al. 2006,
// doi:10.1109/ICDE.2006.150). Whole words are read and nothing branches on a number
// but a patch, which makes unpacking several times faster than a code of variable
// length.
const (
	packBlock   = 64
	packBitsMax = 53
	patchesMany = 3 // in a head: their number follows
	patchLong   = 3 // in a patch: what is above follows
)

// packPlan is how a block is packed.
type packPlan struct {
	width   uint
	patches int
	bytes   int
}

// planPack returns the smallest form of a block.
func planPack(block []uint64) packPlan {
	var lengths [packBitsMax + 1]int // numbers by their length in bits
	var all uint64
	for _, v := range block {
		lengths[bits.Len64(v)]++
		all |= v
	}
	longest := bits.Len64(all)
	best := packPlan{width: uint(longest), bytes: 1 + packedBytes(len(block), uint(longest))}
	for w := range longest {
		p := packPlan{width: uint(w), bytes: 1 + packedBytes(len(block), uint(w))}
		for l := w + 1; l <= longest; l++ {
			p.patches += lengths[l]
			p.bytes += lengths[l]
			if above := l - w; above > 2 {
				p.bytes += lengths[l] * (above + 6) / 7
			}
		}
		if p.patches >= patchesMany {
			p.bytes++
		}
		if p.bytes < best.bytes {
			best = p
		}
	}
	return best
}

// packedBytes is what n numbers of w bits take.
func packedBytes(n int, w uint) int { return (n*int(w) + 7) / 8 }

// appendPacked appends numbers below 2^53.
func appendPacked(dst []byte, v []uint64) []byte {
	for len(v) > 0 {
		n := min(packBlock, len(v))
		dst = appendBlock(dst, v[:n])
		v = v[n:]
	}
	return dst
}

func appendBlock(dst []byte, block []uint64) []byte {
	plan := planPack(block)
	w := plan.width
	dst = append(dst, byte(w)|byte(min(plan.patches, patchesMany))<<6)
	if plan.patches >= patchesMany {
		dst = append(dst, byte(plan.patches))
	}
	acc, have := uint64(0), uint(0)
	for _, v := range block {
		acc |= v & (1<<w - 1) << have
		for have += w; have >= 8; have -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	for i, v := range block {
		above := v >> w
		if above == 0 {
			continue
		}
		if above > patchLong {
			dst = binary.AppendUvarint(append(dst, byte(i)|patchLong<<6), above)
		} else {
			dst = append(dst, byte(i)|byte(above-1)<<6)
		}
	}
	return dst
}

// number is what packed numbers are unpacked to; both hold those below 2^53.
type number interface{ int64 | float64 }

// unpack sets all of dst to packed numbers, each plus base, and returns what
// follows them.
func unpack[T number](dst []T, src []byte, base int64) (rest []byte, err error) {
	for ; len(dst) >= packBlock; dst = dst[packBlock:] {
		if src, err = unpackBlock((*[packBlock]T)(dst), src, packBlock, base); err != nil {
			return nil, err
		}
	}
	if len(dst) > 0 {
		var last [packBlock]T
		src, err = unpackBlock(&last, src, len(dst), base)
		copy(dst, last[:])
	}
	return src, err
}

// unpackBlock reads a block of n numbers, at most packBlock, into the first n of
// dst, each plus base, and returns what follows it. The rest of dst is undefined.
func unpackBlock[T number](dst *[packBlock]T, src []byte, n int, base int64) (rest []byte, err error) {
	if len(src) == 0 {
		return nil, errChunkShort
	}
	w, patches := uint(src[0]&63), int(src[0]>>6)
	src = src[1:]
	if patches == patchesMany {
		if len(src) == 0 {
			return nil, errChunkShort
		}
		patches, src = int(src[0]), src[1:]
	}
	size := packedBytes(n, w)
	switch {
	case w > packBitsMax:
		return nil, fmt.Errorf("chunk has numbers of %d bits", w)
	case size > len(src):
		return nil, errChunkShort
	case w == 0:
		for i := range dst {
			dst[i] = T(base)
		}
	case (n-1)*int(w)/8+8 > len(src): // words would be read past the end
		var padded [packBlock*packBitsMax/8 + 8]byte
		copy(padded[:], src)
		unpackBits(dst, padded[:], n, w, base)
	default:
		unpackBits(dst, src, n, w, base)
	}
	return patchBlock(dst, src[size:], n, w, patches)
}

// unpackBits reads n numbers of w bits, 1 or more. It may read 8 bytes from the last
// number's first on, and set more of dst.
func unpackBits[T number](dst *[packBlock]T, src []byte, n int, w uint, base int64) {
	mask := int64(1)<<(w&63) - 1
	if w <= 8 { // eight numbers in a word
		for i := 0; i < n; i += 8 {
			x := int64(binary.LittleEndian.Uint64(src[i/8*int(w):]))
			d := (*[8]T)(dst[i:])
			d[0] = T(x&mask + base)
			x >>= w & 63
			d[1] = T(x&mask + base)
			x >>= w & 63
			d[2] = T(x&mask + base)
			x >>= w & 63
			d[3] = T(x&mask + base)
			x >>= w & 63
			d[4] = T(x&mask + base)
			x >>= w & 63
			d[5] = T(x&mask + base)
			x >>= w & 63
			d[6] = T(x&mask + base)
			x >>= w & 63
			d[7] = T(x&mask + base)
		}
		return
	}
	at := uint(0)
	for i := range dst[:n] {
		dst[i] = T(int64(binary.LittleEndian.Uint64(src[at/8:])>>(at%8))&mask + base)
		at += w
	}
}

// patchBlock adds to numbers what they have above w bits.
func patchBlock[T number](dst *[packBlock]T, src []byte, n int, w uint, patches int) (rest []byte, err error) {
	for range patches {
		if len(src) == 0 {
			return nil, errChunkShort
		}
		i, above := int(src[0]&63), uint64(src[0]>>6)+1
		src = src[1:]
		if above > patchLong {
			size := 0
			if above, size = binary.Uvarint(src); size <= 0 {
				return nil, errChunkShort
			}
			src = src[size:]
		}
		if i >= n || bits.Len64(above)+int(w) > packBitsMax {
			return nil, fmt.Errorf("chunk has %d above %d bits at place %d of %d", above, w, i, n)
		}
		dst[i] += T(int64(above << w))
	}
	return src, nil
}
