package tsdb

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb/dedup"
)

// sampleRecord is a batch with every kind, a key, an exemplar and metadata.
type sampleRecord struct {
	head recordHead
	incs []increment.Increment
	to   []routed
}

func sampleBatch() *sampleRecord {
	h := &increment.Hist{}
	h.Observe(0)
	h.Observe(12.5)
	h.Observe(-3)
	const at = 1_700_000_010_000
	b := &sampleRecord{head: recordHead{
		tenant: tenant.Default, generation: 0x0102030405060708,
		keys: []batchKey{{hash: [16]byte{0xaa, 0xbb}, time: 1_700_000_000_000}}, step: g,
		ids: []dedup.ID{{0xcc, 0xdd}, {0xee}}, idsTime: 1_700_000_000_001,
		exemplars: []increment.Exemplar{{
			Series: labels.FromStrings(model.MetricNameLabel, "events_total"), Labels: labels.FromStrings("trace_id", "ab"), Time: at + 3, Value: 1,
		}},
		metadata: []increment.Metadata{{Metric: "events_total", Type: model.MetricTypeCounter, Help: "Events.", Unit: "events"}},
	}}
	add := func(ref uint64, name string, inc increment.Increment) {
		inc.Series = series(inc.Kind, name, "page", "/")
		b.incs, b.to = append(b.incs, inc), append(b.to, routed{series: newMemSeries(ref, inc.Kind, inc.Labels, 0)})
	}
	kind := func(k increment.Kind) *increment.Series { return &increment.Series{Kind: k} }
	add(1, "events_total", increment.Increment{Series: kind(increment.Counter), Time: at, Value: 3})
	add(4, "events_total", increment.Increment{Series: kind(increment.Counter), Time: at, Value: 1})
	add(1, "events_total", increment.Increment{Series: kind(increment.Counter), Time: 1_600_000_005_000, Value: 0.25})
	add(2, "event_value", increment.Increment{Series: kind(increment.Histogram), Time: at, Hist: h})
	buckets := &increment.Hist{Bounds: []float64{0.5, 1}}
	buckets.Observe(0.75)
	add(8, "load_seconds", increment.Increment{Series: kind(increment.Buckets), Time: at, Hist: buckets})
	add(3, "event_users", increment.Increment{Series: kind(increment.Distinct), Time: at, IDs: []uint64{7, 1 << 63}})
	add(5, "queue", increment.Increment{Series: kind(increment.Gauge), Time: at, At: at + 17, Value: -2.5})
	add(6, "up", increment.Increment{Series: kind(increment.Sample), Time: at + 1, Value: 1, At: at - 9})
	add(7, "native", increment.Increment{Series: kind(increment.Sample), Time: at + 2, Native: &increment.Native{Int: tsdbutil.GenerateTestHistogram(2)}})
	add(7, "native", increment.Increment{Series: kind(increment.Sample), Time: at + 4, Native: &increment.Native{Float: tsdbutil.GenerateTestFloatHistogram(3)}})
	return b
}

func (b *sampleRecord) defined() []byte {
	var all []*memSeries
	for i := range b.to {
		all = append(all, b.to[i].series)
	}
	return encodeSeries(nil, all)
}

func (b *sampleRecord) batch() []byte { return encodeBatch(nil, &b.head, b.incs, b.to) }

// tenantRecord is the record of a memtable that has the batch's increments.
func (b *sampleRecord) tenantRecord(t testing.TB) []byte {
	t.Helper()
	m := newMemtable(1, math.MinInt64, math.MaxInt64, new(atomic.Int64))
	refs := uint64(0)
	for i := range b.incs {
		inc := &b.incs[i]
		ser := m.getOrCreate(inc.Hash()^uint64(inc.Kind), inc.Labels, inc.Kind, func() uint64 { refs++; return refs })
		if _, err := ser.add(inc, cutsInUse{}); err != nil {
			t.Fatal(err)
		}
	}
	payload, _, err := encodeMemory(context.Background(), &b.head, []*memtable{m})
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func describeIncrement(ls labels.Labels, inc *increment.Increment) string {
	s := fmt.Sprintf("%s %s %d %v %v %v %v", inc.Kind, ls, inc.Time, inc.Value, inc.At, inc.Hist, inc.IDs)
	if inc.Native != nil {
		s += fmt.Sprint(inc.Native.Int, inc.Native.Float)
	}
	return s + "\n"
}

func describe(rec *walRecord) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%v\n", rec.recordHead)
	for i := range rec.runs {
		run := &rec.runs[i]
		for j, rs := range run.series {
			inc := increment.Increment{Series: &increment.Series{Kind: run.kind}}
			run.increment(j, &inc)
			s.WriteString(describeIncrement(rs.labels, &inc))
		}
	}
	return s.String()
}

