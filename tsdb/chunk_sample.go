package tsdb

import (
	"fmt"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/quipudb/quipu/internal/increment"
)

// Chunks of samples are Prometheus's own, of at most 120 samples each: XOR, or XOR2
// where samples have start timestamps, and its histogram encodings.

// isSampleEncoding reports whether chunks of an encoding hold samples.
func isSampleEncoding(e chunkenc.Encoding) bool { return chunkenc.IsValidEncoding(e) }

// encodeSampleChunks cuts samples into chunks.
func encodeSampleChunks(p *points) ([]chunks.Meta, error) {
	series := storage.SeriesEntry{
		Lset:             labels.EmptyLabels(),
		SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return newSampleView(p, p.win[0], p.win[p.len()-1]) },
	}
	var out []chunks.Meta
	it := storage.NewSeriesToChunkEncoder(&series).Iterator(nil)
	for it.Next() {
		out = append(out, it.At())
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("encode samples: %w", err)
	}
	return out, nil
}

// sampleChunkMin is less than the shortest chunk takes, and what upstream's decoders
// look at without asking.
const sampleChunkMin = 4

// appendSampleChunk appends the samples of a chunk to p.
func appendSampleChunk(e chunkenc.Encoding, src []byte, p *points) error {
	if len(src) < sampleChunkMin {
		return errChunkShort
	}
	c, err := chunkenc.FromData(e, src)
	if err != nil {
		return err
	}
	before := p.len()
	it := c.Iterator(nil)
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		s := entry{at: it.AtST()}
		switch vt {
		case chunkenc.ValFloat:
			s.time, s.value = it.At()
		case chunkenc.ValHistogram:
			s.native = &increment.Native{}
			s.time, s.native.Int = it.AtHistogram(nil)
		case chunkenc.ValFloatHistogram:
			s.native = &increment.Native{}
			s.time, s.native.Float = it.AtFloatHistogram(nil)
		}
		if n := p.len(); n > before && s.time <= p.win[n-1] {
			return fmt.Errorf("sample at %d follows one at %d", s.time, p.win[n-1])
		}
		p.push(&s)
	}
	switch err := it.Err(); {
	case err != nil:
		return fmt.Errorf("%w: %w", errChunkShort, err)
	case p.len() == before:
		return errChunkShort
	}
	return nil
}

// unknownReset returns a native histogram whose counter reset hint, which is about the
// sample that was before it once, says nothing of the one that is now. n is not
// changed.
func unknownReset(n *increment.Native) *increment.Native {
	switch {
	case n == nil:
		return nil
	case n.Int != nil && n.Int.CounterResetHint != histogram.GaugeType:
		h := *n.Int
		h.CounterResetHint = histogram.UnknownCounterReset
		return &increment.Native{Int: &h}
	case n.Float != nil && n.Float.CounterResetHint != histogram.GaugeType:
		h := *n.Float
		h.CounterResetHint = histogram.UnknownCounterReset
		return &increment.Native{Float: &h}
	}
	return n
}

// hintResets sets the counter reset hints of native histograms as the chunks of a block
// would have them, by way of such chunks: what was received says only whether a
// histogram is a gauge, or a reset for sure.
func (p *points) hintResets() error {
	if !slices.ContainsFunc(p.native, func(n *increment.Native) bool { return n != nil }) {
		return nil
	}
	metas, err := encodeSampleChunks(p)
	if err != nil {
		return err
	}
	out := points{kind: p.kind}
	for _, m := range metas {
		if err := appendSampleChunk(m.Chunk.Encoding(), m.Chunk.Bytes(), &out); err != nil {
			return err
		}
	}
	*p = out
	return nil
}

// newSampleView returns the samples in [mint, maxt] as they were received, those after
// the present too. p is kept.
func newSampleView(p *points, mint, maxt int64) chunkenc.Iterator {
	p.between(mint, maxt+1)
	return &sampleIterator{p: p, i: -1}
}

// sampleIterator hands out copies of histograms: who gets one may change it.
type sampleIterator struct {
	p *points
	i int
}

func (it *sampleIterator) Next() chunkenc.ValueType {
	if it.i++; it.i >= it.p.len() {
		it.i = it.p.len()
		return chunkenc.ValNone
	}
	return it.valueType()
}

func (it *sampleIterator) valueType() chunkenc.ValueType {
	switch n := it.p.native[it.i]; {
	case n == nil:
		return chunkenc.ValFloat
	case n.Int != nil:
		return chunkenc.ValHistogram
	}
	return chunkenc.ValFloatHistogram
}

func (it *sampleIterator) Seek(t int64) chunkenc.ValueType {
	from := max(it.i, 0)
	it.i = from + sort.Search(it.p.len()-from, func(i int) bool { return it.p.win[from+i] >= t })
	if it.i >= it.p.len() {
		return chunkenc.ValNone
	}
	return it.valueType()
}

func (it *sampleIterator) At() (int64, float64) { return it.AtT(), it.p.value[it.i] }

func (it *sampleIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	n := it.p.native[it.i]
	if h == nil {
		return it.AtT(), n.Int.Copy()
	}
	n.Int.CopyTo(h)
	return it.AtT(), h
}

func (it *sampleIterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	n := it.p.native[it.i]
	switch {
	case n.Int != nil:
		return it.AtT(), n.Int.ToFloat(fh)
	case fh == nil:
		return it.AtT(), n.Float.Copy()
	}
	n.Float.CopyTo(fh)
	return it.AtT(), fh
}

func (it *sampleIterator) AtT() int64  { return it.p.win[it.i] }
func (it *sampleIterator) AtST() int64 { return it.p.at[it.i] }
func (it *sampleIterator) Err() error  { return nil }
