package tsdb

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
)

// A histogram x with buckets shows to PromQL as the native histogram x and, where a
// query names them, as the classic series x_bucket, x_sum and x_count, none of which is
// stored.

// classicPart is what a classic series shows of its histogram.
type classicPart uint8

const (
	classicBucket classicPart = iota
	classicSum
	classicCount
)

var classicSuffixes = [...]string{classicBucket: "_bucket", classicSum: "_sum", classicCount: "_count"}

// classicBase is the name of the histogram that would show as a name.
func classicBase(name string) (base string, part classicPart, ok bool) {
	for part, suffix := range classicSuffixes {
		if base, ok := strings.CutSuffix(name, suffix); ok && base != "" {
			return base, classicPart(part), true
		}
	}
	return "", 0, false
}

// anyNames are names that no selector means: a matcher of one of them, such as \w+ or
// [a-z].*, says which names there are, not which it wants.
var anyNames = [...]string{"zqxjk", "zqxjk_vwzq", "Zqxjk"}

// classicQuery is a selector in terms of a histogram.
type classicQuery struct {
	part     classicPart
	name     string // of the classic series
	matchers []*labels.Matcher
	le       []*labels.Matcher
}

// classicQueries are what a selector asks of histograms, by the names of those that a
// tenant has. It asks only where it says which names it wants: a selector that matches
// every name would count each observation twice.
func classicQueries(matchers []*labels.Matcher, histograms []string) []classicQuery {
	var names, le, others []*labels.Matcher
	named := false
	for _, m := range matchers {
		switch m.Name {
		case model.MetricNameLabel:
			names = append(names, m)
			positive := m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp
			named = named || positive && !slices.ContainsFunc(anyNames[:], m.Matches)
		case model.BucketLabel:
			le = append(le, m)
		default:
			others = append(others, m)
		}
	}
	if !named {
		return nil
	}
	var out []classicQuery
	for _, base := range histograms {
		for part, suffix := range classicSuffixes {
			name := base + suffix
			if slices.ContainsFunc(names, func(m *labels.Matcher) bool { return !m.Matches(name) }) {
				continue
			}
			out = append(out, classicQuery{
				part: classicPart(part), name: name, le: le,
				matchers: append(slices.Clone(others), labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, base)),
			})
		}
	}
	return out
}

func allMatch(matchers []*labels.Matcher, v string) bool {
	return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(v) })
}

// classicSeries is one classic series.
type classicSeries struct {
	labels labels.Labels
	of     *classicHistogram
	part   classicPart
	bound  float64 // of a bucket
	view   viewParams
	// Samples in [mint, maxt] are shown.
	mint, maxt int64
}

// classicHistogram is what all classic series of one histogram share.
type classicHistogram struct {
	blocks *openBlocks
	read   func() (points, error) // in blocks.read
	once   sync.Once
	p      points
	err    error

	count     func(*bucketCounts) (bool, error) // in blocks.read; see selection.bucketCounts
	justOne   func() ([]float64, error)         // see selection.chunkBounds
	countOnce sync.Once
	counts    *bucketCounts
	countErr  error
}

// bucketCounts returns nil where there are none for the histogram; where the blocks are
// held open.
func (h *classicHistogram) bucketCounts() (*bucketCounts, error) {
	h.countOnce.Do(func() {
		c := &bucketCounts{}
		var ok bool
		if ok, h.countErr = h.count(c); ok {
			h.counts = c
		}
	})
	return h.counts, h.countErr
}

// bounds are all that the histogram has had, and that of the last bucket, ascending.
func (h *classicHistogram) bounds() (out []float64, err error) {
	err = h.blocks.read(func() error {
		found, err := h.justOne()
		if err == nil && found != nil {
			out = append(found, math.Inf(1))
		}
		return err
	})
	if err != nil || out != nil {
		return out, err
	}
	p, err := h.points()
	if err != nil {
		return nil, err
	}
	return p.allBounds(), nil
}

func (h *classicHistogram) points() (*points, error) {
	err := h.blocks.read(func() error {
		_, err := h.held()
		return err
	})
	return &h.p, err
}

// held is points where the blocks are held open.
func (h *classicHistogram) held() (*points, error) {
	h.once.Do(func() { h.p, h.err = h.read() })
	return &h.p, h.err
}

func (s *classicSeries) Labels() labels.Labels { return s.labels }

func (s *classicSeries) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	p, err := s.of.points()
	if err != nil {
		return errIterator{Iterator: chunkenc.NewNopIterator(), err: err}
	}
	return newClassicView(p, s.view, s.part, s.bound, s.mint, s.maxt)
}