// decodeRecord returns nil for a record of series.
func decodeRecord(r *recordReader, payload []byte) (*walRecord, error) {
	rec := &walRecord{}
	ok, err := r.decode(payload, rec)
	if !ok {
		return nil, err
	}
	return rec, err
}

func (b *sampleRecord) describe() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%v\n", b.head)
	for i := range b.incs {
		s.WriteString(describeIncrement(b.incs[i].Labels, &b.incs[i]))
	}
	return s.String()
}

func TestRecordRoundTrip(t *testing.T) {
	b := sampleBatch()
	r := newRecordReader()
	if _, err := decodeRecord(r, b.batch()); err == nil || !strings.Contains(err.Error(), "does not define") {
		t.Errorf("a reference that nothing defines: %v", err)
	}
	for range 2 { // a second definition changes nothing
		if rec, err := decodeRecord(r, b.defined()); err != nil || rec != nil {
			t.Fatalf("record of series: %v, %v", rec, err)
		}
	}
	for range 2 {
		got, err := decodeRecord(r, b.batch())
		if err != nil || describe(got) != b.describe() {
			t.Fatalf("%v\n got %s\nwant %s", err, describe(got), b.describe())
		}
	}
	for cut := range b.batch() {
		if _, err := decodeRecord(r, b.batch()[:cut]); err == nil {
			t.Errorf("a record that is cut to %d bytes decodes", cut)
		}
	}
}

