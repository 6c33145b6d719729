package promql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/sketch"
)

// DistinctSource is where the sketches of distinct series are read.
type DistinctSource interface {
	// DistinctSeries returns the series of kind distinct that the matchers
	// select, with every window that shows in (mint, maxt], by ascending End and
	// at most one for each. Times are milliseconds since 1970. ctx carries the
	// tenant and the present (internal/scope); maxt is the last time that the
	// result is asked at, so the open window shows at min(present, maxt). The
	// annotations name selected metrics of another kind, which are left out.
	// The caller does not change the sketches.
	DistinctSeries(ctx context.Context, mint, maxt int64, matchers ...*labels.Matcher) ([]sketch.Series, annotations.Annotations, error)
}

// errSameLabelset has upstream's wording.
var errSameLabelset = errors.New("vector cannot contain metrics with the same labelset")

// where names the place of an error that stops a query, as upstream does.
const where = "query execution"

// checkEvery is how many steps and merges of sketches pass between two looks at
// the context: milliseconds at most.
const checkEvery = 256

// stale is the marker after the last value of a run of values.
var stale = math.Float64frombits(value.StaleNaN)

func (c *call) setTimes(s steps) { c.times = s }

func (c *call) compute(ctx context.Context, q plannedQuerier) ([]storage.Series, annotations.Annotations, error) {
	m, ws, err := c.matrix(ctx, q.plan.distinct, q.plan.maxSamples)
	out := make([]storage.Series, len(m))
	for i, s := range m {
		out[i] = upstream.NewStorageSeries(s)
	}
	return out, ws, err
}

// matrix returns the series of c: a sample at each evaluation time that has a
// value, and a stale marker where values end (I5). Series are sorted by labels.
func (c *call) matrix(ctx context.Context, source DistinctSource, maxSamples int) (upstream.Matrix, annotations.Annotations, error) {
	n := c.times.count()
	if n == 0 {
		return nil, nil, nil
	}
	mint, _ := c.window(c.times.at(0))
	_, maxt := c.window(c.times.at(n - 1))
	series, ws, err := source.DistinctSeries(ctx, mint, maxt, c.matchers...)
	ws = positioned(ws, c.pos)
	if err != nil {
		if stop := stopped(ctx); stop != nil {
			return nil, ws, stop
		}
		return nil, ws, fmt.Errorf("read distinct series for %s: %w", c.function, err)
	}
	if c.function == countDistinct {
		series = union(series, c.by)
	}
	k := counter{ctx: ctx, call: c, room: maxSamples}
	out := make(upstream.Matrix, 0, len(series))
	for _, s := range series {
		points, err := k.count(s.Windows)
		if err != nil {
			return nil, ws, err
		}
		if len(points) == 0 {
			continue
		}
		metric := s.Labels
		if c.function == distinctOverTime {
			metric = metric.DropReserved(schema.IsMetadataLabel)
		}
		out = append(out, upstream.Series{Metric: metric, Floats: points})
	}
	out, err = mergeSameLabelset(out)
	return out, ws, err
}

// stopped returns the error of a query whose context has ended; nil while it
// goes on.
func stopped(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return &evaluationError{upstream.ErrQueryTimeout(where)}
	default:
		return &evaluationError{upstream.ErrQueryCanceled(where)}
	}
}

// union joins the windows of all series that agree in the labels by. A label
// that a series lacks counts as empty. What it returns has several windows with
// one End.
func union(series []sketch.Series, by []string) []sketch.Series {
	var groups []sketch.Series
	index := make(map[string]int)
	var key []byte
	for _, s := range series {
		group := s.Labels.MatchLabels(true, by...)
		key = group.Bytes(key[:0])
		i, ok := index[string(key)]
		if !ok {
			i = len(groups)
			index[string(key)] = i
			groups = append(groups, sketch.Series{Labels: group})
		}
		groups[i].Windows = append(groups[i].Windows, s.Windows...)
	}
	for _, g := range groups {
		slices.SortFunc(g.Windows, func(a, b sketch.Window) int { return cmp.Compare(a.End, b.End) })
	}
	return groups
}

// counter turns windows into the values of a call.
type counter struct {
	ctx    context.Context
	call   *call
	room   int // samples that the query may still hold
	worked int // steps and merges since the context was looked at
}

// work counts one step or merge, and stops a query whose context has ended.
func (k *counter) work() error {
	if k.worked++; k.worked < checkEvery {
		return nil
	}
	k.worked = 0
	return stopped(k.ctx)
}

// count returns the samples over windows, which are sorted by End. Ranges move
// forward with evaluation time, so two indices follow the windows in range.
func (k *counter) count(windows []sketch.Window) ([]upstream.FPoint, error) {
	var (
		out         []upstream.FPoint
		first, last int // windows[first:last] are in range
		counted     float64
		countedOf   [2]int // first and last of counted
		within      bool   // the sample before is a value
	)
	for i := range k.call.times.count() {
		if err := k.work(); err != nil {
			return nil, err
		}
		t := k.call.times.at(i)
		lo, hi := k.call.window(t)
		for last < len(windows) && windows[last].End <= hi {
			last++
		}
		for first < last && windows[first].End <= lo {
			first++
		}
		if first == last {
			if within {
				out = append(out, upstream.FPoint{T: t, F: stale})
			}
			within = false
			continue
		}
		if of := [2]int{first, last}; of != countedOf {
			var err error
			if counted, err = k.distinct(windows[first:last]); err != nil {
				return nil, err
			}
			countedOf = of
		}
		if k.room--; k.room < 0 {
			return nil, &evaluationError{upstream.ErrTooManySamples(where)}
		}
		within = true
		out = append(out, upstream.FPoint{T: t, F: counted})
	}
	return out, nil
}

// distinct returns the number of ids over windows, at least one.
func (k *counter) distinct(windows []sketch.Window) (float64, error) {
	if len(windows) == 1 {
		return windows[0].Sketch.Estimate()
	}
	var u sketch.Union
	for _, w := range windows {
		if err := k.work(); err != nil {
			return 0, err
		}
		if err := u.Add(w.Sketch); err != nil {
			return 0, fmt.Errorf("join sketches: %w", err)
		}
	}
	return u.Estimate()
}

// mergeSameLabelset sorts m by labels and joins series that have the same ones,
// as the engine does after it has dropped names: an error where two of them have
// a value at one time.
func mergeSameLabelset(m upstream.Matrix) (upstream.Matrix, error) {
	slices.SortStableFunc(m, func(a, b upstream.Series) int { return labels.Compare(a.Metric, b.Metric) })
	out := m[:0]
	for _, s := range m {
		if n := len(out); n > 0 && labels.Equal(out[n-1].Metric, s.Metric) {
			merged, err := mergePoints(out[n-1].Floats, s.Floats)
			if err != nil {
				return nil, err
			}
			out[n-1].Floats = merged
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

// mergePoints joins the samples of two series by time; of a value and a stale
// marker at one time the value stays.
func mergePoints(a, b []upstream.FPoint) ([]upstream.FPoint, error) {
	out := make([]upstream.FPoint, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].T < b[0].T:
			out, a = append(out, a[0]), a[1:]
		case a[0].T > b[0].T:
			out, b = append(out, b[0]), b[1:]
		default:
			p := a[0]
			if value.IsStaleNaN(p.F) {
				p = b[0]
			} else if !value.IsStaleNaN(b[0].F) {
				return nil, &evaluationError{errSameLabelset}
			}
			out, a, b = append(out, p), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...), nil
}
