package tsdb

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// sampleBatch is a batch with every kind and a key.
func sampleBatch() *walRecord {
	h := &increment.Hist{}
	h.Observe(0)
	h.Observe(12.5)
	h.Observe(-3)
	series := func(ref uint64, kind increment.Kind, name string) *loggedSeries {
		return &loggedSeries{ref: ref, kind: kind, labels: labels.FromStrings(model.MetricNameLabel, name, "page", "/")}
	}
	c := series(1, increment.Counter, "events_total")
	return &walRecord{
		tenant: tenant.Default, generation: 0x0102030405060708,
		keys: []batchKey{{hash: [16]byte{0xaa, 0xbb}, time: 1_700_000_000_000}}, step: g,
		increments: []loggedIncrement{
			{c, &increment.Increment{Kind: increment.Counter, Time: 1_700_000_010_000, Count: 3}},
			{c, &increment.Increment{Kind: increment.Counter, Time: 1_600_000_005_000, Count: 0.25}},
			{series(2, increment.Histogram, "event_value"), &increment.Increment{Kind: increment.Histogram, Time: 1_700_000_010_000, Hist: h}},
			{series(3, increment.Distinct, "event_users"), &increment.Increment{Kind: increment.Distinct, Time: 1_700_000_010_000, IDs: []uint64{7, 1 << 63}}},
		},
	}
}

func describe(b *walRecord) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %x %v %v %d\n", b.tenant, b.generation, b.whole, b.keys, b.step)
	for _, li := range b.increments {
		fmt.Fprintf(&s, "%d %s %s %d %v %v %v\n", li.series.ref, li.series.kind, li.series.labels, li.inc.Time, li.inc.Count, li.inc.Hist, li.inc.IDs)
	}
	return s.String()
}

func TestRecordRoundTrip(t *testing.T) {
	b := sampleBatch()
	r := newRecordReader()
	got, err := r.decode(b.append(nil, 5))
	if err != nil || describe(got) != describe(b) {
		t.Fatalf("%v\n got %s\nwant %s", err, describe(got), describe(b))
	}
	// The second record of a segment does not define the series again.
	second := b.append(nil, 5)
	if bytes.Contains(second, []byte("events_total")) {
		t.Error("a series is defined twice in one segment")
	}
	if got, err = r.decode(second); err != nil || describe(got) != describe(b) {
		t.Errorf("second record: %v, %s", err, describe(got))
	}
	// The next segment does, and is read without the first.
	if got, err = newRecordReader().decode(b.append(nil, 6)); err != nil || describe(got) != describe(b) {
		t.Errorf("next segment: %v, %s", err, describe(got))
	}
	whole := sampleBatch()
	whole.whole = true
	whole.keys = append(whole.keys, batchKey{hash: [16]byte{9}, time: 5})
	if got, err = newRecordReader().decode(whole.append(nil, 5)); err != nil || describe(got) != describe(whole) {
		t.Errorf("a tenant's record: %v, %s", err, describe(got))
	}
	if _, err := newRecordReader().decode(b.append(nil, 6)); err == nil || !strings.Contains(err.Error(), "does not define") {
		t.Errorf("a reference that nothing defines: %v", err)
	}
}

func TestFormatsGolden(t *testing.T) {
	var out strings.Builder
	show := func(name string, b []byte) { fmt.Fprintf(&out, "%s %s\n", name, hex.EncodeToString(b)) }
	id := ulid.MustParse("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	h := segmentHeader{wal: id, segment: 7}
	show("segment-header", h.append(nil))
	payload := sampleBatch().append(nil, 7)
	show("batch-record", payload)
	whole := sampleBatch()
	whole.whole = true
	show("tenant-record", whole.append(nil, 7))
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
	}
	if err := m.write(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(filepath.Join(dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "manifest\n%s", file)
	golden(t, "formats.golden", out.String())

	if back, err := readManifest(vfs.OS{}, dir); err != nil || fmt.Sprint(*back) != fmt.Sprint(m) {
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

// A crash in the middle of a write leaves a torn record, at whatever byte: it was
// never acknowledged, and all before it is there.
func TestTornTailIsCut(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(20)
	path := lastSegmentWithData(t, db.dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
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
		if s := log.String(); !strings.Contains(s, "torn record") || !strings.Contains(s, fmt.Sprint("offset=", last)) {
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
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The 21st frame, whose series were defined before.
	at, size := segmentHeadSize, 0
	for range 21 {
		at += size
		if _, size, err = decodeFrame(src[at:], nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, flip := range []int{at, at + 5, at + frameHeadSize + 3} { // length, checksum, payload
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
		if got := total(d.stored(tenant.Default)); got != 39 {
			t.Errorf("byte %d flipped: %v events, want 39", flip, got)
		}
		if s := log.String(); !strings.Contains(s, "damaged") || !strings.Contains(s, fmt.Sprint("offset=", at)) || !strings.Contains(s, "segment=") {
			t.Errorf("byte %d flipped: log does not say where: %s", flip, s)
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
	f.Add(sampleBatch().append(nil, 1))
	f.Fuzz(func(t *testing.T, src []byte) {
		b, err := newRecordReader().decode(src)
		if err != nil {
			return
		}
		for _, li := range b.increments {
			li.series.segment = 0
		}
		again, err := newRecordReader().decode(b.append(nil, 1))
		if err != nil || len(again.increments) != len(b.increments) {
			t.Fatalf("what decodes does not encode: %v", err)
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

func FuzzManifestAndKeys(f *testing.F) {
	f.Add([]byte("{}\n00000000\n"))
	f.Add([]byte(keyMagic + "\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, src []byte) {
		if m, err := decodeManifest(src); err == nil && m.Version != manifestVersion {
			t.Fatal("an unknown version decodes")
		}
		if keys, err := decodeKeys(src); err == nil && len(keys) > len(src)/keySize {
			t.Fatal("more keys than bytes")
		}
	})
}