// What a tenant has in memory is the same after it was logged again.
func TestTenantRecordRoundTrip(t *testing.T) {
	db := openTestDB(t, "", nil)
	b := sampleBatch()
	for i := range b.incs {
		db.mustAppend(tenant.Default, b.incs[i])
	}
	want := db.stored(tenant.Default)
	if len(want) != 9 {
		t.Fatalf("stored %v", want)
	}
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if did, err := s.relog(context.Background(), nil); !did || err != nil {
			t.Fatalf("relog: %v, %v", did, err)
		}
		if err := db.releaseSegments(); err != nil {
			t.Fatal(err)
		}
		db = db.reopen(nil)
		if err := diff(db.stored(tenant.Default), want); err != nil {
			t.Error(err)
		}
		if s, err = db.store(tenant.Default, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFormatsGolden(t *testing.T) {
	var out strings.Builder
	show := func(name string, b []byte) { fmt.Fprintf(&out, "%s %s\n", name, hex.EncodeToString(b)) }
	id := ulid.MustParse("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	h := segmentHeader{wal: id, segment: 7}
	show("segment-header", h.append(nil))
	sample := sampleBatch()
	payload := sample.batch()
	show("series-record", sample.defined())
	show("batch-record", payload)
	show("tenant-record", sample.tenantRecord(t))
	show("deletion-record", sampleDeletion(t).append(sample.head.append([]byte{recordDeletion})))
	kept := sampleBatch()
	kept.head.state = []byte("state")
	show("batch-record-with-state", kept.batch())
	show("tenant-record-with-state", kept.tenantRecord(t))
	show("state", appendState(nil, kept.head.state))
	show("exemplars", encodeExemplars(sample.head.exemplars))
	show("frame", appendFrame(nil, payload))
	show("frame-compressed", appendFrame(nil, bytes.Repeat(payload, 5)))
	dir := t.TempDir()
	keys := []batchKey{{hash: [16]byte{2}, time: 20}, {hash: [16]byte{1}, time: 10}}
	if _, err := writeKeys(vfs.OS{}, dir, id, keys); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, id.String()+keySuffix))
	if err != nil {
		t.Fatal(err)
	}
	show("keys", file)
	m := manifest{
		Generation: 9, Watermark: position{id, 3, 400},
		Blocks: []blockInfo{{ULID: id, MinTime: 1000, MaxTime: 2000}}, Keys: []keyFile{{Name: "x.keys", MaxTime: 5}},
		Exemplars: "y.exemplars", State: "z.state", Metadata: sample.head.metadata,
		Deleted: 3, Deletions: []*deletion{sampleDeletion(t)},
	}
	if err := m.write(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(filepath.Join(dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "manifest\n%s", file)
	golden(t, "formats.golden", out.String())

	if back, err := readManifest(vfs.OS{}, dir); err != nil || !sameManifest(back, &m) {
		t.Errorf("manifest reads back as %v, %v", back, err)
	}
	if back, err := decodeKeys([]byte(mustHex(t, out.String(), "keys "))); err != nil || len(back) != 2 || back[0].time != 10 {
		t.Errorf("keys read back as %v, %v", back, err)
	}
}

func mustHex(t *testing.T, text, prefix string) []byte {
	t.Helper()
	for _, l := range strings.Split(text, "\n") {
		if s, ok := strings.CutPrefix(l, prefix); ok {
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no line %q", prefix)
	return nil
}

// fill appends n batches of one event each.
func (d *testDB) fill(n int) {
	d.t.Helper()
	for i := range n {
		d.mustAppend(tenant.Default, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i%7)))
	}
}

func lastSegmentWithData(t *testing.T, dir string) string {
	t.Helper()
	segments, err := listSegments(vfs.OS{}, filepath.Join(dir, walDirName))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, walDirName, segmentName(segments[len(segments)-1]))
}

// written is what a segment holds before the room that it has reserved.
func written(t *testing.T, path string) []byte {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := segmentHeadSize
	for !allZero(src[at:]) {
		_, size, err := decodeFrame(src[at:], nil)
		if err != nil {
			t.Fatal(err)
		}
		at += size
	}
	return src[:at]
}

// A crash in the middle of a write leaves a torn record, at whatever byte: it was
// never acknowledged, and all before it is there.
func TestTornTailIsCut(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(20)
	path := lastSegmentWithData(t, db.dir)
	whole := written(t, path)
	var err error
	// Where the last record begins.
	_, size, last := []byte(nil), 0, segmentHeadSize
	for at := segmentHeadSize; at < len(whole); at += size {
		if _, size, err = decodeFrame(whole[at:], nil); err != nil {
			t.Fatal(err)
		}
		last = at
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	for _, tail := range [][]byte{whole[:last+1], whole[:len(whole)-1], whole[:last+frameHeadSize], append(whole[:last:last], make([]byte, 500)...)} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(db.dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, walDirName, filepath.Base(path)), tail, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		torn := openTestDB(t, dir, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if got := total(torn.stored(tenant.Default)); got != 19 {
			t.Errorf("cut to %d of %d bytes: %v events, want 19", len(tail), len(whole), got)
		}
		if s := log.String(); !allZero(tail[last:]) && (!strings.Contains(s, "torn record") || !strings.Contains(s, fmt.Sprint("offset=", last))) {
			t.Errorf("log does not say where: %s", s)
		}
		torn.fill(1)
		torn = torn.reopen(nil)
		if got := total(torn.stored(tenant.Default)); got != 20 {
			t.Errorf("after one more event: %v, want 20", got)
		}
	}
}

// Damage in the middle costs the record it hits; segment and offset are named and
// everything around it is kept.
func TestDamageInTheMiddleCostsOneRecord(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(40)
	path := lastSegmentWithData(t, db.dir)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	src := written(t, path)
	var err error
	// Of a damaged batch its own event is lost, of a damaged definition of series
	// nothing: it stands there twice.
	batches, definitions := 0, 0
	for at, size := segmentHeadSize, 0; at < len(src); at += size {
		var payload []byte
		if payload, size, err = decodeFrame(src[at:], nil); err != nil {
			t.Fatal(err)
		}
		want := 39.0
		if batches++; payload[0] == recordSeries {
			want = 40
			definitions++
		}
		flip := at + []int{0, 5, frameHeadSize + 3}[batches%3] // length, checksum, payload
		damaged := bytes.Clone(src)
		damaged[flip] ^= 0x40
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(db.dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, walDirName, filepath.Base(path)), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		d := openTestDB(t, dir, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		last := at+size == len(src) // then it counts as torn
		if got := total(d.stored(tenant.Default)); got != want {
			t.Errorf("byte %d flipped: %v events, want %v", flip, got, want)
		}
		if s := log.String(); !last && (!strings.Contains(s, "damaged") || !strings.Contains(s, fmt.Sprint("offset=", at)) || !strings.Contains(s, "segment=")) {
			t.Errorf("byte %d flipped: log does not say where: %s", flip, s)
		}
	}
	if batches-definitions != 40 || definitions != 2*7 {
		t.Errorf("%d frames, %d of series", batches, definitions)
	}
}

// What follows damage is found however large it is: where it begins the damaged length
// does not say, and in the last segment nothing but a torn record may be cut off.
func TestLargeRecordsAfterDamageAreKept(t *testing.T) {
	db := openTestDB(t, "", nil)
	path := lastSegmentWithData(t, db.dir)
	r := rand.New(rand.NewPCG(1, 5))
	var begins []int
	for i := range 3 {
		ids := make([]uint64, 200_000) // random, so that compression does not help
		for j := range ids {
			ids[j] = r.Uint64()
		}
		begins = append(begins, len(written(t, path)))
		db.mustAppend(tenant.Default, increment.Increment{Series: series(increment.Distinct, "users"), Time: floorTo(testStart.UnixMilli(), g) + int64(i)*g, IDs: ids})
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	src := written(t, path)
	_, again, err := decodeFrame(src[begins[1]:], nil) // of the series
	if err != nil {
		t.Fatal(err)
	}
	for _, bit := range []byte{1 << 0, 1 << 7} {
		damaged := bytes.Clone(src)
		damaged[begins[1]+again+3] ^= bit // the second record's length
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(db.dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, walDirName, filepath.Base(path)), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openTestDB(t, dir, nil).stored(tenant.Default); len(got) != 2 {
			t.Errorf("bit %#x: %v are left, want the first and the third", bit, got)
		}
	}
}

// Every frame that is written is one that the search after damage considers.
func TestEveryFrameIsPlausible(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 6))
	for n := 1; n < 1<<20; n += 1 + n/7 {
		for _, random := range []int{0, n / 2, n} {
			payload := make([]byte, n)
			for i := range payload[:random] {
				payload[i] = byte(r.Uint32())
			}
			frame := appendFrame(nil, payload)
			if size := plausibleFrame(append(frame, payload...)); size != len(frame) {
				t.Errorf("frame of %d bytes, %d of them random: %d, want %d", n, random, size, len(frame))
			}
		}
	}
}

// faultFS fails syncs or writes of log segments on demand.
type faultFS struct {
	vfs.OS
	failSync, failWrite atomic.Bool
}

type faultFile struct {
	vfs.File
	fs *faultFS
}

var errInjected = errors.New("injected fault")

func (f *faultFS) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	return &faultFile{file, f}, err
}

func (f *faultFile) Sync() error {
	if f.fs.failSync.Load() {
		return errInjected
	}
	return f.File.Sync()
}

func (f *faultFile) Write(p []byte) (int, error) {
	if f.fs.failWrite.Load() {
		return 0, errInjected
	}
	return f.File.Write(p)
}

// After a failed write or fsync nothing is acknowledged, reads go on, and only
// opening the directory again clears it.
func TestFailedSyncPoisonsTheLog(t *testing.T) {
	for _, what := range []string{"sync", "write"} {
		fault := &faultFS{}
		db := openTestDB(t, "", func(o *Options) { o.FS = fault })
		db.fill(3)
		failing := &fault.failSync
		if what == "write" {
			failing = &fault.failWrite
		}
		failing.Store(true)
		b := func() *increment.Batch {
			return &increment.Batch{HasKey: true, Key: [16]byte{1}, Increments: []increment.Increment{counterInc("c_total", testStart, 1, "page", "0")}}
		}
		if _, err := db.Append(context.Background(), tenant.Default, b()); !errors.Is(err, ErrReadOnly) || !errors.Is(err, errInjected) {
			t.Errorf("%s fails: %v", what, err)
		}
		failing.Store(false)
		if _, err := db.Append(context.Background(), tenant.Default, b()); !errors.Is(err, ErrReadOnly) {
			t.Errorf("after a failed %s: %v", what, err)
		}
		if got := total(db.stored(tenant.Default)); got != 3 {
			t.Errorf("reads after a failed %s: %v events, want 3", what, got)
		}
		db = db.reopen(nil)
		before := total(db.stored(tenant.Default))
		if before != 3 && before != 4 { // what a failed sync left in the file may be there
			t.Errorf("after reopening: %v events", before)
		}
		if _, err := db.Append(context.Background(), tenant.Default, b()); err != nil {
			t.Error(err)
		}
		if got := total(db.stored(tenant.Default)); got != 4 {
			t.Errorf("the batch sent again after a failed %s: %v events, want 4", what, got)
		}
	}
}

// A flush that fails leaves everything readable and is made good by the next.
func TestFailedFlushLosesNothing(t *testing.T) {
	fault := &faultFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	db.fill(10)
	fault.failSync.Store(true) // of meta.json and the manifest
	if err := db.Flush(context.Background(), tenant.Default); !errors.Is(err, errInjected) {
		t.Fatalf("flush: %v", err)
	}
	fault.failSync.Store(false)
	if got := total(db.stored(tenant.Default)); got != 10 {
		t.Errorf("%v events after a failed flush, want 10", got)
	}
	db.fill(5)
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := total(db.stored(tenant.Default)); got != 15 {
			t.Errorf("%v events, want 15", got)
		}
		db = db.reopen(nil)
	}
}

func FuzzRecordDecode(f *testing.F) {
	b := sampleBatch()
	f.Add(b.batch())
	f.Add(b.defined())
	f.Add(b.tenantRecord(f))
	kept := sampleBatch()
	kept.head.state = []byte("state")
	f.Add(kept.batch())
	f.Add(kept.tenantRecord(f))
	f.Add(sampleDeletion(f).append(b.head.append([]byte{recordDeletion})))
	f.Fuzz(func(t *testing.T, src []byte) {
		r := newRecordReader()
		if _, err := decodeRecord(r, b.defined()); err != nil {
			t.Fatal(err)
		}
		rec, err := decodeRecord(r, src)
		if err != nil || rec == nil || rec.whole {
			return
		}
		if rec.deletion != nil {
			mustEncodeAgain(t, r, rec)
			return
		}
		before := describe(rec)
		var incs []increment.Increment
		var to []routed
		for i := range rec.runs {
			run := &rec.runs[i]
			for j, rs := range run.series {
				inc := increment.Increment{Series: &increment.Series{Kind: run.kind}}
				run.increment(j, &inc)
				incs, to = append(incs, inc), append(to, routed{series: newMemSeries(rs.ref, rs.kind, rs.labels, 0)})
			}
		}
		again, err := decodeRecord(r, encodeBatch(nil, &rec.recordHead, incs, to))
		if err != nil || describe(again) != before {
			t.Fatalf("what decodes does not encode: %v\n%s\n%s", err, before, describe(again))
		}
	})
}

func FuzzFrameDecode(f *testing.F) {
	f.Add(appendFrame(nil, []byte("short")))
	f.Add(appendFrame(nil, bytes.Repeat([]byte("long"), 200)))
	f.Fuzz(func(t *testing.T, src []byte) {
		if _, size, err := decodeFrame(src, nil); err == nil && (size <= 0 || size > len(src)) {
			t.Fatalf("a frame of %d bytes in %d", size, len(src))
		}
	})
}
