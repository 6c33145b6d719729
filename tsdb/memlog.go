package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/record"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// A series in memory is a log of entries, one for each window that was closed, in
// order of writing: a window may come after a later one, and again. The same bytes
// stand in a tenant's record of the write-ahead log.
//
//	time    varint: window start in seconds less that of the entry before (the
//	        first: less 0); of a sample its timestamp in milliseconds, less that of
//	        the entry before and the distance before
//	value   counter    appendCount
//	        histogram  appendHist, with buckets appendBucketHist
//	        distinct   a sketch as package sketch encodes it
//	        gauge      uvarint milliseconds since the window's start, appendXOR
//	        sample     appendSample
//
// Two bytes a window are usual for a counter.
type memlog struct {
	bytes []byte // never changed up to its length, so that readers may keep it
	prev  int64  // time of the last entry
	n     int32  // entries
	tidy  int32  // entries when it was last put in order
	// unsorted: a window is not after the one before it.
	unsorted bool

	more *logMore // nil: nothing was logged, or the kind needs nothing
}

// logMore is what the next entry of a log is coded by, beyond the last one's time.
type logMore struct {
	step   int64     // of a sample: distance of the last two
	bits   uint64    // of a gauge or sample: the last value
	bounds []float64 // of a histogram with buckets: the last one's
}

// logBytesMin is the least that a log of counts has room for: a dozen windows.
const logBytesMin = 32

// pushCount is push for the kind that there is most of.
func (l *memlog) pushCount(t int64, v float64) {
	if l.bytes == nil {
		l.bytes = make([]byte, 0, logBytesMin) // what is grown byte by byte costs most
	} else if t <= l.prev {
		l.unsorted = true
	}
	l.bytes = appendCount(binary.AppendVarint(l.bytes, (t-l.prev)/1000), v)
	l.prev = t
	l.n++
}

// entry is one window of a series.
type entry struct {
	time   int64
	value  float64
	at     int64
	hist   *increment.Hist
	ids    *sketch.Sketch
	native *increment.Native
}

// push appends an entry.
func (l *memlog) push(k increment.Kind, e *entry) error {
	if l.n > 0 && e.time <= l.prev {
		l.unsorted = true
	}
	if l.more == nil && (k == increment.Gauge || k == increment.Sample || k == increment.Buckets) {
		l.more = &logMore{}
	}
	dst := l.bytes
	if k == increment.Sample {
		step := e.time - l.prev
		dst = binary.AppendVarint(dst, step-l.more.step)
		l.more.step = step
	} else {
		dst = binary.AppendVarint(dst, (e.time-l.prev)/1000)
	}
	var err error
	switch k {
	case increment.Counter:
		dst = appendCount(dst, e.value)
	case increment.Histogram:
		dst = appendHist(dst, e.hist)
	case increment.Distinct:
		dst, err = e.ids.Append(dst)
	case increment.Gauge:
		dst = binary.AppendUvarint(dst, uint64(e.at-e.time))
		dst = appendXOR(dst, l.more.bits, e.value)
		l.more.bits = math.Float64bits(e.value)
	case increment.Buckets:
		dst = appendBucketHist(dst, e.hist, l.more.bounds)
		l.more.bounds = e.hist.Bounds
	case increment.Sample:
		dst = appendSample(dst, l.more.bits, e)
		if e.native == nil {
			l.more.bits = math.Float64bits(e.value)
		}
	}
	if err != nil {
		return err
	}
	l.bytes, l.prev = dst, e.time
	l.n++
	return nil
}

// untidy reports whether sorting and merging the entries is worth its price: each
// is then paid for by as many new ones.
func (l *memlog) untidy() bool {
	const least = 64
	return l.unsorted && l.n-l.tidy >= max(least, l.tidy)
}

// tidyUp sorts the entries and merges those of one window.
func (l *memlog) tidyUp(k increment.Kind) error {
	p := points{kind: k}
	if err := l.appendTo(&p); err != nil {
		return err
	}
	if err := p.settle(); err != nil {
		return err
	}
	return l.set(&p)
}

// set makes l hold the points p, which are sorted.
func (l *memlog) set(p *points) error {
	next := memlog{bytes: make([]byte, 0, len(l.bytes))}
	for i := range p.win {
		e := p.entry(i)
		if err := next.push(p.kind, &e); err != nil {
			return err
		}
	}
	next.tidy = next.n
	*l = next
	return nil
}

// entry is the i-th point.
func (p *points) entry(i int) entry {
	e := entry{time: p.win[i]}
	switch p.kind {
	case increment.Counter:
		e.value = p.value[i]
	case increment.Histogram, increment.Buckets:
		e.hist = p.hist[i]
	case increment.Distinct:
		e.ids = p.ids[i]
	case increment.Gauge:
		e.value, e.at = p.value[i], p.at[i]
	case increment.Sample:
		e.value, e.at, e.native = p.value[i], p.at[i], p.native[i]
	}
	return e
}

