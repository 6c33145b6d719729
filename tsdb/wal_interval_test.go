package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// unsyncedFS knows how many bytes of log segments were written and not synced.
type unsyncedFS struct {
	vfs.OS
	failSync atomic.Bool
	unsynced atomic.Int64
	synced   chan struct{} // receives after a sync, where there is room
}

type unsyncedFile struct {
	vfs.File
	fs      *unsyncedFS
	pending int64
}

func (f *unsyncedFS) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	if err != nil || filepath.Ext(name) != segmentSuffix {
		return file, err
	}
	return &unsyncedFile{File: file, fs: f}, nil
}

func (f *unsyncedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.pending += int64(n)
	f.fs.unsynced.Add(int64(n))
	return n, err
}

func (f *unsyncedFile) Sync() error {
	if f.fs.failSync.Load() {
		return errInjected
	}
	err := f.File.Sync()
	f.fs.unsynced.Add(-f.pending)
	f.pending = 0
	select {
	case f.fs.synced <- struct{}{}:
	default:
	}
	return err
}

func openUnsynced(t *testing.T, every time.Duration) (*testDB, *unsyncedFS) {
	fs := &unsyncedFS{synced: make(chan struct{}, 1)}
	return openTestDB(t, "", func(o *Options) { o.FS, o.WALSyncEvery = fs, every }), fs
}

// stuck is how long a test waits for what should come at once.
const stuck = time.Minute

func TestLogIsSyncedAtTheInterval(t *testing.T) {
	db, fs := openUnsynced(t, time.Millisecond)
	for range 3 {
		db.fill(2)
		for deadline := time.After(stuck); fs.unsynced.Load() > 0; {
			select {
			case <-fs.synced:
			case <-deadline:
				t.Fatalf("%d bytes are not synced", fs.unsynced.Load())
			}
		}
	}
}

// Until the interval is over nothing is synced but by who asks for it.
func TestWhatSyncsALogBeforeItsInterval(t *testing.T) {
	for name, sync := range map[string]func(*testDB) error{
		"close": func(db *testDB) error {
			err := db.Close()
			db.DB = nil
			return err
		},
		"relog": func(db *testDB) error {
			s, err := db.store(tenant.Default, false)
			if err == nil {
				_, err = s.relog(context.Background(), nil)
			}
			return err
		},
	} {
		db, fs := openUnsynced(t, time.Hour)
		db.fill(3)
		if fs.unsynced.Load() == 0 {
			t.Errorf("%s: appends were synced", name)
		}
		if err := sync(db); err != nil {
			t.Fatal(err)
		}
		if n := fs.unsynced.Load(); n != 0 {
			t.Errorf("%s leaves %d bytes unsynced", name, n)
		}
	}
}

func TestFailedSyncAtTheIntervalPoisonsTheLog(t *testing.T) {
	db, fs := openUnsynced(t, time.Millisecond)
	db.fill(1)
	fs.failSync.Store(true)
	var err error
	for deadline := time.Now().Add(stuck); err == nil && time.Now().Before(deadline); {
		b := &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		_, err = db.Append(context.Background(), tenant.Default, b)
	}
	if !errors.Is(err, ErrReadOnly) || !errors.Is(err, errInjected) {
		t.Fatalf("append after a failed sync: %v", err)
	}
	fs.failSync.Store(false)
	b := &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
	if _, err = db.Append(context.Background(), tenant.Default, b); !errors.Is(err, ErrReadOnly) {
		t.Errorf("the disk works again, but what it lost is unknown: %v", err)
	}
}

// Whatever goes wrong while many write, and when the log is closed: everyone gets an
// answer, and what was acknowledged is there once and in order.
func TestLogUnderStress(t *testing.T) {
	for _, every := range []time.Duration{0, 100 * time.Microsecond} {
		for _, what := range []string{"nothing", "sync", "write", "close"} {
			t.Run(fmt.Sprint(every, " ", what), func(t *testing.T) {
				for round := range 10 {
					stressLog(t, every, what, 20+round*37)
				}
			})
		}
	}
}

// stressLog lets something fail once some records are acknowledged.
func stressLog(t *testing.T, every time.Duration, what string, after int) {
	fault := &faultFS{}
	dir := t.TempDir()
	o := &Options{FS: fault, Logger: slog.New(slog.DiscardHandler), WALSegmentBytesMax: 2000, WALSyncEvery: every}
	w, err := startWAL(o, dir, walEnd{id: ulid.Make(), nextSegment: 1}, newMetrics(prometheus.NewRegistry()), func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	const writers, records = 8, 60
	var acked [writers]int
	var total atomic.Int64
	reached := make(chan struct{})
	var wg sync.WaitGroup
	for c := range writers {
		wg.Go(func() {
			for i := range records {
				_, err := w.append(walWrite{frame: appendFrame(nil, fmt.Appendf(nil, "%d %d", c, i)), sync: i%7 == 0})
				if err != nil {
					if failed := errors.Is(err, errInjected); failed != (what == "sync" || what == "write") || !failed && what != "close" {
						t.Errorf("append: %v", err)
					}
					return
				}
				acked[c] = i + 1
				if total.Add(1) == int64(after) {
					// Here, while there are records to come: all may be written soon.
					fault.failSync.Store(what == "sync")
					fault.failWrite.Store(what == "write")
					close(reached)
				}
			}
		})
	}
	<-reached
	if what == "close" {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if what != "close" {
		if err := w.close(); (err != nil) != (what != "nothing" && w.failed == nil) {
			t.Errorf("close: %v", err)
		}
	}
	checkLogged(t, dir, acked[:])
}

// checkLogged verifies that a log has each writer's records in order and once: at least
// those acknowledged.
func checkLogged(t *testing.T, dir string, acked []int) {
	t.Helper()
	segments, err := listSegments(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	next := make([]int, len(acked))
	for _, n := range segments {
		src, err := vfs.OS{}.ReadFile(filepath.Join(dir, segmentName(n)))
		if err != nil {
			t.Fatal(err)
		}
		if len(src) < segmentHeadSize {
			continue // its header could not be written
		}
		for rest := src[segmentHeadSize:]; ; {
			payload, size, err := decodeFrame(rest, nil)
			if err != nil {
				break // zeros that were reserved, or what a failed write left
			}
			rest = rest[size:]
			var c, i int
			if _, err := fmt.Sscan(strings.TrimSpace(string(payload)), &c, &i); err != nil {
				t.Fatal(err)
			}
			if i != next[c] {
				t.Fatalf("segment %d has record %d of writer %d, want %d", n, i, c, next[c])
			}
			next[c]++
		}
	}
	for c := range acked {
		if next[c] < acked[c] {
			t.Errorf("writer %d: %d records, %d were acknowledged", c, next[c], acked[c])
		}
	}
}
