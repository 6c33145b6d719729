package tsdb

import (
	"cmp"
	"slices"

	"github.com/quipudb/quipu/internal/increment"
)

// coarsePoints returns the union of parts as coarse windows in steps of ms: what is in one
// step is merged, its first and last window are kept. Where the buckets of a histogram
// change inside a step, as far as they are known to have followed one another, each of
// them has a window there. It may take over and change the parts; those that were in
// larger steps already stay so.
func coarsePoints(kind increment.Kind, parts []points, step int64) (points, error) {
	all := points{kind: kind, raw: true, step: step}
	for i := range parts {
		p := &parts[i]
		all.step = max(all.step, p.step)
		all.fractions = all.fractions || p.fractions
		all.win = append(all.win, p.win...)
		all.last = append(all.last, p.last...)
		all.value = append(all.value, p.value...)
		all.hist = append(all.hist, p.hist...)
		all.ids = append(all.ids, p.ids...)
	}
	order := make([]int, all.len())
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(all.win[a], all.win[b]) })
	out := points{kind: kind, raw: true, step: all.step, fractions: all.fractions}
	for _, i := range order {
		if !out.mergesInto(&all, i) {
			out.take(&all, i)
			out.last = append(out.last, all.last[i])
			continue
		}
		if err := out.mergeLast(&all, i); err != nil {
			return points{}, err
		}
		n := len(out.last) - 1
		out.last[n] = max(out.last[n], all.last[i])
	}
	return out, nil
}

// mergesInto reports whether the last coarse window of p is to have src's i-th, too.
func (p *points) mergesInto(src *points, i int) bool {
	n := len(p.win) - 1
	if n < 0 || floorTo(p.win[n], p.step) != floorTo(src.win[i], p.step) {
		return false
	}
	return p.kind != increment.Buckets || src.win[i] <= p.last[n] || increment.SameBounds(p.hist[n].Bounds, src.hist[i].Bounds)
}
