package promql

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"sort"

	"github.com/prometheus/prometheus/model/labels"

	upstream "github.com/prometheus/prometheus/promql"
)

// extent is the values of a range query at consecutive steps.
type extent struct {
	seq   uint64 // of the past.Mark that they were read after
	steps steps
	// samples is how many samples the engine says each step consumes.
	samples []int64
	series  upstream.Matrix // sorted by labels
}

// append appends the extent under its key in the form that the cache holds:
//
//	key               length, bytes
//	seq, first step, interval, number of steps
//	samples           of each step
//	number of series, then of each:
//	  labels          number, then lengths and bytes of names and values
//	  number of points
//	  runs            number, then of each: steps left out before it, steps in it
//	  values          of all runs: the bits, XORed with those of the value before;
//	                  a byte says how many leading and trailing bytes are zero, and
//	                  the others follow
//	  histograms      as appendHistograms has them
//
// Numbers are unsigned varints. No file has this form, so it has no version.
func (e *extent) append(dst, key []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = append(dst, key...)
	dst = binary.AppendUvarint(dst, e.seq)
	dst = binary.AppendUvarint(dst, uint64(e.steps.start))
	dst = binary.AppendUvarint(dst, uint64(e.steps.interval))
	dst = binary.AppendUvarint(dst, uint64(e.steps.count()))
	for _, n := range e.samples {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	dst = binary.AppendUvarint(dst, uint64(len(e.series)))
	for i := range e.series {
		s := &e.series[i]
		dst = binary.AppendUvarint(dst, uint64(s.Metric.Len()))
		s.Metric.Range(func(l labels.Label) {
			dst = appendString(dst, l.Name)
			dst = appendString(dst, l.Value)
		})
		dst = e.appendPoints(dst, s.Floats)
		dst = e.appendHistograms(dst, s.Histograms)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func (e *extent) appendPoints(dst []byte, points []upstream.FPoint) []byte {
	runs := 0
	for i := range points {
		if i == 0 || points[i].T != points[i-1].T+e.steps.interval {
			runs++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(points)))
	dst = binary.AppendUvarint(dst, uint64(runs))
	next := e.steps.start
	for i := 0; i < len(points); {
		j := i + 1
		for j < len(points) && points[j].T == points[j-1].T+e.steps.interval {
			j++
		}
		dst = binary.AppendUvarint(dst, uint64((points[i].T-next)/e.steps.interval))
		dst = binary.AppendUvarint(dst, uint64(j-i))
		next = points[j-1].T + e.steps.interval
		i = j
	}
	last := uint64(0)
	for i := range points {
		v := math.Float64bits(points[i].F)
		dst = appendXOR(dst, v^last)
		last = v
	}
	return dst
}

func appendXOR(dst []byte, x uint64) []byte {
	if x == 0 {
		return append(dst, 8<<4)
	}
	lead, trail := bits.LeadingZeros64(x)/8, bits.TrailingZeros64(x)/8
	dst = append(dst, byte(lead<<4|trail))
	for shift := 64 - 8*(lead+1); shift >= 8*trail; shift -= 8 {
		dst = append(dst, byte(x>>shift))
	}
	return dst
}

// errExtent says that what the cache holds is no extent of the key.
var errExtent = errors.New("what the cache holds is damaged or of another key")

// decode reads what append made for the key. It keeps nothing of src.
func (e *extent) decode(src, key []byte) error {
	d := extentDecoder{src: src}
	if !bytes.Equal(d.bytes(d.uvarint()), key) || d.failed {
		return errExtent
	}
	e.seq = d.uvarint()
	e.steps.start, e.steps.interval = int64(d.uvarint()), int64(d.uvarint())
	n := d.uvarint()
	if d.failed || n == 0 || n > uint64(len(d.src)) || e.steps.start < 0 || e.steps.interval <= 0 ||
		e.steps.interval > farMillis/int64(n) || e.steps.start > farMillis {
		return errExtent
	}
	e.steps.end = e.steps.at(int(n) - 1)
	e.samples = make([]int64, n)
	for i := range e.samples {
		e.samples[i] = int64(d.uvarint())
	}
	count := d.uvarint()
	if d.failed || count > uint64(len(d.src)) {
		return errExtent
	}
	e.series = make(upstream.Matrix, count)
	builder := labels.NewScratchBuilder(8)
	for i := range e.series {
		builder.Reset()
		for range d.uvarint() {
			name := d.bytes(d.uvarint())
			builder.Add(string(name), string(d.bytes(d.uvarint())))
			if d.failed {
				return errExtent
			}
		}
		e.series[i].Metric = builder.Labels()
		e.series[i].Floats = d.points(&e.steps)
		e.series[i].Histograms = d.histograms(&e.steps)
		if d.failed {
			return errExtent
		}
	}
	if len(d.src) > 0 {
		return errExtent
	}
	return nil
}

// extentDecoder reads from src until something is wrong.
type extentDecoder struct {
	src    []byte
	failed bool
}

func (d *extentDecoder) fail() {
	d.failed, d.src = true, nil
}

func (d *extentDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.src)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.src = d.src[n:]
	return v
}

func (d *extentDecoder) bytes(n uint64) []byte {
	if n > uint64(len(d.src)) {
		d.fail()
		return nil
	}
	out := d.src[:n]
	d.src = d.src[n:]
	return out
}

func (d *extentDecoder) points(s *steps) []upstream.FPoint {
	step, steps := uint64(0), uint64(s.count())
	count, runs := d.uvarint(), d.uvarint()
	if count > steps || runs > count || count > uint64(len(d.src)) {
		d.fail()
		return nil
	}
	out := make([]upstream.FPoint, 0, count)
	for range runs {
		skip, n := d.uvarint(), d.uvarint()
		if d.failed || skip > steps-step || n > steps-step-skip || n > count-uint64(len(out)) {
			d.fail()
			return nil
		}
		step += skip
		for range n {
			out = append(out, upstream.FPoint{T: s.at(int(step))})
			step++
		}
	}
	if uint64(len(out)) != count {
		d.fail()
		return nil
	}
	last := uint64(0)
	for i := range out {
		last ^= d.xor()
		out[i].F = math.Float64frombits(last)
	}
	return out
}

func (d *extentDecoder) xor() (x uint64) {
	if len(d.src) == 0 {
		d.fail()
		return 0
	}
	lead, trail := int(d.src[0]>>4), int(d.src[0]&15)
	n := 8 - lead - trail
	switch {
	case n < 0 || len(d.src) < 1+n:
		d.fail()
		return 0
	case len(d.src) >= 9:
		x = binary.BigEndian.Uint64(d.src[1:]) >> (8 * (lead + trail))
	default:
		for _, b := range d.src[1 : 1+n] {
			x = x<<8 | uint64(b)
		}
	}
	d.src = d.src[1+n:]
	return x << (8 * trail)
}

// piece is the points of sorted series from a time up to another, both included.
type piece struct {
	series   upstream.Matrix
	from, to int64
}

// pointsOf are the points of a series that are in p, shared with it.
func (p *piece) pointsOf(s *upstream.Series) upstream.Series {
	floats, hists := s.Floats, s.Histograms
	floats = floats[sort.Search(len(floats), func(i int) bool { return floats[i].T >= p.from }):]
	floats = floats[:sort.Search(len(floats), func(i int) bool { return floats[i].T > p.to })]
	hists = hists[sort.Search(len(hists), func(i int) bool { return hists[i].T >= p.from }):]
	hists = hists[:sort.Search(len(hists), func(i int) bool { return hists[i].T > p.to })]
	return upstream.Series{Metric: s.Metric, Floats: floats, Histograms: hists}
}

// join puts pieces, which are in the order of time, together. The result shares no
// points and histograms with them, which the engine uses again, and has no series without a point.
func join(pieces []piece) upstream.Matrix {
	at := make([]int, len(pieces))
	var out upstream.Matrix
	for {
		var least *labels.Labels
		for i, p := range pieces {
			if at[i] < len(p.series) && (least == nil || labels.Compare(p.series[at[i]].Metric, *least) < 0) {
				least = &p.series[at[i]].Metric
			}
		}
		if least == nil {
			return out
		}
		s := upstream.Series{Metric: *least}
		for i := range pieces {
			p := &pieces[i]
			if at[i] == len(p.series) || !labels.Equal(p.series[at[i]].Metric, s.Metric) {
				continue
			}
			part := p.pointsOf(&p.series[at[i]])
			at[i]++
			s.Floats = append(s.Floats, part.Floats...)
			for _, p := range part.Histograms {
				s.Histograms = append(s.Histograms, upstream.HPoint{T: p.T, H: p.H.Copy()})
			}
		}
		if len(s.Floats)+len(s.Histograms) > 0 {
			out = append(out, s)
		}
	}
}
