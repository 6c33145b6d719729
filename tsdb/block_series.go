package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/fileutil"
	"github.com/prometheus/prometheus/tsdb/index"
)

// mappedIndex is a block's index and the bytes that it is in.
type mappedIndex struct {
	*index.Reader
	bytes   fileBytes
	symbols *index.Symbols
	file    *fileutil.MmapFile
}

func (ix *mappedIndex) Close() error { return errors.Join(ix.Reader.Close(), ix.file.Close()) }

// fileBytes are a file's bytes as upstream's index package wants them.
type fileBytes []byte

func (b fileBytes) Len() int                    { return len(b) }
func (b fileBytes) Range(start, end int) []byte { return b[start:end] }

// mapIndex maps an index file.
func mapIndex(path string) (*mappedIndex, error) {
	f, err := fileutil.OpenMmapFile(path)
	if err != nil {
		return nil, err
	}
	b := fileBytes(f.Bytes())
	r, err := index.NewReader(b, index.DecodePostingsRaw)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	toc, err := index.NewTOCFromByteSlice(b)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	symbols, err := index.NewSymbols(b, r.Version(), int(toc.Symbols)) // its own are not to be had
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &mappedIndex{r, b, symbols, f}, nil
}

// seriesAlign is what upstream's series references count.
const seriesAlign = 16

// seriesDecoder reads the series of an index one after the other: what upstream's
// Reader.Series does, several times faster, because it finds most symbols where it had
// them before instead of walking the symbol table for each.
type seriesDecoder struct {
	ix      *mappedIndex
	builder labels.ScratchBuilder
	metas   []chunks.Meta
	// keep, where it is not nil, are the only labels that are wanted;
	// last and lastLabels are the values of the last series that had others.
	keep       []string
	last, key  []uint32
	lastLabels labels.Labels
	// name is the symbol of the last series' metric, of those that have one as their
	// first label.
	name uint32
	// symbols are the last that were looked up, by their low bits. They are in the
	// mapped file.
	symbols [symbolsKept]struct {
		n uint32 // plus 1
		s string
	}
}

const symbolsKept = 1 << 12

func newSeriesDecoder(ix *mappedIndex) *seriesDecoder {
	return &seriesDecoder{ix: ix, builder: labels.NewScratchBuilder(8)}
}

func (d *seriesDecoder) symbol(n uint32) (string, error) {
	kept := &d.symbols[n%symbolsKept]
	if kept.n == n+1 {
		return kept.s, nil
	}
	s, err := d.ix.symbols.Lookup(n)
	if err != nil {
		return "", err
	}
	kept.n, kept.s = n+1, s
	return s, nil
}

var errSeriesShort = errors.New("index entry of a series is cut short")

// decode reads a series. d.metas and d.name are its until the next.
func (d *seriesDecoder) decode(ref storage.SeriesRef) (labels.Labels, error) {
	at := int(ref) * seriesAlign
	if at < 0 || at >= len(d.ix.bytes) {
		return labels.Labels{}, fmt.Errorf("series %d is not in the index", ref)
	}
	src := d.ix.bytes[at:]
	size, n := binary.Uvarint(src)
	if n <= 0 || size > uint64(len(src)) || uint64(len(src)-n)-size < crc32.Size || int(size)+n+crc32.Size > len(src) {
		return labels.Labels{}, errSeriesShort
	}
	src = src[n:]
	if crc32.Checksum(src[:size], castagnoli) != binary.BigEndian.Uint32(src[size:]) {
		return labels.Labels{}, fmt.Errorf("series %d has a wrong checksum", ref)
	}
	r := decoder{src: src[:size]}
	d.name, d.key = 0, d.key[:0]
	for range r.uvarint() {
		name, value := uint32(r.uvarint()), uint32(r.uvarint())
		if r.err != nil {
			return labels.Labels{}, errSeriesShort
		}
		ln, err := d.symbol(name)
		if err != nil {
			return labels.Labels{}, err
		}
		if ln == model.MetricNameLabel {
			d.name = value + 1
		}
		if d.keep == nil || slices.Contains(d.keep, ln) {
			d.key = append(d.key, name, value)
		}
	}
	if err := d.decodeMetas(&r); err != nil {
		return labels.Labels{}, err
	}
	return d.labels()
}

// labels returns those of d.key. Neighbours often have the same ones.
func (d *seriesDecoder) labels() (labels.Labels, error) {
	if d.keep != nil && len(d.last) > 0 && slices.Equal(d.key, d.last) {
		return d.lastLabels, nil
	}
	d.builder.Reset()
	for i := 0; i < len(d.key); i += 2 {
		ln, err := d.symbol(d.key[i])
		if err != nil {
			return labels.Labels{}, err
		}
		lv, err := d.symbol(d.key[i+1])
		if err != nil {
			return labels.Labels{}, err
		}
		d.builder.Add(ln, lv)
	}
	d.last = append(d.last[:0], d.key...)
	d.lastLabels = d.builder.Labels()
	return d.lastLabels, nil
}

// decodeMetas reads where a series' chunks are.
func (d *seriesDecoder) decodeMetas(r *decoder) error {
	d.metas = d.metas[:0]
	count := r.uvarint()
	var ref, at int64
	for i := range count {
		var m chunks.Meta
		if i == 0 {
			m.MinTime = r.varint()
			m.MaxTime = m.MinTime + int64(r.uvarint())
			ref = int64(r.uvarint())
		} else {
			m.MinTime = at + int64(r.uvarint())
			m.MaxTime = m.MinTime + int64(r.uvarint())
			ref += r.varint()
		}
		if r.err != nil {
			return errSeriesShort
		}
		m.Ref, at = chunks.ChunkRef(ref), m.MaxTime
		d.metas = append(d.metas, m)
	}
	return r.err
}
