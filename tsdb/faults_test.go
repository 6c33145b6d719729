package tsdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// hookFS calls hooks before operations; an error they return is the operation's,
// which then is not done.
type hookFS struct {
	vfs.OS
	mu   sync.Mutex
	hook func(op, name string) error
	log  []string
}

func (f *hookFS) call(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, op+" "+filepath.Base(name))
	if f.hook == nil {
		return nil
	}
	return f.hook(op, name)
}

func (f *hookFS) setHook(h func(op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

func (f *hookFS) ReadFile(name string) ([]byte, error) {
	if err := f.call("read", name); err != nil {
		return nil, err
	}
	return f.OS.ReadFile(name)
}

func (f *hookFS) Rename(from, to string) error {
	if err := f.call("rename", to); err != nil {
		return err
	}
	return f.OS.Rename(from, to)
}

func (f *hookFS) SyncDir(name string) error {
	if err := f.call("syncdir", name); err != nil {
		return err
	}
	return f.OS.SyncDir(name)
}

// after returns a hook that fails the first op on a base name that follows a
// first.
func failAfter(first, op, base string) func(string, string) error {
	seen := false
	return func(o, name string) error {
		if o+" "+filepath.Base(name) == first {
			seen = true
			return nil
		}
		if seen && o == op && filepath.Base(name) == base {
			seen = false
			return errInjected
		}
		return nil
	}
}

// Where a manifest was renamed but its directory could not be synced, a crash may
// leave the old one or the new one: what either names stays, and nothing more is
// flushed until a restart has found out.
func TestUncertainManifestLosesNothing(t *testing.T) {
	fault := &hookFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	db.fill(10)
	fault.setHook(failAfter("rename "+manifestName, "syncdir", "default"))
	if err := db.Flush(context.Background(), tenant.Default); !errors.Is(err, vfs.ErrUncertain) {
		t.Fatalf("flush: %v", err)
	}
	fault.setHook(nil)
	db.fill(3)
	if err := db.Flush(context.Background(), tenant.Default); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("flush after an uncertain one: %v", err)
	}
	if got := total(db.stored(tenant.Default)); got != 13 {
		t.Errorf("%v events, want 13", got)
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != 13 {
		t.Errorf("%v events after reopening, want 13", got)
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Error(err)
	}
}

// A merge that fails leaves no directory behind and rests before it is tried
// again.
func TestFailedMergeLeavesNothingBehind(t *testing.T) {
	fault := &hookFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	for range 2 {
		db.fill(5)
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	*db.now = testStart.Add(48 * time.Hour)
	failed := 0
	fault.setHook(func(op, name string) error {
		if op == "rename" && filepath.Base(name) == manifestName {
			failed++
			return errInjected
		}
		return nil
	})
	for range 5 {
		if err := db.maintainBlocks(context.Background()); failed == 1 && err == nil {
			break
		}
	}
	if failed != 1 {
		t.Errorf("a failing merge was tried %d times in one moment", failed)
	}
	blocks, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockMetaName))
	if err != nil || len(blocks) != 2 {
		t.Errorf("%d block directories, want 2 (%v)", len(blocks), err)
	}
	fault.setHook(nil)
	*db.now = db.now.Add(compactRetry)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	if blocks, err = filepath.Glob(filepath.Join(db.dir, "default", "*", blockMetaName)); err != nil || len(blocks) != 1 {
		t.Errorf("%d block directories after the merge, want 1 (%v)", len(blocks), err)
	}
	if got := total(db.stored(tenant.Default)); got != 10 {
		t.Errorf("%v events, want 10", got)
	}
}

// What is wrong with the log as a whole is said when it is opened, and the lock is
// given back.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(3)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	if err := os.WriteFile(filepath.Join(dir, walDirName, "7.wal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time says the same, not that it is locked
		if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "unexpected file 7.wal") {
			t.Errorf("open: %v", err)
		}
	}
}

// Records that were read back are durable before anyone is told of them: their
// batches' keys answer "duplicate".
func TestReplayedTailIsMadeDurable(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(3)
	fs := &hookFS{}
	db = db.reopen(func(o *Options) { o.FS = fs })
	if joined := strings.Join(fs.log, ", "); !strings.Contains(joined, "rename 00000001.wal, syncdir @wal") {
		t.Errorf("the last segment was not written anew: %s", joined)
	}
	if got := total(db.stored(tenant.Default)); got != 3 {
		t.Errorf("%v events, want 3", got)
	}
}

// A tenant's directory is durable before anything in it is acknowledged.
func TestTenantDirectoryIsDurableFirst(t *testing.T) {
	fault := &hookFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	root := filepath.Base(db.dir)
	fault.setHook(func(op, name string) error {
		if op == "syncdir" && filepath.Base(name) == root {
			return errInjected
		}
		return nil
	})
	for range 2 {
		_, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1)}})
		if !errors.Is(err, errInjected) {
			t.Errorf("append to a tenant whose directory is not durable: %v", err)
		}
	}
}