// appendTo appends all entries to p, in their order.
func (l *memlog) appendTo(p *points) error {
	if p.kind == increment.Counter {
		return l.appendCounts(p)
	}
	r := memlogReader{decoder: decoder{src: l.bytes}}
	for len(r.src) > 0 {
		var e entry
		if err := r.next(p.kind, &e); err != nil {
			return err
		}
		p.push(&e)
	}
	return nil
}

// appendCounts is appendTo for the kind that there is most of.
func (l *memlog) appendCounts(p *points) error {
	src, t := l.bytes, int64(0)
	// An entry takes two bytes or more, and the open window comes after them. Growing a
	// little at a time took half of the time of reading.
	most := len(src)/2 + 1
	p.win, p.value = slices.Grow(p.win, most), slices.Grow(p.value, most)
	for len(src) > 0 {
		step, n := binary.Varint(src)
		if n <= 0 {
			return errCutShort
		}
		v, m := decodeCount(src[n:])
		if m <= 0 {
			return errCutShort
		}
		t += step * 1000
		p.win, p.value = append(p.win, t), append(p.value, v)
		src = src[n+m:]
	}
	return nil
}

// push appends an entry as a point.
func (p *points) push(e *entry) {
	p.win = append(p.win, e.time)
	switch p.kind {
	case increment.Counter:
		p.value = append(p.value, e.value)
	case increment.Histogram, increment.Buckets:
		p.hist = append(p.hist, e.hist)
	case increment.Distinct:
		p.ids = append(p.ids, e.ids)
	case increment.Gauge:
		p.value, p.at = append(p.value, e.value), append(p.at, e.at)
	case increment.Sample:
		p.value, p.at, p.native = append(p.value, e.value), append(p.at, e.at), append(p.native, e.native)
	}
}

// memlogReader reads entries one after the other.
type memlogReader struct {
	decoder
	prev int64
	logMore
}

// timeMax bounds what a time in a log may be, far past any that means something.
const timeMax = math.MaxInt64 / 4

func (r *memlogReader) next(k increment.Kind, e *entry) error {
	d := r.varint()
	if d > timeMax/1000 || d < -timeMax/1000 {
		return fmt.Errorf("entry is %d after the one before", d)
	}
	if k == increment.Sample {
		r.step += d
		r.prev += r.step
	} else {
		r.prev += d * 1000
	}
	if r.prev > timeMax || r.prev < -timeMax {
		return fmt.Errorf("entry has time %d", r.prev)
	}
	e.time = r.prev
	return r.value(k, e)
}

// value reads the value of an entry whose time is known.
func (r *memlogReader) value(k increment.Kind, e *entry) (err error) {
	switch k {
	case increment.Counter:
		e.value = r.count()
	case increment.Histogram:
		if e.hist, err = r.hist(); err != nil {
			return err
		}
	case increment.Buckets:
		if e.hist, err = r.bucketHist(r.bounds); err != nil {
			return err
		}
		r.bounds = e.hist.Bounds
	case increment.Distinct:
		e.ids = new(sketch.Sketch)
		if r.err == nil {
			r.src, r.err = e.ids.Decode(r.src)
		}
	case increment.Gauge:
		e.at = e.time + int64(r.uvarint())
		e.value = r.xor(r.bits)
		r.bits = math.Float64bits(e.value)
	case increment.Sample:
		r.sample(r.bits, e)
		if e.native == nil {
			r.bits = math.Float64bits(e.value)
		}
	default:
		return fmt.Errorf("entry of unknown kind %d", k)
	}
	return r.err
}

// appendCount codes a counter's increment: twice a whole number below 2^53 as a
// varint, or 1 and the 8 bytes of a float.
func appendCount(dst []byte, v float64) []byte {
	if n := uint64(v); float64(n) == v && n < wholeMax {
		return binary.AppendUvarint(dst, n<<1)
	}
	return binary.LittleEndian.AppendUint64(append(dst, 1), math.Float64bits(v))
}

// decodeCount returns a counter's increment and its length; 0 or less where src
// does not hold one.
func decodeCount(src []byte) (v float64, n int) {
	u, n := binary.Uvarint(src)
	switch {
	case n <= 0:
		return 0, n
	case u&1 == 0:
		return float64(u >> 1), n
	case u != 1 || len(src) < 9:
		return 0, 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(src[1:])), 9
}

func (d *decoder) count() float64 {
	v, n := decodeCount(d.src)
	if n <= 0 {
		d.err, d.src = errCutShort, nil
		return 0
	}
	d.src = d.src[n:]
	return v
}

// appendXOR codes a float by the bytes in which it differs from another: a byte
// with how many there are (low 4 bits) and how many equal ones are above them (next
// 3 bits), then those.
func appendXOR(dst []byte, prev uint64, v float64) []byte {
	d := math.Float64bits(v) ^ prev
	lead, n := xorShape(d)
	return appendXORBytes(append(dst, byte(n|lead<<4)), d, lead, n)
}

