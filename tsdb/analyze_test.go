package tsdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// analyzed closes a database and analyzes its directory.
func (d *testDB) analyzed(t *testing.T, o AnalyzeOptions) ([]Analysis, []string) {
	t.Helper()
	if d.DB != nil {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d.DB = nil
	}
	o.Dir = d.dir
	before := tree(t, d.dir)
	out, damage, err := Analyze(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if after := tree(t, d.dir); after != before {
		t.Errorf("the directory has changed: %s\nwas %s", after, before)
	}
	return out, damage
}

// tree describes the files of a directory but the lock.
func tree(t *testing.T, dir string) (out string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.Name() == lockName {
			return err
		}
		info, err := e.Info()
		out += fmt.Sprintln(path, info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An analysis of a directory says of its blocks and of its log what was put there, and of
// one tenant only that.
func TestAnalyze(t *testing.T) {
	ctx := context.Background()
	db := openTestDB(t, "", nil)
	first := db.days(t, tenant.Default, 3, []string{"page", "/"}, []string{"page", "/a", "country", "DE"})
	db.mustAppend(tenant.Default, counterInc("other_total", first, 1, "page", "/b"))
	other := tenantID(t, "other")
	db.mustAppend(other, counterInc("c_total", first, 1))
	for _, id := range []tenant.ID{tenant.Default, other} {
		if err := db.Flush(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	// Only in the log: a window more of a series, and a series of a kind of its own.
	db.mustAppend(tenant.Default, counterInc("c_total", first.Add(72*time.Hour), 1, "page", "/"))
	db.mustAppend(tenant.Default, gaugeInc(first.UnixMilli(), 7, "page", "/"))
	usage := db.mustStore(tenant.Default).usage()
	live := statsOf(t, db, tenant.Default, 10)
	if _, _, err := Analyze(ctx, AnalyzeOptions{Dir: db.dir, Limit: 10}); err == nil {
		t.Error("a directory in use was analyzed")
	}
	all, damage := db.analyzed(t, AnalyzeOptions{Limit: 10, Names: func(tenant.ID) []string { return []string{"other_total", "none_total"} }})
	if len(all) != 2 || all[0].Tenant != tenant.Default || all[1].Series != 1 || all[1].LogRecords != 0 || len(damage) > 0 {
		t.Fatalf("of all tenants: %+v, %v", all, damage)
	}
	got := all[0]
	if got.Series != 4 || got.Blocks != usage.Blocks || got.BlockBytes != usage.BlockBytes || got.LogRecords != 2 || got.Chunks != live.Chunks {
		t.Errorf("%+v, want 4 series, 2 records and %+v", got, usage)
	}
	if k := got.Kinds; len(k) != 2 || k[0].Name != "counter" || k[0].Series != 3 || k[0].Increments != 8 || k[0].InBlocks != 7 || k[0].Bytes <= 0 || k[0].MemoryBytes <= 0 ||
		k[1].Name != "gauge" || k[1].Series != 1 || k[1].Increments != 1 || k[1].Bytes != 0 {
		t.Errorf("kinds %+v", k)
	}
	if m := got.Metrics; m[0].Name != "c_total" || m[0].Kind != "counter" || m[0].Series != 2 || m[0].Increments != 7 || m[0].Chunks != 6 || len(m) != 3 {
		t.Errorf("metrics %+v", m)
	}
	if n := got.Named; len(n) != 1 || n["other_total"].Series != 1 || n["other_total"].Increments != 1 {
		t.Errorf("named %+v", n)
	}
	if want := []LabelCost{{"__name__", 3, 4}, {"page", 3, 4}, {"country", 1, 1}}; !slices.Equal(got.Labels, want) {
		t.Errorf("labels %+v, want %+v", got.Labels, want)
	}
	if want := []Churn{{"2026-03-04", 4, 2}, {"2026-03-06", 0, 1}, {"2026-03-07", 0, 1}}; !slices.Equal(got.Churn, want) {
		t.Errorf("churn %+v, want %+v", got.Churn, want)
	}
	if fmt.Sprint(got.Kinds, got.Metrics, got.Churn, got.Postings) != fmt.Sprint(live.Kinds, live.Metrics, live.Churn, live.Postings) {
		t.Errorf("offline %+v\nlive %+v", got.Stats, live)
	}
	one, _ := db.analyzed(t, AnalyzeOptions{Only: tenant.Default, Limit: 1})
	if len(one) != 1 || len(one[0].Metrics) != 1 || len(one[0].Labels) != 1 {
		t.Errorf("of one tenant, one of each: %+v", one)
	}
	if _, _, err := Analyze(ctx, AnalyzeOptions{Dir: db.dir, Only: tenantID(t, "nobody"), Limit: 1}); !errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("of nobody: %v", err)
	}
	mustBeSound(t, db.dir)
}

// What is damaged is named, and the rest is counted: a block whose index is not there, one
// with a wrong byte in a chunk, a manifest, a record of the log.
func TestAnalyzeDamage(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 1 })
	db.days(t, tenant.Default, 4, []string{"page", "/"})
	other := tenantID(t, "other")
	db.mustAppend(other, counterInc("c_total", testStart, 1))
	blocks := db.mustStore(tenant.Default).man.Blocks
	db.mustAppend(tenant.Default, counterInc("late_total", testStart, 1))
	segment := db.wal.end().Segment
	db.mustAppend(tenant.Default, counterInc("last_total", testStart, 1))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	of := func(b blockInfo, name ...string) string {
		return filepath.Join(append([]string{db.dir, "default", b.ULID.String()}, name...)...)
	}
	if err := os.Remove(of(blocks[0], blockIndex)); err != nil {
		t.Fatal(err)
	}
	flip(t, of(blocks[1], blockChunks, "000001"), 12, 0)
	all, damage := db.analyzed(t, AnalyzeOptions{Limit: 10})
	got := all[0]
	if len(got.Damage) != 2 || !strings.Contains(got.Damage[0]+got.Damage[1], "block "+blocks[0].ULID.String()) || !strings.Contains(got.Damage[0]+got.Damage[1], "block "+blocks[1].ULID.String()) {
		t.Errorf("damage %q, want the blocks %s and %s", got.Damage, blocks[0].ULID, blocks[1].ULID)
	}
	if got.Series != 3 || len(got.Named) > 0 || got.Kinds[0].Increments != 4 || len(damage) > 0 {
		t.Errorf("of the rest: %+v, %v, want 2 windows in blocks and 2 in the log", got, damage)
	}
	path := filepath.Join(db.dir, walDirName, segmentName(segment))
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The record of a batch is the second: its series is defined before it and after.
	flip(t, path, segmentHeadSize+2*frameHeadSize+int(binary.BigEndian.Uint32(src[segmentHeadSize:]))+2, 0)
	all, damage = db.analyzed(t, AnalyzeOptions{Limit: 10})
	if len(damage) == 0 || !strings.Contains(damage[0], segmentName(segment)) || all[0].Series != 2 || all[0].LogRecords != 1 {
		t.Errorf("of a log that is damaged: %v, %+v", damage, all[0])
	}
	flip(t, filepath.Join(db.dir, "default", manifestName), 3, 0)
	all, _ = db.analyzed(t, AnalyzeOptions{Limit: 10})
	if all[0].Err == nil || !strings.Contains(all[0].Err.Error(), "default") || all[1].Err != nil || all[1].Series != 1 {
		t.Errorf("of a tenant without a manifest %v, of the other %+v", all[0].Err, all[1])
	}
}

// A snapshot, which has no log, is analyzed as a data directory is.
func TestAnalyzeSnapshot(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.days(t, tenant.Default, 2, []string{"page", "/"})
	name, err := db.Snapshot(context.Background(), tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := Analyze(context.Background(), AnalyzeOptions{Dir: filepath.Join(db.dir, snapshotDirName, name), Limit: 10})
	if err != nil || len(all) != 1 || all[0].Series != 1 || all[0].Kinds[0].Increments != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}