// classic returns the classic series that matchers select.
func (q *querier) classic(ctx context.Context, v *version, params viewParams, mint, maxt int64, matchers []*labels.Matcher) (out []*classicSeries, err error) {
	win := windowFor(params, mint, maxt)
	from, to := win.read(increment.Buckets)
	for _, cq := range classicQueries(matchers, q.store.admission.withBuckets()) {
		if cq.part != classicBucket && !allMatch(cq.le, "") {
			continue
		}
		sels, err := selectSeries(ctx, v, &q.blocks, win, cq.matchers)
		if err != nil {
			return nil, err
		}
		for _, sel := range sels {
			h := &classicHistogram{
				blocks:  &q.blocks,
				read:    func() (points, error) { return sel.read(from, to+1, q.cut) },
				count:   func(c *bucketCounts) (bool, error) { return sel.bucketCounts(c, from, to+1, q.cut) },
				justOne: func() ([]float64, error) { return sel.chunkBounds(from, to+1) },
			}
			series := classicSeries{of: h, part: cq.part, view: params, mint: mint, maxt: maxt}
			if out, err = cq.appendSeries(out, sel, series); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// addClassic adds the classic series that matchers select to a set, in its order.
func (q *querier) addClassic(ctx context.Context, set *seriesSet, v *version, params viewParams, mint, maxt int64, matchers []*labels.Matcher) error {
	found, err := q.classic(ctx, v, params, mint, maxt, matchers)
	if err != nil || len(found) == 0 {
		return err
	}
	for _, s := range found {
		set.series = append(set.series, s)
	}
	slices.SortFunc(set.series, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return nil
}

// addClassicStrings adds the label names of classic series to sorted ones, or the
// values of one name where that is set.
func (q *querier) addClassicStrings(ctx context.Context, v *version, params viewParams, name string, matchers []*labels.Matcher, found []string) ([]string, error) {
	histograms := q.store.admission.withBuckets()
	if len(histograms) == 0 || len(matchers) == 0 && name != "" && name != model.MetricNameLabel && name != model.BucketLabel {
		return found, nil // the histograms' own series have all of it
	}
	if len(matchers) == 0 {
		var names []string
		for _, h := range histograms {
			for _, suffix := range classicSuffixes {
				names = append(names, regexp.QuoteMeta(h+suffix))
			}
		}
		matchers = []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, strings.Join(names, "|"))}
	}
	series, err := q.classic(ctx, v, params, q.mint, q.maxt, matchers)
	if err != nil {
		return nil, err
	}
	set := map[string]struct{}{}
	for _, s := range found {
		set[s] = struct{}{}
	}
	for _, s := range series {
		if name != "" {
			if v := s.labels.Get(name); v != "" {
				set[v] = struct{}{}
			}
			continue
		}
		s.labels.Range(func(l labels.Label) { set[l.Name] = struct{}{} })
	}
	return sortedKeys(set), nil
}

// appendSeries appends the classic series of one histogram: one, or one for each bound
// that it has had.
func (cq *classicQuery) appendSeries(out []*classicSeries, sel *selection, s classicSeries) ([]*classicSeries, error) {
	b := labels.NewBuilder(sel.labels)
	b.Set(model.MetricNameLabel, cq.name)
	if cq.part != classicBucket {
		s.labels = b.Labels()
		return append(out, &s), nil
	}
	bounds, err := s.of.bounds()
	if err != nil {
		return nil, err
	}
	for _, bound := range bounds {
		le := labels.FormatOpenMetricsFloat(bound)
		if !allMatch(cq.le, le) {
			continue
		}
		one := s
		b.Set(model.BucketLabel, le)
		one.labels, one.bound = b.Labels(), bound
		out = append(out, &one)
	}
	return out, nil
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

// newClassicView returns the samples of one classic series: of the runs whose buckets
// have the bound. p is kept.
func newClassicView(p *points, v viewParams, part classicPart, bound float64, mint, maxt int64) chunkenc.Iterator {
	n := v.visible(p.win)
	it := &viewIterator{p: p, v: v, mint: mint, maxt: maxt, runs: v.runs(p.win[:n], p.sameBuckets()), run: -1}
	if part == classicBucket && !math.IsInf(bound, 1) {
		it.runs = v.runsWith(it.runs, func(r *run) bool {
			_, ok := slices.BinarySearch(p.hist[r.from].Bounds, bound)
			return ok
		})
	}
	return &classicIterator{viewIterator: it, part: part, bound: bound}
}

// runsWith are the runs that keep says. One that was followed at once by a run that is
// not kept ends in a staleness marker where that would have begun.
func (v viewParams) runsWith(runs []run, keep func(*run) bool) []run {
	var out []run
	kept := false // the run before
	for i := range runs {
		r := runs[i]
		k := keep(&r)
		if !k && kept && out[len(out)-1].marker == 0 && r.zero <= v.now {
			out[len(out)-1].marker = r.zero
		}
		if kept = k; k {
			out = append(out, r)
		}
	}
	return out
}

// classicIterator shows one number of a running histogram.
type classicIterator struct {
	*viewIterator
	part  classicPart
	bound float64
}

func (it *classicIterator) Next() chunkenc.ValueType { return float(it.viewIterator.Next()) }

func (it *classicIterator) Seek(t int64) chunkenc.ValueType { return float(it.viewIterator.Seek(t)) }

// float is the type of a sample where a histogram has one.
func float(t chunkenc.ValueType) chunkenc.ValueType {
	if t == chunkenc.ValNone {
		return t
	}
	return chunkenc.ValFloat
}

func (it *classicIterator) At() (int64, float64) {
	switch it.phase {
	case phaseZero:
		return it.t, 0
	case phaseMarker:
		return it.t, math.Float64frombits(value.StaleNaN)
	}
	switch it.part {
	case classicSum:
		return it.t, it.hist.Sum
	case classicCount:
		return it.t, float64(it.hist.Count())
	}
	i, _ := slices.BinarySearch(it.hist.Bounds, it.bound)
	return it.t, float64(it.hist.UpTo(i))
}

func (it *classicIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return it.t, nil // never asked for: Next says ValFloat
}

func (it *classicIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return it.t, nil // never asked for: Next says ValFloat
}
