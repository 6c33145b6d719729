package promql

import (
	"math"
	"slices"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"
)

// histograms is a function of histograms at work. Native ones become numbers as they
// come; the buckets of classic ones are kept until all have come. What it makes of one
// histogram is upstream's own arithmetic; what it says of all, and how series come
// together, is that of funcHistogramQuantile of upstream's promql/functions.go and
// resetHistograms of its promql/engine.go.
type histograms struct {
	d       *direct
	name    string
	pos     posrange.PositionRange // of the argument
	classic bool                   // buckets are looked at
	of      []histogramValue       // one, or one for each quantile
	label   string                 // that tells quantiles apart

	natives []nativeHistogram
	buckets []classicBuckets
	index   map[string]int // of buckets, by their labels without le
	buf     []byte
	room    int

	annos *annotations.Annotations
	said  []annotations.Annotations // by point
}

// histogramValue is what is asked of a histogram.
type histogramValue struct {
	native  func(h *histogram.FloatHistogram, name string) (float64, annotations.Annotations)
	classic func(i int, name string, b upstream.Buckets) float64
	label   string // the value of the label that tells quantiles apart
}

// nativeHistogram is a series of native histograms, as numbers.
type nativeHistogram struct {
	metric labels.Labels
	f      [][]float64 // by what is asked and point
	said   []pointAnnotations
}

// pointAnnotations are what is said at one point.
type pointAnnotations struct {
	point int
	annos annotations.Annotations
}

// classicBuckets are the series that have the buckets of one classic histogram.
type classicBuckets struct {
	metric labels.Labels // without le
	bounds []float64     // ascending
	f      [][]float64   // by bound and point
}

func newHistograms(d *direct, c *parser.Call, annos *annotations.Annotations) *histograms {
	s := &histograms{
		d: d, name: c.Func.Name, pos: c.Args[ofHistograms[c.Func.Name]].PositionRange(),
		index: make(map[string]int), room: d.maxSamples, annos: annos, said: make([]annotations.Annotations, d.points()),
	}
	arg := func(i int) float64 {
		v, _ := constant(c.Args[i])
		return v
	}
	switch s.name {
	case "histogram_quantile":
		s.quantile(arg(0), c.Args[0])
	case "histogram_quantiles":
		s.label = unparen(c.Args[1]).(*parser.StringLiteral).Val
		for i := range c.Args[2:] {
			s.quantile(arg(i+2), c.Args[i+2])
		}
	case "histogram_fraction":
		s.fraction(arg(0), arg(1))
	default:
		s.number()
	}
	return s
}

// quantile asks for the quantile q, which arg says.
func (s *histograms) quantile(q float64, arg parser.Expr) {
	s.classic = true
	if math.IsNaN(q) || q < 0 || q > 1 {
		for i := range s.said {
			s.said[i].Add(annotations.NewInvalidQuantileWarning(q, arg.PositionRange()))
		}
	}
	s.of = append(s.of, histogramValue{
		label: labels.FormatOpenMetricsFloat(q),
		native: func(h *histogram.FloatHistogram, name string) (float64, annotations.Annotations) {
			return upstream.HistogramQuantile(q, h, name, s.pos)
		},
		classic: func(i int, name string, b upstream.Buckets) float64 {
			v, forced, _, least, greatest, diff := upstream.BucketQuantile(q, b)
			if forced {
				s.said[i].Add(annotations.NewHistogramQuantileForcedMonotonicityInfo(name, s.pos, s.d.evaluatedAt(i), least, greatest, diff))
			}
			return v
		},
	})
}

func (s *histograms) fraction(lower, upper float64) {
	s.classic = true
	s.of = []histogramValue{{
		native: func(h *histogram.FloatHistogram, name string) (float64, annotations.Annotations) {
			return upstream.HistogramFraction(lower, upper, h, name, s.pos)
		},
		classic: func(_ int, _ string, b upstream.Buckets) float64 { return upstream.BucketFraction(lower, upper, b) },
	}}
}

// number asks for what one native histogram says by itself.
func (s *histograms) number() {
	f := upstream.FunctionCalls[s.name]
	var enh upstream.EvalNodeHelper
	in := []upstream.Vector{{{}}}
	s.of = []histogramValue{{native: func(h *histogram.FloatHistogram, _ string) (float64, annotations.Annotations) {
		in[0][0].H = h
		out, annos := f(in, nil, nil, &enh)
		enh.Out = out[:0]
		return out[0].F, annos
	}}}
}

// add takes a row: histograms, numbers of observations up to a bound, or both.
func (s *histograms) add(metric labels.Labels, r *row) error {
	if r.h != nil {
		if err := s.reserve(len(s.of)); err != nil {
			return err
		}
		s.addNative(metric, r)
	}
	if !s.classic || !slices.ContainsFunc(r.f, func(v float64) bool { return !value.IsStaleNaN(v) }) {
		return nil
	}
	le := metric.Get(model.BucketLabel)
	bound, err := strconv.ParseFloat(le, 64)
	if err != nil || math.IsNaN(bound) {
		for i, v := range r.f {
			if !value.IsStaleNaN(v) {
				s.said[i].Add(annotations.NewBadBucketLabelWarning(s.nameOf(metric), le, s.pos))
			}
		}
		return nil
	}
	if err := s.reserve(1); err != nil {
		return err
	}
	s.buf = metric.BytesWithoutLabels(s.buf, model.BucketLabel)
	at, ok := s.index[string(s.buf)]
	if !ok {
		at = len(s.buckets)
		s.index[string(s.buf)] = at
		s.buckets = append(s.buckets, classicBuckets{metric: labels.NewBuilder(metric).Del(model.BucketLabel).Labels()})
	}
	b := &s.buckets[at]
	k := len(b.bounds)
	for k > 0 && b.bounds[k-1] > bound {
		k--
	}
	b.bounds = slices.Insert(b.bounds, k, bound)
	b.f = slices.Insert(b.f, k, slices.Clone(r.f))
	return nil
}