func histInc(ts time.Time, vals ...float64) increment.Increment {
	h := &increment.Hist{}
	for _, v := range vals {
		h.Observe(v)
	}
	return increment.Increment{Series: series(increment.Histogram, "event_value"), Time: floorTo(ts.UnixMilli(), g), Hist: h}
}

// What could not be read back is refused before it is logged, and what adds up to
// infinity later is read back.
func TestIncrementsAreValidatedBeforeTheyAreLogged(t *testing.T) {
	db := openTestDB(t, "", nil)
	for name, inc := range map[string]increment.Increment{
		"negative":      counterInc("c_total", testStart, -1),
		"NaN":           counterInc("c_total", testStart, math.NaN()),
		"infinite":      counterInc("c_total", testStart, math.Inf(1)),
		"no histogram":  {Series: series(increment.Histogram, "h")},
		"no native":     {Series: series(increment.Sample, "s"), Native: &increment.Native{}},
		"far future":    {Series: series(increment.Counter, "c_total"), Time: floorTo(1<<60, g), Value: 1},
		"no timestamp":  {Series: series(increment.Sample, "s"), Time: math.MinInt64, Value: 1},
		"infinite sum":  histInc(testStart, 1.7e308, 1.7e308),
		"off the grid":  {Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "c_total"), increment.Counter, nil), Time: 7, Value: 1},
		"unknown kind":  {Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "c_total"), 9, nil), Value: 1},
		"too many ids":  {Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "d"), increment.Distinct, nil), IDs: make([]uint64, walPayloadMax/8+1)},
		"long labels":   counterInc("c_total", testStart, 1, "page", strings.Repeat("x", labelsBytesMax)),
		"empty buckets": {Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "h"), increment.Histogram, nil), Hist: &increment.Hist{Pos: []increment.Bucket{{Index: 1}}}},
	} {
		b := &increment.Batch{Increments: []increment.Increment{counterInc("good_total", testStart, 1), inc}}
		_, err := db.Append(context.Background(), tenant.Default, b)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if large := name == "too many ids"; errors.Is(err, increment.ErrTooLarge) != large {
			t.Errorf("%s: %v; whether it is too large: %t", name, err, large)
		}
	}
	db.mustAppend(tenant.Default, histInc(testStart, 1.7e308))
	db.mustAppend(tenant.Default, histInc(testStart, 1.7e308))
	db.mustAppend(tenant.Default, histInc(testStart.Add(time.Minute), 1))
	for _, stage := range []string{"memory", "log", "block"} {
		if got := total(db.stored(tenant.Default)); got != 3 {
			t.Errorf("from %s: %v observations, want 3", stage, got)
		}
		if stage == "memory" {
			db = db.reopen(nil)
		} else if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
}

// Key files whose keys have expired go from the disk too.
func TestExpiredKeyFilesAreRemoved(t *testing.T) {
	db := openTestDB(t, "", nil)
	for i := range 5 {
		*db.now = testStart.Add(time.Duration(i) * 25 * time.Hour)
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(db.dir, "default", "*"+keySuffix))
	if err != nil || len(files) != 1 {
		t.Errorf("%d key files, want 1 (%v)", len(files), err)
	}
}