// xorShape returns how many leading bytes of d are zero and how many follow up to
// the last that is not.
func xorShape(d uint64) (lead, n int) {
	if d == 0 {
		return 0, 0
	}
	lead = bits.LeadingZeros64(d) / 8
	return lead, 8 - lead - bits.TrailingZeros64(d)/8
}

func appendXORBytes(dst []byte, d uint64, lead, n int) []byte {
	for i := range n {
		dst = append(dst, byte(d>>(56-8*(lead+i))))
	}
	return dst
}

func (d *decoder) xor(prev uint64) float64 {
	head := d.byte()
	return d.xorBytes(prev, int(head&15), int(head>>4&7))
}

func (d *decoder) xorBytes(prev uint64, n, lead int) float64 {
	if lead+n > 8 {
		d.err = errors.New("float has more than 8 bytes")
		return 0
	}
	for i, b := range d.bytes(uint64(n)) {
		prev ^= uint64(b) << (56 - 8*(lead+i))
	}
	return math.Float64frombits(prev)
}

// Values of the low 4 bits of a sample's first byte past those of a float.
const (
	sampleIntHistogram   = 9
	sampleFloatHistogram = 10
)

// appendSample codes a sample's value: a byte as appendXOR has it, or one of the
// codes for a histogram in its low 4 bits, with the high bit set where the sample has
// a start timestamp, which follows as a varint less the sample's time; then the bytes
// of the float, or length and bytes of the histogram as upstream's log records have
// it.
func appendSample(dst []byte, prev uint64, e *entry) []byte {
	head := byte(0)
	if e.at != 0 {
		head = 1 << 7
	}
	var hist encoding.Encbuf
	d := math.Float64bits(e.value) ^ prev
	lead, n := xorShape(d)
	switch {
	case e.native == nil:
		head |= byte(n | lead<<4)
	case e.native.Int != nil:
		head |= sampleIntHistogram
		record.EncodeHistogram(&hist, e.native.Int)
	default:
		head |= sampleFloatHistogram
		record.EncodeFloatHistogram(&hist, e.native.Float)
	}
	dst = append(dst, head)
	if e.at != 0 {
		dst = binary.AppendVarint(dst, e.at-e.time)
	}
	if e.native != nil {
		dst = binary.AppendUvarint(dst, uint64(hist.Len()))
		return append(dst, hist.Get()...)
	}
	return appendXORBytes(dst, d, lead, n)
}

func (d *decoder) sample(prev uint64, e *entry) {
	head := d.byte()
	if head&(1<<7) != 0 {
		e.at = e.time + d.varint()
	}
	code := head & 15
	if code < sampleIntHistogram {
		e.value = d.xorBytes(prev, int(code), int(head>>4&7))
		return
	}
	src := d.bytes(d.uvarint())
	if err := checkNative(src, code == sampleFloatHistogram); err != nil || d.err != nil {
		d.err = errors.Join(d.err, err)
		return
	}
	var err error
	e.native = &increment.Native{}
	buf := encoding.Decbuf{B: src}
	switch code {
	case sampleIntHistogram:
		e.native.Int = &histogram.Histogram{}
		record.DecodeHistogram(&buf, e.native.Int)
		err = e.native.Int.Validate()
	case sampleFloatHistogram:
		e.native.Float = &histogram.FloatHistogram{}
		record.DecodeFloatHistogram(&buf, e.native.Float)
		err = e.native.Float.Validate()
	default:
		err = fmt.Errorf("sample has the unknown code %d", code)
	}
	if err = errors.Join(err, buf.E); err != nil {
		d.err = fmt.Errorf("decode native histogram: %w", err)
	}
}

// checkNative verifies that the lengths in upstream's encoding of a histogram are
// not past its end: upstream's decoder allocates what they say.
func checkNative(src []byte, float bool) error {
	d := decoder{src: src}
	d.byte() // counter reset hint
	schema := d.varint()
	if float {
		d.bytes(4 * 8) // zero threshold, zero count, count, sum
	} else {
		d.bytes(8)
		d.uvarint()
		d.uvarint()
		d.bytes(8)
	}
	for range 2 { // spans
		for n := d.uvarint(); n > 0 && d.err == nil; n-- {
			d.varint()
			d.uvarint()
		}
	}
	for range 2 { // buckets
		n := d.uvarint()
		if float {
			d.floats(n)
		}
		for ; !float && n > 0 && d.err == nil; n-- {
			d.varint()
		}
	}
	if histogram.IsCustomBucketsSchema(int32(schema)) {
		d.floats(d.uvarint())
	}
	return d.err
}

// floats skips n floats of 8 bytes.
func (d *decoder) floats(n uint64) {
	if n > uint64(len(d.src))/8 {
		d.err, d.src = errCutShort, nil
		return
	}
	d.bytes(8 * n)
}
