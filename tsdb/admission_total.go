package tsdb

import (
	"context"
	"math"
	"strings"

	"github.com/prometheus/common/model"
)

// seriesTotal is how many series of all metrics are stored. Memtables and blocks have
// series in common, so that the sum of what each has is only a bound, which costs
// nothing; while that is below the limit nobody need know more. Where it is not, the
// hashes of all series are read once and kept.
type seriesTotal struct {
	limit   int // 0: none
	n       int // at least as many as there are
	counted bool
	exact   bool
}

// free is how many series there may be before new ones are folded.
func (t *seriesTotal) free() int {
	if t.limit == 0 {
		return math.MaxInt
	}
	return t.limit - reservedSeries(t.limit)
}

// most is how many there may be, folded ones included. The last series of a metric,
// which takes what nothing else can, may be beyond it.
func (t *seriesTotal) most() int {
	if t.limit == 0 {
		return math.MaxInt
	}
	return t.limit
}

func (t *seriesTotal) forget() { t.n, t.counted, t.exact = 0, false, false }

// blockSeriesBytesMin is less than what a series takes in a block whose manifest does
// not say how many it has: 16 bytes in the index, 8 of postings and 7 of a chunk.
const blockSeriesBytesMin = 24

// countAll makes a.total right as far as its limit asks.
//
// REQUIRES: a.mu
func (a *admission) countAll(ctx context.Context) error {
	t := &a.total
	if t.limit == 0 || t.counted && (t.exact || t.n < t.free()) {
		return nil
	}
	v := a.versions.pin()
	defer a.versions.unpin(v)
	if !t.counted {
		t.counted = true
		for _, m := range v.mems {
			t.n += len(m.all())
		}
		for _, b := range v.blocks {
			if b.Series == 0 {
				t.n += int(b.Bytes / blockSeriesBytesMin)
			}
			t.n += int(b.Series)
		}
	}
	if t.n < t.free() {
		return nil
	}
	add := func(metric string, hash uint64) {
		known := a.metrics[metric]
		if known == nil {
			known = &hashSet{}
			a.metrics[strings.Clone(metric)] = known
		}
		known.add(hash)
	}
	for _, m := range v.mems {
		for _, s := range m.all() {
			add(s.labels.Get(model.MetricNameLabel), s.hash)
		}
	}
	for _, b := range v.blocks {
		if err := b.addHashes(ctx, "", add); err != nil {
			return err
		}
	}
	t.n, t.exact = 0, true
	for _, known := range a.metrics {
		t.n += known.len()
	}
	return nil
}
