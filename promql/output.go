package promql

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"
)

// output makes of rows the series that stand for a direct computation: a sample where
// there is a value, and a stale marker after the last of a run of values (I5).
type output struct {
	d      *direct
	n      int // steps
	series []storage.Series
	held   int // samples
	values []int64
}

func newOutput(d *direct) *output {
	n := d.times.count()
	return &output{d: d, n: n, values: make([]int64, n)}
}

// add appends a series with the values of r, which is not kept.
func (o *output) add(metric labels.Labels, r *row) error {
	var out upstream.Series
	if r.full {
		out.Floats = make([]upstream.FPoint, 0, o.n)
	}
	within := false
	for i := range o.n {
		t := o.d.times.at(i)
		switch {
		case r.h != nil && r.h[i] != nil:
			out.Histograms = append(out.Histograms, upstream.HPoint{T: t, H: r.h[i]})
			o.values[i] += size(r.h[i])
			o.held += int(size(r.h[i]))
			within = true
		case !value.IsStaleNaN(r.f[i]):
			out.Floats = append(out.Floats, upstream.FPoint{T: t, F: r.f[i]})
			o.values[i]++
			o.held++
			within = true
		case within:
			out.Floats = append(out.Floats, upstream.FPoint{T: t, F: stale})
			within = false
		}
	}
	if o.held > o.d.maxSamples {
		return &evaluationError{upstream.ErrTooManySamples(where)}
	}
	if len(out.Floats)+len(out.Histograms) > 0 {
		out.Metric = metric
		o.series = append(o.series, upstream.NewStorageSeries(out))
	}
	return nil
}

// finish returns the series.
func (o *output) finish() []storage.Series {
	o.d.stats.values, o.d.stats.emitted = o.values, len(o.series)
	return o.series
}

// merger joins rows that have the same labels, as the engine does after it has dropped
// names: an error where two of them have a value at one time.
type merger struct {
	index map[uint64]int
	rows  []*row
	of    []labels.Labels
	room  int
}

func newMerger(maxSamples int) *merger {
	return &merger{index: make(map[uint64]int), room: maxSamples}
}

func (m *merger) add(metric labels.Labels, r *row) error {
	h := metric.Hash()
	at, ok := m.index[h]
	if !ok {
		m.index[h] = len(m.rows)
		m.rows, m.of = append(m.rows, r.clone()), append(m.of, metric)
		if m.room -= len(r.f); m.room < 0 {
			return &evaluationError{upstream.ErrTooManySamples(where)}
		}
		return nil
	}
	to := m.rows[at]
	to.full = false
	for i, v := range r.f {
		has := !value.IsStaleNaN(v) || r.h != nil && r.h[i] != nil
		if !has {
			continue
		}
		if !value.IsStaleNaN(to.f[i]) || to.h != nil && to.h[i] != nil {
			return &evaluationError{errSameLabelset}
		}
		if r.h != nil && r.h[i] != nil {
			to.histogram(i, r.h[i])
		} else {
			to.f[i] = v
		}
	}
	return nil
}

func (m *merger) flush(next func(labels.Labels, *row) error) error {
	for i, r := range m.rows {
		if err := next(m.of[i], r); err != nil {
			return err
		}
	}
	return nil
}
