package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb/dedup"
)

// A record, the payload of a frame, is one of six, by its first byte:
//
//	1 batch   what one batch adds
//	2 tenant  all that a tenant has in memory; it stands for all records of the
//	          tenant before it, which need not be there any more
//	3 series  what the references of the other two mean, in this segment
//	4 deletion  what is deleted of all that the tenant had before
//	5, 6  a batch and a tenant that have state
//
// A record is applied whole or not at all. Batch, tenant and deletion begin with:
//
//	tenant      length and bytes
//	generation  8 bytes: of the tenant, so that one deleted and made again does
//	            not get its predecessor's data
//	keys        uvarint n, then n times: 16 bytes batch key, varint time ms
//	ids         uvarint n; where it is not 0, varint time ms and n times 16 bytes: the
//	            ids of events
//	exemplars   uvarint n, then n times: labels of the series, labels, varint time
//	            ms, a float
//	metadata    uvarint n, then n times: metric, type, help, unit, as length and bytes
//	step        uvarint: width of the windows in seconds
//	state       only of 5 and 6: uvarint length and bytes. Of a batch it is what that
//	            changes of what is kept of the tenant besides increments, of a tenant all
//	            of it; a tenant without has none
//
// A batch goes on with runs of increments of one kind and time:
//
//	runs        uvarint n, then n times: kind (1 byte), varint time less that of the
//	            run before (the first: less 0; in seconds, for samples milliseconds),
//	            uvarint n, n times a varint reference less that of the increment
//	            before (in the record; the first: less 0), n values as in memlog; those
//	            of distinct series: uvarint n and n ids of 8 bytes
//
// A tenant's record goes on with its series, one for each block range:
//
//	series      uvarint n, then n times: uvarint reference, uvarint length and bytes
//	            of a memlog
//
// A deletion goes on with:
//
//	number      uvarint: deletions of the tenant are counted from 1
//	time        varint ms: when it was accepted
//	range       varint ms from, varint ms to, both included
//	matchers    uvarint n, then n times: type (1 byte: 0 =, 1 !=, 2 =~, 3 !~), name,
//	            value, as length and bytes
//
// A record of series is:
//
//	series      uvarint n, then n times: uvarint reference, kind (1 byte), labels
//
// Labels are uvarint n, then n times name and value as length and bytes.
const (
	recordBatch  = 1
	recordTenant = 2
	recordSeries = 3

	recordDeletion = 4

	recordBatchState  = 5
	recordTenantState = 6
)

// batchKey de-duplicates a batch.
type batchKey struct {
	hash [16]byte
	time int64 // when it was first seen, milliseconds since 1970
}

// recordHead is what batch and tenant records begin with.
type recordHead struct {
	tenant     tenant.ID
	generation uint64
	keys       []batchKey // of a batch: at most one
	ids        []dedup.ID // of a batch's events, seen at idsTime
	idsTime    int64
	exemplars  []increment.Exemplar
	metadata   []increment.Metadata
	step       int64 // milliseconds
	state      []byte
}

func (h *recordHead) append(dst []byte) []byte {
	dst = appendString(dst, h.tenant.String())
	dst = binary.BigEndian.AppendUint64(dst, h.generation)
	dst = binary.AppendUvarint(dst, uint64(len(h.keys)))
	for _, k := range h.keys {
		dst = append(dst, k.hash[:]...)
		dst = binary.AppendVarint(dst, k.time)
	}
	dst = binary.AppendUvarint(dst, uint64(len(h.ids)))
	if len(h.ids) > 0 {
		dst = binary.AppendVarint(dst, h.idsTime)
	}
	for i := range h.ids {
		dst = append(dst, h.ids[i][:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(h.exemplars)))
	for i := range h.exemplars {
		dst = appendExemplar(dst, &h.exemplars[i])
	}
	dst = binary.AppendUvarint(dst, uint64(len(h.metadata)))
	for i := range h.metadata {
		m := &h.metadata[i]
		for _, s := range [...]string{m.Metric, string(m.Type), m.Help, m.Unit} {
			dst = appendString(dst, s)
		}
	}
	if dst = binary.AppendUvarint(dst, uint64(h.step/1000)); len(h.state) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(len(h.state)))
	return append(dst, h.state...)
}

func appendExemplar(dst []byte, e *increment.Exemplar) []byte {
	dst = appendLabels(dst, e.Series)
	dst = appendLabels(dst, e.Labels)
	dst = binary.AppendVarint(dst, e.Time)
	return appendFloat(dst, e.Value)
}

