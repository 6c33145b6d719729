package tsdb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// StatsSeriesMax is how many series DB.Stats looks at: about a second's work.
	StatsSeriesMax = 1_000_000
	// StatsChunksMax is how many chunks it reads.
	StatsChunksMax = 4_000_000
)

// Stats returns those of a tenant, with the limit largest of each list and the costs of the
// metrics of some names. A series that is in several memtables and blocks counts once; the
// classic series of a histogram are not stored and not counted.
func (db *DB) Stats(ctx context.Context, id tenant.ID, limit int, names ...string) (Stats, error) {
	c := newSurvey(ctx, StatsSeriesMax, StatsChunksMax)
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return Stats{MinTime: math.MaxInt64, MaxTime: math.MinInt64}, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	if err := c.addVersion(v); err != nil {
		return Stats{}, fmt.Errorf("count the series of tenant %s: %w", id, because(ctx, err))
	}
	return c.stats(limit, names), nil
}

// BlockMetas are those of a tenant's live blocks, by their times: upstream's part of
// them, which names no tenant. Of a block whose own is damaged they say what the
// manifest does.
func (db *DB) BlockMetas(_ context.Context, id tenant.ID) ([]tsdb.BlockMeta, error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return []tsdb.BlockMeta{}, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	out := make([]tsdb.BlockMeta, 0, len(v.blocks))
	for _, b := range v.blocks {
		m, err := b.meta()
		if err != nil {
			if err = b.readError(err); b.damaged.Load() {
				out = append(out, tsdb.BlockMeta{
					ULID: b.ULID, MinTime: b.MinTime, MaxTime: b.MaxTime, Version: 1, Stats: tsdb.BlockStats{NumSeries: b.Series},
				})
				continue
			}
			return nil, err
		}
		out = append(out, m.BlockMeta)
	}
	slices.SortStableFunc(out, func(a, b tsdb.BlockMeta) int { return cmp.Compare(a.MinTime, b.MinTime) })
	return out, nil
}
