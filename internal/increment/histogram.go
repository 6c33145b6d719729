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

// Hist is an increment of a native histogram with schema Schema. Pos and Neg are
// sorted by index, without repeats and without zero counts.
type Hist struct {
	Zero uint64
	Sum  float64
	Pos  []Bucket
	Neg  []Bucket
}

// Observe counts v, which must be finite.
func (h *Hist) Observe(v float64) {
	h.Sum += v
	switch {
	case math.Abs(v) <= ZeroThreshold:
		h.Zero++
	case v > 0:
		h.Pos = addBucket(h.Pos, BucketIndex(v), 1)
	default:
		h.Neg = addBucket(h.Neg, BucketIndex(-v), 1)
	}
}

// Merge adds o to h; o is not changed and shares no memory with h after.
func (h *Hist) Merge(o *Hist) {
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
	return &Hist{Zero: h.Zero, Sum: h.Sum, Pos: slices.Clone(h.Pos), Neg: slices.Clone(h.Neg)}
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

func addBucket(bs []Bucket, index int32, n uint64) []Bucket {
	i, found := slices.BinarySearchFunc(bs, index, func(b Bucket, i int32) int { return int(b.Index) - int(i) })
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

// Validate checks what a decoder cannot trust. Any sum is valid: those of many
// increments may overflow.
func (h *Hist) Validate() error {
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