// encodeBatch appends the record of a batch whose increments go to the series of to.
func encodeBatch(dst []byte, h *recordHead, incs []increment.Increment, to []routed) []byte {
	dst = h.append(append(dst, h.typed(recordBatch)))
	runs, count := 0, len(dst)
	dst = binary.BigEndian.AppendUint32(dst, 0) // the number of runs, once known
	prevTime, prevRef := int64(0), uint64(0)
	for i := 0; i < len(incs); runs++ {
		kind, t := to[i].series.kind, incs[i].Time
		n := 1
		for i+n < len(incs) && incs[i+n].Time == t && to[i+n].series.kind == kind {
			n++
		}
		if dst = append(dst, byte(kind)); kind == increment.Sample {
			dst = binary.AppendVarint(dst, t-prevTime)
		} else {
			dst = binary.AppendVarint(dst, t/1000-prevTime/1000)
		}
		prevTime = t
		dst = binary.AppendUvarint(dst, uint64(n))
		for j := i; j < i+n; j++ {
			ref := to[j].series.ref
			dst = binary.AppendVarint(dst, int64(ref-prevRef))
			prevRef = ref
		}
		for j := i; j < i+n; j++ {
			dst = appendValue(dst, kind, &incs[j])
		}
		i += n
	}
	binary.BigEndian.PutUint32(dst[count:], uint32(runs))
	return dst
}

