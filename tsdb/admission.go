package tsdb

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// KindError says that a metric name is already used for another kind.
type KindError struct {
	Metric    string
	Have, Got increment.Kind
}

func (e *KindError) Error() string {
	return fmt.Sprintf("metric %q is a %s, not a %s", e.Metric, e.Have, e.Got)
}

// FamilyError says that a metric name is one of those under which a histogram with
// buckets shows.
type FamilyError struct{ Metric, Histogram string }

func (e *FamilyError) Error() string {
	return fmt.Sprintf("metric %q cannot be beside histogram %q, whose buckets, sum and count show under such names", e.Metric, e.Histogram)
}

// LimitError says that a metric, or its tenant, is at its limit of series and that
// values of its kind cannot be folded into one.
type LimitError struct {
	Metric string
	Limit  int
	All    bool // of all metrics together
}

func (e *LimitError) Error() string {
	if e.All {
		return fmt.Sprintf("the tenant is at its limit of %d series (limits.series), and values of gauges and samples do not add up: no new series of %q is taken", e.Limit, e.Metric)
	}
	return fmt.Sprintf("metric %q is at its limit of %d series (limits.series_per_metric), and values of gauges and samples do not add up: no new series is taken", e.Metric, e.Limit)
}

// AgeError says that an increment is older than what the tenant keeps.
type AgeError struct {
	Series    labels.Labels
	Time      int64
	Retention model.Duration
}

func (e *AgeError) Error() string {
	return fmt.Sprintf("%s at %s is older than the retention of %s", e.Series, time.UnixMilli(e.Time).UTC().Format(time.RFC3339), e.Retention)
}

// admission decides which series new increments go to: a metric has at most
// limit series stored, counted over memtables and live blocks. The last
// hundredth is reserved for folded series, and the very last one takes what even
// that cannot hold, so that sums stay exact whatever is posted. All metrics together
// have a limit too, past which each is as if it were at its own; the very last series
// of each may be beyond it. Folded series have
// all label names of their rule, whichever the increment had. Safe for concurrent
// use: a decision and its reservation are one step.
type admission struct {
	versions *versions
	buckets  atomic.Pointer[[]string] // names of the kind Buckets, sorted; replaced under mu, never changed

	mu      sync.Mutex
	limit   int                 // of one metric
	metrics map[string]*hashSet // label hashes by metric name, loaded at the first new series
	total   seriesTotal
	kinds   map[string]increment.Kind
	last    map[string]labels.Labels // the series of the last slot, by metric name
}

func newAdmission(v *versions, l *tenant.Limits) *admission {
	a := &admission{
		versions: v, limit: l.SeriesPerMetric, total: seriesTotal{limit: l.Series},
		metrics: map[string]*hashSet{}, kinds: map[string]increment.Kind{}, last: map[string]labels.Labels{},
	}
	a.buckets.Store(new([]string))
	return a
}

// setLimits changes the limits for series that are made from now on; those that are there
// stay.
func (a *admission) setLimits(l *tenant.Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit, a.total.limit = l.SeriesPerMetric, l.Series
}

// setKind records the kind of a metric that is already stored.
func (a *admission) setKind(name string, k increment.Kind) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.checkKind(name, k)
}

// REQUIRES: a.mu
func (a *admission) checkKind(name string, k increment.Kind) error {
	have, ok := a.kinds[name]
	if ok && have != k {
		return &KindError{Metric: name, Have: have, Got: k}
	}
	if ok {
		return nil
	}
	if base, _, ok := classicBase(name); ok && a.kinds[base] == increment.Buckets {
		return &FamilyError{Metric: name, Histogram: base}
	}
	if k == increment.Buckets {
		for _, suffix := range classicSuffixes {
			if _, ok := a.kinds[name+suffix]; ok {
				return &FamilyError{Metric: name + suffix, Histogram: name}
			}
		}
		i, _ := slices.BinarySearch(a.withBuckets(), name)
		with := slices.Insert(slices.Clone(a.withBuckets()), i, name)
		a.buckets.Store(&with)
	}
	a.kinds[name] = k
	return nil
}

// withBuckets are the names of the histograms with buckets, sorted; not to be changed.
// Readers do not wait for series that are counted.
func (a *admission) withBuckets() []string { return *a.buckets.Load() }

