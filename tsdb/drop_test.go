package tsdb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

func (d *testDB) mustDrop(id tenant.ID) {
	d.t.Helper()
	if err := d.DropTenant(context.Background(), id); err != nil {
		d.t.Fatal(err)
	}
}

// graves are the directories of dropped tenants that were not removed yet.
func graves(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, droppedPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A dropped tenant's data is gone from memory and disk, what the log has of it is not
// its successor's, and other tenants keep theirs.
func TestDropTenant(t *testing.T) {
	db := openTestDB(t, "", nil)
	a, b := tenantID(t, "a"), tenantID(t, "b")
	for _, id := range []tenant.ID{a, b} {
		db.mustAppend(id, counterInc("flushed_total", testStart, 2))
		if err := db.Flush(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		db.mustAppend(id, counterInc("logged_total", testStart, 3))
	}
	before, err := db.store(a, false)
	if err != nil {
		t.Fatal(err)
	}
	memory := db.pressure.memory.Load()
	db.mustDrop(a)
	if _, err := os.Stat(filepath.Join(db.dir, "a")); !errors.Is(err, os.ErrNotExist) || len(graves(t, db.dir)) > 0 {
		t.Errorf("the directory: %v, %v", err, graves(t, db.dir))
	}
	if got := db.pressure.memory.Load(); got >= memory {
		t.Errorf("memtables take %d bytes after %d", got, memory)
	}
	if got := db.stored(a); len(got) > 0 {
		t.Errorf("the dropped tenant has %v", got)
	}
	db.mustDrop(a) // once more
	db.mustAppend(a, counterInc("new_total", testStart, 1))
	after, err := db.store(a, false)
	if err != nil || after.generation == before.generation || after.profile.Load().IDKey == before.profile.Load().IDKey {
		t.Errorf("the tenant is made again with the same generation or key: %v", err)
	}
	for range 2 {
		if got := total(db.stored(a)); got != 1 {
			t.Errorf("the new tenant has %v events, want 1", got)
		}
		if got := total(db.stored(b)); got != 5 {
			t.Errorf("the other tenant has %v events, want 5", got)
		}
		db = db.reopen(nil)
	}
}

// A query that runs while its tenant is dropped reads on, blocks that it has not opened
// yet included, and the files go when it is done.
func TestDropTenantUnderAReader(t *testing.T) {
	db := openTestDB(t, "", nil)
	id := tenantID(t, "a")
	for range 2 {
		db.mustAppend(id, counterInc("events_total", testStart, 1))
		if err := db.Flush(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	q := &querier{db: db.DB, maxt: never}
	ctx := db.querier(t, id, testStart, testStart).ctx
	v, _, err := q.pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	db.mustDrop(id)
	if n := len(graves(t, db.dir)); n != 1 {
		t.Errorf("%d directories are kept for the reader, want 1", n)
	}
	sels, err := selectSeries(ctx, v, &q.blocks, everything, allSeries())
	if err != nil || len(sels) != 1 {
		t.Fatal(sels, err)
	}
	p, err := sels[0].read(0, never, q.cut)
	if err != nil || p.len() != 1 || p.value[0] != 3 {
		t.Errorf("the reader has %v, %v, want 3", p.value, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if left := graves(t, db.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a crash leaves of a dropped tenant goes at the next start, and the check takes it
// for what it is.
func TestDroppedRemainsGoAtTheNextStart(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("events_total", testStart, 1))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	grave := filepath.Join(dir, droppedPrefix+"01ARZ3NDEKTSV4RRFFQ69G5FAV")
	if err := errors.Join(os.Mkdir(grave, 0o755), os.WriteFile(filepath.Join(grave, idKeyName), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	sum, problems, err := Check(context.Background(), dir)
	if err != nil || len(problems) > 0 || len(sum.Leftovers) != 1 {
		t.Errorf("check: %v, %v, leftovers %v", err, problems, sum.Leftovers)
	}
	openTestDB(t, dir, nil)
	if left := graves(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A tenant that cannot be opened can be dropped, and no longer holds the log.
func TestDropATenantThatCannotBeOpened(t *testing.T) {
	db := openTestDB(t, "", nil)
	id := tenantID(t, "a")
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	if err := os.WriteFile(filepath.Join(dir, "a", manifestName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	db = openTestDB(t, dir, nil)
	if n := db.failedCount(); n != 1 {
		t.Fatalf("%d tenants failed, want 1", n)
	}
	db.mustDrop(id)
	if n := db.failedCount(); n != 0 {
		t.Errorf("%d tenants failed after it was dropped", n)
	}
	if first := db.wal.oldestSegment(); first != db.wal.end().Segment {
		t.Errorf("the log is kept from segment %d on", first)
	}
	db.mustAppend(id, counterInc("events_total", testStart, 7))
	if got := total(db.stored(id)); got != 7 {
		t.Errorf("%v events, want 7", got)
	}
}

// Where the rename fails all is as it was; where it may not be durable the tenant is not
// served, its files stay, and it can be dropped again.
func TestDropTenantFails(t *testing.T) {
	fault := &hookFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	id := tenantID(t, "a")
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	failOn := func(what string) {
		fault.setHook(func(op, name string) error {
			if op == what && (op == "syncdir" || strings.HasPrefix(filepath.Base(name), droppedPrefix)) {
				return errInjected
			}
			return nil
		})
	}
	failOn("rename")
	if err := db.DropTenant(context.Background(), id); !errors.Is(err, errInjected) || errors.Is(err, vfs.ErrUncertain) {
		t.Errorf("drop: %v", err)
	}
	fault.setHook(nil)
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	if got := total(db.stored(id)); got != 2 {
		t.Errorf("%v events after a drop that failed, want 2", got)
	}
	failOn("syncdir")
	if err := db.DropTenant(context.Background(), id); !errors.Is(err, vfs.ErrUncertain) {
		t.Errorf("drop: %v", err)
	}
	if len(db.stored(id)) > 0 || len(graves(t, db.dir)) != 1 {
		t.Errorf("after an uncertain drop there are %v and %v", db.stored(id), graves(t, db.dir))
	}
	fault.setHook(nil)
	db.mustDrop(id)
}

// Batches that come while a tenant is dropped and made again are counted for the new
// one or refused, and flushes and merges beside it touch nobody else's files.
func TestDropTenantBesideAppends(t *testing.T) {
	db := openTestDB(t, "", nil)
	id := tenantID(t, "a")
	ctx := context.Background()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 200 {
				b := &increment.Batch{Increments: []increment.Increment{counterInc("events_total", testStart, 1)}}
				if _, err := db.Append(ctx, id, b); err != nil && !errors.Is(err, tenant.ErrDropped) {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if err := errors.Join(db.Flush(ctx, id), db.maintainBlocks(ctx)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		db.mustDrop(id)
	}
	wg.Wait()
	db.mustDrop(id)
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	if got := total(db.stored(id)); got != 1 {
		t.Errorf("%v events, want 1", got)
	}
	if left := graves(t, db.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	dir := db.dir
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, dir)
}
