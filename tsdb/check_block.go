package tsdb

import (
	"path/filepath"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// blockChecker verifies one live block.
type blockChecker struct {
	*checker
	id       tenant.ID
	man      *manifest
	settings tenant.Settings
	block    *block

	meta *blockMeta
	*blockFiles
	mint, maxt int64
	series     uint64
	chunks     uint64
	windows    uint64
}

func (c *blockChecker) bad(format string, args ...any) { c.problem(c.block.dir, format, args...) }

func (c *blockChecker) run() {
	c.sum.Blocks++
	var err error
	if c.meta, err = c.block.meta(); err != nil {
		c.bad("%v", err)
		return
	}
	if c.meta.ULID != c.block.ULID || c.meta.Quipu.Tenant != c.id.String() || c.meta.Quipu.Generation != c.man.Generation {
		c.bad("%s says it is block %s of tenant %s, generation %d", blockMetaName, c.meta.ULID, c.meta.Quipu.Tenant, c.meta.Quipu.Generation)
	}
	if c.blockFiles, err = c.block.cache.acquire(c.block); err != nil {
		c.bad("%v", err)
		return
	}
	defer c.block.cache.release(c.block)
	name, value := index.AllPostingsKey()
	p, err := c.index.Postings(c.ctx, name, value)
	if err != nil {
		c.bad("%s: %v", blockIndex, err)
		return
	}
	prev := labels.EmptyLabels()
	builder := labels.NewScratchBuilder(8)
	for p.Next() && c.ctx.Err() == nil {
		var metas []chunks.Meta
		if err := c.index.Series(p.At(), &builder, &metas); err != nil {
			c.bad("%s: series %d: %v", blockIndex, p.At(), err)
			continue
		}
		ls := builder.Labels()
		if c.series > 0 && labels.Compare(prev, ls) >= 0 {
			c.bad("%s: series %s follows %s", blockIndex, ls, prev)
		}
		prev = ls
		c.checkSeries(ls, p.At(), metas)
	}
	if err := p.Err(); err != nil {
		c.bad("%s: %v", blockIndex, err)
	}
	c.checkTotals()
}

func (c *blockChecker) checkTotals() {
	c.sum.Series += int(c.series)
	c.sum.Chunks += int(c.chunks)
	c.sum.Windows += int(c.windows)
	s := c.meta.Stats
	if s.NumSeries != c.series || s.NumChunks != c.chunks || s.NumSamples != c.windows {
		c.bad("%s says %d series, %d chunks, %d windows; there are %d, %d, %d",
			blockMetaName, s.NumSeries, s.NumChunks, s.NumSamples, c.series, c.chunks, c.windows)
	}
	for what, have := range map[string][2]int64{"the manifest": {c.block.MinTime, c.block.MaxTime}, blockMetaName: {c.meta.MinTime, c.meta.MaxTime}} {
		if have != [2]int64{c.mint, c.maxt} {
			c.bad("%s says times %d to %d, increments are from %d to %d", what, have[0], have[1], c.mint, c.maxt)
		}
	}
}

// checkSeries verifies that every label's postings have the series and that its
// chunks are what the index says.
func (c *blockChecker) checkSeries(ls labels.Labels, ref storage.SeriesRef, metas []chunks.Meta) {
	c.series++
	ls.Range(func(l labels.Label) {
		p, err := c.index.Postings(c.ctx, l.Name, l.Value)
		if err != nil || !p.Seek(ref) || p.At() != ref {
			c.bad("%s: postings of %s=%q lack series %s", blockIndex, l.Name, l.Value, ls)
		}
	})
	last := int64(0)
	for i, m := range metas {
		ch, _, err := c.blockFiles.chunks.ChunkOrIterable(m)
		if err != nil {
			c.bad("%s: chunk %d of %s: %v", blockChunks, i, ls, err)
			continue
		}
		var p points
		step, err := decodeChunk(ch.Encoding(), ch.Bytes(), &p)
		if err != nil {
			c.bad("%s: chunk %d of %s: %v", blockChunks, i, ls, err)
			continue
		}
		first, end := p.win[0], p.win[p.len()-1]+step
		switch {
		case step != c.settings.GridMillis():
			c.bad("%s: chunk %d of %s has a step of %d ms, the tenant's is %d", blockChunks, i, ls, step, c.settings.GridMillis())
		case m.MinTime != first || m.MaxTime != end-1:
			c.bad("%s: chunk %d of %s is said to be of %d to %d, it is of %d to %d", blockIndex, i, ls, m.MinTime, m.MaxTime, first, end-1)
		case i > 0 && first <= last:
			c.bad("%s: chunk %d of %s begins at %d, before the end of the one before", blockIndex, i, ls, first)
		case dayStart(first) != dayStart(end-1):
			c.bad("%s: chunk %d of %s crosses midnight", blockChunks, i, ls)
		}
		c.checkKind(ls, p.kind)
		if c.chunks == 0 {
			c.mint, c.maxt = first, end
		}
		c.mint, c.maxt = min(c.mint, first), max(c.maxt, end)
		last = end - 1
		c.chunks++
		c.windows += uint64(p.len())
	}
}

func (c *blockChecker) checkKind(ls labels.Labels, k increment.Kind) {
	name := ls.Get(model.MetricNameLabel)
	if have := c.meta.Quipu.Kinds[name]; have != k.String() {
		c.bad("%s says %q is a %q, a chunk of %s is a %s", filepath.Base(blockMetaName), name, have, ls, k)
	}
}
