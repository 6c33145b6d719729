package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// A record, the payload of a frame, is a batch or all that a tenant has in memory:
//
//	type        1 byte: 1 batch, 2 tenant
//	tenant      length and bytes
//	generation  8 bytes: of the tenant, so that one deleted and made again does
//	            not get its predecessor's data
//	keys        uvarint n, then n times: 16 bytes batch key, varint time ms
//	step        uvarint: width of the windows in seconds
//	series      uvarint n, then n times: uvarint reference, kind (1 byte), uvarint
//	            labels, for each name and value (length and bytes)
//	increments  uvarint n, then n times: uvarint reference, varint window number
//	            less that of the increment before, value: a counter's number (see
//	            appendFloat), a histogram as in its chunk, or for a distinct series
//	            uvarint n+1 and n ids of 8 bytes, or 0, uvarint length and a sketch
//
// A record is applied whole or not at all. A tenant's record stands for all records
// of the tenant before it, which need not be there any more. A reference is valid
// inside one segment.
const (
	recordBatch  = 1
	recordTenant = 2
)

// loggedSeries is a series as records refer to it.
type loggedSeries struct {
	ref    uint64
	kind   increment.Kind
	labels labels.Labels
	// segment is the one whose records may refer to the series without defining
	// it; owned by the log's writer goroutine.
	segment uint64
	// replayed is where the increments of the series went last while its segment
	// is replayed: most of one series' are of one memtable.
	replayed routed
}

// loggedIncrement is one resolved increment; inc's Labels and Keep are not used.
type loggedIncrement struct {
	series *loggedSeries
	inc    *increment.Increment
}

// batchKey de-duplicates a batch.
type batchKey struct {
	hash [16]byte
	time int64 // when it was first seen, milliseconds since 1970
}

// walRecord is a record's content.
type walRecord struct {
	tenant     tenant.ID
	generation uint64
	whole      bool       // a tenant's record
	keys       []batchKey // of a batch: at most one
	step       int64      // milliseconds
	increments []loggedIncrement
}

func (b *walRecord) append(dst []byte, segment uint64) []byte {
	if b.whole {
		dst = append(dst, recordTenant)
	} else {
		dst = append(dst, recordBatch)
	}
	dst = appendString(dst, b.tenant.String())
	dst = binary.BigEndian.AppendUint64(dst, b.generation)
	dst = binary.AppendUvarint(dst, uint64(len(b.keys)))
	for _, k := range b.keys {
		dst = append(dst, k.hash[:]...)
		dst = binary.AppendVarint(dst, k.time)
	}
	dst = binary.AppendUvarint(dst, uint64(b.step/1000))
	var fresh []*loggedSeries
	for i := range b.increments {
		if s := b.increments[i].series; s.segment != segment {
			s.segment = segment
			fresh = append(fresh, s)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(fresh)))
	for _, s := range fresh {
		dst = s.append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.increments)))
	prev := int64(0)
	for i := range b.increments {
		li := &b.increments[i]
		n := li.inc.Time / b.step
		dst = binary.AppendUvarint(dst, li.series.ref)
		dst = binary.AppendVarint(dst, n-prev)
		prev = n
		dst = appendValue(dst, li.series.kind, li.inc)
	}
	return dst
}

func (s *loggedSeries) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.ref)
	dst = append(dst, byte(s.kind))
	dst = binary.AppendUvarint(dst, uint64(s.labels.Len()))
	s.labels.Range(func(l labels.Label) {
		dst = appendString(dst, l.Name)
		dst = appendString(dst, l.Value)
	})
	return dst
}

