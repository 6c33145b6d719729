package tsdb

import (
	"fmt"
	"slices"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// points are the increments of one series, one value a window, by ascending
// window start. Exactly one of count, hist and ids is used, by kind, and is as
// long as win. It is the one in-memory form of data: memtables grow it, chunks
// encode and decode it, readers merge it.
type points struct {
	kind  increment.Kind
	win   []int64 // window starts, milliseconds since 1970
	count []float64
	hist  []*increment.Hist
	ids   []*sketch.Sketch
}

// reset empties p for series of kind k; it keeps capacity.
func (p *points) reset(k increment.Kind) {
	p.kind = k
	p.win, p.count, p.hist, p.ids = p.win[:0], p.count[:0], p.hist[:0], p.ids[:0]
}

func (p *points) len() int { return len(p.win) }

// add merges one increment into its window and returns by about how many bytes
// p grew.
func (p *points) add(inc *increment.Increment) (grown int, err error) {
	i := len(p.win)
	found := false
	if i > 0 && inc.Time <= p.win[i-1] {
		i, found = slices.BinarySearch(p.win, inc.Time)
	}
	if !found {
		p.win = slices.Insert(p.win, i, inc.Time)
		grown += 8
	}
	switch p.kind {
	case increment.Counter:
		if !found {
			p.count = slices.Insert(p.count, i, 0)
			grown += 8
		}
		p.count[i] += inc.Count
	case increment.Histogram:
		if !found {
			p.hist = slices.Insert(p.hist, i, &increment.Hist{})
			grown += 64
		}
		before := len(p.hist[i].Pos) + len(p.hist[i].Neg)
		p.hist[i].Merge(inc.Hist)
		grown += 16 * (len(p.hist[i].Pos) + len(p.hist[i].Neg) - before)
	case increment.Distinct:
		if !found {
			p.ids = slices.Insert(p.ids, i, &sketch.Sketch{})
			grown += 48
		}
		before := p.ids[i].Bytes()
		if len(inc.Sketch) > 0 {
			err = p.ids[i].MergeEncoded(inc.Sketch)
		} else {
			err = p.ids[i].Add(inc.IDs...)
		}
		grown += p.ids[i].Bytes() - before
	default:
		err = fmt.Errorf("increment of unknown kind %d", p.kind)
	}
	return grown, err
}

// appendRange appends deep copies of those of src's points whose windows start
// in [mint, maxt); they must all be after p's.
func (p *points) appendRange(src *points, mint, maxt int64) error {
	lo, _ := slices.BinarySearch(src.win, mint)
	hi, _ := slices.BinarySearch(src.win, maxt)
	p.win = append(p.win, src.win[lo:hi]...)
	switch p.kind {
	case increment.Counter:
		p.count = append(p.count, src.count[lo:hi]...)
	case increment.Histogram:
		for _, h := range src.hist[lo:hi] {
			p.hist = append(p.hist, h.Clone())
		}
	case increment.Distinct:
		for _, s := range src.ids[lo:hi] {
			c, err := s.Clone()
			if err != nil {
				return err
			}
			p.ids = append(p.ids, &c)
		}
	}
	return nil
}

// mergePoints returns the union of parts, values of one window merged. It may
// take over and change the parts.
func mergePoints(kind increment.Kind, parts []points) (points, error) {
	parts = slices.DeleteFunc(parts, func(p points) bool { return p.len() == 0 })
	switch len(parts) {
	case 0:
		return points{kind: kind}, nil
	case 1:
		return parts[0], nil
	}
	slices.SortStableFunc(parts, func(a, b points) int { return int(min(max(a.win[0]-b.win[0], -1), 1)) })
	out := parts[0]
	for i := 1; i < len(parts); i++ {
		var err error
		if out, err = mergeTwo(out, parts[i]); err != nil {
			return points{}, err
		}
	}
	return out, nil
}

func mergeTwo(a, b points) (points, error) {
	if a.kind != b.kind {
		return points{}, fmt.Errorf("merge a %s with a %s", a.kind, b.kind)
	}
	if a.win[len(a.win)-1] < b.win[0] { // the usual case: parts follow one another
		a.win = append(a.win, b.win...)
		a.count = append(a.count, b.count...)
		a.hist = append(a.hist, b.hist...)
		a.ids = append(a.ids, b.ids...)
		return a, nil
	}
	out := points{kind: a.kind, win: make([]int64, 0, len(a.win)+len(b.win))}
	i, j := 0, 0
	for i < len(a.win) || j < len(b.win) {
		switch {
		case j == len(b.win) || i < len(a.win) && a.win[i] < b.win[j]:
			out.take(&a, i)
			i++
		case i == len(a.win) || b.win[j] < a.win[i]:
			out.take(&b, j)
			j++
		default:
			out.take(&a, i)
			if err := out.mergeLast(&b, j); err != nil {
				return points{}, err
			}
			i++
			j++
		}
	}
	return out, nil
}

// take appends src's i-th point without copying its value.
func (p *points) take(src *points, i int) {
	p.win = append(p.win, src.win[i])
	switch p.kind {
	case increment.Counter:
		p.count = append(p.count, src.count[i])
	case increment.Histogram:
		p.hist = append(p.hist, src.hist[i])
	case increment.Distinct:
		p.ids = append(p.ids, src.ids[i])
	}
}

// mergeLast merges src's i-th value into p's last.
func (p *points) mergeLast(src *points, i int) error {
	last := len(p.win) - 1
	switch p.kind {
	case increment.Counter:
		p.count[last] += src.count[i]
	case increment.Histogram:
		p.hist[last].Merge(src.hist[i])
	case increment.Distinct:
		return p.ids[last].Merge(src.ids[i])
	}
	return nil
}
