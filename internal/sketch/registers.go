package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/apache/datasketches-go/hll"
)

const (
	registerCount = 1 << LgK
	// imageHead is the length of the preamble of a datasketches image.
	imageHead = 40
	// registerMax is the largest rank: 62 leading zeros and one.
	registerMax = 63
)

// registers are the HyperLogLog registers of a set, a byte each, with room for the
// preamble of datasketches' HLL_8 image before them, so that an estimate copies
// nothing. They are those that a Sketch of the same ids has. nil: there are none.
type registers []byte

func newRegisters() registers { return make(registers, imageHead+registerCount) }

func (r registers) array() *[registerCount]byte { return (*[registerCount]byte)(r[imageHead:]) }

// reset makes r the registers of no ids.
func (r registers) reset() { clear(r[imageHead:]) }

// addID is datasketches' update by a 64-bit integer: MurmurHash3_x64_128 (Appleby
// 2011) of its 8 bytes under the seed 9001. The low bits of the first half choose
// the register, the leading zeros of the second are its rank.
func (r registers) addID(id uint64) {
	const seed = 9001
	k := bits.RotateLeft64(id*0x87c37b91114253d5, 31) * 0x4cf5ad432745937f
	h1, h2 := (seed^k)^8, uint64(seed^8)
	h1 += h2
	h2 += h1
	h1, h2 = mix(h1), mix(h2)
	h1 += h2
	h2 += h1
	rank := byte(min(bits.LeadingZeros64(h2), registerMax-1) + 1)
	if slot := &r.array()[h1%registerCount]; *slot < rank {
		*slot = rank
	}
}

func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

const highBits = 0x8080808080808080

// maxBytes is the larger of each of the eight bytes of a and b, all below 128. One
// byte at a time takes eight times as long.
func maxBytes(a, b uint64) uint64 {
	h := ((a | highBits) - b) & highBits // set where a's is not smaller
	m := h - h>>7
	return a&m | b&^m
}

// merge puts the ids of o into r.
func (r registers) merge(o []byte) {
	a, b := r.array(), (*[registerCount]byte)(o)
	for i := 0; i <= registerCount-8; i += 8 {
		word := a[i : i+8 : i+8]
		binary.LittleEndian.PutUint64(word, maxBytes(binary.LittleEndian.Uint64(word), binary.LittleEndian.Uint64(b[i:i+8:i+8])))
	}
}

// Packed registers are the least of them (1 byte), a nibble for each of what it has
// above that, 15 for 15 and more, and an exception for each that has more: its
// number (2 bytes, big endian) and its value. Byte i has the nibbles of registers i
// (low) and i + 2^13 (high), so that eight of them become eight consecutive
// registers, twice, by shifts alone.
const (
	packedHalf      = registerCount / 2
	packedBytes     = 1 + packedHalf
	packedException = 3
	nibbleMax       = 15
	lowNibbles      = 0x0f0f0f0f0f0f0f0f
	everyByte       = 0x0101010101010101
)

func (r registers) appendPacked(dst []byte) []byte {
	a := r.array()
	least := a[0]
	for _, v := range a {
		least = min(least, v)
	}
	dst = append(dst, least)
	for i := range packedHalf {
		dst = append(dst, min(a[i]-least, nibbleMax)|min(a[i+packedHalf]-least, nibbleMax)<<4)
	}
	for i, v := range a {
		if v-least > nibbleMax {
			dst = append(dst, byte(i>>8), byte(i), v)
		}
	}
	return dst
}

var errPacked = errors.New("packed registers are damaged")

// mergePacked puts the ids of packed registers into r, all or, after an error, none.
func (r registers) mergePacked(src []byte) error {
	if len(src) < packedBytes || (len(src)-packedBytes)%packedException != 0 || src[0] > registerMax-nibbleMax {
		return errPacked
	}
	exceptions := src[packedBytes:]
	for e := exceptions; len(e) > 0; e = e[packedException:] {
		if int(e[0])<<8|int(e[1]) >= registerCount || e[2] > registerMax {
			return errPacked
		}
	}
	a, nibbles, least := r.array(), (*[packedHalf]byte)(src[1:]), uint64(src[0])*everyByte
	for i := 0; i <= packedHalf-8; i += 8 {
		x := binary.LittleEndian.Uint64(nibbles[i : i+8 : i+8])
		low, high := a[i:i+8:i+8], a[i+packedHalf:i+packedHalf+8:i+packedHalf+8]
		binary.LittleEndian.PutUint64(low, maxBytes(binary.LittleEndian.Uint64(low), x&lowNibbles+least))
		binary.LittleEndian.PutUint64(high, maxBytes(binary.LittleEndian.Uint64(high), x>>4&lowNibbles+least))
	}
	for e := exceptions; len(e) > 0; e = e[packedException:] {
		r.raise(int(e[0])<<8|int(e[1]), e[2])
	}
	return nil
}

