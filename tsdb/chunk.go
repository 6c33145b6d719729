package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
)

// encodingBase is added to a kind to give its encoding in a block's chunk files:
// 0x71 counter, 0x72 histogram, 0x73 distinct, 0x74 gauge, 0x76 histogram with buckets. They are clear of upstream's, which hold samples; a
// changed layout gets a new number. Those of coarse windows are in chunk_coarse.go.
const encodingBase chunkenc.Encoding = 0x70

func encodingOf(k increment.Kind) chunkenc.Encoding { return encodingBase + chunkenc.Encoding(k) }

func kindOf(e chunkenc.Encoding) (increment.Kind, error) {
	if isSampleEncoding(e) {
		return increment.Sample, nil
	}
	if isCoarse(e) {
		return increment.Kind(e - coarseBase), nil
	}
	k := increment.Kind(e - encodingBase)
	if !k.Valid() || k == increment.Sample {
		return 0, fmt.Errorf("unknown chunk encoding %#x", byte(e))
	}
	return k, nil
}

// chunkHeader opens every chunk.
type chunkHeader struct {
	step  int64 // width of a window, milliseconds
	n     int   // windows, at least 1
	first int64 // number of the first window: its start divided by step
}

func (h *chunkHeader) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(h.step/1000))
	dst = binary.AppendUvarint(dst, uint64(h.n))
	return binary.AppendVarint(dst, h.first)
}

func (h *chunkHeader) decode(src []byte) (rest []byte, err error) {
	d := decoder{src: src}
	step, n, first := d.uvarint(), d.uvarint(), d.varint()
	switch {
	case d.err != nil:
		return src, errChunkShort
	case step == 0 || step > 86_400:
		return src, fmt.Errorf("chunk has a step of %d s", step)
	case n == 0 || n > 1<<24:
		return src, fmt.Errorf("chunk has %d windows", n)
	case first > windowMax(int64(step)*1000) || first < -windowMax(int64(step)*1000):
		return src, fmt.Errorf("chunk starts at window %d", first)
	}
	*h = chunkHeader{step: int64(step) * 1000, n: int(n), first: first}
	return d.src, nil
}

// windowMax is the largest number of a window, so that no time overflows.
func windowMax(step int64) int64 { return math.MaxInt64 / step / 2 }

// encodeChunk encodes the points i..j of p, which lie on a grid of step ms.
func encodeChunk(p *points, step int64, i, j int) ([]byte, error) {
	for _, w := range p.win[i:j] {
		if w%step != 0 {
			return nil, fmt.Errorf("encode chunk: window %d is not on a grid of %d ms", w, step)
		}
	}
	h := chunkHeader{step: step, n: j - i, first: p.win[i] / step}
	dst := h.append(make([]byte, 0, 32))
	switch p.kind {
	case increment.Counter:
		return appendCounts(dst, p.win[i:j], p.value[i:j], step), nil
	case increment.Histogram:
		return appendHists(dst, p.win[i:j], p.hist[i:j], step), nil
	case increment.Distinct:
		return appendSketches(dst, p.win[i:j], p.ids[i:j], step)
	case increment.Buckets:
		return appendBucketHists(dst, p.win[i:j], p.hist[i:j], step), nil
	case increment.Gauge:
		return appendGauges(dst, p.win[i:j], p.at[i:j], p.value[i:j], step), nil
	}
	return nil, fmt.Errorf("encode chunk of unknown kind %d", p.kind)
}

// decodeChunk sets p to the points of a chunk and returns the width of their windows, 0
// for samples.
func decodeChunk(e chunkenc.Encoding, src []byte, p *points) (step int64, err error) {
	kind, err := kindOf(e)
	if err != nil {
		return 0, err
	}
	p.reset(kind)
	return appendChunk(e, src, nil, p)
}

