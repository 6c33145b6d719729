package tsdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// modelKind is what the model must know of a kind. A window's value is never changed,
// so that copies of the model may share it.
type modelKind struct {
	kind increment.Kind
	name string // of its metric
	// fill gives an increment of a window a random value.
	fill func(r *rand.Rand, inc *increment.Increment)
	// merge is the window's value after an increment; have is nil for the first.
	merge func(have any, inc *increment.Increment) any
	// same reports whether a stored point has the value.
	same func(want any, p *points, i int) bool
}

// modelKinds are all kinds.
var modelKinds = [...]modelKind{
	{increment.Counter, "events_total", fillCount, mergeCount, sameCount},
	{increment.Histogram, "latency", fillHist, mergeHist, sameHist},
	{increment.Buckets, "load_seconds", fillBuckets, mergeBuckets, sameBounds},
	{increment.Distinct, "users", fillIDs, mergeIDs, sameIDs},
	{increment.Gauge, "temperature", fillGauge, mergeGauge, sameGauge},
	{increment.Sample, "scraped", fillSample, mergeSample, sameSample},
}

func kindModel(k increment.Kind) *modelKind {
	i := slices.IndexFunc(modelKinds[:], func(m modelKind) bool { return m.kind == k })
	return &modelKinds[i]
}

// fillCount gives values whose sums are exact.
func fillCount(r *rand.Rand, inc *increment.Increment) {
	switch r.IntN(10) {
	case 0:
		inc.Value = float64(r.IntN(1000)) / 4
	case 1:
		inc.Value = float64(r.IntN(1 << 40))
	default:
		inc.Value = float64(r.IntN(4))
	}
}

func mergeCount(have any, inc *increment.Increment) any {
	sum, _ := have.(float64)
	return sum + inc.Value
}

func sameCount(want any, p *points, i int) bool { return p.value[i] == want }

func fillHist(r *rand.Rand, inc *increment.Increment) {
	inc.Hist = &increment.Hist{}
	for range 1 + r.IntN(3) {
		inc.Hist.Observe(float64(r.IntN(200) - 20))
	}
}

// modelHist counts observations by bucket, those of negative values apart.
type modelHist struct {
	zero     uint64
	sum      float64
	pos, neg map[int32]uint64
}

func mergeHist(have any, inc *increment.Increment) any {
	next := modelHist{zero: inc.Hist.Zero, sum: inc.Hist.Sum, pos: map[int32]uint64{}, neg: map[int32]uint64{}}
	add := func(to map[int32]uint64, bs []increment.Bucket) {
		for _, b := range bs {
			to[b.Index] += b.Count
		}
	}
	if h, ok := have.(modelHist); ok {
		next.zero, next.sum = next.zero+h.zero, next.sum+h.sum
		for i, n := range h.pos {
			next.pos[i] += n
		}
		for i, n := range h.neg {
			next.neg[i] += n
		}
	}
	add(next.pos, inc.Hist.Pos)
	add(next.neg, inc.Hist.Neg)
	return next
}

func sameHist(want any, p *points, i int) bool {
	h, w := p.hist[i], want.(modelHist)
	same := func(bs []increment.Bucket, want map[int32]uint64) bool {
		return len(bs) == len(want) && !slices.ContainsFunc(bs, func(b increment.Bucket) bool { return want[b.Index] != b.Count })
	}
	return h.Zero == w.zero && h.Sum == w.sum && same(h.Pos, w.pos) && same(h.Neg, w.neg)
}

// modelBuckets are the observations of a window and the bounds that all of it had.
type modelBuckets struct {
	bounds []float64
	seen   []float64
}

// fillBuckets changes the bounds now and then.
func fillBuckets(r *rand.Rand, inc *increment.Increment) {
	inc.Hist = &increment.Hist{Bounds: []float64{1, 2, 5}}
	if r.IntN(8) == 0 {
		inc.Hist.Bounds = []float64{1, 3, 5, 8}
	}
	for range 1 + r.IntN(3) {
		inc.Hist.Observe(float64(r.IntN(10)))
	}
}

func mergeBuckets(have any, inc *increment.Increment) any {
	next := modelBuckets{bounds: inc.Hist.Bounds}
	if b, ok := have.(modelBuckets); ok {
		next.bounds = slices.DeleteFunc(slices.Clone(next.bounds), func(v float64) bool { return !slices.Contains(b.bounds, v) })
		next.seen = slices.Clone(b.seen)
	}
	for _, b := range inc.Hist.Pos { // one that a bucket could have counted
		v := math.Inf(1)
		if int(b.Index) < len(inc.Hist.Bounds) {
			v = inc.Hist.Bounds[b.Index]
		}
		next.seen = append(next.seen, slices.Repeat([]float64{v}, int(b.Count))...)
	}
	return next
}

func sameBounds(want any, p *points, i int) bool {
	h, w := p.hist[i], want.(modelBuckets)
	if !slices.Equal(h.Bounds, w.bounds) || h.Count() != uint64(len(w.seen)) {
		return false
	}
	for j, bound := range w.bounds {
		n := uint64(0)
		for _, v := range w.seen {
			if v <= bound {
				n++
			}
		}
		if h.UpTo(j) != n {
			return false
		}
	}
	return true
}

