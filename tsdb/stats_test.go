package tsdb

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

func statsOf(t *testing.T, d *testDB, id tenant.ID, limit int) Stats {
	t.Helper()
	s, err := d.Stats(context.Background(), id, limit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The numbers are the same wherever the series are: in memory, in a block, or in both.
func TestStats(t *testing.T) {
	d := openTestDB(t, "", nil)
	other, err := tenant.Parse("other")
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		for i := range 3 {
			d.mustAppend(tenant.Default, counterInc("views_total", testStart, 1, "page", fmt.Sprintf("/%d", i), "host", "h"))
		}
		d.mustAppend(tenant.Default, counterInc("errors_total", testStart, 1, "host", "h"))
	}
	check := func(where string, chunks int64) {
		t.Helper()
		got := statsOf(t, d, tenant.Default, 2)
		want := Stats{
			Series: 4, Chunks: chunks, MinTime: testStart.UnixMilli(), MaxTime: testStart.UnixMilli() + g,
			Postings: index.PostingsStats{
				CardinalityMetricsStats: []index.Stat{{Name: "views_total", Count: 3}, {Name: "errors_total", Count: 1}},
				CardinalityLabelStats:   []index.Stat{{Name: "page", Count: 3}, {Name: "__name__", Count: 2}},
				LabelValueStats:         []index.Stat{{Name: "__name__", Count: 3*11 + 12}, {Name: "page", Count: 3 * 2}},
				LabelValuePairsStats:    []index.Stat{{Name: "host=h", Count: 4}, {Name: "__name__=views_total", Count: 3}},
				NumLabelPairs:           6,
			},
		}
		got.Kinds, got.Metrics, got.Named, got.Labels, got.Churn = nil, nil, nil, nil, nil
		got.Blocks, got.BlockBytes, got.MemoryBytes = 0, 0, 0
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", where, got, want)
		}
	}
	write()
	check("in memory", 4)
	if err := d.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	check("in a block", 4)
	write()
	check("in both", 8)

	if got := statsOf(t, d, other, 10); got.Series != 0 || got.Postings.NumLabelPairs != 0 || got.MinTime != math.MaxInt64 || got.MaxTime != math.MinInt64 {
		t.Errorf("a tenant that is not there: %+v", got)
	}
}

// Past the bound the newest series are counted, and it is said.
func TestStatsAreBounded(t *testing.T) {
	d := openTestDB(t, "", nil)
	for i := range 10 {
		d.mustAppend(tenant.Default, counterInc("old_total", testStart.Add(-24*time.Hour), 1, "n", fmt.Sprint(i)))
		d.mustAppend(tenant.Default, counterInc("new_total", testStart, 1, "n", fmt.Sprint(i)))
	}
	if err := d.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	s, err := d.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for max, want := range map[int]string{20: "map[new_total:10 old_total:10] false", 12: "map[new_total:10 old_total:2] true"} {
		c := newSurvey(context.Background(), max, 1000)
		if err := c.addVersion(v); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.values["__name__"], c.left < 0); got != want {
			t.Errorf("of %d: %s, want %s", max, got, want)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(fmt.Errorf("time is over"))
	if _, err := d.Stats(ctx, tenant.Default, 10); err == nil || err.Error() != "count the series of tenant default: time is over" {
		t.Errorf("after the end of its time: %v", err)
	}
}

func TestLargest(t *testing.T) {
	l := largest{limit: 3}
	for i := range 10_000 {
		l.add(uint64(i*37%10_000/1000), "n", "=", fmt.Sprintf("%04d", i))
	}
	if got := fmt.Sprint(l.get()); got != "[{n=0244 9} {n=0245 9} {n=0246 9}]" {
		t.Error(got)
	}
}

func TestBlockMetas(t *testing.T) {
	d := openTestDB(t, "", nil)
	metas := func() string {
		t.Helper()
		all, err := d.BlockMetas(context.Background(), tenant.Default)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, m := range all {
			out += fmt.Sprintf("[%d-%d) %d series, level %d; ", m.MinTime-testStart.UnixMilli(), m.MaxTime-testStart.UnixMilli(), m.Stats.NumSeries, m.Compaction.Level)
		}
		return out
	}
	if got := metas(); got != "" {
		t.Errorf("a tenant that is not there has %s", got)
	}
	d.mustAppend(tenant.Default, counterInc("views_total", testStart, 1), counterInc("clicks_total", testStart, 1))
	if err := d.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	if got, want := metas(), "[0-15000) 2 series, level 1; "; got != want {
		t.Errorf("%s, want %s", got, want)
	}

	// A meta.json that is damaged hides no block.
	found, err := filepath.Glob(filepath.Join(d.dir, "default", "*", blockMetaName))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := os.WriteFile(found[0], []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if got, want := metas(), "[0-15000) 2 series, level 0; "; got != want {
		t.Errorf("with a damaged meta.json: %s, want %s", got, want)
	}
}

// BenchmarkStats counts a million series in memory.
func BenchmarkStats(b *testing.B) {
	d := openTestDB(b, "", func(o *Options) {
		o.Defaults = tenant.DefaultSettings()
		o.Defaults.Limits.SeriesPerMetric = 2_000_000
		o.Defaults.Limits.Series = 0
	})
	var incs []increment.Increment
	for i := range StatsSeriesMax {
		incs = append(incs, counterInc("views_total", testStart, 1, "page", fmt.Sprint("/", i/10), "user", fmt.Sprint(i), "host", "h"))
		if len(incs) == 10_000 {
			d.mustAppend(tenant.Default, incs...)
			incs = incs[:0]
		}
	}
	for b.Loop() {
		if s, err := d.Stats(context.Background(), tenant.Default, 10); err != nil || s.Series != StatsSeriesMax {
			b.Fatal(s.Series, err)
		}
	}
}

// A block that cannot be read is named, and the others are counted; past the bound of
// chunks series are counted and what they take is not, and it is said.
func TestStatsOfDamageAndManyChunks(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.days(t, tenant.Default, 3, []string{"page", "/"}, []string{"page", "/a"})
	s := db.mustStore(tenant.Default)
	v := s.versions.pin()
	defer s.versions.unpin(v)
	c := newSurvey(context.Background(), 1000, 3)
	if err := c.addVersion(v); err != nil {
		t.Fatal(err)
	}
	if got := c.stats(10, nil); !got.CostsPartial || got.Partial || got.Series != 2 || got.Kinds[0].Chunks != 3 || got.Chunks != 6 {
		t.Errorf("%+v, want 2 series and 3 chunks of 6", got)
	}
	if err := os.Remove(filepath.Join(db.dir, "default", s.man.Blocks[1].ULID.String(), blockIndex)); err != nil {
		t.Fatal(err)
	}
	now := *db.now
	db = db.reopen(nil)
	*db.now = now
	got := statsOf(t, db, tenant.Default, 10)
	if len(got.Damage) != 1 || !strings.Contains(got.Damage[0], s.man.Blocks[1].ULID.String()) || got.Series != 2 || got.Kinds[0].Increments != 4 || got.CostsPartial {
		t.Errorf("%+v, want 4 increments and the damaged block", got)
	}
}
