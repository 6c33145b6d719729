package tsdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/tenant"
)

// blockOf gives a tenant one more block, of one event.
func (d *testDB) blockOf(id tenant.ID, lbls ...string) {
	d.t.Helper()
	d.mustAppend(id, counterInc("events_total", testStart, 1, lbls...))
	if err := d.Flush(context.Background(), id); err != nil {
		d.t.Fatal(err)
	}
}

func everyEvent() *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "events_total")
}

// mappings is how many block files of a directory the process has mapped; ok is
// false where the system does not say.
func mappings(dir string) (n int, ok bool) {
	src, err := os.ReadFile("/proc/self/maps")
	return strings.Count(string(src), dir), err == nil
}

// However many blocks are read by however many readers at a time, no more are open
// than the bound says.
func TestOpenBlocksAreBounded(t *testing.T) {
	const bound, tenants, readers = 6, 30, 4
	db := openTestDB(t, "", func(o *Options) { o.OpenBlocksMax = bound })
	ids := make([]tenant.ID, tenants)
	for i := range ids {
		ids[i] = tenantID(t, fmt.Sprint("t", i))
		db.blockOf(ids[i], "tenant", ids[i].String())
	}
	var all sync.WaitGroup
	for r := range readers {
		all.Go(func() {
			for i := range 10 * tenants {
				id := ids[(i*7+r*13)%tenants]
				q := db.querier(t, id, testStart.Add(-time.Hour), testStart.Add(time.Hour))
				vals, _, err := q.LabelValues(q.ctx, "tenant", nil)
				if err != nil || len(vals) != 1 || vals[0] != id.String() {
					t.Errorf("values of tenant %s: %q, %v", id, vals, err)
				}
				if n := countSamples(t, q.Select(q.ctx, false, nil, everyEvent())); n == 0 {
					t.Errorf("tenant %s has no samples", id)
				}
				if n := db.blocks.count(); n > bound {
					t.Errorf("%d blocks are open, the bound is %d", n, bound)
				}
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := db.blocks.count(); n != bound {
		t.Errorf("%d blocks are kept open, want %d", n, bound)
	}
	if n, ok := mappings(db.dir); ok && n != 2*bound {
		t.Errorf("%d files are mapped, want %d", n, 2*bound)
	}
}

// A block in use stays open past the bound, and what was read of it is right; when
// its reader is done it is closed, and reading goes on to be an error, not a crash.
func TestBlockInUseIsNotClosed(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.OpenBlocksMax = 1 })
	a, b := tenantID(t, "a"), tenantID(t, "b")
	for i := range 3 {
		db.blockOf(a, "page", fmt.Sprint("/", i))
		db.blockOf(b, "page", fmt.Sprint("/b", i))
	}
	q := db.querier(t, a, testStart.Add(-time.Hour), testStart.Add(time.Hour))
	set := q.Select(q.ctx, false, nil, everyEvent())
	pages, _, err := q.LabelValues(q.ctx, "page", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := total(db.stored(b)); got != 3 {
			t.Errorf("%v events of b, want 3", got)
		}
		if got := total(db.stored(a)); got != 3 {
			t.Errorf("%v events of a, want 3", got)
		}
	}
	if n := db.blocks.count(); n != 3 {
		t.Errorf("%d blocks are open while 3 are in use", n)
	}
	for range 3 {
		set.Next()
		if n := countSamples(t, &seriesSet{series: []storage.Series{set.At()}, i: -1}); n == 0 {
			t.Error("a series of a block in use has no samples")
		}
	}
	last := set.At()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if n := db.blocks.count(); n != 1 {
		t.Errorf("%d blocks are open when nobody reads, the bound is 1", n)
	}
	if err := last.Iterator(nil).Err(); !errors.Is(err, errReaderClosed) {
		t.Errorf("read after close: %v", err)
	}
	db.stored(b)
	if got, want := strings.Join(pages, " "), "/0 /1 /2"; got != want || last.Labels().Get("page") != "/2" {
		t.Errorf("strings changed when their block was closed: %s, %s", got, last.Labels())
	}
}

// The directory of a block that was merged away goes when the last query that reads
// it does, whether the cache has it open or not.
func TestMergedBlocksGoWithTheirLastReader(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.OpenBlocksMax = 1 })
	for i := range 4 {
		db.blockOf(tenant.Default, "page", fmt.Sprint("/", i))
	}
	dirs := func() int {
		found, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockIndex))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour))
	set := q.Select(q.ctx, false, nil, everyEvent())
	*db.now = testStart.Add(48 * time.Hour)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := dirs(); n != 5 {
		t.Errorf("%d blocks while four are read and one stands for them", n)
	}
	if n := countSamples(t, set); n == 0 {
		t.Error("no samples of blocks that were merged meanwhile")
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d blocks when nobody reads, want 1", n)
	}
	if n, ok := mappings(db.dir); ok && n != 2*db.blocks.count() {
		t.Errorf("%d files are mapped of %d blocks", n, db.blocks.count())
	}
	if got := total(db.stored(tenant.Default)); got != 4 {
		t.Errorf("%v events, want 4", got)
	}
}

// A block that cannot be opened is said to be so to everyone who asks, and can be
// opened when it is whole again.
func TestBlockThatCannotBeOpened(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.OpenBlocksMax = 1 })
	db.blockOf(tenant.Default)
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	b := s.versions.pin().blocks[0]
	defer s.versions.unpin(s.versions.current)
	path := filepath.Join(b.dir(), blockIndex)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := db.blocks.acquire(b); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
				t.Errorf("open a block without index: %v", err)
			}
		})
	}
	all.Wait()
	if n := db.blocks.count(); n != 0 {
		t.Errorf("%d blocks are open", n)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(tenant.Default)); got != 1 {
		t.Errorf("%v events, want 1", got)
	}
}

// Blocks that are flushed, merged and dropped while they are read, with room for one
// open block, are read whole or not at all.
func TestBlocksComeAndGoUnderReaders(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.OpenBlocksMax = 1 })
	s, err := db.store(tenant.Default, true)
	if err != nil {
		t.Fatal(err)
	}
	var written, done atomic.Int64
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for done.Load() == 0 {
				least := written.Load()
				if got := total(db.stored(tenant.Default)); got < float64(least) || got > float64(written.Load()+1) {
					t.Errorf("%v events, there were %d before and %d after", got, least, written.Load())
				}
			}
		})
	}
	for i := range 30 {
		db.blockOf(tenant.Default, "page", fmt.Sprint("/", i%3))
		written.Add(1)
		if _, err := s.compactOnce(context.Background(), testStart.Add(48*time.Hour)); err != nil {
			t.Error(err)
		}
	}
	done.Store(1)
	readers.Wait()
	if n := db.blocks.count(); n > 1 {
		t.Errorf("%d blocks are open when nobody reads, the bound is 1", n)
	}
	if n, ok := mappings(db.dir); ok && n > 2 {
		t.Errorf("%d files are mapped of one block", n)
	}
}
