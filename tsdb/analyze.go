package tsdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// Cost is what some series take in blocks.
type Cost struct {
	Name   string `json:"name"`
	Kind   string `json:"kind,omitempty"`
	Series int    `json:"series"`
	Chunks int    `json:"chunks"`
	// Windows are those with an increment, and samples. One in two blocks counts twice.
	Windows int   `json:"windows"`
	Bytes   int64 `json:"bytes"` // of chunks, neither of index nor of unions
}

// LabelCost is how many values a label has, and how many series have it.
type LabelCost struct {
	Name   string `json:"name"`
	Values int    `json:"values"`
	Series uint64 `json:"series"`
}

// Churn is how many series have their first and their last window on a day UTC.
type Churn struct {
	Day   string `json:"day"`
	First int    `json:"first"`
	Last  int    `json:"last"`
}

// Analysis says what takes room in a tenant's blocks, the largest first.
type Analysis struct {
	Tenant     string      `json:"tenant"`
	Blocks     int         `json:"blocks"`
	BlockBytes int64       `json:"blockBytes"`
	Series     int         `json:"series"`
	Kinds      []Cost      `json:"kinds"`
	Metrics    []Cost      `json:"metrics"`
	Labels     []LabelCost `json:"labels"`
	Churn      []Churn     `json:"churn"`
}

// Analyze reads the blocks of a data directory that no server has open, those of one
// tenant or, where only is zero, of all, and changes nothing. What is only in the log is
// not in it, what was deleted and not rewritten yet is. Of metrics and labels the limit
// largest are returned.
func Analyze(ctx context.Context, dir string, only tenant.ID, limit int) (out []Analysis, err error) {
	ids, lock, err := lockOffline(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	blocks := newBlockCache(1, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
	for _, id := range ids {
		if !only.IsZero() && id != only {
			continue
		}
		a, err := analyzeTenant(ctx, blocks, filepath.Join(dir, id.String()), id, limit)
		if err != nil {
			return nil, fmt.Errorf("analyze tenant %s: %w", id, err)
		}
		out = append(out, a)
	}
	if !only.IsZero() && len(out) == 0 {
		return nil, fmt.Errorf("tenant %s %w", only, tenant.ErrUnknown)
	}
	return out, nil
}

// analyzer gathers what one tenant's blocks have.
type analyzer struct {
	ctx     context.Context
	kinds   map[string]*Cost
	metrics map[string]*Cost
	counted seriesCounter
	days    map[uint64]*[2]int64 // first and last window of a series, by its hash
}

func analyzeTenant(ctx context.Context, cache *blockCache, dir string, id tenant.ID, limit int) (Analysis, error) {
	out := Analysis{Tenant: id.String()}
	man, err := readManifest(vfs.OS{}, dir)
	if err != nil {
		return out, err
	}
	a := analyzer{
		ctx: ctx, kinds: map[string]*Cost{}, metrics: map[string]*Cost{}, days: map[uint64]*[2]int64{},
		counted: seriesCounter{ctx: ctx, left: int(^uint(0) >> 1), values: map[string]map[string]uint64{}},
	}
	at := newHome(vfs.OS{}, dir)
	for _, info := range man.Blocks {
		b := newBlock(cache, at, info)
		if err := readMapped(func() error { return a.addBlock(b) }); err != nil {
			return out, b.readError(err)
		}
		out.Blocks++
		out.BlockBytes += info.Bytes
	}
	out.Series = a.counted.seen.len()
	out.Kinds, out.Metrics = largestCosts(a.kinds, len(a.kinds)), largestCosts(a.metrics, limit)
	out.Labels, out.Churn = a.labels(limit), a.churn()
	return out, nil
}

func (a *analyzer) addBlock(b *block) error {
	files, err := b.cache.acquire(b)
	if err != nil {
		return err
	}
	defer b.cache.release(b)
	name, value := index.AllPostingsKey()
	p, err := files.index.Postings(a.ctx, name, value)
	if err != nil {
		return err
	}
	d := newSeriesDecoder(files.index)
	for p.Next() {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if err := d.decode(p.At()); err != nil {
			return err
		}
		ls, err := d.labels()
		if err != nil {
			return err
		}
		if err := a.addSeries(ls, d, files); err != nil {
			return fmt.Errorf("series %s: %w", ls, err)
		}
	}
	return p.Err()
}

func (a *analyzer) addSeries(ls labels.Labels, d *seriesDecoder, files *blockFiles) error {
	var one Cost
	for _, m := range d.metas {
		encoding, src, err := files.chunks.chunk(m.ref)
		if err != nil {
			return err
		}
		kind, err := kindOf(encoding)
		if err != nil {
			return err
		}
		var p points
		if _, err := decodeChunk(encoding, src, &p); err != nil {
			return err
		}
		one.Kind = kind.String()
		one.Chunks, one.Windows, one.Bytes = one.Chunks+1, one.Windows+p.len(), one.Bytes+int64(len(src))
	}
	hash := ls.Hash()
	if len(d.metas) > 0 {
		first, last := d.metas[0].MinTime, d.metas[len(d.metas)-1].MaxTime
		if seen := a.days[hash]; seen != nil {
			seen[0], seen[1] = min(seen[0], first), max(seen[1], last)
		} else {
			one.Series = 1
			a.days[hash] = &[2]int64{first, last}
		}
	}
	a.counted.add(ls, hash, len(d.metas))
	addCost(a.kinds, one.Kind, &one)
	addCost(a.metrics, ls.Get(model.MetricNameLabel), &one)
	return nil
}

func addCost(to map[string]*Cost, name string, one *Cost) {
	c := to[name]
	if c == nil {
		c = &Cost{Name: name, Kind: one.Kind}
		to[name] = c
	}
	c.Series += one.Series
	c.Chunks += one.Chunks
	c.Windows += one.Windows
	c.Bytes += one.Bytes
}

func largestCosts(of map[string]*Cost, limit int) []Cost {
	out := []Cost{}
	for _, c := range of {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Cost) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name)) })
	return out[:min(limit, len(out))]
}

func (a *analyzer) labels(limit int) []LabelCost {
	out := []LabelCost{}
	for name, values := range a.counted.values {
		l := LabelCost{Name: name, Values: len(values)}
		for _, n := range values {
			l.Series += n
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b LabelCost) int { return cmp.Or(cmp.Compare(b.Values, a.Values), cmp.Compare(a.Name, b.Name)) })
	return out[:min(limit, len(out))]
}

// churn are the days on which series begin or end, in order.
func (a *analyzer) churn() []Churn {
	days := map[string]*Churn{}
	at := func(t int64) *Churn {
		day := time.UnixMilli(t).UTC().Format(time.DateOnly)
		if days[day] == nil {
			days[day] = &Churn{Day: day}
		}
		return days[day]
	}
	for _, d := range a.days {
		at(d[0]).First++
		at(d[1]).Last++
	}
	out := []Churn{}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		out = append(out, *days[day])
	}
	return out
}
