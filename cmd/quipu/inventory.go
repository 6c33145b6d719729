package main

import (
	"context"
	"fmt"

	upstream "github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// inventory tells the API what is stored of a tenant.
type inventory struct{ db *tsdb.DB }

func (i inventory) SeriesStats(ctx context.Context, id tenant.ID, limit int) (*api.SeriesStats, error) {
	s, err := i.db.Stats(ctx, id, limit)
	if err != nil {
		return nil, err
	}
	out := &api.SeriesStats{TSDBStatus: v1.TSDBStatus{
		HeadStats: v1.HeadStats{
			NumSeries: s.Series, NumLabelPairs: s.Postings.NumLabelPairs, ChunkCount: s.Chunks, MinTime: s.MinTime, MaxTime: s.MaxTime,
		},
		SeriesCountByMetricName:     v1.TSDBStatsFromIndexStats(s.Postings.CardinalityMetricsStats),
		LabelValueCountByLabelName:  v1.TSDBStatsFromIndexStats(s.Postings.CardinalityLabelStats),
		MemoryInBytesByLabelName:    v1.TSDBStatsFromIndexStats(s.Postings.LabelValueStats),
		SeriesCountByLabelValuePair: v1.TSDBStatsFromIndexStats(s.Postings.LabelValuePairsStats),
	}}
	if s.Partial {
		out.Warning = fmt.Sprintf("there are more than %d series: the newest were counted", tsdb.StatsSeriesMax)
	}
	return out, nil
}

func (i inventory) Blocks(ctx context.Context, id tenant.ID) ([]upstream.BlockMeta, error) {
	return i.db.BlockMetas(ctx, id)
}
