package increment

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
)

// Schema is the resolution of native histograms: 2^Schema buckets for every
// power of two, so that a bucket is at most 9.05% wide.
const Schema = 3

// ZeroThreshold is the largest magnitude that counts as zero, the default of
// Prometheus's client libraries.
const ZeroThreshold = 2.938735877055719e-39 // 2^-128

// Bucket is a count under a bucket index of the native exponential schema.
type Bucket struct {
	Index int32
	Count uint64
}

// BoundsMax is the most bounds that a histogram has.
const BoundsMax = 256

// Hist is an increment of a native histogram with schema Schema or, where it has
// Bounds, of one with those. Pos and Neg are sorted by index, without repeats and
// without zero counts.
type Hist struct {
	// Bounds are upper bounds of buckets, inclusive, finite and ascending; bucket i of
	// Pos is up to Bounds[i], the last one past all of them. They are shared and never
	// changed. Neg and Zero are not used then.
	Bounds []float64
	Zero   uint64
	Sum    float64
	Pos    []Bucket
	Neg    []Bucket
}

// Observe counts v, which must be finite.
func (h *Hist) Observe(v float64) {
	h.Sum += v
	switch {
	case h.Bounds != nil:
		h.Pos = addBucket(h.Pos, int32(sort.SearchFloat64s(h.Bounds, v)), 1)
	case math.Abs(v) <= ZeroThreshold:
		h.Zero++
	case v > 0:
		h.Pos = addBucket(h.Pos, BucketIndex(v), 1)
	default:
		h.Neg = addBucket(h.Neg, BucketIndex(-v), 1)
	}
}

// Merge adds o to h; o is not changed and shares no memory with h after, but bounds.
// Histograms of different bounds merge to the bounds that both have: no count is lost,
// and in which order they merge does not matter.
func (h *Hist) Merge(o *Hist) {
	if !SameBounds(h.Bounds, o.Bounds) {
		common := commonBounds(h.Bounds, o.Bounds)
		h.rebucket(common)
		o = o.Clone()
		o.rebucket(common)
	}
	h.Zero += o.Zero
	h.Sum += o.Sum
	for _, b := range o.Pos {
		h.Pos = addBucket(h.Pos, b.Index, b.Count)
	}
	for _, b := range o.Neg {
		h.Neg = addBucket(h.Neg, b.Index, b.Count)
	}
}

// Clone returns a deep copy.
func (h *Hist) Clone() *Hist {
	return &Hist{Bounds: h.Bounds, Zero: h.Zero, Sum: h.Sum, Pos: slices.Clone(h.Pos), Neg: slices.Clone(h.Neg)}
}

// SameBounds reports whether two histograms have the same buckets.
func SameBounds(a, b []float64) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b)
}

// commonBounds are those that both have; not nil.
func commonBounds(a, b []float64) []float64 {
	out := []float64{}
	for _, v := range a {
		if _, ok := slices.BinarySearch(b, v); ok {
			out = append(out, v)
		}
	}
	return out
}

// rebucket changes h to some of its bounds: counts go to the next larger one.
func (h *Hist) rebucket(bounds []float64) {
	old := h.Pos
	h.Pos = nil
	for _, b := range old {
		i := len(bounds)
		if int(b.Index) < len(h.Bounds) {
			i = sort.SearchFloat64s(bounds, h.Bounds[b.Index])
		}
		h.Pos = addBucket(h.Pos, int32(i), b.Count)
	}
	h.Bounds = bounds
}

// UpTo is the number of observations in buckets up to the i-th.
func (h *Hist) UpTo(i int) (n uint64) {
	for _, b := range h.Pos {
		if int(b.Index) <= i {
			n += b.Count
		}
	}
	return n
}

// Count is the number of observations.
func (h *Hist) Count() uint64 {
	n := h.Zero
	for _, b := range h.Pos {
		n += b.Count
	}
	for _, b := range h.Neg {
		n += b.Count
	}
	return n
}

// searchBucket returns where index is in bs, or would be. slices.BinarySearchFunc calls a
// function a step, which was a fiftieth of the time of taking events.
func searchBucket(bs []Bucket, index int32) (at int, found bool) {
	end := len(bs)
	for at < end {
		if mid := int(uint(at+end) >> 1); bs[mid].Index < index {
			at = mid + 1
		} else {
			end = mid
		}
	}
	return at, at < len(bs) && bs[at].Index == index
}

func addBucket(bs []Bucket, index int32, n uint64) []Bucket {
	i, found := searchBucket(bs, index)
	if found {
		bs[i].Count += n
		return bs
	}
	return slices.Insert(bs, i, Bucket{index, n})
}

