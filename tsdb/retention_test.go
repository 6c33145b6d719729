package tsdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quipudb/quipu/internal/tenant"
)

// retaining are settings with what a tenant's file says of retention.
func retaining(t testing.TB, file string) tenant.Settings {
	t.Helper()
	s, err := tenant.ParseSettings([]byte(file), tenant.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustRetain expects what retention has removed: blocks by reason.
func (d *testDB) mustRetain(t *testing.T, age, size, rule float64) {
	t.Helper()
	for reason, want := range map[string]float64{removedByAge: age, removedBySize: size, removedByRule: rule} {
		blocks, bytes := testutil.ToFloat64(d.metrics.retentionBlocks.WithLabelValues(reason)), testutil.ToFloat64(d.metrics.retentionBytes.WithLabelValues(reason))
		if blocks != want || bytes > 0 != (want > 0) {
			t.Errorf("%v blocks and %v bytes went by %s, want %v blocks", blocks, bytes, reason, want)
		}
	}
}

func (d *testDB) mustMaintain(t *testing.T) {
	t.Helper()
	if err := d.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// days appends one increment of 1 a day to some series, at noon of so many days, and
// flushes each to a block.
func (d *testDB) days(t *testing.T, id tenant.ID, n int, lbls ...[]string) (first time.Time) {
	t.Helper()
	first = testStart.Truncate(24 * time.Hour).Add(12 * time.Hour)
	for day := range n {
		*d.now = first.Add(time.Duration(day)*24*time.Hour + time.Hour)
		for _, l := range lbls {
			d.mustAppend(id, counterInc("c_total", first.Add(time.Duration(day)*24*time.Hour), 1, l...))
		}
		if err := d.Flush(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	return first
}

// Of the rules the first that selects a series decides: its whole days go when they are
// past, from blocks, answers and disk, and once that is done blocks are left alone.
func TestRetentionByRule(t *testing.T) {
	settings := retaining(t, `
retention: 30d
retention_rules:
  - {match: '{env="dev", keep="yes"}', retention: 0s}
  - {match: '{env="dev"}', retention: 2d}
  - {match: 'c_total{env=~"test|dev"}', retention: 4d}
`)
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	db.days(t, tenant.Default, 6, []string{"env", "dev"}, []string{"env", "dev", "keep", "yes"}, []string{"env", "test"}, []string{"env", "prod"})
	left := func(lbls string) float64 {
		t.Helper()
		sum := 0.0
		for key, n := range db.stored(tenant.Default) {
			if strings.HasPrefix(key, lbls) {
				sum += n
			}
		}
		return sum
	}
	expect := func(dev, test float64) {
		t.Helper()
		for lbls, want := range map[string]float64{
			`{__name__="c_total", env="dev"}`: dev, `{__name__="c_total", env="dev", keep="yes"}`: 6,
			`{__name__="c_total", env="test"}`: test, `{__name__="c_total", env="prod"}`: 6,
		} {
			if got := left(lbls); got != want {
				t.Errorf("%v increments are left of %s, want %v", got, lbls, want)
			}
		}
	}
	expect(6, 6)
	db.mustMaintain(t) // 13:00 of the sixth day: dev before the fourth, test before the second
	expect(3, 5)
	db.mustRetain(t, 0, 0, 3) // of the days 1 to 3; test's first is in that of dev's first
	manifest := func() string {
		t.Helper()
		src, err := os.ReadFile(filepath.Join(db.dir, "default", manifestName))
		if err != nil {
			t.Fatal(err)
		}
		return string(src)
	}
	before := manifest()
	now := db.now.Add(2 * time.Hour)
	db = db.reopen(func(o *Options) { o.Defaults = settings })
	*db.now = now
	db.mustMaintain(t)
	if after := manifest(); after != before {
		t.Errorf("blocks were written again on the same day: %s\nwas %s", after, before)
	}
	*db.now = db.now.Add(24 * time.Hour)
	db.mustMaintain(t)
	expect(2, 4)
	*db.now = db.now.Add(10 * 24 * time.Hour)
	db.mustMaintain(t)
	expect(0, 0)
	mustBeSoundAfter(t, db)
}

func mustBeSoundAfter(t *testing.T, db *testDB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, db.dir)
}

// What rules end, as specification: a block from one day to another, the present, and
// before which day data is past.
func TestRetentionCutoffs(t *testing.T) {
	rules, err := tenant.RetentionRules(`[{"match":"a","retention":"2d"},{"match":"b","retention":"0s"}]`).Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what          string
		from, to, now float64
		want          float64 // 0: nothing is
	}{
		{"nothing of it is past", 8, 9, 9.5, 0},
		{"a part of its day is past", 8, 9, 10.5, 0},
		{"its day is past", 8, 9, 11, 9},
		{"no more goes later", 8, 9, 40, 9},
		{"a block of four days goes by days", 8, 12, 12.5, 10},
		{"a block of twelve by three", 9, 21, 13.9, 0},
		{"a block of twelve by three", 9, 21, 14.5, 12},
		{"a block of twelve by three", 9, 21, 16.9, 12},
		{"a block of twelve by three", 9, 21, 17, 15},
		{"a block whose end is past goes whole", 9, 21.5, 24, 21.5},
	} {
		got := cutoffs(rules, int64(c.from*dayMillis), int64(c.to*dayMillis), time.UnixMilli(int64(c.now*dayMillis)))
		if end := max(0, got[0]); end != int64(c.want*dayMillis) || got[1] >= 0 {
			t.Errorf("%s: of [%v, %v) on day %v all before %v is past, want %v; by a rule of 0s %d", c.what, c.from, c.to, c.now, float64(end)/dayMillis, c.want, got[1])
		}
	}
}

// What a rule removes is a change of the past, so that answers that were kept are
// computed anew.
func TestRetentionByRuleIsAChangeOfThePast(t *testing.T) {
	settings := retaining(t, "retention_rules: [{match: 'c_total{env=\"dev\"}', retention: 1d}]")
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	first := db.days(t, tenant.Default, 3, []string{"env", "dev"}, []string{"env", "prod"})
	s := db.mustStore(tenant.Default)
	s.late.settle(first.Add(48 * time.Hour).UnixMilli())
	seq := s.late.settle(first.Add(48 * time.Hour).UnixMilli())
	db.mustMaintain(t)
	if now := s.late.settle(first.Add(48 * time.Hour).UnixMilli()); now == seq {
		t.Error("nothing says that the past has changed")
	}
}

// The oldest blocks go until a tenant is within its size; the newest stays.
func TestRetentionBySize(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.days(t, tenant.Default, 4, []string{"page", "/"})
	s := db.mustStore(tenant.Default)
	size := s.usage().BlockBytes
	set := func(n int64) {
		t.Helper()
		if _, err := db.ChangeSettings(tenant.Default, setting(fmt.Sprintf(`{"retention_size": %d}`, n))); err != nil {
			t.Fatal(err)
		}
		db.mustMaintain(t)
	}
	set(size)
	if u := s.usage(); u.Blocks != 4 {
		t.Errorf("%d blocks within the size, want all 4", u.Blocks)
	}
	set(size - 1)
	if u := s.usage(); u.Blocks != 3 || u.BlockBytes >= size || s.man.Blocks[0].MinTime <= testStart.UnixMilli() {
		t.Errorf("%+v after a byte too many, of %+v", u, s.man.Blocks)
	}
	set(1)
	if u := s.usage(); u.Blocks != 1 || total(db.stored(tenant.Default)) != 1 {
		t.Errorf("%+v where not even the newest block fits", u)
	}
	db.mustRetain(t, 0, 3, 0)
	mustBeSoundAfter(t, db)
}

// The data of a tenant that nobody asks for ages as that of others: by its settings, a
// few tenants a tick, and the tenants that need nothing are not opened.
func TestRetentionOfTenantsNobodyAsksFor(t *testing.T) {
	settings := retaining(t, "retention: 5d")
	options := func(o *Options) { o.Defaults, o.WALSegmentBytesMax = settings, 1 }
	db := openTestDB(t, "", options)
	quiet, busy := tenantID(t, "quiet"), tenantID(t, "busy")
	for i := range idleVisitsMax {
		db.mustStoreOf(t, tenantID(t, fmt.Sprint("none", i)))
	}
	first := db.days(t, quiet, 2, []string{"page", "/"})
	db.mustAppend(busy, counterInc("c_total", *db.now, 1))
	if err := db.releaseSegments(); err != nil {
		t.Fatal(err)
	}
	now := *db.now
	db = db.reopen(options)
	*db.now = now
	open := func() int { return len(db.openStores()) }
	db.mustMaintain(t)
	*db.now = now.Add(idleRound)
	db.mustMaintain(t)
	db.mustMaintain(t)
	if n := open(); n != 1 {
		t.Errorf("%d tenants are open, want the one that the log has records of", n)
	}
	*db.now = first.Add(5*24*time.Hour + 6*time.Hour + 8*time.Hour)
	for range 4 { // a round may be under way
		db.mustMaintain(t)
		*db.now = db.now.Add(idleRound)
	}
	if n := open(); n != 2 {
		t.Errorf("%d tenants are open, want the one with old data too", n)
	}
	db.mustRetain(t, 1, 0, 0)
	if got := total(db.stored(quiet)); got != 1 {
		t.Errorf("%v increments are left, want 1", got)
	}
}

// mustStoreOf makes a tenant with no data.
func (d *testDB) mustStoreOf(t *testing.T, id tenant.ID) {
	t.Helper()
	if err := d.CreateTenant(id, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
}
