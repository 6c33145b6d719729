package promql

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// changing is storage whose past changes: series of floats, sets of ids, and the list
// of changes. A change at a time changes samples at that time alone.
type changing struct {
	world
	matrices
	now     int64
	settled int64
	changes []past.Interval
	// onSettle, where set, runs after each mark was made.
	onSettle func()
}

func (c *changing) Settle(context.Context) (past.Mark, error) {
	m := past.Mark{Generation: 1, Seq: uint64(len(c.changes)), Settled: c.now - 2*tick}
	c.settled = max(c.settled, m.Settled)
	if c.onSettle != nil {
		c.onSettle()
	}
	return m, nil
}

func (c *changing) Changed(_ context.Context, m past.Mark) ([]past.Interval, error) {
	return c.changes[m.Seq:], nil
}

func (c *changing) changed(t int64) {
	if t <= c.settled {
		c.changes = append(c.changes, past.Interval{From: t, To: t})
	}
}

// set puts a point into a series of a metric, which it makes where it is new.
func (c *changing) set(name string, l labels.Labels, t int64, v float64) {
	c.changed(t)
	m := c.byName[name]
	i := slices.IndexFunc(m, func(s upstream.Series) bool { return labels.Equal(s.Metric, l) })
	if i < 0 {
		m, i = append(m, upstream.Series{Metric: l}), len(m)
		c.byName[name] = m
	}
	points := m[i].Floats
	at, found := slices.BinarySearchFunc(points, t, func(p upstream.FPoint, t int64) int { return int(p.T - t) })
	if found {
		points[at].F = v
	} else {
		m[i].Floats = slices.Insert(points, at, upstream.FPoint{T: t, F: v})
	}
}

// observe puts a native histogram into a series.
func (c *changing) observe(name string, l labels.Labels, t int64, values ...float64) {
	c.changed(t)
	h := &increment.Hist{}
	for _, v := range values {
		h.Observe(v)
	}
	m := c.byName[name]
	i := slices.IndexFunc(m, func(s upstream.Series) bool { return labels.Equal(s.Metric, l) })
	if i < 0 {
		m, i = append(m, upstream.Series{Metric: l}), len(m)
		c.byName[name] = m
	}
	points := m[i].Histograms
	at, found := slices.BinarySearchFunc(points, t, func(p upstream.HPoint, t int64) int { return int(p.T - t) })
	if p := (upstream.HPoint{T: t, H: h.Float(nil)}); found {
		points[at] = p
	} else {
		m[i].Histograms = slices.Insert(points, at, p)
	}
}

// see adds ids to the window of a distinct series that ends at t.
func (c *changing) see(series int, t int64, id uint64) {
	c.changed(t)
	s := &c.series[series]
	at, found := slices.BinarySearchFunc(s.windows, t, func(w seen, t int64) int { return int(w.end - t) })
	if !found {
		s.windows = slices.Insert(s.windows, at, seen{end: t})
	}
	s.windows[at].ids = append(s.windows[at].ids, id)
}

// mutate changes the present, and now and then the past.
func (c *changing) mutate(r *rand.Rand) {
	for range 1 + r.IntN(3) {
		t := c.now - r.Int64N(3)*tick
		switch r.IntN(12) {
		case 0:
			t = c.now - r.Int64N(30)*tick
		case 1:
			t = c.now - r.Int64N(400)*tick
		}
		if r.IntN(3) == 0 {
			c.see(r.IntN(len(c.series)), t, r.Uint64N(40))
			continue
		}
		if r.IntN(4) == 0 {
			c.observe("h", labels.FromStrings("country", pick(r, "DE", "FR"), "device", pick(r, "pc", "phone")), t, float64(r.IntN(9)), float64(r.IntN(99)))
			continue
		}
		c.set(pick(r, "a_total", "b_total"), labels.FromStrings("country", pick(r, "DE", "FR", "PE"), "device", pick(r, "pc", "phone")), t, float64(r.IntN(64)))
	}
}

