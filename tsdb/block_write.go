package tsdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/vfs"
)

// chunkWindowsMax bounds a chunk: two hours at a step of 15 s, so that a query of
// minutes does not decode a day.
const chunkWindowsMax = 480

// chunkBytesMax bounds a chunk of large values (sketches, wide histograms) by
// halving its windows.
const chunkBytesMax = 64 << 10

// chunkFileBytesMax is where a chunk file of a block ends and another begins.
const chunkFileBytesMax = 32 << 20

// blockSeries is one series on its way into a block.
type blockSeries struct {
	labels labels.Labels
	kind   increment.Kind
	// All windows start in [mint, maxt). parts returns copies of those in a part
	// of that; where that is a day of UTC it returns no other.
	mint, maxt int64
	parts      func(mint, maxt int64) ([]points, error)
}

// blockSpec is what a block is written from.
type blockSpec struct {
	tenantDir  string
	tenant     string
	generation uint64
	id         ulid.ULID
	step       int64        // the tenant's grid
	coarse     int64        // blockInfo.Step
	steps      *coarseSteps // nil: series stay in the steps that they are in
	seq        uint64
	series     []blockSeries // equal labels merge; of samples those of a later one were written later
	level      int
	sources    []ulid.ULID // of a merged block: the flushed blocks it came from
	chunkBytes int64       // about how many bytes of chunks there will be
	bytes      int64       // of chunks, once they are written
	unions     unionsWriter
}

// writeBlock writes a block into a temporary directory, makes it durable and
// renames it into place. It is not live until a manifest names it. Where no
// series has a point it writes nothing and returns ok false.
func writeBlock(ctx context.Context, fsys vfs.FS, spec *blockSpec) (bi blockInfo, ok bool, err error) {
	final := filepath.Join(spec.tenantDir, spec.id.String())
	tmp := final + ".tmp"
	defer func() {
		if err != nil || !ok {
			err = errors.Join(err, fsys.RemoveAll(tmp), fsys.RemoveAll(final))
		}
	}()
	if err := fsys.MkdirAll(filepath.Join(tmp, blockChunks)); err != nil {
		return bi, false, fmt.Errorf("make block directory: %w", err)
	}
	spec.unions = unionsWriter{fs: fsys, path: filepath.Join(tmp, blockUnions), step: spec.step}
	meta, err := writeBlockFiles(ctx, tmp, spec)
	if err != nil {
		return bi, false, fmt.Errorf("write block %s: %w", tmp, errors.Join(err, spec.unions.close()))
	}
	if meta.Stats.NumSeries == 0 {
		return bi, false, nil
	}
	if err := adoptFiles(fsys, tmp); err != nil {
		return bi, false, err
	}
	src, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return bi, false, fmt.Errorf("encode block meta: %w", err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(tmp, blockMetaName), src); err != nil {
		return bi, false, err
	}
	for _, dir := range []string{filepath.Join(tmp, blockChunks), tmp} {
		if err := fsys.SyncDir(dir); err != nil {
			return bi, false, fmt.Errorf("sync block directory: %w", err)
		}
	}
	if err := fsys.Rename(tmp, final); err != nil {
		return bi, false, fmt.Errorf("rename block: %w", err)
	}
	if err := fsys.SyncDir(spec.tenantDir); err != nil {
		return bi, false, fmt.Errorf("sync tenant directory: %w", err)
	}
	size, err := os.Stat(filepath.Join(final, blockIndex))
	if err != nil {
		return bi, false, fmt.Errorf("size of block index: %w", err)
	}
	return blockInfo{
		ULID: spec.id, MinTime: meta.MinTime, MaxTime: meta.MaxTime, Bytes: spec.bytes + size.Size() + meta.Quipu.Unions, Unions: meta.Quipu.Unions,
		MetaSum: crc32.Checksum(src, castagnoli), Seq: spec.seq, Samples: spec.samples(), Series: meta.Stats.NumSeries, Step: spec.coarse,
	}, true, nil
}

// samples reports whether any series is of samples.
func (spec *blockSpec) samples() bool {
	return slices.ContainsFunc(spec.series, func(s blockSeries) bool { return s.kind == increment.Sample })
}

