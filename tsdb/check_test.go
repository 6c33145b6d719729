package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// mustBeSound fails the test where a directory that nobody has open is damaged.
func mustBeSound(t testing.TB, dir string) CheckSummary {
	t.Helper()
	sum, problems, err := Check(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error("check: ", p)
	}
	return sum
}

// variedDir makes a directory with blocks, keys, and a log with every kind.
func variedDir(t testing.TB) (dir string, stored map[string]float64) {
	t.Helper()
	db := openTestDB(t, "", nil)
	for i := range 60 {
		ts := testStart.Add(-time.Duration(i) * 37 * time.Minute)
		h := &increment.Hist{}
		h.Observe(float64(i))
		win := floorTo(ts.UnixMilli(), g)
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i), 1}, Increments: []increment.Increment{
			counterInc("events_total", ts, float64(1+i%3), "page", fmt.Sprint("/", i%5)),
			{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "event_value", "field", "n"), increment.Histogram, nil), Time: win, Hist: h},
			{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "event_users"), increment.Distinct, nil), Time: win, IDs: []uint64{uint64(i) * 1e15, 7}},
		}}
		for j := range int64(5) { // more windows than their union is worth
			b.Increments = append(b.Increments, increment.Increment{Series: series(increment.Distinct, "visitors"), Time: floorTo(win, hourMillis) + j*g, IDs: []uint64{7, 8}})
		}
		if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
			t.Fatal(err)
		}
		if i == 40 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored = db.stored(tenant.Default)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	return db.dir, stored
}

func TestCheckOfASoundDirectory(t *testing.T) {
	dir, _ := variedDir(t)
	sum := mustBeSound(t, dir)
	if sum.Tenants != 1 || sum.Blocks < 2 || sum.Series == 0 || sum.Windows == 0 || sum.Keys != 41 || sum.Records < 19 {
		t.Errorf("summary %+v", sum)
	}
	db := openTestDB(t, dir, nil)
	if _, _, err := Check(context.Background(), dir); err == nil || !strings.Contains(err.Error(), "stop the server") {
		t.Errorf("check of an open directory: %v", err)
	}
	_ = db
	if _, _, err := Check(context.Background(), t.TempDir()); err == nil {
		t.Error("an empty directory passes as a data directory")
	}
}

// rewriteIndex writes the index of a block anew with every postings list as change
// returns it, given its place among the lists.
func rewriteIndex(t *testing.T, path string, change func(list int, refs []uint32) []uint32) {
	t.Helper()
	old, err := index.NewFileReader(path, index.DecodePostingsRaw)
	if err != nil {
		t.Fatal(err)
	}
	list := 0
	w, err := index.NewWriterWithEncoder(context.Background(), path+".new", func(e *encoding.Encbuf, refs []uint32) error {
		list++
		return index.EncodePostingsRaw(e, change(list-1, refs))
	})
	if err != nil {
		t.Fatal(err)
	}
	for it := old.Symbols(); it.Next(); {
		if err := w.AddSymbol(it.At()); err != nil {
			t.Fatal(err)
		}
	}
	name, value := index.AllPostingsKey()
	p, err := old.Postings(context.Background(), name, value)
	if err != nil {
		t.Fatal(err)
	}
	builder := labels.NewScratchBuilder(4)
	for p.Next() {
		var metas []chunks.Meta
		if err := old.Series(p.At(), &builder, &metas); err != nil {
			t.Fatal(err)
		}
		if err := w.AddSeries(p.At(), builder.Labels(), metas...); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), old.Close(), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// Other packages keep files beside the tenants, under names that none can have.
func TestCheckLeavesWhatIsNoTenants(t *testing.T) {
	db := openTestDB(t, "", nil)
	dir := db.dir
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	if err := os.MkdirAll(filepath.Join(dir, "@auth", "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "keys"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) != 1 {
		t.Errorf("a file of nobody's: %v, %v", problems, err)
	}
}

// Postings that name what they should not, or lack what they should name, are found
// though every checksum is right.
func TestCheckComparesPostingsWithSeries(t *testing.T) {
	dir, _ := smallBlocks(t)
	blocks, err := filepath.Glob(filepath.Join(dir, "default", "*", blockIndex))
	if err != nil || len(blocks) != 2 {
		t.Fatal(blocks, err)
	}
	src, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	var events []uint32
	// The lists: all, then events_total, latency and users, then the pages.
	for _, c := range []struct {
		name   string
		list   int
		change func(refs []uint32) []uint32
		want   string
	}{
		{"nothing", 0, slices.Clone[[]uint32], ""},
		{"a series too many", 2, func(r []uint32) []uint32 { return []uint32{events[0], r[0]} }, `"latency" have series`},
		{"no series", 4, func(r []uint32) []uint32 { return append(r, r[0]+1000) }, "which is no series"},
		{"a series lacks", 1, func(r []uint32) []uint32 { return r[1:] }, "lack series"},
		{"no series at all", 3, func([]uint32) []uint32 { return nil }, "have no series"},
		{"all but one", 0, func(r []uint32) []uint32 { return r[1:] }, "which is no series"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rewriteIndex(t, blocks[0], func(list int, refs []uint32) []uint32 {
				if list == 1 {
					events = slices.Clone(refs)
				}
				if list == c.list {
					return c.change(slices.Clone(refs))
				}
				return refs
			})
			_, problems, err := Check(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(problems, func(p Problem) bool {
				return strings.HasSuffix(p.Path, "/"+blockIndex) && strings.Contains(p.What, c.want)
			})
			if (c.want == "") != (len(problems) == 0) || c.want != "" && !found {
				t.Errorf("problems %v, want one of the index with %q", problems, c.want)
			}
			if err := os.WriteFile(blocks[0], src, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A flipped bit anywhere is either found by the check or changes nothing that is
// stored; opening and reading the damaged directory never panics.
func TestCheckFindsFlippedBits(t *testing.T) {
	dir, stored := variedDir(t)
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != lockName && d.Name() != settingsName {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	found, harmless := 0, 0
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 25 {
			i := r.IntN(len(src))
			damaged := append([]byte(nil), src...)
			damaged[i] ^= 1 << r.IntN(8)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			sum, problems, err := Check(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(problems) > 0 {
				found++
			} else {
				harmless++
				if err := sameStored(dir, stored); err != nil && len(sum.Leftovers) == 0 && filepath.Base(path) != idKeyName {
					t.Errorf("%s: byte %d of %d flipped, nothing found, but %v", path, i, len(src), err)
				}
			}
		}
		if err := os.WriteFile(path, src, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files: %d flips found, %d harmless or a torn tail", len(files), found, harmless)
	if found < 10*len(files) {
		t.Errorf("only %d flips were found in %d files", found, len(files))
	}
}

// sameStored opens a copy of a directory and compares what it has.
func sameStored(dir string, want map[string]float64) error {
	copied, err := os.MkdirTemp("", "quipu-flip-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return err
	}
	db, err := Open(Options{Dir: copied})
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := db.store(tenant.Default, false)
	if err != nil || s == nil {
		return fmt.Errorf("no tenant: %v", err)
	}
	d := &testDB{DB: db, t: discardTB{}}
	return diff(d.stored(tenant.Default), want)
}

// discardTB lets helpers of testDB run outside a test that they would fail.
type discardTB struct{ testing.TB }

func (discardTB) Helper()      {}
func (discardTB) Fatal(...any) {}
