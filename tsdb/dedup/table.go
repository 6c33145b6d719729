package dedup

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// ID is a hash of what names an event. Its bits are uniform.
type ID = [16]byte

// compare orders ids as their bytes.
func compare(a, b ID) int { return bytes.Compare(a[:], b[:]) }

// hash spreads ids over shards, tables and filters.
func hash(id ID) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// table is a set of ids, open addressing in a power of two of places. The zero table
// is empty. Not safe for concurrent use.
type table struct {
	places []ID // the zero ID is a free place
	n      int
	zero   bool // the zero ID is in the set
}

func (t *table) has(id ID) bool {
	if id == (ID{}) {
		return t.zero
	}
	for i := hash(id); len(t.places) > 0; i++ {
		switch t.places[i&uint64(len(t.places)-1)] {
		case id:
			return true
		case ID{}:
			return false
		}
	}
	return false
}

// readAhead reads the first place of each id.
func (t *table) readAhead(ids []ID) (read byte) {
	if len(t.places) == 0 {
		return 0
	}
	mask := uint64(len(t.places) - 1)
	for i := range ids {
		read ^= t.places[hash(ids[i])&mask][0]
	}
	return read
}

// add puts id, which is not there, into the table.
func (t *table) add(id ID) {
	t.n++
	if id == (ID{}) {
		t.zero = true
		return
	}
	if 4*t.n > 3*len(t.places) {
		old := t.places
		t.places = make([]ID, max(16, 2*len(old)))
		for _, o := range old {
			if o != (ID{}) {
				t.place(o)
			}
		}
	}
	t.place(id)
}

func (t *table) place(id ID) {
	for i := hash(id); ; i++ {
		if p := &t.places[i&uint64(len(t.places)-1)]; *p == (ID{}) {
			*p = id
			return
		}
	}
}

// appendTo appends all ids, in no order.
func (t *table) appendTo(dst []ID) []ID {
	if t.zero {
		dst = append(dst, ID{})
	}
	dst = slices.Grow(dst, t.n)
	for _, id := range t.places {
		if id != (ID{}) {
			dst = append(dst, id)
		}
	}
	return dst
}