// adoptFiles tells fsys of what upstream's writers made in a block's directory.
func adoptFiles(fsys vfs.FS, dir string) error {
	chunkDir := filepath.Join(dir, blockChunks)
	entries, err := os.ReadDir(chunkDir)
	if err != nil {
		return fmt.Errorf("list chunks: %w", err)
	}
	names := []string{filepath.Join(dir, blockIndex)}
	for _, e := range entries {
		names = append(names, filepath.Join(chunkDir, e.Name()))
	}
	for _, n := range names {
		if err := fsys.Adopt(n); err != nil {
			return fmt.Errorf("write block: %w", err)
		}
	}
	return nil
}

// writeBlockFiles writes chunks, index and unions; upstream's writers sync what they
// close.
func writeBlockFiles(ctx context.Context, dir string, spec *blockSpec) (meta *blockMeta, err error) {
	meta = &blockMeta{
		BlockMeta: tsdb.BlockMeta{ULID: spec.id, MinTime: math.MaxInt64, MaxTime: math.MinInt64, Version: 1},
		Quipu:     blockMetaQuipu{Tenant: spec.tenant, Generation: spec.generation, Kinds: map[string]string{}, Step: spec.coarse},
	}
	meta.Compaction.Level = spec.level
	if meta.Compaction.Sources = spec.sources; len(spec.sources) == 0 {
		meta.Compaction.Sources = []ulid.ULID{spec.id}
	}
	slices.SortStableFunc(spec.series, func(a, b blockSeries) int { return labels.Compare(a.labels, b.labels) })

	// The writer allocates a file of this size before it knows what goes in: not
	// upstream's 512 MiB, and no more than is needed, for a disk may be nearly full.
	segment := min(max(spec.chunkBytes, chunkBytesMax), chunkFileBytesMax)
	cw, err := chunks.NewWriter(filepath.Join(dir, blockChunks), chunks.WithSegmentSize(segment))
	if err != nil {
		return nil, fmt.Errorf("write chunks: %w", err)
	}
	defer func() { err = errors.Join(err, cw.Close()) }()
	iw, err := index.NewWriter(ctx, filepath.Join(dir, blockIndex))
	if err != nil {
		return nil, fmt.Errorf("write index: %w", err)
	}
	defer func() { err = errors.Join(err, iw.Close()) }()
	if err := addSymbols(iw, spec.series); err != nil {
		return nil, err
	}
	for i := 0; i < len(spec.series); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		j := i + 1
		for j < len(spec.series) && labels.Equal(spec.series[i].labels, spec.series[j].labels) {
			j++
		}
		if err := addSeries(iw, cw, spec, meta, spec.series[i:j]); err != nil {
			return nil, fmt.Errorf("write series %s: %w", spec.series[i].labels, err)
		}
		i = j
	}
	meta.Quipu.Unions, err = spec.unions.finish()
	return meta, err
}

func addSymbols(iw *index.Writer, series []blockSeries) error {
	seen := map[string]struct{}{"": {}}
	for i := range series {
		series[i].labels.Range(func(l labels.Label) {
			seen[l.Name] = struct{}{}
			seen[l.Value] = struct{}{}
		})
	}
	symbols := make([]string, 0, len(seen))
	for s := range seen {
		symbols = append(symbols, s)
	}
	slices.Sort(symbols)
	for _, s := range symbols {
		if err := iw.AddSymbol(s); err != nil {
			return fmt.Errorf("write symbol: %w", err)
		}
	}
	return nil
}

