package promql

import (
	"errors"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/kahansum"

	upstream "github.com/prometheus/prometheus/promql"
)

// cells are sum, avg, min, max, count, group, stddev or stdvar in progress: a cell for
// each group and point. What happens in one is what aggregation of upstream's
// promql/engine.go does at one step.
type cells struct {
	grouping
	n      int
	groups [][]cell
	annos  *annotations.Annotations
	room   int
}

type cell struct {
	value, mean, c float64 // c is the compensation of a sum
	count          float64
	h              *histogramCell

	seen, hasFloat, hasHistogram bool
	incompatible                 bool // histograms that do not fit together
	incremental                  bool // mean is the mean so far: the sum has overflown
}

// histogramCell is what a cell has of histograms.
type histogramCell struct {
	value, mean, c         *histogram.FloatHistogram
	incremental            bool
	resetSeen, noResetSeen bool
}

func (s *cells) add(metric labels.Labels, r *row) error {
	g, isNew := s.of(metric)
	if isNew {
		if s.room -= s.n; s.room < 0 {
			return &evaluationError{upstream.ErrTooManySamples(where)}
		}
		s.groups = append(s.groups, make([]cell, s.n))
	}
	group := s.groups[g]
	for i, v := range r.f {
		if r.h != nil && r.h[i] != nil {
			s.addHistogram(&group[i], r.h[i], metric)
		} else if !value.IsStaleNaN(v) {
			s.addFloat(&group[i], v)
		}
	}
	return nil
}

func (s *cells) addFloat(c *cell, v float64) {
	if !c.seen {
		*c = cell{seen: true, value: v, mean: v, count: 1, hasFloat: true}
		switch s.a.Op {
		case parser.GROUP:
			c.value = 1
		case parser.STDDEV, parser.STDVAR:
			c.value = 0
			if math.IsNaN(v) || math.IsInf(v, 0) {
				c.value = math.NaN()
			}
		}
		return
	}
	if c.incompatible {
		return
	}
	switch s.a.Op {
	case parser.SUM:
		c.hasFloat = true
		c.value, c.c = kahansum.Inc(v, c.value, c.c)
	case parser.AVG:
		c.hasFloat = true
		c.average(v)
	case parser.MAX:
		if c.value < v || math.IsNaN(c.value) {
			c.value = v
		}
	case parser.MIN:
		if c.value > v || math.IsNaN(c.value) {
			c.value = v
		}
	case parser.COUNT:
		c.count++
	case parser.STDDEV, parser.STDVAR: // Welford 1962, doi:10.1080/00401706.1962.10490022
		c.count++
		d := v - c.mean
		c.mean += d / c.count
		c.value += d * (v - c.mean)
	}
}

// average adds a value to a mean: of the sum, or, where that would overflow, step by
// step.
func (c *cell) average(v float64) {
	c.count++
	if !c.incremental {
		sum, comp := kahansum.Inc(v, c.value, c.c)
		if !math.IsInf(sum, 0) {
			c.value, c.c = sum, comp
			return
		}
		c.incremental = true
		c.mean = c.value / (c.count - 1)
		c.c /= c.count - 1
	}
	q := (c.count - 1) / c.count
	c.mean, c.c = kahansum.Inc(v/c.count, q*c.mean, q*c.c)
}

// ignored are the operators that leave histograms out, by name.
var ignored = map[parser.ItemType]string{
	parser.MIN: "min", parser.MAX: "max", parser.STDDEV: "stddev", parser.STDVAR: "stdvar",
}

func (s *cells) addHistogram(c *cell, h *histogram.FloatHistogram, metric labels.Labels) {
	op := s.a.Op
	if name, ok := ignored[op]; ok {
		s.annos.Add(annotations.NewHistogramIgnoredInAggregationInfo(name, s.a.Expr.PositionRange()))
		return
	}
	if !c.seen {
		*c = cell{seen: true, count: 1}
		switch op {
		case parser.GROUP:
			c.value = 1
		case parser.SUM, parser.AVG:
			c.hasHistogram = true
			c.h = &histogramCell{value: h.Copy()}
			c.h.note(h)
		}
		return
	}
	if c.incompatible {
		return
	}
	switch op {
	case parser.COUNT:
		c.count++
	case parser.SUM:
		c.hasHistogram = true
		if c.h != nil { // else there are floats, and will be no value
			c.h.note(h)
			s.join(c, metric, func() (reconciled bool, err error) {
				c.h.c, _, reconciled, err = c.h.value.KahanAdd(h, c.h.c)
				return reconciled, err
			})
		}
	case parser.AVG:
		c.count++
		c.hasHistogram = true
		if c.h != nil {
			c.h.note(h)
		}
		s.averageHistogram(c, h, metric)
	}
}

