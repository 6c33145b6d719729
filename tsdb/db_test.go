package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// testDB is a DB with a clock that stands still until it is moved, and no
// background work unless the test asks for it.
type testDB struct {
	*DB
	t   testing.TB
	dir string
	now *time.Time
}

var testStart = time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC)

func openTestDB(t testing.TB, dir string, change func(*Options)) *testDB {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	now := testStart
	opts := Options{
		Dir: dir, Now: func() time.Time { return now }, MaintainInterval: time.Hour,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&opts)
	}
	db, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	d := &testDB{DB: db, t: t, dir: dir, now: &now}
	t.Cleanup(func() {
		if d.DB != nil {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return d
}

// reopen closes and opens the directory again.
func (d *testDB) reopen(change func(*Options)) *testDB {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.DB = nil
	return openTestDB(d.t, d.dir, change)
}

func counterInc(name string, ts time.Time, n float64, lbls ...string) increment.Increment {
	return increment.Increment{
		Labels: labels.FromStrings(append([]string{model.MetricNameLabel, name}, lbls...)...),
		Kind:   increment.Counter, Time: floorTo(ts.UnixMilli(), g), Count: n,
	}
}

func (d *testDB) mustAppend(id tenant.ID, incs ...increment.Increment) {
	d.t.Helper()
	if dup, err := d.Append(context.Background(), id, &increment.Batch{Increments: incs}); err != nil || dup {
		d.t.Fatalf("append: duplicate %v, %v", dup, err)
	}
}

// stored returns every stored counter increment of a tenant, by series and
// window.
func (d *testDB) stored(id tenant.ID, matchers ...*labels.Matcher) map[string]float64 {
	d.t.Helper()
	out := map[string]float64{}
	s, err := d.store(id, false)
	if err != nil {
		d.t.Fatal(err)
	}
	if s == nil {
		return out
	}
	if len(matchers) == 0 {
		matchers = []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+")}
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	all := window{readMin: math.MinInt64 / 2, showMin: math.MinInt64 / 2, showMax: never}
	sels, err := selectSeries(context.Background(), v, all, matchers)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, sel := range sels {
		p, err := sel.read(math.MinInt64/2, never, newest)
		if err != nil {
			d.t.Fatal(err)
		}
		sumPoints(d.t, out, sel.labels, &p)
	}
	return out
}

// sumPoints adds what the windows of a series hold to out.
func sumPoints(t testing.TB, out map[string]float64, ls labels.Labels, p *points) {
	t.Helper()
	for i := range p.win {
		key := fmt.Sprintf("%s %d", ls, p.win[i])
		switch p.kind {
		case increment.Counter:
			out[key] += p.count[i]
		case increment.Histogram:
			out[key] += float64(p.hist[i].Count())
		case increment.Distinct:
			n, err := p.ids[i].Estimate()
			if err != nil {
				t.Fatal(err)
			}
			out[key] += n
		}
	}
}

func total(m map[string]float64) (sum float64) {
	for _, v := range m {
		sum += v
	}
	return sum
}

func diff(got, want map[string]float64) error {
	for k, w := range want {
		if got[k] != w {
			return fmt.Errorf("%s is %v, want %v", k, got[k], w)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			return fmt.Errorf("%s is %v, want nothing", k, got[k])
		}
	}
	return nil
}

func tenantID(t testing.TB, s string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Random appends, flushes and reopens against a map: every increment is there
// once, late ones in their own window, each tenant's apart.
func TestModel(t *testing.T) {
	seeds := uint64(12)
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 4096 })
			ids := []tenant.ID{tenant.Default, tenantID(t, "a"), tenantID(t, "b")}
			want := map[tenant.ID]map[string]float64{}
			for _, id := range ids {
				want[id] = map[string]float64{}
			}
			used := map[[16]byte]bool{}
			for op := range 400 {
				id := ids[r.IntN(len(ids))]
				switch {
				case op%97 == 96:
					if err := db.Flush(context.Background(), id); err != nil {
						t.Fatal(err)
					}
				case op%131 == 130:
					db = db.reopen(func(o *Options) { o.WALSegmentBytesMax = 4096 })
				default:
					b := increment.Batch{}
					if r.IntN(2) == 0 {
						b.HasKey = true
						b.Key[0], b.Key[1], b.Key[2] = byte(r.IntN(50)), 1, byte(len(id.String()))
					}
					for range 1 + r.IntN(5) {
						ts := testStart.Add(-time.Duration(r.Int64N(int64(60 * time.Hour))))
						if r.IntN(2) == 0 {
							ts = testStart.Add(-time.Duration(r.Int64N(int64(5 * time.Minute))))
						}
						inc := counterInc("events_total", ts, float64(1+r.IntN(3)), "page", fmt.Sprint(r.IntN(8)))
						b.Increments = append(b.Increments, inc)
					}
					mapped := map[string]float64{}
					for _, inc := range b.Increments {
						mapped[fmt.Sprintf("%s %d", inc.Labels, inc.Time)] += inc.Count
					}
					scoped := b.Key
					scoped[15] = id.String()[0]
					dup, err := db.Append(context.Background(), id, &b)
					if err != nil {
						t.Fatal(err)
					}
					if wantDup := b.HasKey && used[scoped]; dup != wantDup {
						t.Fatalf("op %d: duplicate %v, want %v", op, dup, wantDup)
					}
					if !dup {
						used[scoped] = used[scoped] || b.HasKey
						for k, v := range mapped {
							want[id][k] += v
						}
					}
				}
			}
			for range 2 {
				for _, id := range ids {
					if err := diff(db.stored(id), want[id]); err != nil {
						t.Fatalf("tenant %s: %v", id, err)
					}
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db.DB = nil
				mustBeSound(t, db.dir)
				db = openTestDB(t, db.dir, nil)
			}
		})
	}
}

