package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

const (
	// unionExactMax bounds the memory of one exact union: past it, about 16 MiB, it
	// goes on as registers.
	unionExactMax = 1 << 20
	// CellExactMax is the most ids of an hour or a day that are kept one by one: twice
	// the size of the registers, packed, that replace them.
	CellExactMax = 2048
)

// Union is the set of ids of any number of sketches. It is exact while all of them
// are and at most 2^20 ids are seen. The zero Union is empty and ready to use. Not
// safe for concurrent use.
type Union struct {
	// table has the ids, 0 apart, at the place that their first bits say, or at the
	// next free one. Sorted ids come to ever later places, so that large tables too
	// are walked once from the front to the end and not at random.
	table []uint64
	n     int // ids in table
	zero  bool
	regs  registers // where inexact
	// inexact: regs have all ids, and table none.
	inexact bool
	room    *Room
}

// Bound makes u take its memory from r. It is called once, while u is the zero Union.
func (u *Union) Bound(r *Room) { u.room = r }

// Reset makes u empty; it keeps capacity, a table that was much too large apart: to clear
// it again and again would take longer than to make a small one.
func (u *Union) Reset() {
	if len(u.table) > 1024 && u.n < len(u.table)/16 {
		u.room.take(-8 * len(u.table))
		u.table = nil
	} else if u.n > 0 {
		clear(u.table)
	}
	if u.inexact {
		u.regs.reset()
	}
	u.n, u.zero, u.inexact = 0, false, false
}

// Empty reports whether no id was seen.
func (u *Union) Empty() bool { return u.n == 0 && !u.zero && !u.inexact }

// Exact reports whether Estimate is exact.
func (u *Union) Exact() bool { return !u.inexact }

// Estimate returns the number of distinct ids, a whole number.
func (u *Union) Estimate() (float64, error) {
	if u.inexact {
		return u.regs.estimate()
	}
	return float64(u.count()), nil
}

func (u *Union) count() int {
	if u.zero {
		return u.n + 1
	}
	return u.n
}

func (u *Union) addID(id uint64) {
	switch {
	case u.inexact:
		u.regs.addID(id)
		return
	case id == 0:
		u.zero = true
		return
	}
	if 2*u.n >= len(u.table) {
		if u.room.Over() {
			return
		}
		u.grow()
	}
	if put(u.table, id) {
		u.n++
	}
	if u.n > unionExactMax {
		u.ToRegisters()
	}
}

// put reports whether id, which is not 0, is new to a table that has room.
func put(table []uint64, id uint64) bool {
	for i := place(table, id); ; i++ {
		if i == len(table) {
			i = 0
		}
		switch table[i] {
		case 0:
			table[i] = id
			return true
		case id:
			return false
		}
	}
}

// place is where the search for id begins. The length of the table is a power of two.
func place(table []uint64, id uint64) int {
	return int(id >> (64 - bits.TrailingZeros(uint(len(table)))))
}

func (u *Union) grow() {
	old := u.table
	u.table = make([]uint64, max(16, 2*len(old)))
	u.room.take(8 * (len(u.table) - len(old)))
	for _, id := range old {
		if id != 0 {
			put(u.table, id)
		}
	}
}

// each calls f with every id of an exact union.
func (u *Union) each(f func(id uint64)) {
	if u.zero {
		f(0)
	}
	if u.n == 0 {
		return
	}
	for _, id := range u.table {
		if id != 0 {
			f(id)
		}
	}
}

// ToRegisters gives exactness up.
func (u *Union) ToRegisters() {
	if u.inexact {
		return
	}
	if u.regs == nil {
		u.regs = newRegisters()
		u.room.take(len(u.regs))
	}
	u.each(u.regs.addID)
	if u.n > 0 {
		clear(u.table)
	}
	u.n, u.zero, u.inexact = 0, false, true
}

// Add puts all ids of s into the union; s is not changed.
func (u *Union) Add(s *Sketch) error {
	if s.hll == nil {
		for _, id := range s.ids {
			u.addID(id)
		}
		return nil
	}
	image, err := s.hll.ToCompactSlice()
	if err != nil {
		return fmt.Errorf("join sketches: %w", err)
	}
	u.ToRegisters()
	return u.regs.mergeImage(image)
}

