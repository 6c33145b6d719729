package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	upstream "github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// inventory tells the API what is stored of a tenant.
type inventory struct {
	db    *tsdb.DB
	rules *ingest.Ingester
}

func (i inventory) SeriesStats(ctx context.Context, id tenant.ID, limit int) (*api.SeriesStats, error) {
	var warnings []string
	rules, err := i.rules.Metrics(id)
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("what event rules cost is not known: %v", err))
	}
	s, err := i.db.Stats(ctx, id, limit, metricNames(rules)...)
	if err != nil {
		return nil, err
	}
	if s.Partial {
		warnings = append(warnings, fmt.Sprintf("there are more than %d series: the newest were counted", tsdb.StatsSeriesMax))
	}
	if s.CostsPartial {
		warnings = append(warnings, fmt.Sprintf("there are more than %d chunks: what the newest take was counted", tsdb.StatsChunksMax))
	}
	out := seriesStats(&s, rules)
	out.Warnings = append(warnings, damageTexts(s.Damage)...)
	return out, nil
}

func (i inventory) Blocks(ctx context.Context, id tenant.ID) ([]upstream.BlockMeta, error) {
	return i.db.BlockMetas(ctx, id)
}

func metricNames(rules []ingest.About) []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		out[i] = r.Metric
	}
	return out
}

func damageTexts(damage []string) (out []string) {
	for _, d := range damage {
		out = append(out, "not all is counted: "+d)
	}
	return out
}

// seriesStats puts what storage says beside the event rules in force.
func seriesStats(s *tsdb.Stats, rules []ingest.About) *api.SeriesStats {
	out := &api.SeriesStats{TSDBStatus: v1.TSDBStatus{
		HeadStats: v1.HeadStats{
			NumSeries: s.Series, NumLabelPairs: s.Postings.NumLabelPairs, ChunkCount: s.Chunks, MinTime: s.MinTime, MaxTime: s.MaxTime,
		},
		SeriesCountByMetricName:     v1.TSDBStatsFromIndexStats(s.Postings.CardinalityMetricsStats),
		LabelValueCountByLabelName:  v1.TSDBStatsFromIndexStats(s.Postings.CardinalityLabelStats),
		MemoryInBytesByLabelName:    v1.TSDBStatsFromIndexStats(s.Postings.LabelValueStats),
		SeriesCountByLabelValuePair: v1.TSDBStatsFromIndexStats(s.Postings.LabelValuePairsStats),
	}}
	st := &out.Storage
	*st = api.StorageStats{
		Blocks: s.Blocks, BlockBytes: s.BlockBytes,
		ByKind: seriesCosts(s.Kinds), ByMetric: seriesCosts(s.Metrics), ByEventRule: []api.SeriesCost{},
		ByLabel: []api.LabelCost{}, Churn: []api.SeriesChurn{},
	}
	all := tsdb.Cost{}
	for i := range s.Kinds {
		all.Add(&s.Kinds[i])
	}
	st.SeriesCost = seriesCost(&all)
	ruled := make([]tsdb.Cost, len(rules))
	for i, r := range rules {
		ruled[i] = s.Named[r.Metric]
		ruled[i].Name = r.Metric // of one that has counted nothing too
		all.Sub(&ruled[i])
	}
	slices.SortStableFunc(ruled, func(a, b tsdb.Cost) int {
		return cmp.Or(cmp.Compare(b.Bytes+b.MemoryBytes, a.Bytes+a.MemoryBytes), cmp.Compare(a.Name, b.Name))
	})
	st.ByEventRule, st.WithoutEventRule = seriesCosts(ruled), seriesCost(&all)
	for _, l := range s.Labels {
		st.ByLabel = append(st.ByLabel, api.LabelCost(l))
	}
	for _, d := range s.Churn {
		st.Churn = append(st.Churn, api.SeriesChurn(d))
	}
	return out
}

func seriesCosts(all []tsdb.Cost) []api.SeriesCost {
	out := make([]api.SeriesCost, len(all))
	for i := range all {
		out[i] = seriesCost(&all[i])
	}
	return out
}

func seriesCost(c *tsdb.Cost) api.SeriesCost {
	return api.SeriesCost{
		Name: c.Name, Kind: c.Kind, Series: c.Series, Increments: c.Increments, Chunks: c.Chunks, ChunkBytes: c.Bytes, MemoryBytes: c.MemoryBytes,
		BytesPerSeries:    float64(c.Bytes+c.MemoryBytes) / float64(max(1, c.Series)),
		BytesPerIncrement: float64(c.Bytes) / float64(max(1, c.InBlocks)),
	}
}