func (g *generator) reading() string {
	if g.r.IntN(3) == 0 {
		leaf := g.leaf
		g.leaf = nil
		own, _ := g.call()
		g.leaf = leaf
		return own
	}
	s := pick(g.r, "a_total", "b_total", `a_total{country!="FR"}`, `b_total{device="pc"}`)
	suffix := pick(g.r, "", "", "", " offset 1m", " offset 10m", " offset -45s", " @ "+g.moment())
	width := pick(g.r, "1m", "5m", "20m")
	if g.r.IntN(4) == 0 {
		return pick(g.r, "h"+suffix, fmt.Sprintf("rate(h[%s]%s)", width, suffix), fmt.Sprintf("sum by (country) (h%s)", suffix),
			fmt.Sprintf("histogram_quantile(0.9, increase(h[%s]%s))", width, suffix))
	}
	return pick(g.r, s+suffix,
		fmt.Sprintf("rate(%s[%s]%s)", s, width, suffix),
		fmt.Sprintf("increase(%s[%s] anchored%s)", s, width, suffix),
		fmt.Sprintf("delta(%s[%s] smoothed%s)", s, width, suffix),
		fmt.Sprintf("max_over_time(%s[%s]%s)", s, width, suffix))
}

func newChanging(r *rand.Rand) *changing {
	c := &changing{world: *randomWorld(r), matrices: matrices{byName: map[string]upstream.Matrix{}}, now: worldStart + worldSpan}
	for t := int64(worldStart); t < c.now; t += tick {
		if r.IntN(3) == 0 {
			c.set("a_total", labels.FromStrings("country", "DE", "device", "pc"), t, float64(r.IntN(64)))
			c.observe("h", labels.FromStrings("country", "DE", "device", pick(r, "pc", "phone")), t, float64(r.IntN(9)))
		}
	}
	return c
}