// AddEncoded is Add of what Sketch.Append wrote, which Encoded has cut out.
func (u *Union) AddEncoded(src []byte) error {
	n, k := binary.Uvarint(src)
	if k <= 0 {
		return errShort
	}
	if n > 0 {
		if n-1 > ExactMax {
			return fmt.Errorf("sketch has %d exact ids, at most %d are allowed", n-1, ExactMax)
		}
		return u.addSorted(src[k:], int(n-1))
	}
	size, m := binary.Uvarint(src[k:])
	if m <= 0 || size != uint64(len(src)-k-m) {
		return errShort
	}
	u.ToRegisters()
	return u.regs.mergeImage(src[k+m:])
}

// addSorted adds n ids of 8 bytes.
func (u *Union) addSorted(src []byte, n int) error {
	if len(src) != 8*n {
		return errShort
	}
	last := uint64(0)
	for i := 0; i < len(src); i += 8 {
		id := binary.BigEndian.Uint64(src[i : i+8 : i+8])
		if id <= last && i > 0 {
			return errors.New("sketch ids are not sorted")
		}
		last = id
		u.addID(id)
	}
	return nil
}

// AddUnion puts all ids of o into u; o is not changed.
func (u *Union) AddUnion(o *Union) {
	if !o.inexact {
		o.each(u.addID)
		return
	}
	u.ToRegisters()
	u.regs.merge(o.regs[imageHead:])
}

// Settle makes u, the union of an hour or a day, what a block would have of it: past
// CellExactMax ids registers. So it does not show how the hour is stored.
func (u *Union) Settle() {
	if u.count() > CellExactMax {
		u.ToRegisters()
	}
}

// The forms of an encoded cell, its first byte.
const (
	cellIDs       = 0
	cellRegisters = 1
)

// AppendCell encodes u, which is settled: 0 and the ids sorted, 8 bytes big endian
// each, or 1 and packed registers.
func (u *Union) AppendCell(dst []byte) []byte {
	if u.inexact {
		return u.regs.appendPacked(append(dst, cellRegisters))
	}
	ids := make([]uint64, 0, u.count())
	u.each(func(id uint64) { ids = append(ids, id) })
	slices.Sort(ids)
	dst = append(dst, cellIDs)
	for _, id := range ids {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return dst
}

// CellBytes is about how many AppendCell appends.
func (u *Union) CellBytes() int {
	if u.inexact {
		return 1 + packedBytes
	}
	return 1 + 8*u.count()
}

// AddCell puts the ids of an encoded cell into u.
func (u *Union) AddCell(src []byte) error {
	switch {
	case len(src) > 0 && src[0] == cellRegisters:
		u.ToRegisters()
		return u.regs.mergePacked(src[1:])
	case len(src) > 0 && src[0] == cellIDs && len(src)%8 == 1 && len(src)/8 <= CellExactMax:
		return u.addSorted(src[1:], len(src)/8)
	}
	return fmt.Errorf("a union of %d bytes is of no known form", len(src))
}

// Encoded returns the encoding of the sketch that src begins with, and what follows.
func Encoded(src []byte) (enc, rest []byte, err error) {
	n, k := binary.Uvarint(src)
	if k <= 0 {
		return nil, src, errShort
	}
	size := 8 * (n - 1)
	if n == 0 {
		var m int
		if size, m = binary.Uvarint(src[k:]); m <= 0 {
			return nil, src, errShort
		}
		k += m
	} else if n-1 > ExactMax {
		return nil, src, fmt.Errorf("sketch has %d exact ids, at most %d are allowed", n-1, ExactMax)
	}
	if size > uint64(len(src)-k) {
		return nil, src, errShort
	}
	end := k + int(size)
	return src[:end:end], src[end:], nil
}

// EncodedBytes is about how many Append appends.
func (s *Sketch) EncodedBytes() int {
	if s.hll != nil {
		return 1 + packedBytes
	}
	return 2 + 8*len(s.ids)
}
