package tsdb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// A flush that covers a batch writes its key, however close the two are: the log
// is gone afterwards. And no segment goes with a batch that no flush has covered,
// however fast the log grows while that is decided.
func TestFlushesBesideAppends(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 256 })
	key := func(client, i int) [16]byte { return [16]byte{byte(client), byte(i), byte(i >> 8), 9} }
	const clients, batches = 4, 150
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1)) // makes the tenant
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range batches {
				b := &increment.Batch{HasKey: true, Key: key(c, i), Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
				if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		// As a crash right now would leave it.
		keys := readBackKeys(t, db)
		if n := total(db.stored(tenant.Default)); float64(len(keys)) > n {
			t.Fatalf("%d keys are durable, but only %v batches are stored", len(keys), n)
		}
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != clients*batches+1 {
		t.Errorf("%v events are stored, want %d", got, clients*batches+1)
	}
	for c := range clients {
		for i := range batches {
			b := &increment.Batch{HasKey: true, Key: key(c, i), Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
			if dup, err := db.Append(context.Background(), tenant.Default, b); err != nil || !dup {
				t.Fatalf("batch %d of client %d: duplicate %v, %v", i, c, dup, err)
			}
		}
	}
}

// readBackKeys reads the key files that the manifest on disk names.
func readBackKeys(t *testing.T, db *testDB) []batchKey {
	t.Helper()
	dir := filepath.Join(db.dir, "default")
	m, err := readManifest(db.opts.FS, dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []batchKey
	for _, kf := range m.Keys {
		keys, err := readKeys(db.opts.FS, filepath.Join(dir, kf.Name))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, keys...)
	}
	return out
}

// Retention drops blocks whose newest data is too old, and readers that still use
// them are not disturbed.
func TestRetention(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(48 * time.Hour)
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	old := testStart.Add(-47 * time.Hour)
	db.mustAppend(tenant.Default, counterInc("c_total", old, 1), counterInc("c_total", testStart, 2))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	reader := db.querier(t, tenant.Default, old.Add(-time.Hour), testStart)
	before := countSamples(t, reader.Select(reader.ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "c_total")))
	*db.now = testStart.Add(24 * time.Hour)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(tenant.Default)); got != 2 {
		t.Errorf("stored %v after retention, want 2", got)
	}
	after := countSamples(t, reader.Select(reader.ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "c_total")))
	if before != after || before == 0 {
		t.Errorf("a pinned reader saw %d samples before and %d after", before, after)
	}
	dirs := func() int {
		all, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockMetaName))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := dirs(); n != 2 {
		t.Errorf("%d block directories while a reader is there, want 2", n)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d block directories after the reader is done, want 1", n)
	}
}