// appendChunk appends the points of a chunk to p, whose kind is the chunk's, coarse ones as
// windows of the grid unless p is raw. Of coarse ones those in one of the spans are left
// out; who appends others does that itself.
func appendChunk(e chunkenc.Encoding, src []byte, dead []span, p *points) (step int64, err error) {
	kind, err := kindOf(e)
	if err != nil {
		return 0, err
	}
	if kind != p.kind {
		return 0, fmt.Errorf("chunk of a %s among those of a %s", kind, p.kind)
	}
	if isCoarse(e) {
		return appendCoarseChunk(src, dead, p)
	}
	var h chunkHeader
	if kind != increment.Sample {
		if src, err = h.decode(src); err != nil {
			return 0, err
		}
	}
	switch kind {
	case increment.Sample:
		err = appendSampleChunk(e, src, p)
	case increment.Counter:
		err = decodeCounts(src, h, p)
	case increment.Histogram:
		err = decodeHists(src, h, p)
	case increment.Distinct:
		err = decodeSketches(src, h, p)
	case increment.Buckets:
		err = decodeBucketHists(src, h, p)
	case increment.Gauge:
		err = decodeGauges(src, h, p)
	}
	if p.raw {
		p.last = append(p.last, p.win[len(p.last):]...)
	}
	return h.step, err
}

// decoder reads varints; the first failure sticks.
type decoder struct {
	src []byte
	err error
}

var errCutShort = errors.New("data is cut short")

func (d *decoder) uvarint() uint64 {
	if len(d.src) > 0 && d.src[0] < 0x80 { // most are a byte
		v := d.src[0]
		d.src = d.src[1:]
		return uint64(v)
	}
	return d.longUvarint()
}

func (d *decoder) longUvarint() uint64 {
	v, n := binary.Uvarint(d.src)
	if n <= 0 {
		d.err, d.src = errCutShort, nil
		return 0
	}
	d.src = d.src[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1) // as encoding/binary has it
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.src)) {
		d.err, d.src = errCutShort, nil
		return nil
	}
	b := d.src[:n]
	d.src = d.src[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }

// appendFloat codes whole numbers as varints and others as 8 bytes after a tag.
func appendFloat(dst []byte, v float64) []byte {
	if n := int64(v); float64(n) == v && n > -1<<53 && n < 1<<53 {
		return binary.AppendVarint(append(dst, 1), n)
	}
	return binary.LittleEndian.AppendUint64(append(dst, 0), math.Float64bits(v))
}

func (d *decoder) float() float64 {
	switch d.byte() {
	case 1:
		return float64(d.varint())
	case 0:
		if b := d.bytes(8); b != nil {
			return math.Float64frombits(binary.LittleEndian.Uint64(b))
		}
	default:
		d.err = errors.New("unknown number tag")
	}
	return 0
}

// chunk is an encoded chunk as upstream's chunk and index packages want it.
type chunk struct {
	enc   chunkenc.Encoding
	bytes []byte
}

func (c *chunk) Bytes() []byte               { return c.bytes }
func (c *chunk) Encoding() chunkenc.Encoding { return c.enc }
func (c *chunk) Compact()                    {}
func (c *chunk) Reset(b []byte)              { c.bytes = b }

// Appender is refused: chunks are encoded whole.
func (c *chunk) Appender() (chunkenc.Appender, error) {
	return nil, errors.New("chunks of increments are not appended to")
}

// NumSamples is the number of windows.
func (c *chunk) NumSamples() int {
	var h chunkHeader
	if _, err := h.decode(c.bytes); err != nil {
		return 0
	}
	return h.n
}

// Iterator yields the increments themselves, each at the end of its window; the
// cumulative view over them is the querier's.
func (c *chunk) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	it := &chunkIterator{i: -1}
	it.step, it.err = decodeChunk(c.enc, c.bytes, &it.p)
	return it
}

type chunkIterator struct {
	p    points
	step int64
	i    int
	err  error
}

func (it *chunkIterator) Next() chunkenc.ValueType {
	if it.err != nil || it.i+1 >= it.p.len() {
		return chunkenc.ValNone
	}
	it.i++
	if it.p.hist != nil {
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

func (it *chunkIterator) Seek(t int64) chunkenc.ValueType {
	for {
		if v := it.Next(); v == chunkenc.ValNone || it.AtT() >= t {
			return v
		}
	}
}

func (it *chunkIterator) At() (int64, float64) {
	if it.p.kind != increment.Distinct {
		return it.AtT(), it.p.value[it.i]
	}
	v, err := it.p.ids[it.i].Estimate()
	if err != nil {
		it.err = err
	}
	return it.AtT(), v
}

func (it *chunkIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return it.AtT(), nil // never asked for: Next says ValFloatHistogram
}

func (it *chunkIterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return it.AtT(), it.p.hist[it.i].Float(fh)
}
func (it *chunkIterator) AtT() int64  { return it.p.win[it.i] + it.step }
func (it *chunkIterator) AtST() int64 { return it.p.win[it.i] }
func (it *chunkIterator) Err() error  { return it.err }
