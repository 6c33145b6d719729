package tsdb

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// flipsNow is when the windows that the flips test writes have closed.
var flipsNow = testStart.Add(10 * time.Minute)

// laxFS syncs nothing: for tests that open thousands of directories.
type laxFS struct{ vfs.OS }

type laxFile struct{ vfs.File }

func (laxFile) Sync() error { return nil }

func (f laxFS) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	return laxFile{file}, err
}

func (laxFS) SyncDir(string) error { return nil }

// openLax opens a directory for a test that closes it itself.
func openLax(t testing.TB, dir string, now time.Time) (*testDB, error) {
	db, err := Open(Options{Dir: dir, FS: laxFS{}, Now: func() time.Time { return now }, MaintainInterval: time.Hour})
	return &testDB{DB: db, t: t, dir: dir, now: &now}, err
}

// smallBlocks makes a directory of two tenants: the default one with two blocks of
// every kind that can be merged, the other with a block and a log.
func smallBlocks(t testing.TB) (dir string, other tenant.ID) {
	t.Helper()
	db := openTestDB(t, "", nil)
	other = tenantID(t, "other")
	for i := range 2 {
		h := &increment.Hist{}
		h.Observe(float64(i + 1))
		win := floorTo(testStart.UnixMilli(), g)
		batch := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{
			counterInc("events_total", testStart, 2, "page", fmt.Sprint("/", i)),
			counterInc("events_total", testStart.Add(-time.Hour), 3, "page", "/both"),
			{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "latency"), increment.Histogram, nil), Time: win, Hist: h},
			{Series: increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "users"), increment.Distinct, nil), Time: win, IDs: []uint64{uint64(i), 7}},
		}}
		for j := range int64(5) { // more windows than their union is worth
			batch.Increments = append(batch.Increments, increment.Increment{Series: batch.Increments[3].Series, Time: win - hourMillis + j*g, IDs: []uint64{uint64(i) + 10, 7}})
		}
		for j := range 40 - i { // more than the index reader keeps in memory
			batch.Increments = append(batch.Increments, counterInc("events_total", testStart, 1, "page", fmt.Sprint("/more/", j)))
		}
		if _, err := db.Append(context.Background(), tenant.Default, batch); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	db.blockOf(other)
	db.mustAppend(other, counterInc("events_total", testStart, 1))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	return db.dir, other
}

// ask returns everything that can be asked of a tenant, in sections; the error is of
// the first that fails.
func (d *testDB) ask(id tenant.ID) (string, error) {
	var out strings.Builder
	kinds, err := d.Kinds(id)
	if err != nil {
		return "", err
	}
	q := d.querier(d.t, id, testStart.Add(-2*time.Hour), testStart.Add(time.Hour))
	defer q.Close()
	names, _, err := q.LabelNames(q.ctx, nil)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(&out, kinds, names)
	matchers := []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+"),
		labels.MustNewMatcher(labels.MatchNotEqual, "page", "/both"),
	}
	for _, n := range names {
		vals, _, err := q.LabelValues(q.ctx, n, nil)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&out, n, vals)
		for _, v := range vals {
			matchers = append(matchers, labels.MustNewMatcher(labels.MatchEqual, n, v))
		}
	}
	for _, m := range matchers {
		set := q.Select(q.ctx, false, nil, m)
		for set.Next() {
			fmt.Fprint(&out, m, set.At().Labels())
			it := set.At().Iterator(nil)
			for v := it.Next(); v != chunkenc.ValNone; v = it.Next() {
				if v == chunkenc.ValFloatHistogram {
					ts, h := it.AtFloatHistogram(nil)
					fmt.Fprint(&out, " ", ts, h)
					continue
				}
				ts, f := it.At()
				fmt.Fprint(&out, " ", ts, math.Float64bits(f))
			}
			if err := it.Err(); err != nil {
				return "", err
			}
			fmt.Fprintln(&out)
		}
		if err := set.Err(); err != nil {
			return "", err
		}
	}
	day := dayStart(testStart.UnixMilli())
	ctx := scope.With(context.Background(), scope.Scope{Tenant: id, Now: day + dayMillis})
	for _, in := range [][]sketch.Interval{{{Lo: day, Hi: day + dayMillis}}, {{Lo: day, Hi: day + 20*hourMillis}}, {{Lo: day, Hi: testStart.Add(-time.Hour).UnixMilli() + 2*g}}} {
		_, err := d.DistinctSeries(ctx, in, func(series []sketch.Series) error {
			u := make([]sketch.Union, 1)
			for _, s := range series {
				if err := s.Unite(ctx, u); err != nil {
					return err
				}
			}
			n, err := u[0].Estimate()
			fmt.Fprintln(&out, in, len(series), n)
			return err
		}, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "users"))
		if err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// flipped is what one flipped bit in a file of the default tenant led to.