// addSeries merges the parts of one series and writes its chunks and its entry.
func addSeries(iw *index.Writer, cw *chunks.Writer, spec *blockSpec, meta *blockMeta, same []blockSeries) error {
	mint, maxt := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range same {
		mint, maxt = min(mint, s.mint), max(maxt, s.maxt)
	}
	distinct := same[0].kind == increment.Distinct
	if distinct {
		spec.unions.beginSeries(labels.StableHash(same[0].labels))
	}
	var metas []chunks.Meta
	for day := dayStart(mint); day < maxt; day += dayMillis {
		// No chunk crosses midnight, so a day at a time is enough in memory.
		more, err := addDay(cw, spec, meta, same, day)
		if err != nil {
			return err
		}
		metas = append(metas, more...)
	}
	if len(metas) == 0 {
		return nil
	}
	if distinct {
		if err := spec.unions.endSeries(); err != nil {
			return err
		}
	}
	if err := iw.AddSeries(storage.SeriesRef(meta.Stats.NumSeries+1), same[0].labels, metas...); err != nil {
		return err
	}
	meta.Stats.NumSeries++
	meta.Stats.NumChunks += uint64(len(metas))
	meta.Quipu.Kinds[same[0].labels.Get(model.MetricNameLabel)] = same[0].kind.String()
	return nil
}

// addDay writes the chunks of one day of one series and returns where they are.
func addDay(cw *chunks.Writer, spec *blockSpec, meta *blockMeta, same []blockSeries, day int64) ([]chunks.Meta, error) {
	var parts []points
	for _, s := range same {
		if s.maxt <= day || s.mint >= day+dayMillis {
			continue
		}
		p, err := s.parts(day, day+dayMillis)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p...)
	}
	p, err := spec.merge(same[0].labels, same[0].kind, parts)
	if err != nil || p.len() == 0 {
		return nil, err
	}
	metas, err := encodeChunks(&p, spec.step)
	if err == nil && p.kind == increment.Distinct {
		err = spec.unions.addDay(&p)
	}
	if err != nil {
		return nil, err
	}
	if err := cw.WriteChunks(metas...); err != nil {
		return nil, err
	}
	for i := range metas {
		spec.bytes += int64(len(metas[i].Chunk.Bytes()))
		metas[i].Chunk = nil // only its reference is needed from here on
	}
	meta.Stats.NumSamples += uint64(p.len())
	meta.MinTime = min(meta.MinTime, p.win[0])
	last := p.end()
	if p.kind == increment.Sample {
		meta.MaxTime = max(meta.MaxTime, last+1)
	} else {
		meta.MaxTime = max(meta.MaxTime, last+spec.step)
	}
	return metas, nil
}

// encodeChunks cuts points into chunks. No chunk crosses midnight UTC, where runs
// end.
func encodeChunks(p *points, step int64) ([]chunks.Meta, error) {
	if p.kind == increment.Sample {
		return encodeSampleChunks(p)
	}
	var out []chunks.Meta
	for i := 0; i < p.len(); {
		j := min(i+chunkWindowsMax, p.len())
		midnight := dayStart(p.win[i]) + dayMillis
		if k, _ := slices.BinarySearch(p.win[i:j], midnight); i+k < j {
			j = i + k
		}
		if same := p.sameBuckets(); same != nil {
			for k := i + 1; k < j; k++ {
				if !same(k) {
					j = k // a chunk has one set of bounds
				}
			}
		}
		enc, err := encodeWindows(p, step, i, j)
		for err == nil && len(enc.bytes) > chunkBytesMax && j-i > 1 {
			j = i + (j-i)/2
			enc, err = encodeWindows(p, step, i, j)
		}
		if err != nil {
			return nil, err
		}
		last := p.win[j-1]
		if p.raw {
			last = p.last[j-1]
		}
		out = append(out, chunks.Meta{Chunk: enc, MinTime: p.win[i], MaxTime: last + step - 1})
		i = j
	}
	return out, nil
}

// encodeWindows encodes the points i..j of p on a grid of step ms, coarse ones as such.
func encodeWindows(p *points, step int64, i, j int) (*chunk, error) {
	if p.raw {
		src, err := encodeCoarse(p, step, p.step, i, j)
		return &chunk{enc: coarseBase + chunkenc.Encoding(p.kind), bytes: src}, err
	}
	src, err := encodeChunk(p, step, i, j)
	return &chunk{enc: encodingOf(p.kind), bytes: src}, err
}

const dayMillis = 24 * 60 * 60 * 1000

// dayStart is the midnight UTC at or before t.
func dayStart(t int64) int64 { return floorTo(t, dayMillis) }

// floorTo is the multiple of step at or before t.
func floorTo(t, step int64) int64 {
	m := t % step
	if m < 0 {
		m += step
	}
	return t - m
}
