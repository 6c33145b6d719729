package tsdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// post sends numbered events of a tenant as ingestion does, in one batch, and returns how
// many counted.
func (d *testDB) post(id tenant.ID, ns ...int) (counted int, err error) {
	d.t.Helper()
	p, err := d.Tenant(id)
	if err != nil {
		return 0, err
	}
	var ids [][16]byte
	for _, n := range ns {
		e := eventID(n)
		copy(e[:], p.EventTag[:])
		ids = append(ids, e)
	}
	r, err := d.Reserve(ids)
	if err != nil {
		return 0, err
	}
	b := &increment.Batch{Reservation: r, Generation: p.Generation}
	for i, n := range ns {
		if !r.Duplicate(i) {
			counted++
			b.Increments = append(b.Increments, counterInc("posted_total", testStart, 1, "n", fmt.Sprint(n)))
		}
	}
	if counted == 0 {
		r.Settle(false)
		return 0, nil
	}
	_, err = d.Append(context.Background(), id, b)
	return counted, err
}

func (d *testDB) mustPost(id tenant.ID, want int, ns ...int) {
	d.t.Helper()
	if got, err := d.post(id, ns...); err != nil || got != want {
		d.t.Fatalf("of events %v %d count, %v; want %d", ns, got, err, want)
	}
}

