package promql

import (
	"container/heap"
	"math"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"
)

// ranked is one value of topk or bottomk and the series that it is of.
type ranked struct {
	v  float64
	of int
}

// ranks is a heap whose first is the one to go: the least, or of bottomk the greatest.
// It is moved about just as the engine's, so that of equals the same stay.
type ranks struct {
	of       []ranked
	greatest bool
}

func (h *ranks) Len() int      { return len(h.of) }
func (h *ranks) Swap(i, j int) { h.of[i], h.of[j] = h.of[j], h.of[i] }
func (h *ranks) Push(x any)    { h.of = append(h.of, x.(ranked)) }

func (h *ranks) Less(i, j int) bool {
	a, b := h.of[i].v, h.of[j].v
	switch {
	case math.IsNaN(a):
		return true
	case h.greatest:
		return a > b
	}
	return a < b
}

func (h *ranks) Pop() any {
	last := h.of[len(h.of)-1]
	h.of = h.of[:len(h.of)-1]
	return last
}

// worse reports whether the first has to go for v.
func (h *ranks) worse(v float64) bool {
	first := h.of[0].v
	if math.IsNaN(first) && !math.IsNaN(v) {
		return true
	}
	if h.greatest {
		return first > v
	}
	return first < v
}

// top is topk or bottomk in progress: of each group and point the k values so far.
type top struct {
	grouping
	n, k   int
	groups [][]ranks
	series []labels.Labels
	annos  *annotations.Annotations
	room   int
}

func (s *top) add(metric labels.Labels, r *row) error {
	g, isNew := s.of(metric)
	if isNew {
		s.groups = append(s.groups, make([]ranks, s.n))
		for i := range s.groups[g] {
			s.groups[g][i].greatest = s.a.Op == parser.BOTTOMK
		}
	}
	me, taken := len(s.series), false
	for i, v := range r.f {
		if r.h != nil && r.h[i] != nil {
			s.annos.Add(annotations.NewHistogramIgnoredInAggregationInfo(s.a.Op.String(), s.a.PosRange))
			continue
		}
		if value.IsStaleNaN(v) {
			continue
		}
		h := &s.groups[g][i]
		switch {
		case h.Len() < s.k:
			if s.room--; s.room < 0 {
				return &evaluationError{upstream.ErrTooManySamples(where)}
			}
			heap.Push(h, ranked{v, me})
		case h.worse(v):
			h.of[0] = ranked{v, me}
			if s.k > 1 {
				heap.Fix(h, 0)
			}
		default:
			continue
		}
		taken = true
	}
	if taken {
		s.series = append(s.series, metric)
	}
	return nil
}

// flush hands on every series that is among the k somewhere. Where there is one point
// they come by rank, as the result of an instant query does.
func (s *top) flush(next func(labels.Labels, *row) error) error {
	rows := make(map[int]*row)
	var order []int
	for g := range s.groups {
		for i := range s.groups[g] {
			h := &s.groups[g][i]
			if h.Len() > 1 {
				sort.Sort(sort.Reverse(h))
			}
			for _, one := range h.of {
				r := rows[one.of]
				if r == nil {
					r = new(row)
					r.reset(s.n)
					for k := range r.f {
						r.f[k] = stale
					}
					rows[one.of] = r
					order = append(order, one.of)
				}
				r.f[i], r.some = one.v, true
			}
		}
	}
	for _, k := range order {
		if err := next(s.series[k], rows[k]); err != nil {
			return err
		}
	}
	return nil
}

// quantiles is quantile in progress: it needs all values.
type quantiles struct {
	grouping
	n      int
	q      float64
	groups [][][]float64
	annos  *annotations.Annotations
	room   int
}

func newQuantiles(by grouping, n int, q float64, annos *annotations.Annotations, room int) *quantiles {
	if math.IsNaN(q) || q < 0 || q > 1 {
		annos.Add(annotations.NewInvalidQuantileWarning(q, by.a.Param.PositionRange()))
	}
	return &quantiles{grouping: by, n: n, q: q, annos: annos, room: room}
}

func (s *quantiles) add(metric labels.Labels, r *row) error {
	g, isNew := s.of(metric)
	if isNew {
		s.groups = append(s.groups, make([][]float64, s.n))
	}
	group := s.groups[g]
	for i, v := range r.f {
		if r.h != nil && r.h[i] != nil {
			s.annos.Add(annotations.NewHistogramIgnoredInAggregationInfo("quantile", s.a.Expr.PositionRange()))
			continue
		}
		if value.IsStaleNaN(v) {
			continue
		}
		if s.room--; s.room < 0 {
			return &evaluationError{upstream.ErrTooManySamples(where)}
		}
		group[i] = append(group[i], v)
	}
	return nil
}

func (s *quantiles) flush(next func(labels.Labels, *row) error) error {
	var r row
	for g, group := range s.groups {
		r.reset(s.n)
		full := true
		for i, v := range group {
			if len(v) == 0 {
				r.f[i], full = stale, false
				continue
			}
			r.f[i], r.some = quantile(s.q, v), true
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

// quantile is upstream's, of promql/quantile.go. It sorts values.
func quantile(q float64, values []float64) float64 {
	switch {
	case math.IsNaN(q):
		return math.NaN()
	case q < 0:
		return math.Inf(-1)
	case q > 1:
		return math.Inf(+1)
	}
	sort.Float64s(values) // NaN first
	n := float64(len(values))
	rank := q * (n - 1)
	lower := math.Max(0, math.Floor(rank))
	upper := math.Min(n-1, lower+1)
	weight := rank - math.Floor(rank)
	if weight == 0 {
		return values[int(lower)]
	}
	return values[int(lower)]*(1-weight) + values[int(upper)]*weight
}