// Log segments go when their increments are in blocks, and stay while any tenant
// needs them.
func TestSegmentsAreReleased(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 2048 })
	a, b := tenantID(t, "a"), tenantID(t, "b")
	db.mustAppend(b, counterInc("c_total", testStart, 1))
	for i := range 200 {
		db.mustAppend(a, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	segments := func() int {
		s, err := listSegments(db.opts.FS, filepath.Join(db.dir, walDirName))
		if err != nil {
			t.Fatal(err)
		}
		return len(s)
	}
	many := segments()
	if many < 5 {
		t.Fatalf("only %d segments", many)
	}
	if err := db.Flush(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	if n := segments(); n != many {
		t.Errorf("%d segments of %d are left while tenant b needs the first", n, many)
	}
	if err := db.Flush(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if n := segments(); n != 1 {
		t.Errorf("%d segments are left, want 1", n)
	}
	db = db.reopen(nil)
	if x, y := total(db.stored(a)), total(db.stored(b)); x != 200 || y != 1 {
		t.Errorf("stored %v and %v, want 200 and 1", x, y)
	}
}

// The log's budget is kept by flushing who holds back its oldest segment.
func TestWALBudget(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 2048; o.WALBytesMax = 8192 })
	for i := range 400 {
		db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	// Background work is woken by the log itself, not by its clock, which stands.
	deadline := time.Now().Add(30 * time.Second)
	for db.wal.size() > 8192 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := db.wal.size(); n > 8192 {
		t.Errorf("log has %d bytes", n)
	}
	if db.wal.oldestSegment() == 1 {
		t.Error("no segment was given back")
	}
	if got := total(db.stored(tenant.Default)); got != 400 {
		t.Errorf("stored %v, want 400", got)
	}
}

// Quiet tenants are logged again when the log wants its old segments back: no
// block is written for them, and everything is there after a restart, also sets of
// ids that are registers by then.
func TestSmallTenantsAreLoggedAgain(t *testing.T) {
	small := func(o *Options) {
		o.WALSegmentBytesMax = 16 << 10
		o.WALBytesMax = 2 << 20
		o.MaintainInterval = time.Hour
	}
	db := openTestDB(t, "", small)
	many := make([]uint64, 3000)
	r := rand.New(rand.NewPCG(4, 4))
	for i := range many {
		many[i] = r.Uint64()
	}
	var ids []tenant.ID
	for i := range 30 {
		ids = append(ids, tenantID(t, fmt.Sprint("t", i)))
		inc := increment.Increment{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "users"), increment.Distinct, nil), Time: floorTo(testStart.UnixMilli(), g), IDs: many[:i*100]}
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1), inc}}
		if _, err := db.Append(context.Background(), ids[i], b); err != nil {
			t.Fatal(err)
		}
	}
	want := map[tenant.ID]map[string]float64{}
	for _, id := range ids {
		want[id] = db.stored(id)
	}
	for range 3 {
		first := db.wal.oldestSegment()
		for _, s := range db.openStores() {
			if did, err := s.relog(context.Background(), nil); err != nil || !did {
				t.Fatalf("log again: %v, %v", did, err)
			}
		}
		if err := db.releaseSegments(); err != nil {
			t.Fatal(err)
		}
		if db.wal.oldestSegment() == first {
			t.Error("no segment was given back")
		}
		for _, id := range ids {
			if err := diff(db.stored(id), want[id]); err != nil {
				t.Errorf("tenant %s: %v", id, err)
			}
		}
		db = db.reopen(small)
	}
	for i, id := range ids {
		if err := diff(db.stored(id), want[id]); err != nil {
			t.Errorf("tenant %s: %v", id, err)
		}
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		if dup, err := db.Append(context.Background(), id, b); err != nil || !dup {
			t.Errorf("tenant %s: its key was forgotten: %v, %v", id, dup, err)
		}
	}
	if blocks, err := filepath.Glob(filepath.Join(db.dir, "*", "*", blockMetaName)); err != nil || len(blocks) != 0 {
		t.Errorf("%d blocks were written (%v)", len(blocks), err)
	}
}

// The log's budget holds with many small tenants too, whether they fit into half
// of it or not.
func TestWALBudgetOfSmallTenants(t *testing.T) {
	for _, series := range []int{1, 40} {
		db := openTestDB(t, "", func(o *Options) {
			o.WALSegmentBytesMax = 4 << 10
			o.WALBytesMax = 128 << 10
			o.MaintainInterval = time.Hour
		})
		n := 0
		for round := range 40 {
			for i := range 10 {
				var incs []increment.Increment
				for s := range series {
					incs = append(incs, counterInc("c_total", testStart.Add(time.Duration(round)*time.Minute), 1, "page", fmt.Sprint("/a/page/of/some/length/", s)))
					n++
				}
				db.mustAppend(tenantID(t, fmt.Sprint("t", i)), incs...)
			}
		}
		if err := db.maintainMemory(context.Background()); err != nil {
			t.Fatal(err)
		}
		if size := db.wal.size(); size > 128<<10 {
			t.Errorf("log has %d bytes", size)
		}
		db = db.reopen(nil)
		got := 0.0
		for i := range 10 {
			got += total(db.stored(tenantID(t, fmt.Sprint("t", i))))
		}
		if got != float64(n) {
			t.Errorf("%v events, want %d", got, n)
		}
	}
}