// A key that is used again after it has expired, before any flush, stands in the key
// file once, with its last use.
func TestKeyUsedAgainIsWrittenOnce(t *testing.T) {
	db := openTestDB(t, "", nil)
	send := func() (dup bool) {
		b := &increment.Batch{HasKey: true, Key: [16]byte{1}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		dup, err := db.Append(context.Background(), tenant.Default, b)
		if err != nil {
			t.Fatal(err)
		}
		return dup
	}
	send()
	*db.now = testStart.Add(25 * time.Hour)
	again := *db.now
	if send() {
		t.Error("a key is known after it has expired")
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	if keys := readBackKeys(t, db); len(keys) != 1 || keys[0].time != again.UnixMilli() {
		t.Errorf("key file has %v, want one of %d", keys, again.UnixMilli())
	}
	db = db.reopen(nil)
	*db.now = again.Add(time.Hour)
	if !send() {
		t.Error("a key is forgotten within its window")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, db.dir)
}

// A segment that was being made when the process died is no damage, and goes.
func TestTornSegmentHeaderIsNoDamage(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fill(2)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	if err := os.WriteFile(filepath.Join(db.dir, walDirName, segmentName(2)), []byte(walMagic), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var log bytes.Buffer
		db = openTestDB(t, db.dir, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if strings.Contains(log.String(), "damaged") {
			t.Error(log.String())
		}
		if got := total(db.stored(tenant.Default)); got != 2 {
			t.Errorf("%v events, want 2", got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db.DB = nil
	}
}

// A query that ends before the only, open window of a distinct series has no
// sample, at no time.
func TestViewDistinctBeforeItsOnlyWindow(t *testing.T) {
	p := &points{kind: increment.Distinct}
	open := testStart.UnixMilli()
	if err := p.add(&increment.Increment{Time: open, IDs: []uint64{1, 2}}); err != nil {
		t.Fatal(err)
	}
	v := viewParams{grid: g, idle: hour, now: open + 10_000, evalEnd: open - 1}
	if it := newDistinctView(p, v, open-5*minute, open-1); it.Next() != chunkenc.ValNone {
		t.Errorf("sample at %d", it.AtT())
	}
	if it := newDistinctView(p, v, open-5*minute, open-1); it.Seek(open-1) != chunkenc.ValNone {
		t.Errorf("seek found a sample at %d", it.AtT())
	}
}

// Records of a tenant that is gone are skipped, and how many is said.
func TestRecordsOfADeletedTenantAreSkipped(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenantID(t, "gone"), counterInc("c_total", testStart, 1))
	db.fill(2)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	if err := os.RemoveAll(filepath.Join(db.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	db = openTestDB(t, db.dir, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if s := log.String(); !strings.Contains(s, "tenant=gone") || !strings.Contains(s, fmt.Sprint("records=", 1)) {
		t.Errorf("log does not say what was skipped: %s", s)
	}
	if got := total(db.stored(tenant.Default)); got != 2 {
		t.Errorf("%v events, want 2", got)
	}
}

// A segment that is gone from the middle of the log is said to be, and what the
// others hold is there. One that opening itself removed is not missed.
func TestMissingSegmentIsReported(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 1 })
	for i := range 4 {
		db.mustAppend(tenantID(t, fmt.Sprint("t", i)), counterInc("c_total", testStart, 1))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	missing := filepath.Join(db.dir, walDirName, segmentName(2))
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	_, problems, err := Check(context.Background(), db.dir)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), missing+" is missing") {
		t.Errorf("check: %v, %v", problems, err)
	}
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	db = openTestDB(t, db.dir, func(o *Options) {
		o.Logger, o.Registerer = slog.New(slog.NewTextHandler(&log, nil)), reg
	})
	if !strings.Contains(log.String(), missing) || gauge(t, reg, "quipu_tsdb_wal_damage_total") != 1 {
		t.Errorf("the missing segment was not reported: %s", log.String())
	}
	have := 0.0
	for i := range 4 {
		have += total(db.stored(tenantID(t, fmt.Sprint("t", i))))
	}
	if have != 3 {
		t.Errorf("%v events, want the 3 of the other segments", have)
	}
	end := db.wal.end().Segment
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	if err := os.WriteFile(filepath.Join(db.dir, walDirName, segmentName(end+1)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db = openTestDB(t, db.dir, nil)
	if next := db.wal.end().Segment; next != end+1 {
		t.Errorf("the log goes on in segment %d, after %d", next, end)
	}
}

// shortFS writes half of what it is given, to files whose name it is told, and says
// so without an error.
type shortFS struct {
	vfs.OS
	mu   sync.Mutex
	name string
}

type shortFile struct {
	vfs.File
	fs   *shortFS
	name string
}

func (f *shortFS) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	return shortFile{file, f, name}, err
}

func (f *shortFS) shorten(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name = name
}

func (f shortFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.name != "" && strings.Contains(f.name, f.fs.name) {
		p = p[:len(p)/2]
	}
	return f.File.Write(p)
}

// A write that is short without an error is one: nothing that depends on it is
// acknowledged or made live.
func TestShortWritesAreErrors(t *testing.T) {
	fault := &shortFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	db.fill(5)
	for _, name := range []string{blockMetaName, manifestName} {
		fault.shorten(name)
		if err := db.Flush(context.Background(), tenant.Default); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("flush with a short write of %s: %v", name, err)
		}
		if left, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockIndex)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
	fault.shorten(settingsName)
	if _, err := db.Tenant(tenantID(t, "new")); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("tenant made with a short write: %v", err)
	}
	fault.shorten("")
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Error(err)
	}
	db.fill(1)
	fault.shorten(segmentSuffix)
	for range 2 {
		_, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1)}})
		if !errors.Is(err, io.ErrShortWrite) || !errors.Is(err, ErrReadOnly) {
			t.Errorf("append with a short write: %v", err)
		}
	}
	if got := total(db.stored(tenant.Default)); got != 6 {
		t.Errorf("%v events, want 6", got)
	}
	if _, err := Open(Options{Dir: t.TempDir(), FS: &shortFS{name: segmentSuffix}}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("open with a short write of a segment's header: %v", err)
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != 6 {
		t.Errorf("%v events after reopening, want 6", got)
	}
}
