// Package sketch counts distinct ids: exactly while a set is small, by
// HyperLogLog after.
//
// Files: sketch.go (the set of one window, its merge and codec), union.go (the union
// of any number of them, for a query, or for an hour or a day in a block),
// registers.go (HyperLogLog registers and their estimate), slide.go and last.go
// (unions counted by ranges that slide over them), room.go (the memory that they may
// take), series.go (what a query reads).
//
// Invariants:
//
//	I1: a Sketch is a function of the set of ids it has seen and of nothing else:
//	    neither their order nor how they were split into sketches that were
//	    merged later shows. It is a sorted list of ids up to ExactMax, and HLL
//	    registers of them past it.
//	I2: estimates are the composite estimate of the registers, because the more
//	    accurate HIP estimate depends on the order of updates.
//	I3: the registers of a Union are those of a Sketch of the same ids, and so is its
//	    estimate; but up to 1,535 ids a Sketch has datasketches' coupons, whose
//	    estimate is closer.
//
// Errors of an estimate: none up to ExactMax ids, nor of a Union while all that it is
// of is exact; past that 0.81% standard error (1.04/sqrt(2^LgK), Flajolet et al. 2007,
// doi:10.46298/dmtcs.3545).
package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/apache/datasketches-go/hll"
)

const (
	// ExactMax is the most ids kept one by one: 8 KiB, the size of the
	// registers that replace them.
	ExactMax = 1024
	// LgK is the base-2 logarithm of the number of HLL registers.
	LgK = 14
)

// Sketch is the set of ids seen in one window. The zero Sketch is empty. Not safe
// for concurrent use.
type Sketch struct {
	ids []uint64 // sorted, unique; nil where hll is set
	hll hll.HllSketch
}

// Add puts ids, hashes that are uniform over 64 bits, into the set. It does not
// keep the slice.
func (s *Sketch) Add(ids ...uint64) error {
	if s.hll == nil && len(ids) == 1 {
		i, found := slices.BinarySearch(s.ids, ids[0])
		if found {
			return nil
		}
		s.ids = slices.Insert(s.ids, i, ids[0])
		return s.settle()
	}
	if s.hll == nil {
		s.ids = append(s.ids, ids...)
		slices.Sort(s.ids)
		s.ids = slices.Compact(s.ids)
		return s.settle()
	}
	for _, id := range ids {
		if err := s.hll.UpdateUInt64(id); err != nil {
			return fmt.Errorf("add id to sketch: %w", err)
		}
	}
	return nil
}

// settle keeps I1 after ids have grown.
func (s *Sketch) settle() error {
	if len(s.ids) <= ExactMax {
		return nil
	}
	h, err := hll.NewHllSketch(LgK, hll.TgtHllTypeHll8)
	if err != nil {
		return fmt.Errorf("make sketch: %w", err)
	}
	for _, id := range s.ids {
		if err := h.UpdateUInt64(id); err != nil {
			return fmt.Errorf("add id to sketch: %w", err)
		}
	}
	s.ids, s.hll = nil, h
	return nil
}

// Merge puts all ids of o into s; o is not changed.
func (s *Sketch) Merge(o *Sketch) error {
	if o.hll == nil {
		if s.hll == nil {
			s.ids = mergeSorted(s.ids, o.ids)
			return s.settle()
		}
		return s.Add(o.ids...)
	}
	u, err := hll.NewUnion(LgK)
	if err != nil {
		return fmt.Errorf("make union: %w", err)
	}
	if err := u.UpdateSketch(o.hll); err != nil {
		return fmt.Errorf("merge sketches: %w", err)
	}
	if s.hll != nil {
		err = u.UpdateSketch(s.hll)
	}
	for _, id := range s.ids {
		err = errors.Join(err, u.UpdateUInt64(id))
	}
	if err != nil {
		return fmt.Errorf("merge sketches: %w", err)
	}
	h, err := u.GetResult(hll.TgtHllTypeHll8)
	if err != nil {
		return fmt.Errorf("merge sketches: %w", err)
	}
	s.ids, s.hll = nil, h
	return nil
}