// All kinds come back from memtables, log and blocks alike.
func TestKindsSurviveFlushAndReopen(t *testing.T) {
	db := openTestDB(t, "", nil)
	h := &increment.Hist{}
	h.Observe(3)
	h.Observe(-12.5)
	incs := []increment.Increment{
		counterInc("c_total", testStart, 2.5, "a", "b"),
		{Labels: labels.FromStrings(model.MetricNameLabel, "h"), Kind: increment.Histogram, Time: floorTo(testStart.UnixMilli(), g), Hist: h},
		{Labels: labels.FromStrings(model.MetricNameLabel, "d"), Kind: increment.Distinct, Time: floorTo(testStart.UnixMilli(), g), IDs: []uint64{5, 6, 5}},
	}
	db.mustAppend(tenant.Default, incs...)
	want := db.stored(tenant.Default)
	if len(want) != 3 || total(want) != 2.5+2+2 {
		t.Fatalf("stored %v", want)
	}
	for _, step := range []string{"reopen", "flush", "reopen"} {
		if step == "flush" {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		} else {
			db = db.reopen(nil)
		}
		if err := diff(db.stored(tenant.Default), want); err != nil {
			t.Errorf("after %s: %v", step, err)
		}
		kinds, err := db.Kinds(tenant.Default)
		if err != nil || kinds["c_total"] != increment.Counter || kinds["h"] != increment.Histogram || kinds["d"] != increment.Distinct {
			t.Errorf("after %s: kinds %v, %v", step, kinds, err)
		}
	}
	// A second part of the same windows merges with the block's.
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1, "a", "b"),
		increment.Increment{Labels: incs[2].Labels, Kind: increment.Distinct, Time: incs[2].Time, IDs: []uint64{6, 7}})
	if got := total(db.stored(tenant.Default)); got != 3.5+2+3 {
		t.Errorf("after more increments: %v", db.stored(tenant.Default))
	}
}