func (d *testDB) mustRestore(snapshot string, id tenant.ID, o RestoreOptions) Restored {
	d.t.Helper()
	out, err := d.Restore(context.Background(), filepath.Base(snapshot), id, o)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

func (d *testDB) mustAsk(id tenant.ID) string {
	d.t.Helper()
	got, err := d.ask(id)
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

// leftBehind are directories of restores and drops.
func leftBehind(t testing.TB, dir string) (out []string) {
	t.Helper()
	for _, prefix := range []string{droppedPrefix, restoringPrefix, restoredPrefix} {
		found, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// writeRules writes files of a tenant that storage does not know.
func (d *testDB) writeRules(id tenant.ID, text string) {
	d.t.Helper()
	dir := filepath.Join(d.dir, id.String())
	err := errors.Join(os.MkdirAll(filepath.Join(dir, tenant.RulesDir), 0o700),
		os.WriteFile(filepath.Join(dir, tenant.EventRulesFile), []byte(text), 0o600), os.WriteFile(filepath.Join(dir, tenant.RulesDir, "shop.yaml"), []byte(text), 0o600))
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *testDB) rules(id tenant.ID) string {
	dir := filepath.Join(d.dir, id.String())
	events, _ := os.ReadFile(filepath.Join(dir, tenant.EventRulesFile))
	rules, _ := os.ReadFile(filepath.Join(dir, tenant.RulesDir, "shop.yaml"))
	return string(events) + "+" + string(rules)
}

// A tenant is restored to what it was: data, settings, rules, the key of user ids, batch
// keys and event ids. What came later is gone, and counts where it is sent again. So in
// place of what it has become, after it was dropped, and on another server.
func TestRestore(t *testing.T) {
	db, other := openQuiet(t, "", nil), tenantID(t, "other")
	id := tenant.Default
	db.fillKinds()
	db.mustFlush(id)
	db.mustDelete(id, testStart.Add(-time.Hour), testStart, equal("page", "/a"))
	db.mustAppend(id, everyKind("/later", testStart.Add(-time.Minute))...)
	db.mustPost(id, 2, 1, 2)
	db.mustPost(other, 2, 1, 2)
	key := &increment.Batch{HasKey: true, Key: [16]byte{1}, Increments: []increment.Increment{counterInc("keyed_total", testStart, 1)}}
	if _, err := db.Append(context.Background(), id, key); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeSettings(id, setting(`{"limits": {"series": 77777}}`)); err != nil {
		t.Fatal(err)
	}
	db.writeRules(id, "before")
	want, others := db.mustAsk(id), db.mustAsk(other)
	was := *db.mustStore(id).settings()
	snapshot := db.mustSnapshot(id, false)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	copied := filepath.Join(elsewhere, snapshotDirName, "a.copy")
	if err := errors.Join(os.MkdirAll(filepath.Dir(copied), 0o755), os.CopyFS(copied, os.DirFS(snapshot))); err != nil {
		t.Fatal(err)
	}
	change := func() { // all of it
		t.Helper()
		if _, err := db.post(id, 2, 3, 4); err != nil {
			t.Fatal(err)
		}
		db.mustAppend(id, everyKind("/much-later", testStart)...)
		db.mustFlush(id)
		db.mustClean(id)
		db.writeRules(id, "after")
		if _, err := db.ChangeSettings(id, setting(`{"limits": {"series": 88888}}`)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, o RestoreOptions) {
		t.Helper()
		calls := ""
		o.Begin, o.Replaced = func() error { calls += "begin "; return nil }, func() { calls += "replaced" }
		r := db.mustRestore(snapshot, id, o)
		if r.Blocks == 0 || r.Bytes == 0 || r.EventIDs != 2 || calls != "begin replaced" {
			t.Errorf("%s: %+v, hooks %s", what, r, calls)
		}
		for _, stage := range []string{"at once", "opened again", "merged"} {
			now := *db.mustStore(id).settings()
			if got := db.mustAsk(id); got != want {
				t.Fatalf("%s, %s: other answers", what, stage)
			}
			if now.IDKey != was.IDKey || now.Limits.Series != 77777 || now.Generation == was.Generation || now.EventTag == was.EventTag {
				t.Errorf("%s, %s: profile %+v", what, stage, now)
			}
			if got := db.rules(id); got != "before+before" {
				t.Errorf("%s, %s: rules %s", what, stage, got)
			}
			if left := leftBehind(t, db.dir); len(left) > 0 {
				t.Errorf("%s, %s: left behind: %v", what, stage, left)
			}
			db.mustPost(id, 0, 1, 2)
			again := *key
			if dup, err := db.Append(context.Background(), id, &again); err != nil || !dup {
				t.Errorf("%s, %s: a batch that was counted: duplicate %v, %v", what, stage, dup, err)
			}
			if stage == "at once" {
				db = db.reopenQuiet(nil)
			} else if stage == "opened again" {
				db.mustClean(id)
			}
		}
		db.mustPost(id, 2, 3, 4, 2)
		db.mustPost(id, 0, 3, 4)
	}
	change()
	check("in place", RestoreOptions{Replace: true})
	change()
	db.mustDrop(id)
	check("dropped", RestoreOptions{})
	if got := db.mustAsk(other); got != others {
		t.Error("another tenant answers otherwise")
	}
	db.mustPost(other, 1, 1, 2, 3)
	dir := db.dir
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, dir)

	db = openQuiet(t, elsewhere, nil)
	snapshot = copied
	db.mustPost(other, 1, 1)
	check("elsewhere", RestoreOptions{})
	db.mustPost(other, 1, 1, 2)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, elsewhere)
}

// A snapshot of all tenants has each, and each can be restored; one that cannot be opened
// is left out, and why is said.
func TestSnapshotOfAll(t *testing.T) {
	db := openQuiet(t, "", nil)
	a, b, bad := tenantID(t, "a"), tenantID(t, "b"), tenantID(t, "bad")
	for i, id := range []tenant.ID{a, b, bad} {
		db.mustPost(id, 2, i, 10+i)
	}
	db = db.reopenQuiet(nil)
	db.mustFlush(bad)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(db.dir, "bad", manifestName)
	if err := os.WriteFile(manifest, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	db = openQuiet(t, dir, nil)
	want := []string{db.mustAsk(a), db.mustAsk(b)}
	name, failed, err := db.SnapshotAll(context.Background(), nil, false)
	if err != nil || len(failed) != 1 || !strings.Contains(fmt.Sprint(failed[bad]), "checksum is wrong") {
		t.Fatalf("%v, %v", failed, err)
	}
	list, err := db.Snapshots()
	if err != nil || len(list) != 1 || list[0].Name != name || !list[0].Time.Equal(testStart) || len(list[0].Tenants) != 2 || list[0].Tenants[1].ID != b || list[0].Tenants[1].Bytes == 0 {
		t.Errorf("snapshots: %+v, %v", list, err)
	}
	mustBeSound(t, filepath.Join(db.dir, snapshotDirName, name))
	for i, id := range []tenant.ID{a, b} {
		db.mustPost(id, 1, 77)
		db.mustRestore(name, id, RestoreOptions{Replace: true})
		if db.mustAsk(id) != want[i] {
			t.Errorf("tenant %s answers otherwise", id)
		}
		db.mustPost(id, 1, i, 10+i, 77)
	}
	ctx := context.Background()
	if err := db.DeleteSnapshot(ctx, name); err != nil {
		t.Error(err)
	}
	for _, name := range []string{name, "", "..", "../a", "x.tmp", "a/b"} {
		if err := db.DeleteSnapshot(ctx, name); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	if list, err := db.Snapshots(); err != nil || len(list) > 0 {
		t.Errorf("after the deletion there are %v, %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(db.dir, "a", manifestName)); err != nil {
		t.Error(err)
	}
}

// What cannot be restored leaves all as it was, and says why.
func TestRestoreRefuses(t *testing.T) {
	db := openQuiet(t, "", nil)
	id := tenant.Default
	db.fillKinds()
	name := filepath.Base(db.mustSnapshot(id, false))
	db.mustPost(id, 1, 1)
	want := db.mustAsk(id)
	dir := filepath.Join(db.dir, snapshotDirName, name, "default")
	block := filepath.Join(dir, db.mustStore(id).man.Blocks[0].ULID.String())
	damage := func(path, text string) func() {
		src, err := os.ReadFile(path)
		if err == nil { // it is linked, so not in place
			err = errors.Join(os.Remove(path), os.WriteFile(path, []byte(text), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, src, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		snapshot, path, text string
		id                   tenant.ID
		options              RestoreOptions
		is                   error
		says                 string
	}{
		{snapshot: "no-such", id: id, options: RestoreOptions{Replace: true}, is: ErrNoSnapshot},
		{snapshot: "../" + name, id: id, options: RestoreOptions{Replace: true}, is: ErrNoSnapshot},
		{snapshot: name, id: tenantID(t, "absent"), is: ErrNoSnapshot},
		{snapshot: name, id: id, is: tenant.ErrExists},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true}, path: filepath.Join(dir, manifestName), text: "{}", says: "checksum is wrong"},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true}, path: filepath.Join(dir, idKeyName), text: "0123456789abcdef", says: "checksum is wrong"},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true}, path: filepath.Join(dir, settingsName), text: "grids: 1s", says: "grids"},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true}, path: filepath.Join(block, blockIndex), text: "cut", says: "was not copied whole"},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true}, path: filepath.Join(block, blockMetaName), text: "{}", says: block[strings.LastIndex(block, "/"):]},
		{snapshot: name, id: id, options: RestoreOptions{Replace: true, Begin: func() error { return errInjected }}, is: errInjected},
	} {
		mend := func() {}
		if c.path != "" {
			mend = damage(c.path, c.text)
		}
		_, err := db.Restore(context.Background(), c.snapshot, c.id, c.options)
		mend()
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
		if db.mustAsk(id) != want {
			t.Errorf("%+v: the tenant answers otherwise", c)
		}
		if left := leftBehind(t, db.dir); len(left) > 0 {
			t.Errorf("%+v: left behind: %v", c, left)
		}
	}
	db.mustPost(id, 1, 1, 2)
	db.mustRestore(name, id, RestoreOptions{Replace: true})
}

