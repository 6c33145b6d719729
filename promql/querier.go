package promql

import (
	"context"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// planned is a subtree of a query that is computed directly.
type planned interface {
	// setTimes says when it is evaluated.
	setTimes(steps)
	// compute returns the series that stand for it.
	compute(ctx context.Context, q plannedQuerier) ([]storage.Series, annotations.Annotations, error)
}

// plannedQueryable serves the synthetic selectors of one query; all else it
// leaves to the Queryable that the query came with.
type plannedQueryable struct {
	storage.Queryable
	distinct   DistinctSource
	maxSamples int
	planned    map[string]planned // by the name of their selector
	mint, maxt int64              // of the query as written
}

// Querier returns a querier over [mint, maxt] and all else that the query reads.
func (q *plannedQueryable) Querier(mint, maxt int64) (storage.Querier, error) {
	if len(q.planned) > 0 {
		mint, maxt = q.mint, q.maxt
	}
	inner, err := q.Queryable.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return plannedQuerier{inner, q}, nil
}

type plannedQuerier struct {
	storage.Querier
	plan *plannedQueryable
}

// Select computes nothing yet: the engine selects everything first, and reads
// only what it turns out to need.
func (q plannedQuerier) Select(ctx context.Context, sortSeries bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	if name, ok := isSynthetic(matchers); ok {
		if p := q.plan.planned[name]; p != nil {
			return &plannedSet{compute: func() ([]storage.Series, annotations.Annotations, error) { return p.compute(ctx, q) }}
		}
	}
	return q.Querier.Select(ctx, sortSeries, hints, matchers...)
}

// plannedSet is the series of a planned subtree, computed at the first Next. It
// implements storage.SeriesSet.
type plannedSet struct {
	compute func() ([]storage.Series, annotations.Annotations, error) // nil once called
	rest    []storage.Series
	current storage.Series
	ws      annotations.Annotations
	err     error
}

func (s *plannedSet) Next() bool {
	if s.compute != nil {
		s.rest, s.ws, s.err = s.compute()
		s.compute = nil
	}
	if s.err != nil || len(s.rest) == 0 {
		return false
	}
	s.current, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *plannedSet) At() storage.Series                { return s.current }
func (s *plannedSet) Err() error                        { return s.err }
func (s *plannedSet) Warnings() annotations.Annotations { return s.ws }

// annotation is what a source says of the series of a call, with the call's
// position. It implements what upstream asks of its own annotations: they are
// compared without a position, which shows once the query is set.
type annotation struct {
	err   error
	pos   posrange.PositionRange
	query string
}

// positioned returns ws pointing at pos.
func positioned(ws annotations.Annotations, pos posrange.PositionRange) annotations.Annotations {
	var out annotations.Annotations
	for _, err := range ws {
		out.Add(&annotation{err: err, pos: pos})
	}
	return out
}

func (a *annotation) Error() string {
	if a.query == "" {
		return a.err.Error()
	}
	return fmt.Sprintf("%s (%s)", a.err, a.pos.StartPosInput(a.query, 0))
}

func (a *annotation) Unwrap() error         { return a.err }
func (a *annotation) SetQuery(query string) { a.query = query }

// Merge keeps the first of two annotations that say the same.
func (a *annotation) Merge(other error) error { return other }
