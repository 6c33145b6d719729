package tsdb

import (
	"bytes"
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
	// Of the last series: its chunks, the symbols of its labels, of name and value, and
	// that of its metric plus 1; 0: it has none.
	metas []chunkAt
	key   []uint32
	name  uint32
	// keep, where it is not nil, are the only labels that are wanted.
	keep []string
	// labelSets are the labels that series had, places where each is by its key.
	labelSets []labels.Labels
	places    map[string]uint32
	last      []byte // the key of the last series, and its place
	lastPlace uint32
	keyBytes  []byte
	// symbols are the last that were looked up, by their low bits. They are in the
	// mapped file.
	symbols [symbolsKept]symbol
}

const symbolsKept = 1 << 12

type symbol struct {
	n        uint32 // plus 1
	wanted   bool   // as the name of a label
	isMetric bool
	s        string
}

func newSeriesDecoder(ix *mappedIndex) *seriesDecoder {
	return &seriesDecoder{ix: ix, builder: labels.NewScratchBuilder(8), places: map[string]uint32{}}
}

func (d *seriesDecoder) symbol(n uint32) (*symbol, error) {
	kept := &d.symbols[n%symbolsKept]
	if kept.n == n+1 {
		return kept, nil
	}
	s, err := d.ix.symbols.Lookup(n)
	if err != nil {
		return nil, err
	}
	*kept = symbol{n: n + 1, wanted: d.keep == nil || slices.Contains(d.keep, s), isMetric: s == model.MetricNameLabel, s: s}
	return kept, nil
}

var errSeriesShort = errors.New("index entry of a series is cut short")

// decode reads a series, up to its labels.
func (d *seriesDecoder) decode(ref storage.SeriesRef) error {
	at := int(ref) * seriesAlign
	if at < 0 || at >= len(d.ix.bytes) {
		return fmt.Errorf("series %d is not in the index", ref)
	}
	src := d.ix.bytes[at:]
	size, n := binary.Uvarint(src)
	if n <= 0 || size > uint64(len(src)) || uint64(len(src)-n)-size < crc32.Size || int(size)+n+crc32.Size > len(src) {
		return errSeriesShort
	}
	src = src[n:]
	if crc32.Checksum(src[:size], castagnoli) != binary.BigEndian.Uint32(src[size:]) {
		return fmt.Errorf("series %d has a wrong checksum", ref)
	}
	r := decoder{src: src[:size]}
	d.name, d.key = 0, d.key[:0]
	for range r.uvarint() {
		name, value := uint32(r.uvarint()), uint32(r.uvarint())
		if r.err != nil {
			return errSeriesShort
		}
		ln, err := d.symbol(name)
		if err != nil {
			return err
		}
		if ln.isMetric {
			d.name = value + 1
		}
		if ln.wanted {
			d.key = append(d.key, name, value)
		}
	}
	return d.decodeMetas(&r)
}

// labels returns the wanted labels of the last series.
func (d *seriesDecoder) labels() (labels.Labels, error) {
	d.builder.Reset()
	for i := 0; i < len(d.key); i += 2 {
		ln, err := d.symbol(d.key[i])
		if err != nil {
			return labels.Labels{}, err
		}
		name := ln.s // its place may be the value's
		lv, err := d.symbol(d.key[i+1])
		if err != nil {
			return labels.Labels{}, err
		}
		d.builder.Add(name, lv.s)
	}
	return d.builder.Labels(), nil
}

// labelSet returns the place in labelSets of the last series' labels.
func (d *seriesDecoder) labelSet() (uint32, error) {
	d.keyBytes = d.keyBytes[:0]
	for _, n := range d.key {
		d.keyBytes = binary.LittleEndian.AppendUint32(d.keyBytes, n)
	}
	if len(d.labelSets) > 0 && bytes.Equal(d.keyBytes, d.last) { // neighbours often have the same
		return d.lastPlace, nil
	}
	place, ok := uint32(0), false
	if d.keep != nil { // else no two have the same
		place, ok = d.places[string(d.keyBytes)]
	}
	if !ok {
		ls, err := d.labels()
		if err != nil {
			return 0, err
		}
		place = uint32(len(d.labelSets))
		if d.labelSets = append(d.labelSets, ls); d.keep != nil {
			d.places[string(d.keyBytes)] = place
		}
	}
	d.last, d.lastPlace = append(d.last[:0], d.keyBytes...), place
	return place, nil
}

// decodeMetas reads where a series' chunks are.
func (d *seriesDecoder) decodeMetas(r *decoder) error {
	d.metas = d.metas[:0]
	count := r.uvarint()
	var ref, at int64
	for i := range count {
		var m chunkAt
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
		m.ref, at = chunks.ChunkRef(ref), m.MaxTime
		d.metas = append(d.metas, m)
	}
	return r.err
}