func appendValue(dst []byte, k increment.Kind, inc *increment.Increment) []byte {
	switch k {
	case increment.Counter:
		return appendCount(dst, inc.Value)
	case increment.Histogram:
		return appendHist(dst, inc.Hist)
	case increment.Buckets:
		return appendBucketHist(dst, inc.Hist, nil)
	case increment.Gauge:
		return appendXOR(binary.AppendUvarint(dst, uint64(inc.At-inc.Time)), 0, inc.Value)
	case increment.Sample:
		return appendSample(dst, 0, &entry{time: inc.Time, value: inc.Value, at: inc.At, native: inc.Native})
	}
	dst = binary.AppendUvarint(dst, uint64(len(inc.IDs)))
	for _, id := range inc.IDs {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return dst
}

// encodedMax is at least what an increment takes in a record.
func encodedMax(inc *increment.Increment) int {
	n := 64 + 8*len(inc.IDs)
	if inc.Hist != nil {
		n += 20*(len(inc.Hist.Pos)+len(inc.Hist.Neg)) + 8*len(inc.Hist.Bounds)
	}
	if nat := inc.Native; nat != nil && nat.Int != nil {
		n += 20 * (8 + len(nat.Int.PositiveBuckets) + len(nat.Int.NegativeBuckets) + len(nat.Int.PositiveSpans) + len(nat.Int.NegativeSpans) + len(nat.Int.CustomValues))
	} else if nat != nil {
		n += 20 * (8 + len(nat.Float.PositiveBuckets) + len(nat.Float.NegativeBuckets) + len(nat.Float.PositiveSpans) + len(nat.Float.NegativeSpans) + len(nat.Float.CustomValues))
	}
	return n
}

// encodeSeries appends the record that defines series.
func encodeSeries(dst []byte, series []*memSeries) []byte {
	dst = binary.AppendUvarint(append(dst, recordSeries), uint64(len(series)))
	for _, s := range series {
		dst = binary.AppendUvarint(dst, s.ref)
		dst = append(dst, byte(s.kind))
		dst = appendLabels(dst, s.labels)
	}
	return dst
}

func appendLabels(dst []byte, ls labels.Labels) []byte {
	dst = binary.AppendUvarint(dst, uint64(ls.Len()))
	ls.Range(func(l labels.Label) {
		dst = appendString(dst, l.Name)
		dst = appendString(dst, l.Value)
	})
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// replayedSeries is a series of a segment that is being read.
type replayedSeries struct {
	ref    uint64
	kind   increment.Kind
	labels labels.Labels
	// to is where its increments went last: most are of one memtable.
	to routed
}

// walRecord is a batch's or a tenant's record that was read. It is used again for
// the next one.
type walRecord struct {
	recordHead
	whole bool // a tenant's

	deletion *deletion // nil: it is none
	runs     []recordRun
	logs     []recordLog
}

// recordRun is increments of one kind and time; values are in the columns of the
// kind.
type recordRun struct {
	kind   increment.Kind
	time   int64
	series []*replayedSeries
	points points // win is not used
	ids    [][]uint64
}

// recordLog is all that one series has in one memtable.
type recordLog struct {
	series *replayedSeries
	points points
}

// recordReader decodes the records of one segment.
type recordReader struct {
	table   seriesTable
	builder labels.ScratchBuilder
}

// newRecordReader returns a reader for the records of a fresh segment.
func newRecordReader() *recordReader {
	return &recordReader{builder: labels.NewScratchBuilder(8)}
}

// seriesTable finds series by reference. References of one segment lie close
// together, so they are kept in pages.
type seriesTable struct {
	pages map[uint64]*seriesPage
	last  *seriesPage
	page  uint64 // number of last
}

const seriesPageSize = 1024

type seriesPage [seriesPageSize]*replayedSeries

func (t *seriesTable) get(ref uint64) *replayedSeries {
	if n := ref / seriesPageSize; t.last == nil || n != t.page {
		p := t.pages[n]
		if p == nil {
			return nil
		}
		t.last, t.page = p, n
	}
	return t.last[ref%seriesPageSize]
}

func (t *seriesTable) set(s *replayedSeries) {
	n := s.ref / seriesPageSize
	p := t.pages[n]
	if p == nil {
		if t.pages == nil {
			t.pages = map[uint64]*seriesPage{}
		}
		p = new(seriesPage)
		t.pages[n] = p
	}
	p[s.ref%seriesPageSize] = s
}

// decode sets rec to the batch's or tenant's record that payload holds and reports
// true; one of series is noted. rec keeps no reference to payload.
func (r *recordReader) decode(payload []byte, rec *walRecord) (bool, error) {
	d := decoder{src: payload}
	var err error
	switch t := d.byte(); t {
	case recordSeries:
		return false, r.define(&d)
	case recordBatch, recordBatchState:
		if rec.whole, err = false, r.head(&d, rec, t == recordBatchState); err == nil {
			err = r.runs(&d, rec)
		}
	case recordDeletion:
		if rec.whole, err = false, r.head(&d, rec, false); err == nil {
			rec.deletion, err = d.deletion()
		}
	case recordTenant, recordTenantState:
		if rec.whole, err = true, r.head(&d, rec, t == recordTenantState); err == nil {
			err = r.logs(&d, rec)
		}
	default:
		return false, fmt.Errorf("record has unknown type %d", t)
	}
	if err = errors.Join(err, d.err); err != nil {
		return false, err
	}
	if len(d.src) > 0 {
		return false, fmt.Errorf("record has %d bytes too many", len(d.src))
	}
	return true, nil
}

func (r *recordReader) head(d *decoder, rec *walRecord, state bool) (err error) {
	rec.keys, rec.ids, rec.idsTime, rec.exemplars, rec.metadata = rec.keys[:0], rec.ids[:0], 0, nil, nil
	rec.runs, rec.logs, rec.deletion, rec.state = rec.runs[:0], rec.logs[:0], nil, rec.state[:0]
	if name := d.bytes(d.uvarint()); string(name) != rec.tenant.String() || len(name) == 0 {
		if rec.tenant, err = tenant.Parse(string(name)); err != nil {
			return err
		}
	}
	if g := d.bytes(8); g != nil {
		rec.generation = binary.BigEndian.Uint64(g)
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		var k batchKey
		copy(k.hash[:], d.bytes(16))
		k.time = d.varint()
		rec.keys = append(rec.keys, k)
	}
	ids := d.uvarint()
	if ids > 0 {
		rec.idsTime = d.varint()
	}
	for ; ids > 0 && d.err == nil; ids-- {
		var id dedup.ID
		copy(id[:], d.bytes(uint64(len(id))))
		rec.ids = append(rec.ids, id)
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		rec.exemplars = append(rec.exemplars, r.exemplar(d))
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		rec.metadata = append(rec.metadata, increment.Metadata{
			Metric: d.string(), Type: model.MetricType(d.string()), Help: d.string(), Unit: d.string(),
		})
	}
	step := d.uvarint()
	if d.err == nil && (step == 0 || step > 86_400) {
		return fmt.Errorf("record has a step of %d s", step)
	}
	rec.step = int64(step) * 1000
	if state {
		rec.state = append(rec.state, d.bytes(d.uvarint())...)
	}
	return d.err
}

func (r *recordReader) exemplar(d *decoder) increment.Exemplar {
	return increment.Exemplar{Series: r.labels(d), Labels: r.labels(d), Time: d.varint(), Value: d.float()}
}

func (r *recordReader) labels(d *decoder) labels.Labels {
	r.builder.Reset()
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		name, value := d.string(), d.string()
		r.builder.Add(name, value)
	}
	return r.builder.Labels()
}

func (r *recordReader) define(d *decoder) error {
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		s := &replayedSeries{ref: d.uvarint(), kind: increment.Kind(d.byte())}
		s.labels = r.labels(d)
		if d.err != nil {
			return d.err
		}
		if !s.kind.Valid() {
			return fmt.Errorf("series of unknown kind %d", s.kind)
		}
		if r.table.get(s.ref) == nil { // else it is written a second time, in case of damage
			r.table.set(s)
		}
	}
	if d.err == nil && len(d.src) > 0 {
		return fmt.Errorf("record has %d bytes too many", len(d.src))
	}
	return d.err
}

