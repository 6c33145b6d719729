package tsdb

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/sketch"
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

// series names a series of tests.
func series(kind increment.Kind, name string, lbls ...string) *increment.Series {
	return increment.NewSeries(labels.FromStrings(append([]string{model.MetricNameLabel, name}, lbls...)...), kind, nil)
}

func counterInc(name string, ts time.Time, n float64, lbls ...string) increment.Increment {
	return increment.Increment{Series: series(increment.Counter, name, lbls...), Time: floorTo(ts.UnixMilli(), g), Value: n}
}

// add merges one increment into its window.
func (p *points) add(inc *increment.Increment) error {
	s := newMemSeries(1, p.kind, labels.EmptyLabels(), 0)
	if _, err := s.add(inc, cutsInUse{}); err != nil {
		return err
	}
	one := points{kind: p.kind}
	if err := s.snapshot(&one, math.MinInt64, math.MaxInt64, newest); err != nil {
		return err
	}
	merged, err := mergePoints(p.kind, []points{*p, one})
	if err == nil {
		*p = merged
	}
	return err
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
	all := window{readMin: math.MinInt64 / 2, showMin: math.MinInt64 / 2, showMax: never, sampleMin: math.MinInt64 / 2, sampleMax: never}
	var blocks openBlocks
	defer blocks.close()
	sels, err := selectSeries(context.Background(), v, &blocks, all, matchers)
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

// storedKey names a window of a series in what stored returns.
func storedKey(ls labels.Labels, win int64) string { return fmt.Sprintf("%s %d", ls, win) }

// sumPoints adds what the windows of a series hold to out.
func sumPoints(t testing.TB, out map[string]float64, ls labels.Labels, p *points) {
	t.Helper()
	for i := range p.win {
		key := storedKey(ls, p.win[i])
		switch p.kind {
		case increment.Counter, increment.Gauge:
			out[key] += p.value[i]
		case increment.Sample:
			out[key] += p.value[i] + 1
			if n := p.native[i]; n != nil && n.Int != nil {
				out[key] += float64(n.Int.Count)
			} else if n != nil {
				out[key] += n.Float.Count
			}
		case increment.Histogram, increment.Buckets:
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

// countIDs counts the ids of all distinct series that matchers select, together, in the
// interval at a present; and whether that is exact (1 or 0).
func (d *testDB) countIDs(id tenant.ID, now int64, in sketch.Interval, matchers ...*labels.Matcher) [2]float64 {
	d.t.Helper()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: id, Now: now})
	u := make([]sketch.Union, 1)
	_, err := d.DistinctSeries(ctx, []sketch.Interval{in}, func(series []sketch.Series) error {
		for _, s := range series {
			if err := s.Unite(ctx, u); err != nil {
				return err
			}
		}
		return nil
	}, matchers...)
	if err != nil {
		d.t.Fatal(err)
	}
	n, err := u[0].Estimate()
	if err != nil {
		d.t.Fatal(err)
	}
	exact := 0.0
	if u[0].Exact() {
		exact = 1
	}
	return [2]float64{n, exact}
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

// mustHoldOnly fails the test where a tenant's directory has anything that its
// manifest does not name.
func mustHoldOnly(t *testing.T, s *store) {
	t.Helper()
	live := map[string]bool{manifestName: true, settingsName: true, idKeyName: true}
	for _, b := range s.man.Blocks {
		live[b.ULID.String()] = true
	}
	for _, name := range s.man.files() {
		live[name] = true
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !live[e.Name()] {
			t.Errorf("%s was left behind", filepath.Join(s.dir, e.Name()))
		}
	}
}