func (c *histogramCell) note(h *histogram.FloatHistogram) {
	switch h.CounterResetHint {
	case histogram.CounterReset:
		c.resetSeen = true
	case histogram.NotCounterReset:
		c.noResetSeen = true
	}
}

// join does arithmetic with histograms and notes what upstream says of it; whether it
// went well.
func (s *cells) join(c *cell, metric labels.Labels, do func() (reconciled bool, err error)) bool {
	reconciled, err := do()
	if err != nil {
		if !errors.Is(err, histogram.ErrHistogramsIncompatibleSchema) {
			panic(err)
		}
		s.annos.Add(annotations.NewMixedExponentialCustomHistogramsWarning(metric.Get(model.MetricNameLabel), s.a.Expr.PositionRange()))
		c.incompatible = true
	}
	if reconciled {
		s.annos.Add(annotations.NewMismatchedCustomBucketsHistogramsInfo(s.a.Expr.PositionRange(), annotations.HistogramAgg))
	}
	return err == nil
}

func (s *cells) averageHistogram(c *cell, h *histogram.FloatHistogram, metric labels.Labels) {
	if c.h == nil {
		return // there are floats, and will be no value
	}
	if !c.h.incremental {
		sum := c.h.value.Copy()
		var comp *histogram.FloatHistogram
		if c.h.c != nil {
			comp = c.h.c.Copy()
		}
		if !s.join(c, metric, func() (reconciled bool, err error) {
			comp, _, reconciled, err = sum.KahanAdd(h, comp)
			return reconciled, err
		}) {
			return
		}
		if !sum.HasOverflow() {
			c.h.value, c.h.c = sum, comp
			return
		}
		c.h.incremental = true
		c.h.mean = c.h.value.Copy().Div(c.count - 1)
		if c.h.c != nil {
			c.h.c.Div(c.count - 1)
		}
	}
	q := (c.count - 1) / c.count
	if c.h.c != nil {
		c.h.c.Mul(q)
	}
	part := h.Copy().Div(c.count)
	s.join(c, metric, func() (reconciled bool, err error) {
		c.h.c, _, reconciled, err = c.h.mean.Mul(q).KahanAdd(part, c.h.c)
		return reconciled, err
	})
}

func (s *cells) flush(next func(labels.Labels, *row) error) error {
	var r row
	for g, group := range s.groups {
		r.reset(s.n)
		full := true
		for i := range group {
			c := &group[i]
			r.f[i] = stale
			switch h := s.result(c); {
			case h != nil:
				r.histogram(i, h)
				full = false
			case c.seen && !value.IsStaleNaN(c.value):
				r.f[i], r.some = c.value, true
			default:
				full = false
			}
		}
		r.full = full
		if !r.some {
			continue
		}
		if err := next(s.labels[g], &r); err != nil {
			return err
		}
	}
	return nil
}

// result completes c: its value, stale where there is none, or the histogram that is
// returned.
func (s *cells) result(c *cell) *histogram.FloatHistogram {
	if !c.seen {
		return nil
	}
	switch op := s.a.Op; op {
	case parser.SUM, parser.AVG:
		switch {
		case c.hasFloat && c.hasHistogram:
			s.annos.Add(annotations.NewMixedFloatsHistogramsAggWarning(s.a.Expr.PositionRange()))
			c.value = stale
			return nil
		case c.incompatible:
			c.value = stale
			return nil
		case c.hasHistogram:
			if c.h.resetSeen && c.h.noResetSeen {
				s.annos.Add(annotations.NewHistogramCounterResetCollisionWarning(s.a.Expr.PositionRange(), annotations.HistogramAgg))
			}
			return c.h.result(op == parser.AVG, c.count)
		case op == parser.SUM:
			c.value += c.c
		case c.incremental:
			c.value = c.mean + c.c
		default:
			c.value = c.value/c.count + c.c/c.count
		}
	case parser.COUNT:
		c.value = c.count
	case parser.STDVAR:
		c.value /= c.count
	case parser.STDDEV:
		c.value = math.Sqrt(c.value / c.count)
	}
	return nil
}

// result is the sum, or the average of count.
func (c *histogramCell) result(average bool, count float64) *histogram.FloatHistogram {
	out, comp := c.value, c.c
	switch {
	case average && c.incremental:
		out = c.mean
	case average:
		out.Div(count)
		if comp != nil {
			comp.Div(count)
		}
	}
	if comp != nil {
		out, _, _, _ = out.Add(comp) // fits: it was added to
	}
	return out.Compact(0)
}