func (r registers) raise(slot int, value byte) {
	a := r.array()
	a[slot] = max(a[slot], value)
}

// What of datasketches' images is read here: byte 6 has the least register of HLL_4,
// byte 7 the form; 4 bytes at 8 the number of coupons of a set, which follow at 12;
// 4 bytes at 36 the number of exceptions of HLL_4, coupons after its nibbles. A coupon
// is a register's number (low 26 bits) and a rank.
const (
	imageSet  = 1     // the low two bits of the form: coupons
	imageHLL4 = 2     // registers by nibbles
	imageHLL8 = 2 | 8 // registers by bytes
	slotBits  = 26
)

// mergeImage puts the ids of a datasketches image with 2^LgK registers, compact and
// of a form that a Sketch has or writes, into r, all or, after an error, none.
func (r registers) mergeImage(image []byte) error {
	if len(image) < imageHead {
		return errShort
	}
	if image[3] != LgK {
		return fmt.Errorf("sketch image has 2^%d registers, expected 2^%d", image[3], LgK)
	}
	body := image[imageHead:]
	switch form := image[7]; {
	case form&3 == imageSet:
		return r.mergeCoupons(image[12:], binary.LittleEndian.Uint32(image[8:]))
	case form == imageHLL8 && len(body) == registerCount:
		for _, v := range body {
			if v > registerMax {
				return errPacked
			}
		}
		r.merge(body)
		return nil
	case form == imageHLL4 && len(body) >= packedHalf && image[6] <= registerMax-nibbleMax:
		if err := r.mergeCoupons(body[packedHalf:], binary.LittleEndian.Uint32(image[36:])); err != nil {
			return err
		}
		r.mergeNibbles((*[packedHalf]byte)(body), image[6])
		return nil
	}
	return fmt.Errorf("sketch image of form %d is not known", image[7])
}

func (r registers) mergeCoupons(src []byte, n uint32) error {
	if uint64(len(src)) != 4*uint64(n) {
		return errShort
	}
	for i := 0; i < len(src); i += 4 {
		c := binary.LittleEndian.Uint32(src[i:])
		r.raise(int(c%registerCount), byte(c>>slotBits))
	}
	return nil
}

// mergeNibbles takes registers that alternate between low and high nibbles; where one
// has 15 an exception has more.
func (r registers) mergeNibbles(src *[packedHalf]byte, least byte) {
	a := r.array()
	for i, b := range src {
		two := a[2*i : 2*i+2 : 2*i+2]
		two[0], two[1] = max(two[0], b&nibbleMax+least), max(two[1], b>>4+least)
	}
}

// fixedRank[v] is what a register of rank v below 32 adds to two sums at once: its
// 2^-v, 31 bits after the point, and above bit 46 a one where it is 0. 2^14 of them
// do not overflow either.
var fixedRank = func() (t [registerMax + 1]uint64) {
	for v := range 32 {
		t[v] = 1 << (31 - v)
	}
	t[0] |= 1 << zerosBit
	return t
}()

const zerosBit = 46

// estimate is the composite estimate (I2) by datasketches, which takes it from the sums
// of 2^-rank and the number of zeros alone. Those have 46 bits at most: in floating
// point they are exact, in whatever order they are added.
func (r registers) estimate() (float64, error) {
	sum, ranks, large := uint64(0), uint64(0), 0.0
	a := r.array()
	for i := 0; i <= registerCount-8; i += 8 {
		w := binary.LittleEndian.Uint64(a[i : i+8 : i+8])
		ranks |= w
		sum += fixedRank[w&registerMax] + fixedRank[w>>8&registerMax] + fixedRank[w>>16&registerMax] + fixedRank[w>>24&registerMax] +
			fixedRank[w>>32&registerMax] + fixedRank[w>>40&registerMax] + fixedRank[w>>48&registerMax] + fixedRank[w>>56&registerMax]
	}
	if ranks&(32*everyByte) != 0 { // of less than billions of ids seldom so
		for _, v := range a {
			if v >= 32 {
				large += math.Ldexp(1, -int(v))
			}
		}
	}
	head := r[:imageHead]
	clear(head)
	const outOfOrder = 16
	copy(head, []byte{10, 1, 7, LgK, 0, outOfOrder, 0, imageHLL8})
	binary.LittleEndian.PutUint64(head[16:], math.Float64bits(float64(sum%(1<<zerosBit))/(1<<31)))
	binary.LittleEndian.PutUint64(head[24:], math.Float64bits(large))
	binary.LittleEndian.PutUint32(head[32:], uint32(sum>>zerosBit))
	h, err := hll.NewHllSketchFromSlice(r, false)
	if err != nil {
		return 0, fmt.Errorf("estimate registers: %w", err)
	}
	e, err := h.GetCompositeEstimate()
	if err != nil {
		return 0, fmt.Errorf("estimate registers: %w", err)
	}
	return math.Round(e), nil
}
