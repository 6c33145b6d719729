package tsdb

import (
	"cmp"
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
	bytes      int64 // of chunks
	united     int   // series with unions
	series     uint64
	chunks     uint64
	windows    uint64
}

// bad reports a problem of one file of the block.
func (c *blockChecker) bad(file, format string, args ...any) {
	c.problem(filepath.Join(c.block.dir(), file), format, args...)
}

func (c *blockChecker) run() {
	c.sum.Blocks++
	c.checkEntries()
	var err error
	if c.meta, err = c.block.meta(); err != nil {
		c.bad(blockMetaName, "%v", err)
	} else if c.meta.ULID != c.block.ULID || c.meta.Quipu.Tenant != c.id.String() || c.meta.Quipu.Generation != cmp.Or(c.block.Generation, c.man.Generation) {
		c.bad(blockMetaName, "says it is block %s of tenant %s, generation %d", c.meta.ULID, c.meta.Quipu.Tenant, c.meta.Quipu.Generation)
	}
	if c.blockFiles, err = c.block.cache.acquire(c.block); err != nil {
		c.bad("", "%v", err)
		return
	}
	defer c.block.cache.release(c.block)
	refs, ok := c.checkAllSeries()
	if ok {
		c.checkPostings(refs)
		c.checkUnionsFile()
	}
	c.checkTotals()
}

// checkEntries verifies that the directory has what a block has and no more.
func (c *blockChecker) checkEntries() {
	entries, err := c.fs.ReadDir(c.block.dir())
	if err != nil {
		c.bad("", "%v", err)
		return
	}
	missing := map[string]struct{}{blockMetaName: {}, blockIndex: {}, blockChunks: {}}
	if c.block.Unions > 0 {
		missing[blockUnions] = struct{}{}
	}
	for _, e := range entries {
		if _, ok := missing[e.Name()]; !ok {
			c.bad(e.Name(), "does not belong here")
		}
		delete(missing, e.Name())
	}
	for _, name := range sortedKeys(missing) {
		c.bad(name, "is missing")
	}
}

// checkAllSeries verifies all series and returns their references; ok is false where
// some could not be read.
func (c *blockChecker) checkAllSeries() (refs map[storage.SeriesRef]bool, ok bool) {
	name, value := index.AllPostingsKey()
	p, err := c.index.Postings(c.ctx, name, value)
	if err != nil {
		c.bad(blockIndex, "postings of all series: %v", err)
		return nil, false
	}
	refs, ok = map[storage.SeriesRef]bool{}, true
	prev := labels.EmptyLabels()
	builder := labels.NewScratchBuilder(8)
	for p.Next() && c.ctx.Err() == nil {
		var metas []chunks.Meta
		if err := c.index.Series(p.At(), &builder, &metas); err != nil {
			c.bad(blockIndex, "series %d: %v", p.At(), err)
			ok = false
			continue
		}
		refs[p.At()] = true
		ls := builder.Labels()
		if c.series > 0 && labels.Compare(prev, ls) >= 0 {
			c.bad(blockIndex, "series %s follows %s", ls, prev)
		}
		if ls.Get(model.MetricNameLabel) == "" {
			c.bad(blockIndex, "series %s has no metric name", ls)
		}
		prev = ls
		c.checkSeries(ls, p.At(), metas)
	}
	if err := p.Err(); err != nil {
		c.bad(blockIndex, "postings of all series: %v", err)
		ok = false
	}
	return refs, ok
}

// checkPostings verifies that what every postings list names is a series that has
// the list's label. That every series is in the lists of its labels is verified with
// the series.
func (c *blockChecker) checkPostings(refs map[storage.SeriesRef]bool) {
	names, err := c.index.LabelNames(c.ctx)
	if err != nil {
		c.bad(blockIndex, "label names: %v", err)
		return
	}
	for _, name := range names {
		values, err := c.index.LabelValues(c.ctx, name, nil)
		if err != nil {
			c.bad(blockIndex, "values of label %s: %v", name, err)
			continue
		}
		for i, value := range values {
			if i > 0 && values[i-1] >= value {
				c.bad(blockIndex, "value %q of label %s follows %q", value, name, values[i-1])
			}
			c.checkPostingsList(name, value, refs)
		}
	}
}

