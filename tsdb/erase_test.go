package tsdb

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
)

// filesWith are those of a directory that have some bytes, without what is in snapshots.
func filesWith(t *testing.T, dir string, what []byte) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == snapshotDirName {
				return filepath.SkipDir
			}
			return err
		}
		src, err := os.ReadFile(path)
		if bytes.Contains(src, what) {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// epochWarning is the warning of a count of ids from one time to another.
func (d *testDB) epochWarning(from, to time.Time) string {
	d.t.Helper()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: never})
	in := []sketch.Interval{{Lo: from.UnixMilli(), Hi: to.UnixMilli()}}
	ws, err := d.DistinctSeries(ctx, in, func([]sketch.Series) error { return nil }, equal(model.MetricNameLabel, "visitors"))
	if err != nil {
		d.t.Fatal(err)
	}
	var all []string
	for _, w := range ws.AsErrors() {
		all = append(all, w.Error())
	}
	return strings.Join(all, "; ")
}

// An erasure leaves what was counted, destroys the key and says which snapshots have it,
// and counts over it say that they are of two keys; the key of events' ids stays.
func TestEraseUsers(t *testing.T) {
	db := openTestDB(t, "", nil)
	if _, err := db.EraseUsers(context.Background(), tenantID(t, "nobody")); !errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("of nobody: %v", err)
	}
	visitor := func(at time.Time) increment.Increment {
		return increment.Increment{Series: series(increment.Distinct, "visitors"), Time: floorTo(at.UnixMilli(), g), IDs: []uint64{1, 2}}
	}
	db.mustAppend(tenant.Default, visitor(*db.now))
	made, err := db.Snapshot(context.Background(), tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	first := *db.mustStore(tenant.Default).settings()
	var erased []time.Time
	for range 2 {
		*db.now = db.now.Add(time.Hour)
		had := *db.mustStore(tenant.Default).settings()
		got, err := db.EraseUsers(context.Background(), tenant.Default)
		if err != nil {
			t.Fatal(err)
		}
		erased = append(erased, *db.now)
		has := *db.mustStore(tenant.Default).settings()
		if has.IDKey == had.IDKey || has.IDKey == first.IDKey || has.EventKey != first.EventKey || has.EventKey == has.IDKey {
			t.Errorf("keys %x and %x, were %x and %x", has.IDKey, has.EventKey, had.IDKey, had.EventKey)
		}
		if !got.Time.Equal(*db.now) || got.Epochs != len(erased)+1 || !slices.Equal(got.Snapshots, []string{made}) {
			t.Errorf("%+v, want a key more and the snapshot %s", got, made)
		}
		if left := filesWith(t, db.dir, had.IDKey[:]); len(left) > 0 {
			t.Errorf("the key is in %v", left)
		}
		db.mustAppend(tenant.Default, visitor(*db.now))
	}
	last := *db.mustStore(tenant.Default).settings()
	for range 2 {
		if has := *db.mustStore(tenant.Default).settings(); has.IDKey != last.IDKey || has.EventKey != first.EventKey || len(has.UserEpochs) != 2 {
			t.Errorf("after a restart the keys are %x and %x of %v, want %x and %x", has.IDKey, has.EventKey, has.UserEpochs, last.IDKey, first.EventKey)
		}
		for _, tc := range []struct {
			from, to time.Time
			warns    bool
		}{
			{erased[0].Add(-time.Minute), erased[0], false},
			{erased[0], erased[1], false},
			{erased[1], erased[1].Add(time.Hour), false},
			{erased[0].Add(-time.Minute), erased[0].Add(time.Minute), true},
			{erased[0].Add(-time.Hour), erased[1].Add(time.Minute), true},
		} {
			if got := db.epochWarning(tc.from, tc.to); strings.Contains(got, "users were erased at 20") != tc.warns || !tc.warns && got != "" {
				t.Errorf("from %s to %s: warning %q, want one: %v", tc.from, tc.to, got, tc.warns)
			}
		}
		if n := total(db.stored(tenant.Default)); n != 6 {
			t.Errorf("%v ids are stored, want 2 of each time", n)
		}
		now := *db.now
		db = db.reopen(nil)
		*db.now = now
	}
	mustBeSoundAfter(t, db)
}

// An erasure that fails on the way, before the key is destroyed or after, is made good by
// the next one, and by a start.
func TestEraseUsersAfterAFailure(t *testing.T) {
	disk := &fullFS{}
	options := func(o *Options) { o.FS = disk }
	db := openTestDB(t, "", options)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	keys := map[[16]byte]bool{}
	for n := 0; ; n++ {
		key := db.mustStore(tenant.Default).settings().IDKey
		keys[key] = true
		disk.fill(n)
		_, err := db.EraseUsers(context.Background(), tenant.Default)
		if disk.empty() == 0 {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		now := db.mustStore(tenant.Default).settings().IDKey
		if err == nil || now != key && !strings.Contains(err.Error(), "not in use any more") {
			t.Fatalf("full after %d operations: %v, and the key is %x, was %x", n, err, now, key)
		}
		if n%2 == 1 {
			db = db.reopen(options)
			if got := db.mustStore(tenant.Default).settings().IDKey; got != now {
				t.Fatalf("full after %d operations: the key is %x after a restart, was %x", n, got, now)
			}
		}
	}
	for key := range keys {
		if left := filesWith(t, db.dir, key[:]); len(left) > 0 {
			t.Errorf("a key is in %v", left)
		}
	}
	mustBeSoundAfter(t, db)
}
