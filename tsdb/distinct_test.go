package tsdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
)

func usersMatcher() *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "users")
}

// visits are ids of users at random times of [from, to), a batch a window of 15 s,
// each window with perWindow of them.
func visits(r *rand.Rand, users, perWindow int, from, to time.Time, lbls ...string) (out []increment.Increment) {
	for w := from.UnixMilli(); w < to.UnixMilli(); w += g {
		inc := increment.Increment{Series: series(increment.Distinct, "users", lbls...), Time: w}
		for range perWindow {
			inc.IDs = append(inc.IDs, (1+r.Uint64N(uint64(users)))*0x9e3779b97f4a7c15)
		}
		out = append(out, inc)
	}
	return out
}

// idsOf is the plain set of the windows that show in an interval.
func idsOf(incs []increment.Increment, in sketch.Interval) int {
	set := map[uint64]bool{}
	for _, inc := range incs {
		if end := inc.Time + g; end > in.Lo && end <= in.Hi {
			for _, id := range inc.IDs {
				set[id] = true
			}
		}
	}
	return len(set)
}

// However increments are stored, in memory, in blocks that overlap, merged, logged
// again or read after a restart, an interval has one count; it is the plain set's
// where no whole hour or day has more ids than are kept one by one, and else within
// five standard errors.
func TestDistinctDoesNotDependOnStorage(t *testing.T) {
	day := testStart.Truncate(24 * time.Hour)
	r := rand.New(rand.NewPCG(2, 3))
	var incs []increment.Increment
	incs = append(incs, visits(r, 500, 2, day.Add(-24*time.Hour), day.Add(-20*time.Hour), "page", "/few")...)
	incs = append(incs, visits(r, 20_000, 12, day.Add(-22*time.Hour), day.Add(-19*time.Hour), "page", "/many")...)
	incs = append(incs, visits(r, 900, 1, day.Add(10*time.Hour), day.Add(12*time.Hour), "page", "/few")...)
	at := func(d time.Duration) int64 { return day.Add(d).UnixMilli() }
	intervals := []struct {
		name  string
		in    sketch.Interval
		exact bool
	}{
		{"a whole day", sketch.Interval{Lo: at(-24 * time.Hour), Hi: at(0)}, false},
		{"whole hours of few", sketch.Interval{Lo: at(-24 * time.Hour), Hi: at(-22 * time.Hour)}, true},
		{"an hour of many", sketch.Interval{Lo: at(-21 * time.Hour), Hi: at(-20 * time.Hour)}, false},
		{"parts of hours of many", sketch.Interval{Lo: at(-21*time.Hour - 50*time.Minute), Hi: at(-20*time.Hour - time.Minute)}, true},
		{"an hour of many and a part", sketch.Interval{Lo: at(-22 * time.Hour), Hi: at(-20*time.Hour - time.Minute)}, false},
		{"a day that is not over", sketch.Interval{Lo: at(0), Hi: at(24 * time.Hour)}, true},
		{"between grid points", sketch.Interval{Lo: at(11*time.Hour) + 1, Hi: at(12*time.Hour) - 1}, true},
		{"nothing", sketch.Interval{Lo: at(-18 * time.Hour), Hi: at(-17 * time.Hour)}, true},
	}
	// The time is as late as that the day is over in the last stage alone: it has few.
	db := openTestDB(t, "", nil)
	want := map[string][2]float64{}
	compare := func(stage string) {
		t.Helper()
		for _, c := range intervals {
			got := db.countIDs(tenant.Default, db.now.UnixMilli(), c.in, usersMatcher())
			plain := float64(idsOf(incs, c.in))
			if (got[1] == 1) != c.exact || c.exact && got[0] != plain || got[0] < plain*(1-5*0.0081) || got[0] > plain*(1+5*0.0081) {
				t.Errorf("%s, %s: %v ids, exact %v; want %v, exact %v", stage, c.name, got[0], got[1] == 1, plain, c.exact)
			}
			if first, ok := want[c.name]; ok && got != first {
				t.Errorf("%s, %s: %v, before it was %v", stage, c.name, got, first)
			}
			want[c.name] = got
		}
	}
	order := r.Perm(len(incs))
	for part := range 3 {
		var b []increment.Increment
		for i, o := range order {
			if i%3 == part {
				b = append(b, incs[o])
			}
		}
		db.mustAppend(tenant.Default, b...)
		if part == 2 {
			compare("two blocks and memory")
		}
		if part < 2 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	if did, err := s.relog(context.Background(), nil); err != nil {
		t.Fatal(did, err)
	}
	compare("logged again")
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	compare("three blocks a day")
	if n := unionFiles(t, db); n < 3 {
		t.Errorf("%d blocks have unions", n)
	}
	*db.now = day.Add(26 * time.Hour)
	if err := s.compact(context.Background(), *db.now); err != nil {
		t.Fatal(err)
	}
	compare("merged")
	now := *db.now
	db = db.reopen(nil)
	*db.now = now
	compare("after a restart")
	if n := len(db.blockDirs(tenant.Default)); n != 2 {
		t.Errorf("%d blocks, want one a day", n)
	}
}

// unionFiles is how many blocks of the default tenant have one.
func unionFiles(t testing.TB, db *testDB) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockUnions))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// unionsDir makes a directory with one block that has unions of an hour and its day;
// the day has 400 ids.
func unionsDir(t *testing.T) (dir string, in sketch.Interval) {
	t.Helper()
	day := testStart.Truncate(24 * time.Hour)
	incs := visits(rand.New(rand.NewPCG(4, 4)), 400, 5, day.Add(time.Hour), day.Add(4*time.Hour))
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, incs...)
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	in = sketch.Interval{Lo: day.UnixMilli(), Hi: day.UnixMilli() + dayMillis}
	if n := idsOf(incs, in); n != 400 {
		t.Fatal(n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	return db.dir, in
}

// A file of unions that is missing, cut short or damaged is said to be so once, found
// by a check, and costs time alone; a merge makes it anew.
func TestDamagedUnionsAreReadFromWindows(t *testing.T) {
	type damage func(src []byte) []byte // nil: no file
	for name, change := range map[string]damage{
		"missing":             func([]byte) []byte { return nil },
		"empty":               func(src []byte) []byte { return src[:0] },
		"cut short":           func(src []byte) []byte { return src[:len(src)/2] },
		"longer":              func(src []byte) []byte { return append(src, 0) },
		"another format":      func(src []byte) []byte { return append([]byte("X"), src[1:]...) },
		"version of tomorrow": func(src []byte) []byte { src[len(unionsMagic)]++; return src },
		"damaged cell": func(src []byte) []byte {
			c, err := decodeUnions(src)
			var s seriesUnions
			if err != nil || s.read(&c, binary.BigEndian.Uint64(c.table)) != nil || len(s.days) != 1 {
				panic("no union of the day")
			}
			src[s.days[0].offset+3]++
			return src
		},
		"damaged table":        func(src []byte) []byte { src[len(src)-unionsEnd-3]++; return src },
		"damaged end":          func(src []byte) []byte { src[len(src)-unionsEnd+1]++; return src },
		"damaged directory":    func(src []byte) []byte { src[len(src)-unionsEnd-unionsRow-6]++; return src },
		"table of many series": func(src []byte) []byte { src[len(src)-unionsEnd] = 0xff; return src },
	} {
		t.Run(name, func(t *testing.T) {
			dir, in := unionsDir(t)
			path, err := filepath.Glob(filepath.Join(dir, "default", "*", blockUnions))
			if err != nil || len(path) != 1 {
				t.Fatal(path, err)
			}
			src, err := os.ReadFile(path[0])
			if err != nil {
				t.Fatal(err)
			}
			if src = change(src); src == nil {
				err = os.Remove(path[0])
			} else {
				err = os.WriteFile(path[0], src, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, problems, err := Check(context.Background(), dir)
			if err != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.Path, blockUnions) }) {
				t.Errorf("check: %v, %v", problems, err)
			}
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			db := openTestDB(t, dir, func(o *Options) { o.Logger, o.Registerer = slog.New(slog.NewTextHandler(&log, nil)), reg })
			for range 2 {
				if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
					t.Errorf("%v", got)
				}
			}
			if n := strings.Count(log.String(), "the unions of a block are damaged"); n != 1 || gauge(t, reg, "quipu_tsdb_block_damage_total") != 1 {
				t.Errorf("it was logged %d times: %s", n, log.String())
			}
			db.mustAppend(tenant.Default, visits(rand.New(rand.NewPCG(4, 4)), 400, 5, testStart.Add(-5*time.Hour), testStart.Add(-4*time.Hour))...)
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
			s, err := db.store(tenant.Default, false)
			if err == nil {
				err = s.compact(context.Background(), testStart.Add(72*time.Hour))
			}
			if err != nil || len(db.blockDirs(tenant.Default)) != 1 {
				t.Fatal(err)
			}
			if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
				t.Errorf("after a merge: %v", got)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db.DB = nil
			mustBeSound(t, dir)
		})
	}
}