// fillIDs gives ids that come again and again, so that unions of hours are worth having,
// and seldom more than a sketch keeps one by one.
func fillIDs(r *rand.Rand, inc *increment.Increment) {
	n, of := 1+r.IntN(3), uint64(20)
	if r.IntN(200) == 0 {
		n, of = sketch.ExactMax/2+r.IntN(sketch.ExactMax), 5000
	}
	inc.IDs = make([]uint64, n)
	for i := range inc.IDs {
		inc.IDs[i] = (1 + r.Uint64N(of)) * 0x9e3779b97f4a7c15
	}
}

// modelIDs are the ids of a window.
type modelIDs map[uint64]bool

// storedIDs are the ids of a sketch, or where it has registers the sketch itself.
func storedIDs(s *sketch.Sketch) any {
	if !s.Exact() {
		return s
	}
	enc, err := s.Append(nil)
	if err != nil {
		panic(err)
	}
	ids := modelIDs{}
	_, n := binary.Uvarint(enc)
	for enc = enc[n:]; len(enc) > 0; enc = enc[8:] {
		ids[binary.BigEndian.Uint64(enc)] = true
	}
	return ids
}

func mergeIDs(have any, inc *increment.Increment) any {
	if s, ok := have.(*sketch.Sketch); ok {
		next, err := s.Clone()
		if err = errors.Join(err, next.Add(inc.IDs...)); err != nil {
			panic(err)
		}
		return &next
	}
	next := modelIDs{}
	if ids, ok := have.(modelIDs); ok {
		next = maps.Clone(ids)
	}
	for _, id := range inc.IDs {
		next[id] = true
	}
	return next
}

func (ids modelIDs) sketch() *sketch.Sketch {
	s := &sketch.Sketch{}
	if err := s.Add(slices.Collect(maps.Keys(ids))...); err != nil {
		panic(err)
	}
	return s
}

// sameIDs compares estimates past what is exact, where encodings also say how they
// came about.
func sameIDs(want any, p *points, i int) bool {
	got := p.ids[i]
	w, ok := want.(*sketch.Sketch)
	if !ok {
		w = want.(modelIDs).sketch()
	}
	if w.Exact() {
		a, err := w.Append(nil)
		b, err2 := got.Append(nil)
		return err == nil && err2 == nil && bytes.Equal(a, b)
	}
	a, err := w.Estimate()
	b, err2 := got.Estimate()
	return err == nil && err2 == nil && a == b && !got.Exact()
}

// modelValue is a value at a time.
type modelValue struct {
	at     int64
	bits   uint64
	native *histogram.Histogram
	float  *histogram.FloatHistogram
}

// fillGauge gives values of few times, so that some have the same.
func fillGauge(r *rand.Rand, inc *increment.Increment) {
	inc.At = inc.Time + r.Int64N(g/1000)*1000
	inc.Value = []float64{0, -1, math.NaN(), math.Inf(-1), r.NormFloat64(), float64(r.IntN(5))}[r.IntN(6)]
}

func mergeGauge(have any, inc *increment.Increment) any {
	next := modelValue{at: inc.At, bits: math.Float64bits(inc.Value)}
	if v, ok := have.(modelValue); ok && (v.at > next.at || v.at == next.at && v.bits > next.bits) {
		return v
	}
	return next
}

func sameGauge(want any, p *points, i int) bool {
	w := want.(modelValue)
	return p.at[i] == w.at && math.Float64bits(p.value[i]) == w.bits
}

func fillSample(r *rand.Rand, inc *increment.Increment) {
	inc.Time += r.Int64N(3) * 7
	inc.Value = float64(r.IntN(100)) / 3
	if r.IntN(3) == 0 {
		inc.At = inc.Time - r.Int64N(1000)
	}
	var h increment.Hist
	h.Observe(float64(1 + r.IntN(100)))
	f := h.Float(nil)
	switch r.IntN(6) {
	case 0:
		inc.Value, inc.Native = 0, &increment.Native{Float: f}
	case 1:
		inc.Value, inc.Native = 0, &increment.Native{Int: &histogram.Histogram{
			Schema: f.Schema, ZeroThreshold: f.ZeroThreshold, Count: 1, Sum: f.Sum,
			PositiveSpans: f.PositiveSpans, PositiveBuckets: []int64{1},
		}}
	}
}

func mergeSample(_ any, inc *increment.Increment) any {
	v := modelValue{at: inc.At, bits: math.Float64bits(inc.Value)}
	if inc.Native != nil {
		v.native, v.float = inc.Native.Int, inc.Native.Float
	}
	return v
}

func sameSample(want any, p *points, i int) bool {
	w, n := want.(modelValue), p.native[i]
	if n == nil {
		n = &increment.Native{}
	}
	return p.at[i] == w.at && math.Float64bits(p.value[i]) == w.bits && sameNative(n, w)
}

// sameNative leaves hints of counter resets out: they depend on the sample before.
func sameNative(n *increment.Native, w modelValue) bool {
	if n.Float != nil && w.float != nil {
		return n.Float.Equals(w.float)
	}
	return n.Float == nil && w.float == nil && (n.Int == nil) == (w.native == nil) && (n.Int == nil || n.Int.Equals(w.native))
}
