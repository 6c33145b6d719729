package tsdb

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// only returns the one file that a pattern below a directory matches.
func only(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

func removeOnly(pattern string) func(testing.TB, string) {
	return func(t testing.TB, dir string) {
		if err := os.RemoveAll(only(t, dir, pattern)); err != nil {
			t.Fatal(err)
		}
	}
}

func writeOnly(name, content string) func(testing.TB, string) {
	return func(t testing.TB, dir string) {
		if err := os.WriteFile(only(t, dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// twoTenants makes a directory of two tenants that each have three events, two of
// them in a block where flushed is set, and batch keys.
func twoTenants(t *testing.T, flushed bool) (dir string, a, b tenant.ID) {
	t.Helper()
	db := openTestDB(t, "", nil)
	a, b = tenantID(t, "a"), tenantID(t, "b")
	for i := range 3 {
		if i == 2 && flushed {
			for _, id := range []tenant.ID{a, b} {
				if err := db.Flush(context.Background(), id); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, id := range []tenant.ID{a, b} {
			batch := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("events_total", testStart, 1)}}
			if _, err := db.Append(context.Background(), id, batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	return db.dir, a, b
}

// requests are all that can be asked of a tenant.
func requests(db *testDB, id tenant.ID) map[string]error {
	out := map[string]error{}
	_, out["append"] = db.Append(context.Background(), id, &increment.Batch{Increments: []increment.Increment{counterInc("events_total", testStart, 1)}})
	out["flush"] = db.Flush(context.Background(), id)
	_, out["profile"] = db.Tenant(id)
	_, out["kinds"] = db.Kinds(id)
	_, _, _, out["range"] = db.DataRange(context.Background(), id)
	q := db.querier(db.t, id, testStart, testStart)
	defer q.Close()
	out["select"] = q.Select(q.ctx, false, nil, everyEvent()).Err()
	_, _, out["label names"] = q.LabelNames(q.ctx, nil)
	_, _, out["label values"] = q.LabelValues(q.ctx, "page", nil)
	_, out["distinct"] = db.DistinctSeries(q.ctx, []sketch.Interval{{Lo: 0, Hi: 1}}, func([]sketch.Series) error { return nil }, everyEvent())
	return out
}

// Whatever is wrong with a tenant's directory, its requests say so and name the
// file, the other tenants go on, the log keeps its records however much others
// write, and when the directory is repaired it has everything.
func TestDamagedTenantDoesNotStopOthers(t *testing.T) {
	for name, c := range map[string]struct {
		unflushed bool
		damage    func(testing.TB, string)
		want      string
	}{
		"manifest damaged":           {false, writeOnly(manifestName, "{}\n"), manifestName + ": checksum is wrong"},
		"manifest missing":           {false, removeOnly(manifestName), "but no " + manifestName},
		"manifest of a log missing":  {true, removeOnly(manifestName), "a/" + manifestName + " is missing"},
		"settings unknown":           {false, writeOnly(settingsName, "gird: 15s\n"), "gird"},
		"settings missing":           {false, removeOnly(settingsName), "a/" + settingsName},
		"settings of a log missing":  {true, removeOnly(settingsName), "a/" + settingsName},
		"grid changed":               {false, writeOnly(settingsName, "grid: 1m\n"), "made with 15s, which cannot change"},
		"id key missing":             {false, removeOnly(idKeyName), "a/" + idKeyName},
		"id key cut":                 {false, writeOnly(idKeyName, "short"), "a/" + idKeyName},
		"batch keys missing":         {false, removeOnly("*" + keySuffix), keySuffix},
		"batch keys damaged":         {false, func(t testing.TB, dir string) { flip(t, only(t, dir, "*"+keySuffix), 12, 3) }, "checksum is wrong"},
		"block missing":              {false, func(t testing.TB, dir string) { removeOnly(filepath.Dir(relBlock(t, dir)))(t, dir) }, blockMetaName},
		"log of another grid":        {true, regrid, "the log one of 15s"},
		"log of another grid, keyed": {false, regrid, "the log one of 15s"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, a, b := twoTenants(t, !c.unflushed)
			saved := filepath.Join(t.TempDir(), "a")
			if err := os.CopyFS(saved, os.DirFS(filepath.Join(dir, "a"))); err != nil {
				t.Fatal(err)
			}
			c.damage(t, filepath.Join(dir, "a"))
			if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) == 0 && !strings.HasPrefix(name, "log of") {
				t.Errorf("check: %v, %v", problems, err)
			}
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			db := openTestDB(t, dir, func(o *Options) {
				o.Logger, o.Registerer = slog.New(slog.NewTextHandler(&log, nil)), reg
				o.WALBytesMax, o.WALSegmentBytesMax = 16<<10, 2<<10
			})
			for range 2 {
				for what, err := range requests(db, a) {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%s: %v, want an error with %q", what, err, c.want)
					}
				}
			}
			if n := gauge(t, reg, "quipu_tsdb_failed_tenants"); n != 1 {
				t.Errorf("%v tenants failed, want 1", n)
			}
			if n := strings.Count(log.String(), "cannot be opened, its requests"); n != 1 {
				t.Errorf("it was logged %d times:\n%s", n, log.String())
			}
			// More than the log may hold, of which others give back what they need.
			events := 3
			for range 20 {
				for i := range 3 {
					var incs []increment.Increment
					for j := range 50 {
						incs = append(incs, counterInc("events_total", testStart, 1, "page", fmt.Sprint("/", i, "/", j)))
					}
					db.mustAppend(b, incs...)
				}
				events += 150
				if err := db.maintainMemory(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			if s, err := db.store(b, false); err != nil {
				t.Error(err)
			} else if first, ok := s.hold.first(); ok && db.wal.sizeFrom(first) > 16<<10+4<<10 {
				t.Errorf("tenant b needs %d bytes of the log, the budget is %d", db.wal.sizeFrom(first), 16<<10)
			}
			if err := db.Flush(context.Background(), b); err != nil {
				t.Error(err)
			}
			if got := total(db.stored(b)); got != float64(events) {
				t.Errorf("%v events of the other tenant, want %d", got, events)
			}
			if n := db.wal.oldestSegment(); n != 1 {
				t.Errorf("the log begins with segment %d, the failed tenant needs the first", n)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db.DB = nil
			if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(dir, "a"), os.DirFS(saved)); err != nil {
				t.Fatal(err)
			}
			db = openTestDB(t, dir, nil)
			if got := total(db.stored(a)); got != 3 {
				t.Errorf("%v events of the repaired tenant, want 3", got)
			}
			if dup, err := db.Append(context.Background(), a, &increment.Batch{HasKey: true, Key: [16]byte{2}}); err != nil || !dup {
				t.Errorf("batch key of the repaired tenant: duplicate %v, %v", dup, err)
			}
			if got := total(db.stored(b)); got != float64(events) {
				t.Errorf("%v events of the other tenant after a restart, want %d", got, events)
			}
			if err := db.Flush(context.Background(), a); err != nil {
				t.Error(err)
			}
			if n := db.wal.oldestSegment(); n == 1 {
				t.Error("the log was not given back when the tenant was repaired")
			}
		})
	}
}

// regrid makes a tenant's directory one of another grid than the log's records.
func regrid(t testing.TB, dir string) {
	t.Helper()
	m, err := readManifest(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Grid = 60
	if err := m.write(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	writeOnly(settingsName, "grid: 1m\n")(t, dir)
}

// relBlock is a block's meta.json below a tenant's directory.
func relBlock(t testing.TB, dir string) string {
	t.Helper()
	rel, err := filepath.Rel(dir, only(t, dir, "*/"+blockMetaName))
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// flip flips a bit of a file.
func flip(t testing.TB, path string, i int, bit uint) {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src[i] ^= 1 << bit
	if err := os.WriteFile(path, src, 0o600); err != nil {
		t.Fatal(err)
	}
}

// gauge is the value of one of the process's own metrics.
func gauge(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A tenant that could not be opened for want of something that came back, and of
// which the log has nothing, is opened at the next request.
func TestTenantIsOpenedWhenItCanBe(t *testing.T) {
	dir, a, b := twoTenants(t, true)
	db := openTestDB(t, dir, nil)
	for _, id := range []tenant.ID{a, b} {
		if err := db.Flush(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	db = db.reopen(nil) // replays the open segment, which the watermark covers
	db = db.reopen(nil)
	path := filepath.Join(dir, "a", idKeyName)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Tenant(a); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("tenant without a key of user ids: %v", err)
	}
	if n := db.failedCount(); n != 1 {
		t.Errorf("%d failed tenants", n)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(a)); got != 3 || db.failedCount() != 0 {
		t.Errorf("%v events, want 3; %d failed tenants", got, db.failedCount())
	}
}

// A tenant whose flush fails does not keep others from giving back memory and log.
func TestFailingFlushDoesNotStopOthers(t *testing.T) {
	fault := &hookFS{}
	db := openTestDB(t, "", func(o *Options) {
		o.FS, o.MemtableBytesMax, o.WALBytesMax, o.WALSegmentBytesMax = fault, 1, 1, 1
	})
	a, b := tenantID(t, "a"), tenantID(t, "b")
	for i := range 50 {
		db.mustAppend(a, counterInc("events_total", testStart, 1, "page", fmt.Sprint("/", i)))
	}
	db.mustAppend(b, counterInc("events_total", testStart, 1))
	fault.setHook(func(op, name string) error {
		if op == "rename" && filepath.Base(name) == manifestName && filepath.Base(filepath.Dir(name)) == "a" {
			return errInjected
		}
		return nil
	})
	if err := db.flushLargest(context.Background()); err == nil {
		t.Error("a failed flush was not reported")
	}
	s, err := db.store(b, false)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.memBytes(); n != 0 {
		t.Errorf("%d bytes of the other tenant are still in memory", n)
	}
	db.mustAppend(b, counterInc("events_total", testStart, 1))
	db.mustAppend(a, counterInc("events_total", testStart, 1))
	if err := db.flushOldest(context.Background()); err == nil {
		t.Error("a failed flush was not reported")
	}
	if first, ok := s.hold.first(); ok && first < db.wal.end().Segment {
		t.Errorf("the other tenant needs segment %d of the log, which ends in %d", first, db.wal.end().Segment)
	}
	fault.setHook(nil)
	if got := total(db.stored(a, labels.MustNewMatcher(labels.MatchRegexp, "page", ".*"))); got != 51 {
		t.Errorf("%v events, want 51", got)
	}
}