// A query that runs while its tenant is restored reads on what it has pinned.
func TestRestoreUnderAReader(t *testing.T) {
	db := openTestDB(t, "", nil)
	id := tenant.Default
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	name := db.mustSnapshot(id, false)
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	db.mustFlush(id)
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	q := &querier{db: db.DB, maxt: never}
	ctx := db.querier(t, id, testStart, testStart).ctx
	v, _, err := q.pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	db.mustRestore(name, id, RestoreOptions{Replace: true})
	if left := leftBehind(t, db.dir); len(left) != 1 {
		t.Errorf("kept for the reader: %v", left)
	}
	sels, err := selectSeries(ctx, v, &q.blocks, everything, allSeries())
	if err != nil || len(sels) != 1 {
		t.Fatal(sels, err)
	}
	if p, err := sels[0].read(0, never, q.cut); err != nil || p.len() != 1 || p.value[0] != 3 {
		t.Errorf("the reader has %v, %v, want 3", p.value, err)
	}
	if got := total(db.stored(id)); got != 1 {
		t.Errorf("the restored tenant has %v events, want 1", got)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftBehind(t, db.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Batches that come while their tenant is restored again and again are in what was given
// up or in the new one or refused, so that who sends a refused one again has it counted:
// after the last restore each event that was acknowledged since is there once.
func TestRestoreBesideAppends(t *testing.T) {
	db := openTestDB(t, "", nil)
	id := tenant.Default
	db.mustPost(id, 1, 1)
	name := db.mustSnapshot(id, false)
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked, refused := map[int]bool{}, 0
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(end)
	for client := range 3 {
		wg.Go(func() {
			for n := 1000*client + 2; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				_, err := db.post(id, n)
				over := (*overload.Error)(nil)
				mu.Lock()
				if err == nil {
					acked[n] = true
				} else if refused++; !errors.As(err, &over) || over.Reason != overload.ReasonRestore {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for range 30 {
			if err := errors.Join(db.Flush(context.Background(), id), db.maintainBlocks(context.Background()), db.flushIDs()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 15 {
		db.mustRestore(name, id, RestoreOptions{Replace: true, Replaced: func() {
			mu.Lock()
			clear(acked) // of these none can be sure
			mu.Unlock()
		}})
	}
	mu.Lock()
	since := len(acked)
	mu.Unlock()
	time.Sleep(50 * time.Millisecond)
	end()
	db.mustPost(id, 0, 1)
	for range 2 {
		got := db.stored(id)
		for key, v := range got {
			if v != 1 {
				t.Errorf("%s counted %v times", key, v)
			}
		}
		missing := 0
		for n := range acked {
			if got[storedKey(counterInc("posted_total", testStart, 1, "n", fmt.Sprint(n)).Labels, floorTo(testStart.UnixMilli(), g))] != 1 {
				missing++
			}
		}
		// One batch of each client may have been in the old tenant when its answer came.
		if missing > 3 || len(acked) < since {
			t.Errorf("of %d acknowledged events %d are missing", len(acked), missing)
		}
		db = db.reopen(nil)
	}
	t.Logf("%d acknowledged after the last restore, %d refused", len(acked), refused)
}

// Whichever operation of a restore fails, the tenant is as it was or, where it is not known
// what a crash would leave, out of service until the next start, which leaves one of both.
func TestRestoreFails(t *testing.T) {
	fault := &hookFS{}
	db := openQuiet(t, "", func(o *Options) { o.FS = fault })
	id := tenant.Default
	db.fillKinds()
	db.mustPost(id, 1, 1)
	name := db.mustSnapshot(id, false)
	restored := db.mustAsk(id)
	db.mustPost(id, 1, 2)
	old := db.mustAsk(id)
	kept, uncertain := 0, 0
	for n := 0; ; n++ {
		at := 0
		fault.setHook(func(op, _ string) error {
			if at++; at == n+1 && op != "read" {
				return errInjected
			}
			return nil
		})
		_, err := db.Restore(context.Background(), filepath.Base(name), id, RestoreOptions{Replace: true})
		fault.setHook(nil)
		if err == nil && at <= n {
			break
		}
		switch {
		case err == nil: // a read, or what need not be done
			old = restored
		case errors.Is(err, ErrHalfRestored):
			uncertain++
			if _, err := db.post(id, 3); err == nil || !strings.Contains(err.Error(), "out of service") {
				t.Errorf("operation %d: a batch gets %v", n, err)
			}
			if _, err := db.Restore(context.Background(), filepath.Base(name), id, RestoreOptions{Replace: true}); err == nil {
				t.Errorf("operation %d: it is restored again", n)
			}
			db = db.reopenQuiet(func(o *Options) { o.FS = fault })
			got := db.mustAsk(id)
			if got != old && got != restored {
				t.Errorf("operation %d: neither the old tenant nor the restored one", n)
			}
			old = got
		default:
			kept++
			if db.mustAsk(id) != old {
				t.Errorf("operation %d: the tenant answers otherwise after %v", n, err)
			}
		}
		if left := leftBehind(t, db.dir); len(left) > 0 {
			t.Fatalf("operation %d: left behind: %v after %v", n, left, err)
		}
		if old == restored { // make it another one again
			db.mustPost(id, 1, 2)
			old = db.mustAsk(id)
		}
	}
	if db.mustAsk(id) != restored || kept < 10 || uncertain < 3 {
		t.Errorf("%d times all stayed as it was, %d times it was not known", kept, uncertain)
	}
}
