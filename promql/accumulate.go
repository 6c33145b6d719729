package promql

import (
	"cmp"
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/column"
)

// errNotSimple says that an aggregation is not one of plain floats, and must be done
// in order.
var errNotSimple = errors.New("not a simple aggregation")

// accumulation is sum, avg, min, max, count or group of floats, where the order of
// series does not matter: each goroutine adds rows to accumulators of its own, or is
// the only one with series of a group.
type accumulation struct {
	d       *direct
	op      parser.ItemType
	n       int
	groups  *grouping
	groupOf []int32 // by series
	order   []int32 // in which series are read; nil: their own
	workers int
	// owner is the goroutine that has all series of a group; nil: groups are shared and
	// added up at the end.
	owner []int32
}

// newAccumulation returns nil where d's first aggregation is none of these, or is not of
// series that the function leaves as they are.
func newAccumulation(ctx context.Context, d *direct, set column.Set) (*accumulation, error) {
	if len(d.layers) == 0 || d.layers[0].aggregate == nil {
		return nil, nil
	}
	first := d.layers[0].aggregate
	a := &accumulation{d: d, op: first.Op, n: d.points()}
	switch a.op {
	case parser.SUM, parser.AVG, parser.MIN, parser.MAX, parser.COUNT, parser.GROUP:
	default:
		return nil, nil
	}
	if d.sameLabels(set) {
		return nil, nil
	}
	g := newGrouping(first)
	if d.dropsName() { // what is dropped is not grouped by
		g.names = slices.DeleteFunc(g.names, func(name string) bool { return !g.a.Without && isMetadata(name) })
	}
	a.groups, a.groupOf = &g, make([]int32, set.Len())
	sizes, err := a.assign(ctx, set)
	if err != nil {
		return nil, err
	}
	if o, ok := set.(column.Ordered); ok {
		a.order = o.Order()
	}
	a.divide(sizes)
	return a, nil
}

// assign sets the groups of all series and returns how many each has.
func (a *accumulation) assign(ctx context.Context, set column.Set) (sizes []int, err error) {
	var known []int32 // the group of each label set, plus 1
	alike, ok := set.(column.Alike)
	if ok {
		known = make([]int32, alike.LabelSets())
	}
	for i := range a.groupOf {
		if i%1024 == 0 {
			if err := stopped(ctx); err != nil {
				return nil, err
			}
		}
		var of *int32
		if len(known) > 0 {
			if of = &known[alike.LabelSet(i)]; *of > 0 {
				a.groupOf[i] = *of - 1
				sizes[*of-1]++
				continue
			}
		}
		k, isNew := a.groups.of(set.Labels(i))
		if isNew {
			sizes = append(sizes, 0)
		}
		sizes[k]++
		a.groupOf[i] = int32(k)
		if of != nil {
			*of = int32(k) + 1
		}
	}
	return sizes, nil
}

// divide gives each goroutine its share. Shares do not depend on how goroutines are
// scheduled, so neither does the result.
func (a *accumulation) divide(sizes []int) {
	a.workers = runtime.GOMAXPROCS(0)
	if len(a.groupOf)*a.n < smallWork {
		a.workers = 1
		return
	}
	const few = 1 << 20 // accumulators that may be there twice
	largest := slices.Max(sizes)
	if a.workers == 1 || len(sizes)*a.n*a.workers <= few && (a.order != nil || largest*a.workers*4 > len(a.groupOf)) {
		return
	}
	order := make([]int, len(sizes)) // the largest first
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(sizes[j], sizes[i]) })
	a.owner = make([]int32, len(sizes))
	load := make([]int, a.workers)
	for _, g := range order {
		w := 0
		for k := range load {
			if load[k] < load[w] {
				w = k
			}
		}
		a.owner[g] = int32(w)
		load[w] += sizes[g]
	}
}

// sums are the accumulators of one goroutine.
type sums struct {
	op     parser.ItemType
	n      int
	groups []*group // by number; nil: nothing yet
}

// group is the accumulators of one group, by point.
type group struct {
	first int // the first series with a value
	full  int // rows that had a value at every point
	// count are the values of the other rows; nil: there were none.
	count []int32
	sum   []float64 // or the least, the greatest
	c     []float64 // compensation of the sums
}

