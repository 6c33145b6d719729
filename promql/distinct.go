package promql

import (
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

// DistinctSource is where distinct series are read.
type DistinctSource interface {
	// DistinctSeries calls use with the series of kind distinct that the matchers
	// select; they can be read until use returns, and its error is passed on. The
	// intervals, at least one, are sorted and disjoint: no range of the query begins
	// or ends inside of one, so that storage may have the union of many windows at
	// hand. ctx carries the tenant and the present (internal/scope); the end of the
	// last interval is the last time that the result is asked at, so the open window
	// shows at min(present, that). The annotations name selected metrics of another
	// kind, which are left out.
	DistinctSeries(ctx context.Context, in []sketch.Interval, use func([]sketch.Series) error, matchers ...*labels.Matcher) (annotations.Annotations, error)
}

// errSameLabelset has upstream's wording.
var errSameLabelset = errors.New("vector cannot contain metrics with the same labelset")

// where names the place of an error that stops a query, as upstream does.
const where = "query execution"

// checkEvery is how many steps pass between two looks at the context: milliseconds
// at most.
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
	if c.times.count() == 0 {
		return nil, nil, nil
	}
	in, ranges := c.intervals()
	if len(in) == 0 {
		return nil, nil, nil // ranges of no length
	}
	k := counter{
		ctx: ctx, call: c, ranges: ranges, unions: make([]sketch.Union, len(in)), room: maxSamples,
		sets: &sketch.Room{BytesMax: max(setsBytesMin, sampleBytes*maxSamples)},
	}
	for i := range k.unions {
		k.unions[i].Bound(k.sets)
	}
	k.slide.Room = k.sets
	var out upstream.Matrix
	ws, err := source.DistinctSeries(ctx, in, func(series []sketch.Series) (err error) {
		out, err = k.groups(c.group(series))
		return err
	}, c.matchers...)
	ws = positioned(ws, c.pos)
	if err != nil {
		var evaluation *evaluationError
		if errors.As(err, &evaluation) {
			return nil, ws, evaluation
		}
		if stop := stopped(ctx); stop != nil {
			return nil, ws, stop
		}
		return nil, ws, fmt.Errorf("read distinct series for %s: %w", c.function, err)
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

// unionGroup is the series that are counted as one, and the labels of the result.
type unionGroup struct {
	labels labels.Labels
	series []sketch.Series
}

// group returns the groups of count_distinct, which agree in the labels c.by; a label
// that a series lacks counts as empty. For distinct_over_time each series is one.
func (c *call) group(series []sketch.Series) []unionGroup {
	var groups []unionGroup
	if c.function == distinctOverTime {
		for i, s := range series {
			groups = append(groups, unionGroup{s.Labels.DropReserved(schema.IsMetadataLabel), series[i : i+1]})
		}
		return groups
	}
	index := make(map[string]int)
	var key []byte
	for _, s := range series {
		by := s.Labels.MatchLabels(true, c.by...)
		key = by.Bytes(key[:0])
		i, ok := index[string(key)]
		if !ok {
			i = len(groups)
			index[string(key)] = i
			groups = append(groups, unionGroup{labels: by})
		}
		groups[i].series = append(groups[i].series, s)
	}
	return groups
}

// counter turns the ids of series into the values of a call, a group at a time: only
// its sets are in memory.
type counter struct {
	ctx    context.Context
	call   *call
	ranges []stretch
	unions []sketch.Union // by interval
	slide  sketch.Slide
	room   int // samples that the query may still hold
	sets   *sketch.Room
}

// A sample that a query holds is this many bytes, and its sets of ids may take as many
// bytes together as its samples, but at least those of a few large sets.
const (
	sampleBytes  = 16
	setsBytesMin = 64 << 20
)

// fits returns an error where the sets take more memory than they may.
func (k *counter) fits() error {
	if !k.sets.Over() {
		return nil
	}
	return &evaluationError{fmt.Errorf("%s needs more than %d MiB for the ids of %d intervals: %w",
		k.call.function, k.sets.BytesMax>>20, len(k.unions), upstream.ErrTooManySamples(where))}
}

func (k *counter) groups(groups []unionGroup) (upstream.Matrix, error) {
	var out upstream.Matrix
	for _, g := range groups {
		for i := range k.unions {
			k.unions[i].Reset()
		}
		for _, s := range g.series {
			if err := s.Unite(k.ctx, k.unions); err != nil {
				return nil, err
			}
			if err := k.fits(); err != nil {
				return nil, err
			}
		}
		points, err := k.count()
		if err != nil {
			return nil, err
		}
		if len(points) > 0 {
			out = append(out, upstream.Series{Metric: g.labels, Floats: points})
		}
	}
	return out, nil
}

// count returns the samples over the unions.
func (k *counter) count() ([]upstream.FPoint, error) {
	var (
		out     []upstream.FPoint
		counted float64
		some    bool // the range has windows
		within  bool // the sample before is a value
	)
	k.slide.Reset(k.unions)
	for i, r := range k.ranges {
		if i%checkEvery == 0 {
			if err := stopped(k.ctx); err != nil {
				return nil, err
			}
		}
		t := k.call.times.at(i)
		if i == 0 || r != k.ranges[i-1] {
			var err error
			if counted, some, err = k.slide.Count(r.first, r.last); err != nil {
				return nil, fmt.Errorf("count ids: %w", err)
			}
			if err := k.fits(); err != nil {
				return nil, err
			}
		}
		if !some {
			if within {
				out = append(out, upstream.FPoint{T: t, F: stale})
			}
			within = false
			continue
		}
		if k.room--; k.room < 0 {
			return nil, &evaluationError{upstream.ErrTooManySamples(where)}
		}
		within = true
		out = append(out, upstream.FPoint{T: t, F: counted})
	}
	return out, nil
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