func mergeSorted(a, b []uint64) []uint64 {
	out := make([]uint64, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			out, a = append(out, a[0]), a[1:]
		case a[0] > b[0]:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// Clone returns a copy that shares no memory with s.
func (s *Sketch) Clone() (Sketch, error) {
	if s.hll == nil {
		return Sketch{ids: slices.Clone(s.ids)}, nil
	}
	h, err := s.hll.Copy()
	if err != nil {
		return Sketch{}, fmt.Errorf("copy sketch: %w", err)
	}
	return Sketch{hll: h}, nil
}

// Exact reports whether Estimate is the exact number of ids.
func (s *Sketch) Exact() bool { return s.hll == nil }

// Bytes is about what s takes in memory.
func (s *Sketch) Bytes() int {
	if s.hll != nil {
		return 1<<LgK + 64
	}
	return 8 * cap(s.ids)
}

// Estimate returns the number of distinct ids, a whole number.
func (s *Sketch) Estimate() (float64, error) {
	if s.hll == nil {
		return float64(len(s.ids)), nil
	}
	e, err := s.hll.GetCompositeEstimate()
	if err != nil {
		return 0, fmt.Errorf("estimate sketch: %w", err)
	}
	return math.Round(e), nil
}

// Append encodes s: the number of ids plus one and the ids sorted, 8 bytes big
// endian each; or 0, the length and the HLL_4 image that datasketches defines
// (https://datasketches.apache.org/docs/HLL/HllSketches.html).
func (s *Sketch) Append(dst []byte) ([]byte, error) {
	if s.hll == nil {
		dst = binary.AppendUvarint(dst, uint64(len(s.ids))+1)
		for _, id := range s.ids {
			dst = binary.BigEndian.AppendUint64(dst, id)
		}
		return dst, nil
	}
	small, err := s.hll.CopyAs(hll.TgtHllTypeHll4)
	if err != nil {
		return dst, fmt.Errorf("encode sketch: %w", err)
	}
	image, err := small.ToCompactSlice()
	if err != nil {
		return dst, fmt.Errorf("encode sketch: %w", err)
	}
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, uint64(len(image)))
	return append(dst, image...), nil
}

// MergeEncoded puts all ids of an encoded sketch into s.
func (s *Sketch) MergeEncoded(src []byte) error {
	var o Sketch
	rest, err := o.Decode(src)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("sketch is followed by %d bytes", len(rest))
	}
	return s.Merge(&o)
}

var errShort = errors.New("sketch is cut short")

// Decode sets s to what Append wrote and returns the rest of src. It keeps no
// reference to src.
func (s *Sketch) Decode(src []byte) (rest []byte, err error) {
	n, k := binary.Uvarint(src)
	if k <= 0 {
		return src, errShort
	}
	src = src[k:]
	if n > 0 {
		return s.decodeIDs(src, n-1)
	}
	size, k := binary.Uvarint(src)
	if k <= 0 || size > uint64(len(src)-k) {
		return src, errShort
	}
	image := src[k : k+int(size)]
	h, err := decodeHLL(image)
	if err != nil {
		return src, err
	}
	s.ids, s.hll = nil, h
	return src[k+int(size):], nil
}

func (s *Sketch) decodeIDs(src []byte, n uint64) ([]byte, error) {
	if n > ExactMax {
		return src, fmt.Errorf("sketch has %d exact ids, at most %d are allowed", n, ExactMax)
	}
	if uint64(len(src)) < n*8 {
		return src, errShort
	}
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = binary.BigEndian.Uint64(src[i*8:])
		if i > 0 && ids[i-1] >= ids[i] {
			return src, errors.New("sketch ids are not sorted")
		}
	}
	s.ids, s.hll = ids, nil
	return src[n*8:], nil
}

// decodeHLL reads an image that may be damaged: the library indexes by what the
// image says, so a panic there is bad input, not a bug of ours.
func decodeHLL(image []byte) (h hll.HllSketch, err error) {
	defer func() {
		if p := recover(); p != nil {
			h, err = nil, fmt.Errorf("sketch image is damaged: %v", p)
		}
	}()
	if len(image) < 8 {
		return nil, errShort
	}
	if image[3] != LgK {
		return nil, fmt.Errorf("sketch image has 2^%d registers, expected 2^%d", image[3], LgK)
	}
	small, err := hll.NewHllSketchFromSlice(slices.Clone(image), true)
	if err != nil {
		return nil, fmt.Errorf("decode sketch: %w", err)
	}
	h, err = small.CopyAs(hll.TgtHllTypeHll8)
	if err != nil {
		return nil, fmt.Errorf("decode sketch: %w", err)
	}
	return h, nil
}