func (a *accumulation) run(ctx context.Context, set column.Set, sink *output) (annotations.Annotations, error) {
	if len(a.groups.index)*a.n > a.d.maxSamples {
		return nil, &evaluationError{upstream.ErrTooManySamples(where)}
	}
	evaluators := make([]*evaluator, a.workers)
	parts := make([]*sums, a.workers)
	errs := make([]error, a.workers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for w := range a.workers {
		evaluators[w] = newEvaluator(a.d)
		parts[w] = &sums{op: a.op, n: a.n, groups: make([]*group, len(a.groups.index))}
		wg.Go(func() {
			if errs[w] = a.work(ctx, set, w, evaluators[w], parts[w]); errs[w] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	var annos annotations.Annotations
	for _, e := range evaluators {
		annos.Merge(e.annos)
		e.finish()
	}
	if err := firstError(errs); err != nil {
		return annos, err
	}
	total := parts[0]
	for _, p := range parts[1:] {
		total.merge(p)
	}
	a.d.stats.groups = len(total.groups)
	said := make([]annotations.Annotations, len(a.d.layers))
	err := a.flush(total, sink, said)
	for _, more := range said { // of the same the last stands
		annos.Merge(more)
	}
	return annos, err
}

// firstError prefers what went wrong to what was stopped for it.
func firstError(errs []error) error {
	var out error
	for _, err := range errs {
		if out == nil || err != nil && errors.Is(out, upstream.ErrQueryCanceled(where)) {
			out = err
		}
	}
	return out
}

// strip is how many neighbouring series one goroutine takes at a time where groups are
// shared: they lie beside each other in storage.
const strip = 64

// work adds the share of goroutine w.
func (a *accumulation) work(ctx context.Context, set column.Set, w int, e *evaluator, s *sums) error {
	var r row
	for lo := 0; lo < len(a.groupOf); lo += strip {
		if a.owner == nil && lo/strip%a.workers != w {
			continue
		}
		err := set.Reading(func() error {
			for i := lo; i < min(lo+strip, len(a.groupOf)); i++ {
				at := i
				if a.order != nil {
					at = int(a.order[i])
				}
				g := a.groupOf[at]
				if a.owner != nil && a.owner[g] != int32(w) {
					continue
				}
				if err := e.checked(ctx, set, at, &r); err != nil {
					return err
				}
				if r.h != nil {
					return errNotSimple
				}
				if r.some {
					s.add(int(g), at, &r)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sums) add(g, series int, r *row) {
	to := s.groups[g]
	if to == nil {
		to = &group{first: series}
		s.groups[g] = to
	}
	to.first = min(to.first, series)
	if to.sum == nil && s.op != parser.COUNT && s.op != parser.GROUP {
		to.sum = make([]float64, s.n)
		switch s.op {
		case parser.SUM, parser.AVG:
			to.c = make([]float64, s.n)
		default:
			for i := range to.sum {
				to.sum[i] = math.NaN()
			}
		}
	}
	if r.full {
		to.full++
	} else {
		to.countValues(r.f)
	}
	switch s.op {
	case parser.SUM, parser.AVG:
		if r.full {
			addAll(to.sum, to.c, r.f)
		} else {
			addSome(to.sum, to.c, r.f)
		}
	case parser.MIN:
		for i, v := range r.f {
			if (v < to.sum[i] || math.IsNaN(to.sum[i])) && !value.IsStaleNaN(v) {
				to.sum[i] = v
			}
		}
	case parser.MAX:
		for i, v := range r.f {
			if (v > to.sum[i] || math.IsNaN(to.sum[i])) && !value.IsStaleNaN(v) {
				to.sum[i] = v
			}
		}
	}
}

// countValues counts the values of a row that has gaps.
func (g *group) countValues(f []float64) {
	if g.count == nil {
		g.count = make([]int32, len(f))
	}
	for i, v := range f {
		if !value.IsStaleNaN(v) {
			g.count[i]++
		}
	}
}

// addAll adds v to sums with their compensation c, which is exact (Knuth, TAOCP 4.2.2,
// theorem B): without a branch, and so several times faster than Neumaier's.
func addAll(sum, c, v []float64) {
	sum, c = sum[:len(v)], c[:len(v)]
	for i, x := range v {
		s := sum[i]
		t := s + x
		b := t - s
		c[i] += (s - (t - b)) + (x - b)
		sum[i] = t
	}
}

// addSome is addAll of a row with gaps.
func addSome(sum, c, v []float64) {
	for i, x := range v {
		if value.IsStaleNaN(x) {
			continue
		}
		s := sum[i]
		t := s + x
		b := t - s
		c[i] += (s - (t - b)) + (x - b)
		sum[i] = t
	}
}

// merge adds what another goroutine has.
func (s *sums) merge(o *sums) {
	for g, from := range o.groups {
		to := s.groups[g]
		switch {
		case from == nil:
			continue
		case to == nil:
			s.groups[g] = from
			continue
		}
		to.first = min(to.first, from.first)
		to.full += from.full
		if to.count == nil {
			to.count = from.count
		} else {
			for i, n := range from.count {
				to.count[i] += n
			}
		}
		switch s.op {
		case parser.SUM, parser.AVG:
			addAll(to.sum, to.c, from.sum)
			for i, c := range from.c {
				to.c[i] += c
			}
		case parser.MIN:
			for i, v := range from.sum {
				if v < to.sum[i] || math.IsNaN(to.sum[i]) {
					to.sum[i] = v
				}
			}
		case parser.MAX:
			for i, v := range from.sum {
				if v > to.sum[i] || math.IsNaN(to.sum[i]) {
					to.sum[i] = v
				}
			}
		}
	}
}

// flush hands the groups on, in the order of their first series with a value, as the
// engine does.
func (a *accumulation) flush(s *sums, sink *output, said []annotations.Annotations) error {
	var order []int
	for g, one := range s.groups {
		if one != nil {
			order = append(order, g)
		}
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(s.groups[i].first, s.groups[j].first) })
	rest, finish := a.rest(sink, said)
	var r row
	for _, g := range order {
		if err := s.result(s.groups[g], &r); err != nil {
			return err
		}
		if err := rest(a.groups.labels[g], &r); err != nil {
			return err
		}
	}
	return finish()
}

// rest returns where results go: through the layers over the first, then to the
// sink; and what is to be called at the end. What they say of it is put into said.
func (a *accumulation) rest(sink *output, said []annotations.Annotations) (add func(labels.Labels, *row) error, finish func() error) {
	add, finish = sink.add, func() error { return nil }
	for i := len(a.d.layers) - 1; i > 0; i-- {
		s, next, after := newStage(a.d, a.d.layers[i], &said[i]), add, finish
		add = s.add
		finish = func() error {
			if err := s.flush(next); err != nil {
				return err
			}
			return after()
		}
	}
	return add, finish
}

// result sets r to the values of a group.
func (s *sums) result(g *group, r *row) error {
	r.reset(s.n)
	r.some, r.full = true, true
	for i := range r.f {
		count := g.full
		if g.count != nil {
			count += int(g.count[i])
		}
		if count == 0 {
			r.f[i], r.full = stale, false
			continue
		}
		switch s.op {
		case parser.COUNT:
			r.f[i] = float64(count)
		case parser.GROUP:
			r.f[i] = 1
		case parser.MIN, parser.MAX:
			r.f[i] = g.sum[i]
		case parser.SUM:
			r.f[i] = g.sum[i] + finite(g.c[i], g.sum[i])
		case parser.AVG:
			if math.IsInf(g.sum[i], 0) {
				return errNotSimple // the engine has a way around the overflow
			}
			r.f[i] = g.sum[i]/float64(count) + finite(g.c[i], g.sum[i])/float64(count)
		}
	}
	return nil
}

// finite is the compensation of a sum, 0 of one that is not finite.
func finite(c, sum float64) float64 {
	if math.IsInf(sum, 0) || math.IsNaN(c) && !math.IsNaN(sum) {
		return 0
	}
	return c
}