// A file of unions that is cut short while it is mapped ends no process and changes no
// answer.
func TestMappedUnionsThatAreCutShort(t *testing.T) {
	dir, in := unionsDir(t)
	db := openTestDB(t, dir, nil)
	for range 2 {
		if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
			t.Errorf("%v", got)
		}
		if err := os.Truncate(filepath.Join(db.blockDirs(tenant.Default)[0], blockUnions), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// A block of before there were unions is sound, is read by its windows, and gets unions
// when it is merged with one that has them.
func TestBlocksWithoutUnions(t *testing.T) {
	dir, in := unionsDir(t)
	db := openTestDB(t, dir, nil)
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	old := db.blockDirs(tenant.Default)[0]
	man := *s.man
	man.Blocks = slices.Clone(man.Blocks)
	b := &man.Blocks[0]
	b.Bytes -= b.Unions
	b.Unions = 0
	meta, err := os.ReadFile(filepath.Join(old, blockMetaName))
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeBlockMeta(meta)
	if err != nil {
		t.Fatal(err)
	}
	meta = bytes.Replace(meta, fmt.Appendf(nil, ",\n    \"unions\": %d", m.Quipu.Unions), nil, 1)
	b.MetaSum = crc32.Checksum(meta, castagnoli)
	if err := os.WriteFile(filepath.Join(old, blockMetaName), meta, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(old, blockUnions)); err != nil {
		t.Fatal(err)
	}
	if err := man.write(db.opts.FS, s.dir); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, dir)

	db = openTestDB(t, dir, nil)
	if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
		t.Errorf("without unions: %v", got)
	}
	db.mustAppend(tenant.Default, visits(rand.New(rand.NewPCG(5, 5)), 400, 5, testStart.Add(-13*time.Hour), testStart.Add(-10*time.Hour))...)
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	if n := unionFiles(t, db); n != 1 {
		t.Errorf("%d blocks have unions", n)
	}
	if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
		t.Errorf("beside unions: %v", got)
	}
	s, err = db.store(tenant.Default, false)
	if err == nil {
		err = s.compact(context.Background(), testStart.Add(72*time.Hour))
	}
	if err != nil || len(db.blockDirs(tenant.Default)) != 1 || unionFiles(t, db) != 1 {
		t.Errorf("%d blocks, %d with unions, %v", len(db.blockDirs(tenant.Default)), unionFiles(t, db), err)
	}
	if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
		t.Errorf("merged: %v", got)
	}
}