// A metric name has one kind; another is refused, naming both, also after the
// data has left memory.
func TestOneKindAName(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("x", testStart, 1, "a", "1"))
	wrong := increment.Batch{Increments: []increment.Increment{
		{Labels: labels.FromStrings(model.MetricNameLabel, "x", "a", "2"), Kind: increment.Distinct, Time: 0, IDs: []uint64{1}},
	}}
	for range 2 {
		_, err := db.Append(context.Background(), tenant.Default, &wrong)
		var kind *KindError
		if !errors.As(err, &kind) || kind.Have != increment.Counter || kind.Got != increment.Distinct {
			t.Errorf("another kind: %v", err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		db = db.reopen(nil)
	}
	if got := total(db.stored(tenant.Default)); got != 1 {
		t.Errorf("stored %v", got)
	}
}

// A batch key counts once: at once, concurrently, after a reopen and after a
// flush; and again when it has expired.
func TestBatchKeyCountsOnce(t *testing.T) {
	db := openTestDB(t, "", nil)
	post := func() bool {
		b := &increment.Batch{HasKey: true, Key: [16]byte{1, 2, 3}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		dup, err := db.Append(context.Background(), tenant.Default, b)
		if err != nil {
			t.Fatal(err)
		}
		return dup
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 16 {
		wg.Go(func() {
			if !post() {
				mu.Lock()
				applied++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if applied != 1 {
		t.Errorf("%d of 16 concurrent batches with one key were applied", applied)
	}
	db = db.reopen(nil)
	if !post() {
		t.Error("applied again after a reopen")
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil)
	if !post() {
		t.Error("applied again after a flush and a reopen")
	}
	*db.now = testStart.Add(25 * time.Hour)
	if post() {
		t.Error("still a duplicate after 25 hours")
	}
	if got := total(db.stored(tenant.Default)); got != 2 {
		t.Errorf("counted %v times", got)
	}
}

// A flush that covers a batch writes its key, however close the two are: the log
// is gone afterwards. And no segment goes with a batch that no flush has covered,
// however fast the log grows while that is decided.
func TestFlushesBesideAppends(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 256 })
	key := func(client, i int) [16]byte { return [16]byte{byte(client), byte(i), byte(i >> 8), 9} }
	const clients, batches = 4, 150
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1)) // makes the tenant
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range batches {
				b := &increment.Batch{HasKey: true, Key: key(c, i), Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
				if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		// As a crash right now would leave it.
		keys := readBackKeys(t, db)
		if n := total(db.stored(tenant.Default)); float64(len(keys)) > n {
			t.Fatalf("%d keys are durable, but only %v batches are stored", len(keys), n)
		}
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != clients*batches+1 {
		t.Errorf("%v events are stored, want %d", got, clients*batches+1)
	}
	for c := range clients {
		for i := range batches {
			b := &increment.Batch{HasKey: true, Key: key(c, i), Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
			if dup, err := db.Append(context.Background(), tenant.Default, b); err != nil || !dup {
				t.Fatalf("batch %d of client %d: duplicate %v, %v", i, c, dup, err)
			}
		}
	}
}

// readBackKeys reads the key files that the manifest on disk names.
func readBackKeys(t *testing.T, db *testDB) []batchKey {
	t.Helper()
	dir := filepath.Join(db.dir, "default")
	m, err := readManifest(db.opts.FS, dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []batchKey
	for _, kf := range m.Keys {
		keys, err := readKeys(db.opts.FS, filepath.Join(dir, kf.Name))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, keys...)
	}
	return out
}

// Past the limit of series, increments go to series with "(other)" and the sum
// stays exact; the limit holds across flush and reopen.
func TestSeriesLimitFoldsIntoOther(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 100
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	for i := range 500 {
		inc := counterInc("events_total", testStart, 1, "event", fmt.Sprint("e", i%120), "page", fmt.Sprint("/", i))
		inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
		db.mustAppend(tenant.Default, inc)
		switch i {
		case 200:
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		case 300:
			db = db.reopen(func(o *Options) { o.Defaults = settings })
		}
	}
	got := db.stored(tenant.Default)
	if total(got) != 500 {
		t.Errorf("sum is %v, want 500", total(got))
	}
	if len(got) > 100 {
		t.Errorf("%d series, want at most 100", len(got))
	}
	folded := false
	for k := range got {
		folded = folded || strings.Contains(k, `event="(other)"`) && strings.Contains(k, `page="(other)"`)
	}
	if !folded {
		t.Error("no series has taken the rest")
	}
	// A series that was admitted goes on.
	inc := counterInc("events_total", testStart, 1, "event", "e0", "page", "/0")
	inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
	db.mustAppend(tenant.Default, inc)
	m := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "page", "/0")}
	if got := total(db.stored(tenant.Default, m...)); got != 2 {
		t.Errorf("the first series has %v, want 2", got)
	}
}

// The limit holds whichever of the rule's labels the increments have.
func TestSeriesLimitHoldsForEveryShape(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 20
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	names := []string{"a", "b", "c", "d", "e", "event", "f", "g", "h"}
	shape := &increment.Shape{Names: names, Keep: []string{"event"}}
	for i := range 512 {
		var lbls []string
		for j, n := range names {
			if i>>j&1 == 1 {
				lbls = append(lbls, n, fmt.Sprint(i%7))
			}
		}
		inc := counterInc("events_total", testStart, 1, lbls...)
		inc.Shape = shape
		db.mustAppend(tenant.Default, inc)
	}
	if got := db.stored(tenant.Default); total(got) != 512 || len(got) > 20 {
		t.Errorf("%d series with a sum of %v, want at most 20 and 512", len(got), total(got))
	}
}

// Keep-listed labels survive while the reserved slots last.
func TestSeriesLimitKeepsTheKeepList(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 1000
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	var incs []increment.Increment
	for i := range 2000 {
		inc := counterInc("events_total", testStart, 1, "event", fmt.Sprint("e", i%3), "page", fmt.Sprint("/", i))
		inc.Shape = &increment.Shape{Names: []string{"event", "page"}, Keep: []string{"event"}}
		incs = append(incs, inc)
	}
	db.mustAppend(tenant.Default, incs...)
	if got := db.stored(tenant.Default); total(got) != 2000 || len(got) != 993 {
		t.Errorf("%d series with a sum of %v, want 993 and 2000", len(got), total(got))
	}
	for e := range 3 {
		m := labels.MustNewMatcher(labels.MatchEqual, "event", fmt.Sprint("e", e))
		if got := total(db.stored(tenant.Default, m)); math.Abs(got-2000.0/3) > 1 {
			t.Errorf("event e%d counts %v", e, got)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	db := openTestDB(t, "", nil)
	_, err := Open(Options{Dir: db.dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second open: %v", err)
	}
}

// Retention drops blocks whose newest data is too old, and readers that still use
// them are not disturbed.
func TestRetention(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(48 * time.Hour)
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	old := testStart.Add(-47 * time.Hour)
	db.mustAppend(tenant.Default, counterInc("c_total", old, 1), counterInc("c_total", testStart, 2))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	reader := db.querier(t, tenant.Default, old.Add(-time.Hour), testStart)
	before := countSamples(t, reader.Select(reader.ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "c_total")))
	*db.now = testStart.Add(24 * time.Hour)
	if err := db.maintainBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(tenant.Default)); got != 2 {
		t.Errorf("stored %v after retention, want 2", got)
	}
	after := countSamples(t, reader.Select(reader.ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "c_total")))
	if before != after || before == 0 {
		t.Errorf("a pinned reader saw %d samples before and %d after", before, after)
	}
	dirs := func() int {
		all, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockMetaName))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := dirs(); n != 2 {
		t.Errorf("%d block directories while a reader is there, want 2", n)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d block directories after the reader is done, want 1", n)
	}
}

type boundQuerier struct {
	storage.Querier
	ctx context.Context
}

func (d *testDB) querier(t testing.TB, id tenant.ID, mint, maxt time.Time) boundQuerier {
	t.Helper()
	q, err := d.Querier(mint.UnixMilli(), maxt.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	return boundQuerier{q, scope.With(context.Background(), scope.Scope{Tenant: id, Now: d.now.UnixMilli()})}
}

func countSamples(t testing.TB, set storage.SeriesSet) int {
	t.Helper()
	n := 0
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			n++
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Log segments go when their increments are in blocks, and stay while any tenant
// needs them.
func TestSegmentsAreReleased(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 2048 })
	a, b := tenantID(t, "a"), tenantID(t, "b")
	db.mustAppend(b, counterInc("c_total", testStart, 1))
	for i := range 200 {
		db.mustAppend(a, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	segments := func() int {
		s, err := listSegments(db.opts.FS, filepath.Join(db.dir, walDirName))
		if err != nil {
			t.Fatal(err)
		}
		return len(s)
	}
	many := segments()
	if many < 5 {
		t.Fatalf("only %d segments", many)
	}
	if err := db.Flush(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	if n := segments(); n != many {
		t.Errorf("%d segments of %d are left while tenant b needs the first", n, many)
	}
	if err := db.Flush(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if n := segments(); n != 1 {
		t.Errorf("%d segments are left, want 1", n)
	}
	db = db.reopen(nil)
	if x, y := total(db.stored(a)), total(db.stored(b)); x != 200 || y != 1 {
		t.Errorf("stored %v and %v, want 200 and 1", x, y)
	}
}

// The log's budget is kept by flushing who holds back its oldest segment.
func TestWALBudget(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 2048; o.WALBytesMax = 8192 })
	for i := range 400 {
		db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	// Background work is woken by the log itself, not by its clock, which stands.
	deadline := time.Now().Add(30 * time.Second)
	for db.wal.size() > 8192 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := db.wal.size(); n > 8192 {
		t.Errorf("log has %d bytes", n)
	}
	if db.wal.oldestSegment() == 1 {
		t.Error("no segment was given back")
	}
	if got := total(db.stored(tenant.Default)); got != 400 {
		t.Errorf("stored %v, want 400", got)
	}
}

// Quiet tenants are logged again when the log wants its old segments back: no
// block is written for them, and everything is there after a restart, also sets of
// ids that are registers by then.
func TestSmallTenantsAreLoggedAgain(t *testing.T) {
	small := func(o *Options) {
		o.WALSegmentBytesMax = 16 << 10
		o.WALBytesMax = 2 << 20
		o.MaintainInterval = time.Hour
	}
	db := openTestDB(t, "", small)
	many := make([]uint64, 3000)
	r := rand.New(rand.NewPCG(4, 4))
	for i := range many {
		many[i] = r.Uint64()
	}
	var ids []tenant.ID
	for i := range 30 {
		ids = append(ids, tenantID(t, fmt.Sprint("t", i)))
		inc := increment.Increment{Labels: labels.FromStrings(model.MetricNameLabel, "users"), Kind: increment.Distinct, Time: floorTo(testStart.UnixMilli(), g), IDs: many[:i*100]}
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1), inc}}
		if _, err := db.Append(context.Background(), ids[i], b); err != nil {
			t.Fatal(err)
		}
	}
	want := map[tenant.ID]map[string]float64{}
	for _, id := range ids {
		want[id] = db.stored(id)
	}
	for range 3 {
		first := db.wal.oldestSegment()
		for _, s := range db.openStores() {
			if did, err := s.relog(context.Background()); err != nil || !did {
				t.Fatalf("log again: %v, %v", did, err)
			}
		}
		if err := db.releaseSegments(); err != nil {
			t.Fatal(err)
		}
		if db.wal.oldestSegment() == first {
			t.Error("no segment was given back")
		}
		for _, id := range ids {
			if err := diff(db.stored(id), want[id]); err != nil {
				t.Errorf("tenant %s: %v", id, err)
			}
		}
		db = db.reopen(small)
	}
	for i, id := range ids {
		if err := diff(db.stored(id), want[id]); err != nil {
			t.Errorf("tenant %s: %v", id, err)
		}
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(i)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
		if dup, err := db.Append(context.Background(), id, b); err != nil || !dup {
			t.Errorf("tenant %s: its key was forgotten: %v, %v", id, dup, err)
		}
	}
	if blocks, err := filepath.Glob(filepath.Join(db.dir, "*", "*", blockMetaName)); err != nil || len(blocks) != 0 {
		t.Errorf("%d blocks were written (%v)", len(blocks), err)
	}
}

// The log's budget holds with many small tenants too, whether they fit into half
// of it or not.
func TestWALBudgetOfSmallTenants(t *testing.T) {
	for _, series := range []int{1, 40} {
		db := openTestDB(t, "", func(o *Options) {
			o.WALSegmentBytesMax = 4 << 10
			o.WALBytesMax = 128 << 10
			o.MaintainInterval = time.Hour
		})
		n := 0
		for round := range 40 {
			for i := range 10 {
				var incs []increment.Increment
				for s := range series {
					incs = append(incs, counterInc("c_total", testStart.Add(time.Duration(round)*time.Minute), 1, "page", fmt.Sprint("/a/page/of/some/length/", s)))
					n++
				}
				db.mustAppend(tenantID(t, fmt.Sprint("t", i)), incs...)
			}
		}
		if err := db.maintainMemory(context.Background()); err != nil {
			t.Fatal(err)
		}
		if size := db.wal.size(); size > 128<<10 {
			t.Errorf("log has %d bytes", size)
		}
		db = db.reopen(nil)
		got := 0.0
		for i := range 10 {
			got += total(db.stored(tenantID(t, fmt.Sprint("t", i))))
		}
		if got != float64(n) {
			t.Errorf("%v events, want %d", got, n)
		}
	}
}

// Label names and values know matchers and time.
func TestLabelQueries(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default,
		counterInc("events_total", testStart.Add(-72*time.Hour), 1, "page", "/old"),
		counterInc("events_total", testStart, 1, "page", "/a", "country", "DE"),
		counterInc("other_total", testStart, 1, "page", "/b"))
	for _, stage := range []string{"memory", "block"} {
		q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart)
		vals, _, err := q.LabelValues(q.ctx, "page", nil)
		if err != nil || strings.Join(vals, " ") != "/a /b" {
			t.Errorf("%s: values %v, %v", stage, vals, err)
		}
		m := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "events_total")
		vals, _, err = q.LabelValues(q.ctx, "page", nil, m)
		if err != nil || strings.Join(vals, " ") != "/a" {
			t.Errorf("%s: values of events_total %v, %v", stage, vals, err)
		}
		names, _, err := q.LabelNames(q.ctx, nil)
		if err != nil || strings.Join(names, " ") != "__name__ country page" {
			t.Errorf("%s: names %v, %v", stage, names, err)
		}
		names, _, err = q.LabelNames(q.ctx, nil, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "other.*"))
		if err != nil || strings.Join(names, " ") != "__name__ page" {
			t.Errorf("%s: names of other_total %v, %v", stage, names, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
}

// What a crash left behind is swept, and a directory that lost its manifest is
// not taken for a new tenant.
func TestManifestIsTheOnlyAuthority(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 3))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(db.dir, "default")
	for _, name := range []string{"01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAX.tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "chunks"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	db = db.reopen(nil)
	if got := total(db.stored(tenant.Default)); got != 3 {
		t.Errorf("stored %v, want 3", got)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	if len(names) != 1 {
		t.Errorf("directories %v, want one block", names)
	}
	if err := os.Remove(filepath.Join(dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil)
	_, err = db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 3)}})
	if err == nil || !strings.Contains(err.Error(), "no manifest.json") {
		t.Errorf("append without a manifest: %v", err)
	}
}

func TestTenantsNeverMeet(t *testing.T) {
	db := openTestDB(t, "", nil)
	a, b := tenantID(t, "a"), tenantID(t, "b")
	db.mustAppend(a, counterInc("c_total", testStart, 1, "secret", "of a"))
	db.mustAppend(b, counterInc("c_total", testStart, 2))
	q := db.querier(t, a, testStart.Add(-time.Hour), testStart)
	defer q.Close()
	all := labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".*")
	if n := countSamples(t, q.Select(q.ctx, true, nil, all)); n == 0 {
		t.Error("tenant a sees nothing of its own")
	}
	// One querier does not change tenants, whatever context it is given.
	other := scope.With(context.Background(), scope.Scope{Tenant: b, Now: db.now.UnixMilli()})
	if set := q.Select(other, true, nil, all); set.Next() || set.Err() == nil {
		t.Error("a querier of tenant a answered for tenant b")
	}
	if set := q.Select(context.Background(), true, nil, all); set.Next() || set.Err() == nil {
		t.Error("a querier answered for no tenant")
	}
}