// hasCounts is HasCounts.
func (a *admission) hasCounts(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k, ok := a.kinds[name]; ok {
		return k == increment.Counter
	}
	base, _, ok := classicBase(name)
	return ok && a.kinds[base] == increment.Buckets
}

// kindsByName returns a copy of the kinds of all metrics.
func (a *admission) kindsByName() map[string]increment.Kind {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]increment.Kind, len(a.kinds))
	for n, k := range a.kinds {
		out[n] = k
	}
	return out
}

// forget drops what was counted, after data went away. No batch may be on its way: the
// series that it was granted would not be counted.
func (a *admission) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.metrics)
	a.total.forget()
}

// admit returns the labels under which a series that no memtable of its range has
// is to be stored: ls itself or a folding of it.
func (a *admission) admit(ctx context.Context, series *increment.Series) (out labels.Labels, folded bool, err error) {
	ls, kind, shape := series.Labels, series.Kind, series.Shape
	name := ls.Get(model.MetricNameLabel)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkKind(name, kind); err != nil {
		return labels.EmptyLabels(), false, err
	}
	known, ok := a.metrics[name]
	if !ok {
		if known, err = a.load(ctx, name); err != nil {
			return labels.EmptyLabels(), false, fmt.Errorf("count series of %q: %w", name, err)
		}
		a.metrics[name] = known
	}
	if known.has(ls.Hash()) {
		return ls, false, nil
	}
	if err := a.countAll(ctx); err != nil {
		return labels.EmptyLabels(), false, fmt.Errorf("count the series of all metrics: %w", err)
	}
	free := a.limit - reservedSeries(a.limit)
	if a.take(known, ls, free, a.total.free()) {
		return ls, false, nil
	}
	if kind == increment.Gauge || kind == increment.Sample {
		if known.len() >= free {
			return labels.EmptyLabels(), false, &LimitError{Metric: name, Limit: a.limit}
		}
		return labels.EmptyLabels(), false, &LimitError{Metric: name, Limit: a.total.limit, All: true}
	}
	if shape == nil {
		shape = shapeOf(ls)
	}
	if out = fold(ls, shape.Names, shape.Keep); a.take(known, out, a.limit-1, a.total.most()) {
		return out, true, nil
	}
	// One series for all the rest, the same whatever shapes come after.
	last, ok := a.last[name]
	if !ok {
		last = fold(ls, shape.Names, nil)
		a.last[name] = last
		a.take(known, last, a.limit, math.MaxInt)
	}
	return last, true, nil
}

// reservedSeries is how many of a limit are for folded series.
func reservedSeries(limit int) int { return max(1, limit/100) }

// take reports whether ls is among known or still fits below the limits of its metric
// and of all, and then adds it.
//
// REQUIRES: a.mu
func (a *admission) take(known *hashSet, ls labels.Labels, limit, all int) bool {
	h := ls.Hash()
	if known.has(h) {
		return true
	}
	if known.len() >= limit || a.total.n >= all {
		return false
	}
	known.add(h)
	a.total.n++
	return true
}

// fold returns the metric name, the labels of keep as they are, and every other one
// of names as (other).
func fold(ls labels.Labels, names, keep []string) labels.Labels {
	b := labels.NewScratchBuilder(len(names) + 1)
	b.Add(model.MetricNameLabel, ls.Get(model.MetricNameLabel))
	for _, n := range names {
		v := increment.Other
		if slices.Contains(keep, n) {
			if v = ls.Get(n); v == "" {
				continue
			}
		}
		b.Add(n, v)
	}
	b.Sort()
	return b.Labels()
}

// shapeOf is the shape of an increment that no rule made.
func shapeOf(ls labels.Labels) *increment.Shape {
	var s increment.Shape
	ls.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel {
			s.Names = append(s.Names, l.Name)
		}
	})
	return &s
}

// load counts the stored series of one metric.
func (a *admission) load(ctx context.Context, name string) (*hashSet, error) {
	known := &hashSet{}
	v := a.versions.pin()
	defer a.versions.unpin(v)
	for _, m := range v.mems {
		for _, s := range m.all() {
			if s.labels.Get(model.MetricNameLabel) == name {
				known.add(s.hash)
			}
		}
	}
	for _, b := range v.blocks {
		if err := b.addHashes(ctx, name, func(_ string, hash uint64) { known.add(hash) }); err != nil {
			return nil, err
		}
	}
	return known, nil
}