func appendValue(dst []byte, k increment.Kind, inc *increment.Increment) []byte {
	switch k {
	case increment.Counter:
		return appendFloat(dst, inc.Count)
	case increment.Histogram:
		return appendHist(dst, inc.Hist)
	}
	if len(inc.Sketch) > 0 {
		dst = binary.AppendUvarint(append(dst, 0), uint64(len(inc.Sketch)))
		return append(dst, inc.Sketch...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(inc.IDs))+1)
	for _, id := range inc.IDs {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return dst
}

// encodedMax is at least what an increment takes in a record, its series' definition
// included.
func encodedMax(inc *increment.Increment) int {
	n := 64 + int(inc.Labels.ByteSize()) + 20*inc.Labels.Len() + 8*len(inc.IDs) + len(inc.Sketch)
	if inc.Hist != nil {
		n += 20 * (len(inc.Hist.Pos) + len(inc.Hist.Neg))
	}
	return n
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// recordReader decodes the records of one segment.
type recordReader struct {
	series  map[uint64]*loggedSeries
	builder labels.ScratchBuilder
}

// newRecordReader returns a reader for the records of a fresh segment.
func newRecordReader() *recordReader {
	return &recordReader{series: map[uint64]*loggedSeries{}, builder: labels.NewScratchBuilder(8)}
}

// decode returns the record that payload holds; it keeps no reference to payload.
func (r *recordReader) decode(payload []byte) (*walRecord, error) {
	d := decoder{src: payload}
	t := d.byte()
	if t != recordBatch && t != recordTenant {
		return nil, fmt.Errorf("record has unknown type %d", t)
	}
	b := walRecord{whole: t == recordTenant}
	id, err := tenant.Parse(d.string())
	if err != nil {
		return nil, errors.Join(d.err, err)
	}
	b.tenant = id
	if g := d.bytes(8); g != nil {
		b.generation = binary.BigEndian.Uint64(g)
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		var k batchKey
		copy(k.hash[:], d.bytes(16))
		k.time = d.varint()
		b.keys = append(b.keys, k)
	}
	step := d.uvarint()
	if d.err == nil && (step == 0 || step > 86_400) {
		return nil, fmt.Errorf("record has a step of %d s", step)
	}
	b.step = int64(step) * 1000
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		if err := r.define(&d); err != nil {
			return nil, err
		}
	}
	if err := r.increments(&d, &b); err != nil {
		return nil, err
	}
	if d.err == nil && len(d.src) > 0 {
		return nil, fmt.Errorf("record has %d bytes too many", len(d.src))
	}
	return &b, d.err
}

func (r *recordReader) define(d *decoder) error {
	s := &loggedSeries{ref: d.uvarint(), kind: increment.Kind(d.byte())}
	n := d.uvarint()
	r.builder.Reset()
	for range n {
		name, value := d.string(), d.string()
		if d.err != nil {
			return d.err
		}
		r.builder.Add(name, value)
	}
	if !s.kind.Valid() {
		return fmt.Errorf("series of unknown kind %d", s.kind)
	}
	s.labels = r.builder.Labels()
	r.series[s.ref] = s
	return nil
}

func (r *recordReader) increments(d *decoder, b *walRecord) error {
	n := d.uvarint()
	if n > uint64(len(d.src)) { // an increment takes at least 3 bytes
		return errCutShort
	}
	incs := make([]increment.Increment, n)
	b.increments = make([]loggedIncrement, n)
	window := int64(0)
	for i := range incs {
		ref := d.uvarint()
		s := r.series[ref]
		if s == nil {
			return errors.Join(fmt.Errorf("record refers to series %d, which the segment does not define", ref), d.err)
		}
		window += d.varint()
		if window > math.MaxInt64/b.step || window < math.MinInt64/b.step {
			return fmt.Errorf("record has window %d", window)
		}
		inc := &incs[i]
		*inc = increment.Increment{Kind: s.kind, Time: window * b.step}
		if err := d.value(s.kind, inc); err != nil {
			return err
		}
		b.increments[i] = loggedIncrement{s, inc}
	}
	return nil
}

func (d *decoder) value(k increment.Kind, inc *increment.Increment) (err error) {
	switch k {
	case increment.Counter:
		inc.Count = d.float()
		if math.IsNaN(inc.Count) || math.IsInf(inc.Count, 0) || inc.Count < 0 {
			return fmt.Errorf("counter increment is %v", inc.Count)
		}
	case increment.Histogram:
		inc.Hist, err = d.hist()
		return err
	case increment.Distinct:
		n := d.uvarint()
		if n == 0 {
			inc.Sketch = slices.Clone(d.bytes(d.uvarint()))
			return d.err
		}
		if n--; n > uint64(len(d.src))/8 {
			return errCutShort
		}
		inc.IDs = make([]uint64, n)
		for i := range inc.IDs {
			inc.IDs[i] = binary.BigEndian.Uint64(d.bytes(8))
		}
	}
	return d.err
}
