package tsdb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/tenant"
)

// StatsSeriesMax is how many series DB.Stats looks at: about a second's work.
const StatsSeriesMax = 1_000_000

// Stats say how many series a tenant has stored, and which labels make them many.
type Stats struct {
	Series uint64
	// Chunks are those of blocks, and one for each series of a memtable.
	Chunks int64
	// MinTime is the start of the oldest window and MaxTime the end of the newest, in
	// milliseconds since 1970; MinTime is the larger one where there is no data.
	MinTime, MaxTime int64
	Postings         index.PostingsStats
	// Partial: there are more than StatsSeriesMax, of which the newest were counted.
	Partial bool
}

// Stats returns those of a tenant, with the limit largest of each kind. A series that is
// in several memtables and blocks counts once; the classic series of a histogram are not
// stored and not counted.
func (db *DB) Stats(ctx context.Context, id tenant.ID, limit int) (Stats, error) {
	out := Stats{MinTime: math.MaxInt64, MaxTime: math.MinInt64}
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return out, err
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	c := seriesCounter{ctx: ctx, left: StatsSeriesMax, values: map[string]map[string]uint64{}}
	if err := c.addVersion(v); err != nil {
		return out, fmt.Errorf("count the series of tenant %s: %w", id, because(ctx, err))
	}
	if mint, maxt, ok := v.times(); ok {
		out.MinTime, out.MaxTime = mint, maxt
	}
	out.Series, out.Chunks, out.Partial = uint64(c.seen.len()), c.chunks, c.left < 0
	out.Postings = c.postings(limit)
	return out, nil
}

// seriesCounter counts the series of a version by their labels.
type seriesCounter struct {
	ctx    context.Context
	left   int // how many may still be looked at; negative: there were more
	seen   hashSet
	chunks int64
	values map[string]map[string]uint64 // series by label name and value
}

// addVersion counts memtables and blocks, the newest first.
func (c *seriesCounter) addVersion(v *version) error {
	for _, m := range slices.Backward(v.mems) {
		for i, s := range m.all() {
			if i%lookEvery == 0 && c.ctx.Err() != nil {
				return c.ctx.Err()
			}
			if !c.add(s.labels, s.hash, 1) {
				return nil
			}
		}
	}
	blocks := slices.SortedFunc(slices.Values(v.blocks), func(a, b *block) int { return cmp.Compare(b.MaxTime, a.MaxTime) })
	for _, b := range blocks {
		if c.left < 0 {
			return nil
		}
		if err := readMapped(func() error { return c.addBlock(b) }); err != nil {
			return b.readError(err)
		}
	}
	return nil
}

func (c *seriesCounter) addBlock(b *block) error {
	files, err := b.cache.acquire(b)
	if err != nil {
		return err
	}
	defer b.cache.release(b)
	name, value := index.AllPostingsKey()
	p, err := files.index.Postings(c.ctx, name, value)
	if err != nil {
		return err
	}
	d := newSeriesDecoder(files.index)
	for n := 0; p.Next(); n++ {
		if n%lookEvery == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err := d.decode(p.At()); err != nil {
			return err
		}
		ls, err := d.labels()
		if err != nil {
			return err
		}
		if !c.add(ls, ls.Hash(), len(d.metas)) {
			return nil
		}
	}
	return p.Err()
}

// add counts a series, once; it reports whether more may be looked at. It keeps ls.
func (c *seriesCounter) add(ls labels.Labels, hash uint64, chunks int) bool {
	if c.left--; c.left < 0 {
		return false
	}
	c.chunks += int64(chunks)
	if c.seen.has(hash) {
		return true
	}
	c.seen.add(hash)
	ls.Range(func(l labels.Label) {
		values := c.values[l.Name]
		if values == nil {
			values = map[string]uint64{}
			c.values[l.Name] = values
		}
		values[l.Value]++
	})
	return true
}

// postings are what upstream's MemPostings.Stats says of series.
func (c *seriesCounter) postings(limit int) index.PostingsStats {
	metrics, names, bytes, pairs := largest{limit: limit}, largest{limit: limit}, largest{limit: limit}, largest{limit: limit}
	out := index.PostingsStats{}
	for name, values := range c.values {
		out.NumLabelPairs += len(values)
		names.add(uint64(len(values)), name, "", "")
		size := uint64(0)
		for value, series := range values {
			if name == model.MetricNameLabel {
				metrics.add(series, value, "", "")
			}
			pairs.add(series, name, "=", value)
			size += uint64(len(value)) * series
		}
		bytes.add(size, name, "", "")
	}
	out.CardinalityMetricsStats, out.CardinalityLabelStats = metrics.get(), names.get()
	out.LabelValueStats, out.LabelValuePairsStats = bytes.get(), pairs.get()
	return out
}

// largest keeps the entries with the largest counts; of equal ones those whose names
// come first.
type largest struct {
	limit int
	stats []index.Stat
	floor index.Stat // the least of those that are kept, once there are limit
}

// largestSpare is how many entries are gathered before the least are dropped.
const largestSpare = 1024

// add offers an entry, whose name is in three parts so that only one that is kept is put
// together.
func (l *largest) add(count uint64, a, b, c string) {
	if count < l.floor.Count || count == l.floor.Count && l.floor.Name != "" && a+b+c > l.floor.Name {
		return
	}
	l.stats = append(l.stats, index.Stat{Name: a + b + c, Count: count})
	if len(l.stats) >= l.limit+largestSpare {
		l.get()
	}
}

func (l *largest) get() []index.Stat {
	slices.SortFunc(l.stats, func(a, b index.Stat) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	if len(l.stats) >= l.limit {
		l.stats = l.stats[:l.limit]
		l.floor = l.stats[l.limit-1]
	}
	return l.stats
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
