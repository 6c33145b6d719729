package tsdb

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/sketch"
)

// randomIntervals are some of whole days, whole hours, windows or anything before and
// after now, with gaps or without.
func randomIntervals(r *rand.Rand, now int64) (out []sketch.Interval) {
	unit := []int64{dayMillis, hourMillis, hourMillis, g, 1, 7919}[r.IntN(6)]
	at := floorTo(now+r.Int64N(hourMillis)-r.Int64N([]int64{hourMillis, 2 * dayMillis, 13 * dayMillis}[r.IntN(3)]), unit)
	for range 1 + r.IntN(4) {
		width := unit * (1 + r.Int64N(1+min(30, 3*dayMillis/unit)))
		if unit < hourMillis && r.IntN(2) == 0 {
			width += r.Int64N(2*dayMillis/unit) * unit
		}
		out = append(out, sketch.Interval{Lo: at, Hi: at + width})
		at += width + unit*int64(r.IntN(2)*r.IntN(3))
	}
	return out
}

// modelUnion is what the ids of an interval must count as.
type modelUnion struct {
	ids   modelIDs
	exact bool
	split bool // of more ids than a sketch keeps in a window, which storage may have in parts
	// unknown: of a window of which a retention pass left registers, perhaps in parts.
	unknown bool
}

// unite is the specification of DistinctSeries for one series: hours and days that an
// interval has whole, and that are over, are exact up to sketch.CellExactMax ids,
// windows up to sketch.ExactMax.
func (s *modelSeries) unite(in []sketch.Interval, now int64, into []modelUnion) {
	showsIn := func(w int64) int {
		end := w + g
		if end > now {
			end = min(now, in[len(in)-1].Hi)
		}
		i := slices.IndexFunc(in, func(v sketch.Interval) bool { return v.Lo < end && end <= v.Hi })
		if end <= w {
			return -1
		}
		return i
	}
	cells := map[[2]int64]modelIDs{}
	for w, v := range s.values {
		i := showsIn(w)
		if i < 0 {
			continue
		}
		u := &into[i]
		have, known := v.(modelIDs)
		if !known {
			u.unknown = true
			continue
		}
		cell := [2]int64{w, g}
		for _, span := range []int64{hourMillis, dayMillis} {
			start := floorTo(w, span)
			if start+span <= now && showsIn(start) == i && showsIn(start+span-g) == i {
				cell = [2]int64{start, span}
			}
		}
		if cells[cell] == nil {
			cells[cell] = modelIDs{}
		}
		for id := range have {
			u.ids[id], cells[cell][id] = true, true
		}
		if len(have) > sketch.ExactMax {
			u.exact, u.split = false, true
		}
	}
	for cell, ids := range cells {
		if cell[1] > g && len(ids) > sketch.CellExactMax {
			into[showsIn(cell[0])].exact = false
		}
	}
}

// accepts reports whether a union counts as it must.
func (m *modelUnion) accepts(got *sketch.Union) bool {
	n, err := got.Estimate()
	if m.unknown {
		return err == nil
	}
	if err != nil || got.Exact() != m.exact && !(got.Exact() && m.split) {
		return false
	}
	if got.Exact() {
		return n == float64(len(m.ids))
	}
	if len(m.ids) == 0 {
		return false
	}
	// Of one set there is one estimate, however it is put together.
	var all sketch.Union
	if err := all.Add(m.ids.sketch()); err != nil {
		return false
	}
	all.ToRegisters()
	want, err := all.Estimate()
	return err == nil && n == want
}

// compareDistinct compares what intervals count with the model: every series for
// itself, or all together.
func (m *modelRun) compareDistinct() {
	of := m.tenant()
	now := m.now.Load() / 1e6
	in := randomIntervals(m.r, now)
	together := m.r.IntN(3) == 0
	var series []*modelSeries
	for _, s := range of.data {
		if s.kind == increment.Distinct {
			series = append(series, s)
		}
	}
	slices.SortFunc(series, func(a, b *modelSeries) int { return labels.Compare(a.labels, b.labels) })
	fresh := func() []modelUnion {
		out := make([]modelUnion, len(in))
		for i := range out {
			out[i] = modelUnion{ids: modelIDs{}, exact: true}
		}
		return out
	}
	compare := func(what string, got []sketch.Union, want []modelUnion) {
		for i := range want {
			if !want[i].accepts(&got[i]) {
				n, err := got[i].Estimate()
				m.Fatalf("tenant %s at %d: %s in %v of %v: %v ids, exact %v, %v; want %d, exact %v", of.id, now, what, in[i], in, n, got[i].Exact(), err, len(want[i].ids), want[i].exact)
			}
		}
	}
	ctx := scope.With(context.Background(), scope.Scope{Tenant: of.id, Now: now})
	names := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "(limited_|refused_.*)?users|refused_.*")
	_, err := m.db.DistinctSeries(ctx, in, func(found []sketch.Series) error {
		got, want := make([]sketch.Union, len(in)), fresh()
		for _, s := range found {
			if !together {
				clear(got)
				want = fresh()
			}
			if err := s.Unite(ctx, got); err != nil {
				return err
			}
			i, known := slices.BinarySearchFunc(series, s.Labels, func(s *modelSeries, ls labels.Labels) int { return labels.Compare(s.labels, ls) })
			if !known {
				if !strings.HasPrefix(s.Labels.Get(model.MetricNameLabel), "refused_") {
					m.Fatalf("tenant %s: %s is no series", of.id, s.Labels)
				}
				continue
			}
			series[i].unite(in, now, want)
			series = slices.Delete(series, i, i+1)
			if !together {
				compare(s.Labels.String(), got, want)
			}
		}
		if together {
			compare("all", got, want)
		}
		return nil
	}, names)
	m.must(err)
	for _, s := range series {
		want := fresh()
		s.unite(in, now, want)
		compare(s.labels.String()+", which was not found,", make([]sketch.Union, len(in)), want)
	}
}
