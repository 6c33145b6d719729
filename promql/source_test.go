package promql

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/sketch"
)

// seen is the ids of one window.
type seen struct {
	end int64 // milliseconds
	ids []uint64
}

// world is a DistinctSource over series of exact ids, and the model that knows
// what every call must give.
type world struct {
	series []worldSeries
	kinds  map[string]string // metrics of another kind
	err    error
	reads  atomic.Int64
	// onRead, where set, runs in every DistinctSeries.
	onRead func(ctx context.Context, in []sketch.Interval)
}

type worldSeries struct {
	labels  labels.Labels
	windows []seen // by end
}

func (w *world) selects(matchers []*labels.Matcher, l labels.Labels) bool {
	for _, m := range matchers {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}

// DistinctSeries has the windows of every series one by one.
func (w *world) DistinctSeries(ctx context.Context, in []sketch.Interval, use func([]sketch.Series) error, matchers ...*labels.Matcher) (annotations.Annotations, error) {
	w.reads.Add(1)
	if w.onRead != nil {
		w.onRead(ctx, in)
	}
	var ws annotations.Annotations
	for name, kind := range w.kinds {
		if w.selects(matchers, labels.FromStrings(model.MetricNameLabel, name)) {
			ws.Add(fmt.Errorf("%w: metric %q is a %s, not a distinct metric", annotations.PromQLWarning, name, kind))
		}
	}
	if w.err != nil {
		return ws, w.err
	}
	var out []sketch.Series
	for _, s := range w.series {
		if w.selects(matchers, s.labels) {
			out = append(out, sketch.Series{Labels: s.labels, Unite: func(_ context.Context, unions []sketch.Union) error {
				return s.unite(in, unions)
			}})
		}
	}
	return ws, use(out)
}

func (s *worldSeries) unite(in []sketch.Interval, unions []sketch.Union) error {
	for _, win := range s.windows {
		i, ok := sketch.Find(in, win.end)
		if !ok {
			continue
		}
		var sk sketch.Sketch
		if err := sk.Add(win.ids...); err != nil {
			return err
		}
		if err := unions[i].Add(&sk); err != nil {
			return err
		}
	}
	return nil
}

// value is the model: what function gives over (hi-width, hi], by result labels.
func (w *world) value(function string, matchers []*labels.Matcher, by []string, hi, width int64) map[string]float64 {
	ids := make(map[string]map[uint64]bool)
	for _, s := range w.series {
		if !w.selects(matchers, s.labels) {
			continue
		}
		b := labels.NewBuilder(s.labels)
		if function == distinctOverTime {
			b.Del(model.MetricNameLabel)
		} else {
			s.labels.Range(func(l labels.Label) {
				if !slices.Contains(by, l.Name) {
					b.Del(l.Name)
				}
			})
		}
		key := b.Labels().String()
		for _, win := range s.windows {
			if win.end <= hi-width || win.end > hi {
				continue
			}
			if ids[key] == nil {
				ids[key] = make(map[uint64]bool)
			}
			for _, id := range win.ids {
				ids[key][id] = true
			}
		}
	}
	out := make(map[string]float64)
	for key, set := range ids {
		out[key] = float64(len(set))
	}
	return out
}

// matrices is a Queryable of dense series by metric name; it counts its selects.
type matrices struct {
	byName  map[string]upstream.Matrix
	unnamed bool // series have no name, as the result of a function has none
	selects atomic.Int64
}

func (m *matrices) Querier(int64, int64) (storage.Querier, error) {
	return &matrixQuerier{storage.NoopQuerier(), m}, nil
}

type matrixQuerier struct {
	storage.Querier
	m *matrices
}

func (q *matrixQuerier) Select(_ context.Context, _ bool, _ *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	q.m.selects.Add(1)
	var out []storage.Series
	for name, mat := range q.m.byName {
		for _, s := range mat {
			b := labels.NewBuilder(s.Metric)
			b.Set(model.MetricNameLabel, name)
			l, ok := b.Labels(), true
			for _, m := range ms {
				ok = ok && m.Matches(l.Get(m.Name))
			}
			if q.m.unnamed {
				l = s.Metric
			}
			if ok {
				out = append(out, upstream.NewStorageSeries(upstream.Series{Metric: l, Floats: s.Floats, Histograms: s.Histograms}))
			}
		}
	}
	slices.SortFunc(out, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &seriesSlice{rest: out}
}

type seriesSlice struct {
	rest    []storage.Series
	current storage.Series
}

func (s *seriesSlice) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.current, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *seriesSlice) At() storage.Series                { return s.current }
func (s *seriesSlice) Err() error                        { return nil }
func (s *seriesSlice) Warnings() annotations.Annotations { return nil }

func at(seconds int64) time.Time { return time.UnixMilli(seconds * 1000).UTC() }

// instant runs qs at the given second.
func instant(t testing.TB, e upstream.QueryEngine, q storage.Queryable, qs string, seconds int64) *upstream.Result {
	t.Helper()
	query, err := e.NewInstantQuery(t.Context(), q, nil, qs, at(seconds))
	if err != nil {
		t.Fatalf("%s: %v", qs, err)
	}
	t.Cleanup(query.Close)
	return query.Exec(t.Context())
}