func (c *blockChecker) checkPostingsList(name, value string, refs map[storage.SeriesRef]bool) {
	p, err := c.index.Postings(c.ctx, name, value)
	if err != nil {
		c.bad(blockIndex, "postings of %s=%q: %v", name, value, err)
		return
	}
	builder := labels.NewScratchBuilder(8)
	last := storage.SeriesRef(0)
	for p.Next() && c.ctx.Err() == nil {
		ref := p.At()
		switch err := c.index.Series(ref, &builder, nil); {
		case !refs[ref]:
			c.bad(blockIndex, "postings of %s=%q have %d, which is no series", name, value, ref)
		case err != nil:
			c.bad(blockIndex, "series %d: %v", ref, err)
		case builder.Labels().Get(name) != value:
			c.bad(blockIndex, "postings of %s=%q have series %s", name, value, builder.Labels())
		case ref <= last:
			c.bad(blockIndex, "postings of %s=%q have series %d after %d", name, value, ref, last)
		}
		last = ref
	}
	if err := p.Err(); err != nil {
		c.bad(blockIndex, "postings of %s=%q: %v", name, value, err)
	} else if last == 0 && c.ctx.Err() == nil {
		c.bad(blockIndex, "postings of %s=%q have no series", name, value)
	}
}

func (c *blockChecker) checkTotals() {
	c.sum.Series += int(c.series)
	c.sum.Chunks += int(c.chunks)
	c.sum.Windows += int(c.windows)
	if n := c.bytes + c.index.Size() + c.block.Unions; n != c.block.Bytes {
		c.bad("", "the manifest says %d bytes of chunks, index and unions, there are %d", c.block.Bytes, n)
	}
	if n := c.block.Series; n != 0 && n != c.series {
		c.bad("", "the manifest says %d series, there are %d", n, c.series)
	}
	times := map[string][2]int64{"the manifest": {c.block.MinTime, c.block.MaxTime}}
	if c.meta != nil {
		s := c.meta.Stats
		if s.NumSeries != c.series || s.NumChunks != c.chunks || s.NumSamples != c.windows {
			c.bad(blockMetaName, "says %d series, %d chunks, %d windows; there are %d, %d, %d",
				s.NumSeries, s.NumChunks, s.NumSamples, c.series, c.chunks, c.windows)
		}
		times[blockMetaName] = [2]int64{c.meta.MinTime, c.meta.MaxTime}
	}
	for what, have := range times {
		if have != [2]int64{c.mint, c.maxt} {
			c.bad("", "%s says times %d to %d, increments are from %d to %d", what, have[0], have[1], c.mint, c.maxt)
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
			c.bad(blockIndex, "postings of %s=%q lack series %s", l.Name, l.Value, ls)
		}
	})
	if len(metas) == 0 {
		c.bad(blockIndex, "series %s has no chunks", ls)
	}
	last := int64(0)
	unions := c.checkUnions(ls)
	defer unions.end()
	for i, m := range metas {
		n, _ := chunks.BlockChunkRef(m.Ref).Unpack()
		file := filepath.Join(blockChunks, chunkFileName(n))
		e, src, err := c.blockFiles.chunks.chunk(m.Ref)
		if err != nil {
			c.bad(file, "chunk %d of %s: %v", i, ls, err)
			continue
		}
		c.bytes += int64(len(src))
		p := points{raw: true}
		step, err := decodeChunk(e, src, &p)
		if err != nil {
			c.bad(file, "chunk %d of %s: %v", i, ls, err)
			continue
		}
		if p.kind == increment.Sample {
			step = 1 // a sample's chunk ends with its last millisecond
		}
		first, end := p.win[0], p.end()+step
		switch {
		case p.kind != increment.Sample && step != c.settings.GridMillis():
			c.bad(file, "chunk %d of %s has a step of %d ms, the tenant's is %d", i, ls, step, c.settings.GridMillis())
		case dayMillis%max(1, p.step) != 0 || p.step > c.block.Step:
			c.bad(file, "chunk %d of %s has coarse windows of %d ms, the manifest says %d of the block", i, ls, p.step, c.block.Step)
		case m.MinTime != first || m.MaxTime != end-1:
			c.bad(blockIndex, "chunk %d of %s is said to be of %d to %d, it is of %d to %d", i, ls, m.MinTime, m.MaxTime, first, end-1)
		case i > 0 && first <= last:
			c.bad(blockIndex, "chunk %d of %s begins at %d, before the end of the one before", i, ls, first)
		case dayStart(first) != dayStart(end-1):
			c.bad(file, "chunk %d of %s crosses midnight", i, ls)
		}
		c.checkKind(ls, p.kind)
		if p.kind == increment.Distinct {
			unions.add(&p)
		}
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
	if c.meta == nil {
		return
	}
	name := ls.Get(model.MetricNameLabel)
	if have := c.meta.Quipu.Kinds[name]; have != k.String() {
		c.bad(blockMetaName, "says %q is a %q, a chunk of %s is a %s", name, have, ls, k)
	}
}
