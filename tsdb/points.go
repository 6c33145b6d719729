package tsdb

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// points are the increments of one series, one value a window, by ascending
// window start; or its samples, by ascending timestamp. It is the one decoded form
// of data: memtables and chunks are decoded into it, readers merge it, blocks are
// encoded from it.
//
// Each kind uses some of the columns, which are then as long as win:
//
//	counter    value
//	histogram  hist, with buckets or without
//	distinct   ids
//	gauge      value, at
//	sample     value, at (start timestamps), native (nil: value)
type points struct {
	kind   increment.Kind
	win    []int64 // window starts or timestamps, milliseconds since 1970
	value  []float64
	at     []int64
	hist   []*increment.Hist
	ids    []*sketch.Sketch
	native []*increment.Native

	// raw: coarse windows (chunk_coarse.go) are not expanded, as who merges them wants
	// them. Then last has where the last window of the grid in each begins, and step is the
	// largest of their steps in ms; 0: all are windows of the grid.
	raw  bool
	last []int64
	step int64
	// coarse is room for those that are expanded.
	coarse *points

	// thin says where a block left samples out between those of p; nil: nowhere.
	thin *thinnedPart

	// fractions: a chunk of a counter was decoded whose values are not all whole numbers.
	fractions bool
	// bytes is how long the chunks were that the points are of.
	bytes int
}

// reset empties p for series of kind k; it keeps capacity.
func (p *points) reset(k increment.Kind) {
	p.kind, p.fractions, p.bytes, p.step, p.thin = k, false, 0, 0, nil
	p.cut(0, 0)
}

func (p *points) len() int { return len(p.win) }

// cut keeps the points [lo, hi).
func (p *points) cut(lo, hi int) {
	p.win = p.win[lo:hi]
	p.value = cutColumn(p.value, lo, hi)
	p.at = cutColumn(p.at, lo, hi)
	p.hist = cutColumn(p.hist, lo, hi)
	p.ids = cutColumn(p.ids, lo, hi)
	p.native = cutColumn(p.native, lo, hi)
	p.last = cutColumn(p.last, lo, hi)
}

// cutColumn is column[lo:hi], or nothing where the kind does not use it.
func cutColumn[T any](column []T, lo, hi int) []T {
	if len(column) == 0 {
		return column
	}
	return column[lo:hi]
}

// between keeps the points in [mint, maxt).
func (p *points) between(mint, maxt int64) {
	lo, _ := slices.BinarySearch(p.win, mint)
	hi, _ := slices.BinarySearch(p.win, maxt)
	p.cut(lo, max(lo, hi))
}

// take appends src's i-th point without copying its value.
func (p *points) take(src *points, i int) {
	p.win = append(p.win, src.win[i])
	switch p.kind {
	case increment.Counter:
		p.value = append(p.value, src.value[i])
	case increment.Histogram, increment.Buckets:
		p.hist = append(p.hist, src.hist[i])
	case increment.Distinct:
		p.ids = append(p.ids, src.ids[i])
	case increment.Gauge:
		p.value, p.at = append(p.value, src.value[i]), append(p.at, src.at[i])
	case increment.Sample:
		p.value, p.at = append(p.value, src.value[i]), append(p.at, src.at[i])
		p.native = append(p.native, src.native[i])
	}
}

// mergeLast merges src's i-th value into p's last, which it may change. Of samples
// the one of src was written later.
func (p *points) mergeLast(src *points, i int) error {
	last := len(p.win) - 1
	switch p.kind {
	case increment.Counter:
		p.value[last] += src.value[i]
	case increment.Histogram, increment.Buckets:
		p.hist[last].Merge(src.hist[i])
	case increment.Distinct:
		return p.ids[last].Merge(src.ids[i])
	case increment.Gauge:
		if gaugeAfter(src.at[i], src.value[i], p.at[last], p.value[last]) {
			p.value[last], p.at[last] = src.value[i], src.at[i]
		}
	case increment.Sample:
		p.value[last], p.at[last], p.native[last] = src.value[i], src.at[i], unknownReset(src.native[i])
	}
	return nil
}

// gaugeAfter reports whether a gauge's value v at time at stands after another: of
// two values of one time the larger bit pattern does, so that order of arrival does
// not matter.
func gaugeAfter(at int64, v float64, otherAt int64, other float64) bool {
	return cmp.Or(cmp.Compare(at, otherAt), cmp.Compare(math.Float64bits(v), math.Float64bits(other))) > 0
}

// mergePoints returns the union of parts, values of one window merged. Of samples
// of one time the one of the later part stays. It may take over and change the
// parts.
func mergePoints(kind increment.Kind, parts []points) (points, error) {
	parts = slices.DeleteFunc(parts, func(p points) bool { return p.len() == 0 })
	switch len(parts) {
	case 0:
		return points{kind: kind}, nil
	case 1:
		return parts[0], nil
	}
	if kind != increment.Sample {
		slices.SortStableFunc(parts, func(a, b points) int { return cmp.Compare(a.win[0], b.win[0]) })
	}
	out := parts[0]
	for i := 1; i < len(parts); i++ {
		var err error
		if out, err = mergeTwo(out, parts[i]); err != nil {
			return points{}, err
		}
	}
	return out, nil
}

// mergeTwo merges b into a; samples of b were written later.
func mergeTwo(a, b points) (points, error) {
	if a.kind != b.kind {
		return points{}, fmt.Errorf("merge a %s with a %s", a.kind, b.kind)
	}
	if a.win[len(a.win)-1] < b.win[0] { // the usual case: parts follow one another
		if len(b.native) > 0 { // b's first may be cut from what was before it in b
			b.native[0] = unknownReset(b.native[0])
		}
		a.win = append(a.win, b.win...)
		a.value = append(a.value, b.value...)
		a.at = append(a.at, b.at...)
		a.hist = append(a.hist, b.hist...)
		a.ids = append(a.ids, b.ids...)
		a.native = append(a.native, b.native...)
		return a, nil
	}
	out := points{kind: a.kind, win: make([]int64, 0, len(a.win)+len(b.win))}
	fromA := true // the point before
	i, j := 0, 0
	for i < len(a.win) || j < len(b.win) {
		switch {
		case j == len(b.win) || i < len(a.win) && a.win[i] < b.win[j]:
			out.takeFrom(&a, i, !fromA)
			fromA = true
			i++
		case i == len(a.win) || b.win[j] < a.win[i]:
			out.takeFrom(&b, j, fromA)
			fromA = false
			j++
		default:
			out.takeFrom(&a, i, true)
			if err := out.mergeLast(&b, j); err != nil {
				return points{}, err
			}
			fromA = false
			i++
			j++
		}
	}
	return out, nil
}

// takeFrom is take; where other is set the point before it is not that of src.
func (p *points) takeFrom(src *points, i int, other bool) {
	p.take(src, i)
	if last := len(p.native) - 1; other && last >= 0 {
		p.native[last] = unknownReset(p.native[last])
	}
}

// settle sorts points that are in order of writing and merges those of one window.
func (p *points) settle() error {
	if slices.IsSortedFunc(p.win, func(a, b int64) int { return cmp.Compare(a, b+1) }) {
		return nil // strictly ascending
	}
	order := make([]int, len(p.win))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.win[a], p.win[b]) })
	out := points{kind: p.kind, win: make([]int64, 0, len(p.win))}
	for _, i := range order {
		if n := len(out.win); n > 0 && out.win[n-1] == p.win[i] {
			if err := out.mergeLast(p, i); err != nil {
				return err
			}
			continue
		}
		out.take(p, i)
	}
	*p = out
	return nil
}
