package promql

import (
	"encoding/binary"
	"math"

	"github.com/prometheus/prometheus/model/histogram"

	upstream "github.com/prometheus/prometheus/promql"
)

// appendHistograms appends native histograms of an extent's series:
//
//	number, then of each: steps left out before it, and
//	hint of counter resets, schema (zigzag), threshold and count of zero, count, sum,
//	then of positive buckets, of negative ones and of custom bounds:
//	  number of spans, then offset (zigzag) and length of each; not of bounds
//	  number of values, then the values
//
// All but the numbers are floats: the bits, XORed with those of the one before in the
// same histogram, as in an extent.
func (e *extent) appendHistograms(dst []byte, points []upstream.HPoint) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(points)))
	next := e.steps.start
	for _, p := range points {
		dst = binary.AppendUvarint(dst, uint64((p.T-next)/e.steps.interval))
		next = p.T + e.steps.interval
		dst = appendHistogram(dst, p.H)
	}
	return dst
}

func appendHistogram(dst []byte, h *histogram.FloatHistogram) []byte {
	last := uint64(0)
	float := func(v float64) {
		x := math.Float64bits(v)
		dst = appendXOR(dst, x^last)
		last = x
	}
	floats := func(values []float64) {
		dst = binary.AppendUvarint(dst, uint64(len(values)))
		for _, v := range values {
			float(v)
		}
	}
	spans := func(spans []histogram.Span) {
		dst = binary.AppendUvarint(dst, uint64(len(spans)))
		for _, s := range spans {
			dst = binary.AppendVarint(dst, int64(s.Offset))
			dst = binary.AppendUvarint(dst, uint64(s.Length))
		}
	}
	dst = append(dst, byte(h.CounterResetHint))
	dst = binary.AppendVarint(dst, int64(h.Schema))
	for _, v := range [...]float64{h.ZeroThreshold, h.ZeroCount, h.Count, h.Sum} {
		float(v)
	}
	spans(h.PositiveSpans)
	floats(h.PositiveBuckets)
	spans(h.NegativeSpans)
	floats(h.NegativeBuckets)
	floats(h.CustomValues)
	return dst
}

func (d *extentDecoder) histograms(s *steps) []upstream.HPoint {
	n, steps := d.uvarint(), uint64(s.count())
	if n > steps || n > uint64(len(d.src)) {
		d.fail()
		return nil
	}
	var out []upstream.HPoint
	step := uint64(0)
	for range n {
		skip := d.uvarint()
		if d.failed || skip >= steps-step {
			d.fail()
			return nil
		}
		step += skip
		out = append(out, upstream.HPoint{T: s.at(int(step)), H: d.histogram()})
		step++
	}
	return out
}

func (d *extentDecoder) histogram() *histogram.FloatHistogram {
	last := uint64(0)
	float := func() float64 {
		last ^= d.xor()
		return math.Float64frombits(last)
	}
	floats := func() (out []float64) {
		n := d.uvarint()
		if n > uint64(len(d.src)) {
			d.fail()
			return nil
		}
		for range n {
			out = append(out, float())
		}
		return out
	}
	h := &histogram.FloatHistogram{}
	if hint := d.bytes(1); hint != nil {
		h.CounterResetHint = histogram.CounterResetHint(hint[0])
	}
	h.Schema = d.int32()
	h.ZeroThreshold, h.ZeroCount, h.Count, h.Sum = float(), float(), float(), float()
	h.PositiveSpans, h.PositiveBuckets = d.spans(), floats()
	h.NegativeSpans, h.NegativeBuckets = d.spans(), floats()
	h.CustomValues = floats()
	return h
}

func (d *extentDecoder) spans() (out []histogram.Span) {
	n := d.uvarint()
	if n > uint64(len(d.src)) {
		d.fail()
		return nil
	}
	for range n {
		s := histogram.Span{Offset: d.int32()}
		length := d.uvarint()
		if length > math.MaxUint32 {
			d.fail()
			return nil
		}
		s.Length = uint32(length)
		out = append(out, s)
	}
	return out
}

func (d *extentDecoder) int32() int32 {
	v, n := binary.Varint(d.src)
	if n <= 0 || v != int64(int32(v)) {
		d.fail()
		return 0
	}
	d.src = d.src[n:]
	return int32(v)
}