// reserve makes room for rows of values.
func (s *histograms) reserve(rows int) error {
	if s.room -= rows * len(s.said); s.room < 0 {
		return &evaluationError{upstream.ErrTooManySamples(where)}
	}
	return nil
}

func (s *histograms) addNative(metric labels.Labels, r *row) {
	n := nativeHistogram{metric: metric}
	name := s.nameOf(metric)
	for k := range s.of {
		f := make([]float64, len(r.f))
		for i, h := range r.h {
			f[i] = stale
			if h == nil {
				continue
			}
			var annos annotations.Annotations
			if f[i], annos = s.of[k].native(h, name); len(annos) > 0 {
				n.said = append(n.said, pointAnnotations{i, annos})
			}
		}
		n.f = append(n.f, f)
	}
	s.natives = append(s.natives, n)
}

// nameOf is the name of the metric that annotations have: where names are dropped at
// once it is gone when they are made.
func (s *histograms) nameOf(metric labels.Labels) string {
	if !s.d.namesLast {
		return ""
	}
	return metric.Get(model.MetricNameLabel)
}

// flush hands on the native histograms and then the classic ones, each as often as
// something is asked of it.
func (s *histograms) flush(next func(labels.Labels, *row) error) error {
	s.collide()
	counted := s.count()
	for i := range s.natives {
		for _, said := range s.natives[i].said {
			s.said[said.point].Merge(said.annos)
		}
	}
	var merge *merger
	add := next
	if s.sameLabels() {
		merge = newMerger(s.d.maxSamples)
		add = merge.add
	}
	for k := range s.of {
		for i := range s.natives {
			if err := s.hand(s.natives[i].metric, k, s.natives[i].f[k], add); err != nil {
				return err
			}
		}
		for i := range s.buckets {
			if err := s.hand(s.buckets[i].metric, k, counted[k][i], add); err != nil {
				return err
			}
		}
	}
	s.say()
	if merge != nil {
		return merge.flush(next)
	}
	return nil
}

// collide takes away what native and classic histograms of one name and labels have at
// one point.
func (s *histograms) collide() {
	for k := range s.natives {
		n := &s.natives[k]
		s.buf = n.metric.Bytes(s.buf)
		at, ok := s.index[string(s.buf)]
		if !ok {
			continue
		}
		for i, v := range n.f[0] {
			if value.IsStaleNaN(v) {
				continue
			}
			both := false
			for _, f := range s.buckets[at].f {
				both = both || !value.IsStaleNaN(f[i])
				f[i] = stale
			}
			if !both {
				continue
			}
			for _, f := range n.f {
				f[i] = stale
			}
			n.said = slices.DeleteFunc(n.said, func(said pointAnnotations) bool { return said.point == i })
			s.said[i].Add(annotations.NewMixedClassicNativeHistogramsWarning(s.nameOf(n.metric), s.pos))
		}
	}
}

// count returns the values of the classic histograms, by what is asked, histogram and
// point.
func (s *histograms) count() [][][]float64 {
	out := make([][][]float64, len(s.of))
	for k := range out {
		out[k] = make([][]float64, len(s.buckets))
		for g := range out[k] {
			out[k][g] = make([]float64, len(s.said))
		}
	}
	var b upstream.Buckets
	for g := range s.buckets {
		c := &s.buckets[g]
		name := s.nameOf(c.metric)
		for i := range s.said {
			b = b[:0]
			for j, counts := range c.f {
				if !value.IsStaleNaN(counts[i]) {
					b = append(b, upstream.Bucket{UpperBound: c.bounds[j], Count: counts[i]})
				}
			}
			for k, of := range s.of {
				if out[k][g][i] = stale; len(b) > 0 {
					// Of the buckets as those asked before have left them, as the engine has it.
					out[k][g][i] = of.classic(i, name, b)
				}
			}
		}
	}
	return out
}

// resultMetric is the labels of a result.
func (s *histograms) resultMetric(metric labels.Labels, k int) labels.Labels {
	if !s.d.namesLast {
		metric = metric.DropReserved(schema.IsMetadataLabel)
	}
	if s.name != "histogram_quantiles" {
		return metric
	}
	return labels.NewBuilder(metric).Set(s.label, s.of[k].label).Labels()
}

// sameLabels reports whether results have the same labels.
func (s *histograms) sameLabels() bool {
	seen := make(map[uint64]struct{})
	for k := range s.of {
		for i := range len(s.natives) + len(s.buckets) {
			var h uint64
			if i < len(s.natives) {
				h = s.resultMetric(s.natives[i].metric, k).Hash()
			} else {
				h = s.resultMetric(s.buckets[i-len(s.natives)].metric, k).Hash()
			}
			if _, ok := seen[h]; ok {
				return true
			}
			seen[h] = struct{}{}
		}
	}
	return false
}

// hand hands on a row, if it has a value.
func (s *histograms) hand(metric labels.Labels, k int, f []float64, next func(labels.Labels, *row) error) error {
	r := row{f: f, full: true}
	for _, v := range f {
		is := !value.IsStaleNaN(v)
		r.some, r.full = r.some || is, r.full && is
	}
	if !r.some {
		return nil
	}
	return next(s.resultMetric(metric, k), &r)
}

// say adds up what was said at each point in the way of the engine, which at every step
// adds all that was said so far once more: how many samples it counts depends on that.
func (s *histograms) say() {
	var sofar annotations.Annotations
	for _, said := range s.said {
		sofar.Merge(said)
		s.annos.Merge(sofar)
	}
}