// bounds are the upper bounds of the 2^Schema buckets in (0.5, 1], taken from
// upstream's table so that a value falls into the bucket upstream's clients
// would count it in.
var bounds = func() []float64 {
	const n = 1 << Schema
	fh := &histogram.FloatHistogram{
		Schema:          Schema,
		PositiveSpans:   []histogram.Span{{Offset: 1 - n, Length: n}},
		PositiveBuckets: make([]float64, n),
	}
	out := make([]float64, 0, n)
	for it := fh.PositiveBucketIterator(); it.Next(); {
		out = append(out, it.At().Upper)
	}
	return out
}()

// BucketIndex returns the index of the bucket that counts v > 0, where bucket i
// spans (2^((i-1)/2^Schema), 2^(i/2^Schema)].
func BucketIndex(v float64) int32 {
	frac, exp := math.Frexp(v) // v = frac * 2^exp, frac in [0.5, 1)
	// bounds[j] is the upper bound of index j+1-len(bounds), so that an exact
	// power of two (frac 0.5) belongs one bucket below bounds[0].
	j := sort.SearchFloat64s(bounds, frac)
	if frac == 0.5 {
		j = -1
	}
	return int32(j+1-len(bounds)) + int32(exp)*int32(len(bounds))
}

// Float returns h as a FloatHistogram with an unknown counter reset hint,
// written into reuse where that is not nil.
func (h *Hist) Float(reuse *histogram.FloatHistogram) *histogram.FloatHistogram {
	f := reuse
	if f == nil {
		f = &histogram.FloatHistogram{}
	}
	*f = histogram.FloatHistogram{
		Schema: Schema, ZeroThreshold: ZeroThreshold, ZeroCount: float64(h.Zero), Sum: h.Sum, Count: float64(h.Count()),
		PositiveSpans: f.PositiveSpans[:0], PositiveBuckets: f.PositiveBuckets[:0],
		NegativeSpans: f.NegativeSpans[:0], NegativeBuckets: f.NegativeBuckets[:0],
	}
	if h.Bounds != nil {
		f.Schema, f.ZeroThreshold, f.CustomValues = histogram.CustomBucketsSchema, 0, h.Bounds
	}
	f.PositiveSpans, f.PositiveBuckets = spans(h.Pos, f.PositiveSpans, f.PositiveBuckets)
	f.NegativeSpans, f.NegativeBuckets = spans(h.Neg, f.NegativeSpans, f.NegativeBuckets)
	return f
}

func spans(bs []Bucket, sp []histogram.Span, counts []float64) ([]histogram.Span, []float64) {
	next := int32(0)
	for i, b := range bs {
		if i > 0 && b.Index == next {
			sp[len(sp)-1].Length++
		} else {
			sp = append(sp, histogram.Span{Offset: b.Index - next, Length: 1})
		}
		next = b.Index + 1
		counts = append(counts, float64(b.Count))
	}
	return sp, counts
}

// ValidateBounds checks the bounds of a histogram's buckets.
func ValidateBounds(bounds []float64) error {
	if len(bounds) > BoundsMax {
		return fmt.Errorf("histogram has %d bounds, at most %d are allowed", len(bounds), BoundsMax)
	}
	for i, v := range bounds {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("histogram has the bound %v", v)
		}
		if i > 0 && v <= bounds[i-1] {
			return fmt.Errorf("histogram has the bound %v after %v", v, bounds[i-1])
		}
	}
	return nil
}

// Validate checks what a decoder cannot trust. Any sum is valid: those of many
// increments may overflow.
func (h *Hist) Validate() error {
	if h.Bounds != nil {
		if err := ValidateBounds(h.Bounds); err != nil {
			return err
		}
		if n := len(h.Pos); len(h.Neg) > 0 || h.Zero > 0 || n > 0 && (h.Pos[0].Index < 0 || int(h.Pos[n-1].Index) > len(h.Bounds)) {
			return fmt.Errorf("histogram has counts outside its %d buckets", len(h.Bounds)+1)
		}
	}
	for _, bs := range [][]Bucket{h.Pos, h.Neg} {
		for i, b := range bs {
			if i > 0 && bs[i-1].Index >= b.Index {
				return fmt.Errorf("histogram bucket index %d follows %d", b.Index, bs[i-1].Index)
			}
			if b.Count == 0 {
				return fmt.Errorf("histogram bucket %d is empty", b.Index)
			}
		}
	}
	return nil
}
