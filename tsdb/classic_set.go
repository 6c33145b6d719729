package tsdb

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

// classicBuilder makes the classic series of the histograms that a query selects.
type classicBuilder struct {
	query *classicQuery
	keep  []string // the only labels that are wanted; nil: all
	lb    *labels.Builder

	// Of the last histogram: most have the bounds of the one before.
	coded  []byte // its bounds, as chunks have them
	bounds []float64
	les    []le
	kept   []labels.Labels // by les, where nothing else of the labels is kept
}

// le is a bound and how it is written.
type le struct {
	bound float64
	text  string
}

// appendSeries appends the classic series of s.of: one, or one for each bound that it has
// had.
func (b *classicBuilder) appendSeries(out []*classicSeries, s classicSeries) ([]*classicSeries, error) {
	b.lb.Reset(s.of.sel.labels)
	b.lb.Set(model.MetricNameLabel, b.query.name)
	if b.query.part != classicBucket {
		s.labels = b.lb.Labels()
		return append(out, &s), nil
	}
	if err := b.readBounds(s.of); err != nil {
		return nil, err
	}
	if b.keep != nil {
		b.lb.Keep(b.keep...)
	}
	series := make([]classicSeries, 0, len(b.les))
	for i, le := range b.les {
		if !allMatch(b.query.le, le.text) {
			continue
		}
		s.labels, s.bound = b.labels(i), le.bound
		series = append(series, s)
		out = append(out, &series[len(series)-1])
	}
	return out, nil
}

// labels are those of the histogram that lb has, with the i-th bound.
func (b *classicBuilder) labels(i int) labels.Labels {
	if b.keep == nil || slices.Contains(b.keep, model.BucketLabel) {
		b.lb.Set(model.BucketLabel, b.les[i].text)
	}
	for _, name := range b.keep {
		if name != model.MetricNameLabel && name != model.BucketLabel {
			return b.lb.Labels()
		}
	}
	if b.keep == nil {
		return b.lb.Labels()
	}
	if b.kept[i].IsEmpty() {
		b.kept[i] = b.lb.Labels()
	}
	return b.kept[i]
}

// readBounds sets the bounds to those that h has had, and that of the last bucket,
// ascending.
func (b *classicBuilder) readBounds(h *classicHistogram) error {
	same := len(h.sel.mems) == 0 && len(h.sel.dead) == 0 && h.sel.oneBlock() && h.sel.chunks[0].block.Step == 0
	if same {
		err := h.blocks.read(func() error {
			return readMapped(func() error {
				return h.sel.eachBuckets(h.from, h.to, func(_ *chunkHeader, src []byte) error {
					fresh, err := b.code(src)
					same = same && (!fresh || h.bounds == nil)
					h.bounds = b.bounds
					return err
				})
			})
		})
		if err != nil {
			return err
		}
	}
	if same && h.bounds != nil {
		return nil
	}
	h.bounds, b.coded = nil, nil
	p, err := h.points()
	if err != nil {
		return err
	}
	b.set(p.allBounds())
	return nil
}

// code takes the bounds that a chunk begins with; fresh: they are not those before.
func (b *classicBuilder) code(src []byte) (fresh bool, err error) {
	if len(b.coded) > 0 && bytes.HasPrefix(src, b.coded) {
		return false, nil
	}
	d := decoder{src: src}
	if b.bounds, err = d.readBounds(); err != nil {
		return false, err
	}
	b.coded = slices.Clone(src[:len(src)-len(d.src)])
	b.set(append(slices.Clone(b.bounds), math.Inf(1)))
	return true, nil
}

// set sets the bounds with the last.
func (b *classicBuilder) set(bounds []float64) {
	b.les = b.les[:0]
	for _, v := range bounds {
		b.les = append(b.les, le{v, labels.FormatOpenMetricsFloat(v)})
	}
	b.kept = make([]labels.Labels, len(b.les))
}

// classicSet is the classic series that a selector selects.
type classicSet struct {
	series []*classicSeries
	// regular says that all are buckets of one metric, whose series have the same names
	// of labels.
	regular bool
	queries int
}

// add notes which histograms series are of, sorted by labels.
func (s *classicSet) add(sels []*selection, buckets bool) {
	s.queries++
	s.regular = s.queries == 1 && buckets
	for _, sel := range sels {
		s.regular = s.regular && sameNames(sel.labels, sels[0].labels) && !sel.labels.Has(model.BucketLabel)
	}
}

func sameNames(a, b labels.Labels) bool {
	if a.Len() != b.Len() {
		return false
	}
	same := true
	a.Range(func(l labels.Label) { same = same && b.Has(l.Name) })
	return same
}

// order returns the places of the series in the order of all their labels; nil where
// they are to be compared. Compared are the labels before le of neighbouring histograms,
// then le, and the histograms are in order.
func (s *classicSet) order() []int32 {
	if !s.regular || len(s.series) == 0 {
		return nil
	}
	rank := s.ranks()
	keys := make([]uint64, len(s.series))
	prefix := uint64(0)
	for i, one := range s.series {
		if i > 0 && one.of != s.series[i-1].of && !samePrefix(one.of.sel.labels, s.series[i-1].of.sel.labels) {
			prefix++
		}
		keys[i] = prefix<<42 | rank[one.bound]<<24 | uint64(i)
	}
	if len(keys) > 1<<24 || prefix >= 1<<22 || len(rank) > 1<<18 {
		return nil
	}
	slices.Sort(keys)
	out := make([]int32, len(keys))
	for i, k := range keys {
		out[i] = int32(k & (1<<24 - 1))
	}
	return out
}

// ranks are the places of all bounds in the order in which they are written.
func (s *classicSet) ranks() map[float64]uint64 {
	rank := map[float64]uint64{}
	var all []le
	for _, one := range s.series {
		if _, ok := rank[one.bound]; !ok {
			rank[one.bound] = 0
			all = append(all, le{one.bound, labels.FormatOpenMetricsFloat(one.bound)})
		}
	}
	slices.SortFunc(all, func(a, b le) int { return strings.Compare(a.text, b.text) })
	for i, l := range all {
		rank[l.bound] = uint64(i)
	}
	return rank
}

// samePrefix reports whether the labels before le are the same, their names being so.
func samePrefix(a, b labels.Labels) bool {
	same := true
	a.Range(func(l labels.Label) {
		same = same && (l.Name >= model.BucketLabel || b.Get(l.Name) == l.Value)
	})
	return same
}

// Order returns the series in the order in which they are read fastest: the buckets of
// one histogram one after the other. It is nil where that is their own.
func (s *columnSet) Order() []int32 {
	if s.order == nil || s.limit > 0 {
		return nil
	}
	out := make([]int32, len(s.order))
	for i, at := range s.order {
		out[at] = int32(i)
	}
	return out
}

// allBounds are the bounds of all points and that of the last bucket, ascending.
func (p *points) allBounds() []float64 {
	out := []float64{math.Inf(1)}
	for i, h := range p.hist {
		if i == 0 || !increment.SameBounds(p.hist[i-1].Bounds, h.Bounds) {
			out = append(out, h.Bounds...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