type flipped struct {
	path string // below the tenant's directory
	i    int
	bit  uint
}

func (f flipped) String() string { return fmt.Sprintf("%s, byte %d, bit %d", f.path, f.i, f.bit) }

// check opens a copy of dir with one bit flipped and reports whether anything said
// so. Whatever is asked is answered right or with an error that names the block or
// the file, the other tenant works, and where the tenant is open so does writing.
func (f flipped) check(t *testing.T, dir string, other tenant.ID, want map[tenant.ID]string, merge bool) (noticed bool) {
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%s: panic: %v", f, p)
		}
	}()
	copied := filepath.Join(t.TempDir(), "d")
	defer os.RemoveAll(copied)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(copied, "default", f.path), f.i, f.bit)
	db, err := openLax(t, copied, flipsNow)
	if err != nil {
		t.Errorf("%s: open: %v", f, err)
		return true
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Errorf("%s: close: %v", f, err)
		}
	}()
	right := func(what string, id tenant.ID, want string) {
		switch got, err := db.ask(id); {
		case err != nil && id == other:
			t.Errorf("%s: %s: the other tenant: %v", f, what, err)
		case err != nil:
			noticed = true
			if name, _, _ := strings.Cut(f.path, "/"); !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %s: error does not name it: %v", f, what, err)
			}
		case got != want:
			t.Errorf("%s: %s: wrong answer of tenant %s: %s", f, what, id, firstDifference(got, want))
		}
	}
	right("query", tenant.Default, want[tenant.Default])
	right("query", other, want[other])
	if merge {
		s, err := db.store(tenant.Default, false)
		if err == nil {
			_, err = s.compactOnce(context.Background(), testStart.Add(48*time.Hour))
		}
		noticed = noticed || err != nil
		right("query after a merge", tenant.Default, want[tenant.Default])
	}
	for _, id := range []tenant.ID{other, tenant.Default} {
		_, err := db.Append(context.Background(), id, &increment.Batch{Increments: []increment.Increment{counterInc("events_total", testStart, 1, "page", "/new")}})
		if err != nil && (id == other || strings.Contains(f.path, "/")) {
			t.Errorf("%s: write to tenant %s: %v", f, id, err)
		}
	}
	return noticed
}

// A flipped bit in a file of a tenant's blocks, or in one beside them, is noticed by
// whatever reads it or does no harm.
func TestFlippedBitsGiveNoWrongAnswer(t *testing.T) {
	t.Parallel()
	dir, other := smallBlocks(t)
	want := map[tenant.ID]string{}
	db, err := openLax(t, dir, flipsNow)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []tenant.ID{tenant.Default, other} {
		if want[id], err = db.ask(id); err != nil || strings.Count(want[id], "\n") < 4 {
			t.Fatalf("%s: %s, %v", id, want[id], err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "default")
	var files []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != settingsName {
			rel, _ := filepath.Rel(root, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	perFile := 50 / seedsOf
	if testing.Short() {
		perFile = 5
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	n := 0
	for _, path := range files {
		src, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		every := max(1, len(src)/perFile)
		tried, noticed := 0, 0
		for i := r.IntN(every); i < len(src); i += 1 + r.IntN(2*every-1) {
			tried++
			n++
			f := flipped{path, i, uint(r.IntN(8))}
			if f.check(t, dir, other, want, n%8 == 0) {
				noticed++
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		t.Logf("%s: %d of %d flips were noticed, of %d bytes", path, noticed, tried, len(src))
	}
}
