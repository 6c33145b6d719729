package promql

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/column"
)

// ColumnQuerier is a storage.Querier that can hand out whole series at once. The
// planner reads through it what it computes itself; of any other Querier it reads
// the samples.
type ColumnQuerier interface {
	// Columns is Select, of the same series with the same samples in the same order.
	// Where the hints have labels to project on, series may have these labels alone.
	Columns(ctx context.Context, hints *storage.SelectHints, matchers ...*labels.Matcher) (column.Set, annotations.Annotations, error)
}

// selectColumns selects what s reads.
func selectColumns(ctx context.Context, q storage.Querier, s *source) (column.Set, annotations.Annotations, error) {
	if cq, ok := q.(ColumnQuerier); ok && !s.statsOnly {
		return cq.Columns(ctx, s.hints, s.matchers...)
	}
	set := q.Select(ctx, false, s.hints, s.matchers...)
	out := &sampledSet{statsOnly: s.statsOnly}
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		out.series = append(out.series, set.At())
	}
	return out, set.Warnings(), set.Err()
}

// sampledSet makes columns of iterators.
type sampledSet struct {
	series []storage.Series
	// statsOnly: of histograms only sum and count are asked for, as
	// upstream's engine reads them then.
	statsOnly bool
}

func (s *sampledSet) Len() int                   { return len(s.series) }
func (s *sampledSet) Labels(i int) labels.Labels { return s.series[i].Labels() }

func (s *sampledSet) Reading(f func() error) error { return f() }

func (s *sampledSet) Read(i int, c *column.Column) error {
	c.Reset()
	it := s.series[i].Iterator(nil)
	if s.statsOnly {
		it = upstream.NewHistogramStatsIterator(it)
	}
	return c.AppendSamples(it)
}
