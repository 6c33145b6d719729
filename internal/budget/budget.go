// Package budget carries what one query may use through its context to where it is
// used, and counts there what it has used.
package budget

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/tenant"
)

// Query is the budget of one query. A nil one has no bounds and counts nothing. Safe
// for concurrent use, but for the fields.
type Query struct {
	Tenant tenant.ID
	// SeriesMax is how many series all selectors may select together; 0: any number.
	SeriesMax int64
	// SamplesMax is how many samples may be in memory at once; 0: the engine's bound.
	SamplesMax int

	series atomic.Int64
	cached atomic.Int64
}

// LimitError says that a query is past a limit of its tenant.
type LimitError struct {
	Tenant tenant.ID
	Field  string // of limits, in the tenant's settings
	Limit  string // its value
	What   string // the query does
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: limits.%s of tenant %s is %s", e.What, e.Field, e.Tenant, e.Limit)
}

// AddSeries counts n series more that were selected. The error is a *LimitError.
func (q *Query) AddSeries(n int) error {
	if q == nil {
		return nil
	}
	if have := q.series.Add(int64(n)); q.SeriesMax > 0 && have > q.SeriesMax {
		return &LimitError{q.Tenant, "query_series", fmt.Sprint(q.SeriesMax), "the query selects too many series"}
	}
	return nil
}

// Series is how many series were selected, those of each selector counted.
func (q *Query) Series() int64 { return q.series.Load() }

// AddCached counts n steps of a range that a cache knew.
func (q *Query) AddCached(n int) {
	if q != nil {
		q.cached.Add(int64(n))
	}
}

// Cached is how many steps of the range a cache knew.
func (q *Query) Cached() int64 { return q.cached.Load() }

type key struct{}

// With returns a context that carries q.
func With(ctx context.Context, q *Query) context.Context {
	return context.WithValue(ctx, key{}, q)
}

// From returns the budget that ctx carries, nil where there is none.
func From(ctx context.Context) *Query {
	q, _ := ctx.Value(key{}).(*Query)
	return q
}
