package dedup

import "encoding/binary"

// filter is a blocked Bloom filter (Putze, Sanders and Singler 2007,
// doi:10.1145/1498698.1594230): the bits of one id are in one cache line. With 12 bits
// an id about one in two hundred ids that a file does not have has to be looked up.
type filter []byte

const (
	filterBlock   = 64 // bytes
	filterPerID   = 12 // bits
	filterHashes  = 6
	filterBitMask = filterBlock*8 - 1
)

// newFilter makes an empty one for n ids.
func newFilter(n int) filter {
	blocks := (n*filterPerID + filterBlock*8 - 1) / (filterBlock * 8)
	return make(filter, max(1, blocks)*filterBlock)
}

// block is the part of f that has the bits of id.
func (f filter) block(id ID) []byte {
	blocks := uint64(len(f) / filterBlock)
	// Multiplication maps uniform 32 bits to blocks (Lemire 2019,
	// doi:10.1145/3230636).
	i := binary.LittleEndian.Uint64(id[:]) >> 32 * blocks >> 32
	return f[i*filterBlock : (i+1)*filterBlock]
}

func (f filter) add(id ID) {
	b, h := f.block(id), hash(id)
	for range filterHashes {
		bit := h & filterBitMask
		b[bit/8] |= 1 << (bit % 8)
		h >>= 9
	}
}

// may reports whether id may have been added; false is certain.
func (f filter) may(id ID) bool {
	b, h := f.block(id), hash(id)
	for range filterHashes {
		bit := h & filterBitMask
		if b[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
		h >>= 9
	}
	return true
}