// series returns the one that a reference means.
func (r *recordReader) series(ref uint64) (*replayedSeries, error) {
	s := r.table.get(ref)
	if s == nil {
		return nil, fmt.Errorf("record refers to series %d, which the segment does not define", ref)
	}
	return s, nil
}

func (r *recordReader) runs(d *decoder, rec *walRecord) error {
	head := d.bytes(4)
	if head == nil {
		return errCutShort
	}
	t, ref := int64(0), uint64(0)
	for n := binary.BigEndian.Uint32(head); n > 0; n-- {
		run := rec.nextRun()
		run.kind = increment.Kind(d.byte())
		if !run.kind.Valid() {
			return errors.Join(d.err, fmt.Errorf("increments of unknown kind %d", run.kind))
		}
		dt := d.varint()
		if dt > timeMax/1000 || dt < -timeMax/1000 {
			return fmt.Errorf("increments are %d after those before", dt)
		}
		if run.kind == increment.Sample {
			t += dt
		} else {
			t = t/1000*1000 + dt*1000
		}
		run.time = t
		size := d.uvarint()
		if size > uint64(len(d.src))/2 { // a reference and a value take 2 bytes at least
			return errCutShort
		}
		for range size {
			ref += uint64(d.varint())
			s, err := r.series(ref)
			if err != nil {
				return errors.Join(d.err, err)
			}
			if s.kind != run.kind {
				return fmt.Errorf("increment of kind %s for a %s", run.kind, s.kind)
			}
			run.series = append(run.series, s)
		}
		if err := d.values(run, int(size)); err != nil {
			return err
		}
	}
	return nil
}

// nextRun is an empty one at the end of the record's.
func (rec *walRecord) nextRun() *recordRun {
	if len(rec.runs) < cap(rec.runs) {
		rec.runs = rec.runs[:len(rec.runs)+1]
	} else {
		rec.runs = append(rec.runs, recordRun{})
	}
	run := &rec.runs[len(rec.runs)-1]
	run.series, run.ids = run.series[:0], run.ids[:0]
	return run
}

// values reads the n values of a run.
func (d *decoder) values(run *recordRun, n int) error {
	run.points.reset(run.kind)
	switch run.kind {
	case increment.Counter:
		run.points.value = slices.Grow(run.points.value, n)
		for range n {
			run.points.value = append(run.points.value, d.count())
		}
		return d.err
	case increment.Distinct:
		for range n {
			ids, err := d.ids()
			if err != nil {
				return err
			}
			run.ids = append(run.ids, ids)
		}
		return nil
	}
	r := memlogReader{decoder: *d}
	for range n {
		e := entry{time: run.time}
		r.logMore = logMore{}
		if err := r.value(run.kind, &e); err != nil {
			return err
		}
		run.points.push(&e)
	}
	run.points.win = run.points.win[:0]
	*d = r.decoder
	return nil
}

func (d *decoder) ids() ([]uint64, error) {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.src))/8 {
		return nil, errCutShort
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(d.bytes(8))
	}
	return out, nil
}

// increment sets inc to the i-th increment of a run.
func (run *recordRun) increment(i int, inc *increment.Increment) {
	inc.Time = run.time
	switch run.kind {
	case increment.Counter:
		inc.Value = run.points.value[i]
	case increment.Histogram, increment.Buckets:
		inc.Hist = run.points.hist[i]
	case increment.Distinct:
		inc.IDs = run.ids[i]
	case increment.Gauge:
		inc.Value, inc.At = run.points.value[i], run.points.at[i]
	case increment.Sample:
		inc.Value, inc.At, inc.Native = run.points.value[i], run.points.at[i], run.points.native[i]
	}
}

func (r *recordReader) logs(d *decoder, rec *walRecord) error {
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		s, err := r.series(d.uvarint())
		if err != nil {
			return errors.Join(d.err, err)
		}
		l := recordLog{series: s, points: points{kind: s.kind}}
		log := memlog{bytes: d.bytes(d.uvarint())}
		if err := errors.Join(d.err, log.appendTo(&l.points)); err != nil {
			return fmt.Errorf("series %s: %w", s.labels, err)
		}
		if err := l.points.settle(); err != nil {
			return fmt.Errorf("series %s: %w", s.labels, err)
		}
		if l.points.len() == 0 {
			return fmt.Errorf("series %s has no windows", s.labels)
		}
		rec.logs = append(rec.logs, l)
	}
	return d.err
}