// cacheOver is a cache before an engine over c, and that engine.
func cacheOver(t testing.TB, c *changing) (*Cache, *Engine) {
	t.Helper()
	e := NewEngine(EngineOptions{Distinct: c})
	cache, err := NewCache(e, CacheOptions{Bytes: cacheBytesMin, History: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	return cache, e
}

func (c *changing) scoped(ctx context.Context) context.Context {
	return scope.With(ctx, scope.Scope{Tenant: tenant.Default, Now: c.now})
}

// outcome is all that a range query gives, in a form to compare.
func outcome(t testing.TB, e upstream.QueryEngine, c *changing, qs string, s steps) string {
	t.Helper()
	query, err := e.NewRangeQuery(t.Context(), &c.matrices, nil, qs, time.UnixMilli(s.start), time.UnixMilli(s.end), time.Duration(s.interval)*time.Millisecond)
	if err != nil {
		t.Fatalf("%s: %v", qs, err)
	}
	defer query.Close()
	res := query.Exec(c.scoped(t.Context()))
	if res.Err != nil {
		// Which two series it gives as an example is left to the engine's maps.
		message, _, _ := strings.Cut(res.Err.Error(), "for the match group")
		return "error " + message
	}
	var lines []string
	for _, series := range res.Value.(upstream.Matrix) {
		var b strings.Builder
		fmt.Fprint(&b, series.Metric)
		for _, p := range series.Floats {
			fmt.Fprintf(&b, " %v@%d", p.F, p.T)
		}
		for _, p := range series.Histograms {
			fmt.Fprintf(&b, " %s@%d", p.H, p.T)
		}
		lines = append(lines, b.String())
	}
	// Upstream leaves the order of some results to its maps.
	slices.Sort(lines)
	warnings, infos := res.Warnings.AsStrings(qs, 0, 0)
	slices.Sort(warnings)
	slices.Sort(infos)
	return strings.Join(append(append(lines, warnings...), infos...), "\n")
}

// Whatever changes between generated queries, and however often each is asked for
// ranges that move: with the cache they give what they give without it.
func TestCacheAgainstEngine(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	total := map[string]float64{}
	for range 30 {
		c := newChanging(r)
		cache, engine := cacheOver(t, c)
		type asked struct {
			text string
			span int64
			step int64
		}
		var queries []asked
		for range 6 {
			g := &generator{r: r}
			g.leaf = g.reading
			own, _ := g.expr(r.IntN(3))
			queries = append(queries, asked{own, pick[int64](r, 20, 60, 200) * tick, pick[int64](r, 1, 2, 4) * tick})
		}
		for i := range 60 {
			c.now += r.Int64N(3) * tick
			c.mutate(r)
			q := queries[r.IntN(len(queries))]
			end := c.now - r.Int64N(4)/3*r.Int64N(100)*tick
			end -= end % q.step
			s := steps{end - q.span, end, q.step}
			got, want := outcome(t, cache, c, q.text, s), outcome(t, engine, c, q.text, s)
			if got != want {
				t.Fatalf("seed %d, query %d: %s\nfrom %d to %d by %d\n got %s\nwant %s", seed, i, q.text, s.start, s.end, s.interval, got, want)
			}
		}
		for _, res := range []string{resultHit, resultPartial, resultMiss, resultNotCacheable} {
			total[res] += testutil.ToFloat64(cache.metrics.queries.WithLabelValues(res))
		}
		cache.Close()
	}
	t.Logf("%v", total)
	if total[resultHit]+total[resultPartial] < 300 {
		t.Errorf("seed %d: the cache knew too little for this to say anything: %v", seed, total)
	}
}

// What changes while a query is under way shows in all of its answer or in none.
func TestCacheSeesWhatChangesMeanwhile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	c := newChanging(r)
	cache, engine := cacheOver(t, c)
	const qs = `sum(last_over_time(a_total[5m]))`
	s := steps{c.now - 100*tick, c.now, tick}
	outcome(t, cache, c, qs, s)
	c.now, s.start, s.end = c.now+tick, s.start+tick, s.end+tick
	// A change that no one has seen when the mark is made, at the time of known steps.
	c.onSettle = func() {
		c.onSettle = nil
		c.set("a_total", labels.FromStrings("country", "DE", "device", "pc"), s.start+10*tick, 1000)
	}
	got := outcome(t, cache, c, qs, s)
	if want := outcome(t, engine, c, qs, s); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if n := testutil.ToFloat64(cache.metrics.queries.WithLabelValues(resultHit)); n > 0 {
		t.Error("an answer that something had changed in came from the cache")
	}
}

// The statistics of an answer that was kept are those of the engine, but for what was
// read.
func TestCacheKeepsStatistics(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(2, 2)))
	cache, engine := cacheOver(t, c)
	run := func(e upstream.QueryEngine, start, end int64) (perStep []int64, total, read int64) {
		q, err := e.NewRangeQuery(t.Context(), &c.matrices, upstream.NewPrometheusQueryOpts(true, 0, nil), `rate(a_total[5m])`, time.UnixMilli(start), time.UnixMilli(end), tick*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if res := q.Exec(c.scoped(t.Context())); res.Err != nil {
			t.Fatal(res.Err)
		}
		s := q.Stats().Samples
		if q.Stats().Timers == nil || s.StartTimestamp != start || s.Interval != tick {
			t.Errorf("statistics %+v", s)
		}
		return s.TotalSamplesPerStep, s.TotalSamples, s.SamplesRead
	}
	wantSteps, wantTotal, wantRead := run(engine, c.now-100*tick, c.now)
	for i, what := range []string{"computed", "known in part"} {
		gotSteps, gotTotal, gotRead := run(cache, c.now-100*tick, c.now)
		if !slices.Equal(gotSteps, wantSteps) || gotTotal != wantTotal || wantTotal == 0 {
			t.Errorf("%s: %d samples, %v, want %d, %v", what, gotTotal, gotSteps, wantTotal, wantSteps)
		}
		if i == 0 && gotRead != wantRead || i == 1 && gotRead >= wantRead {
			t.Errorf("%s: %d samples read, where the engine reads %d", what, gotRead, wantRead)
		}
	}
	if _, _, read := run(cache, c.now-90*tick, c.now-10*tick); read != 0 {
		t.Errorf("%d samples read for an answer that was known", read)
	}
}

var _ storage.Queryable = (*matrices)(nil)

// BenchmarkExtent is the form of 500 series of 240 steps.
func BenchmarkExtent(b *testing.B) {
	e := extent{seq: 1, steps: steps{0, 239 * tick, tick}, samples: make([]int64, 240)}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 500 {
		s := upstream.Series{Metric: labels.FromStrings(model.MetricNameLabel, "x", "page", fmt.Sprint(i))}
		for j := range 240 {
			s.Floats = append(s.Floats, upstream.FPoint{T: int64(j) * tick, F: float64(r.IntN(1000)) / 60})
		}
		e.series = append(e.series, s)
	}
	key := []byte("key")
	entry := e.append(nil, key)
	b.Run("append", func(b *testing.B) {
		for b.Loop() {
			entry = e.append(entry[:0], key)
		}
		b.ReportMetric(float64(len(entry))/500/240, "B/point")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			var out extent
			if err := out.decode(entry, key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
