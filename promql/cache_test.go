package promql

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/tenant"
)

// Which samples a step depends on, in seconds before and after it; "" where steps are
// not kept.
func TestReachOfExpressions(t *testing.T) {
	for _, tc := range []struct{ query, want string }{
		{`a`, `300 0`},
		{`a offset 1h`, `3900 -3600`},
		{`a offset -1h`, `-3300 3600`},
		{`rate(a[10m])`, `600 0`},
		{`rate(a[10m] offset 5m)`, `900 -300`},
		{`increase(a[10m] anchored)`, `900 0`},
		{`delta(a[10m] smoothed)`, `900 300`},
		{`a - a offset 1d`, `86700 0`},
		{`max_over_time(rate(a[10m])[1h:1m] offset 5m)`, `4500 -300`},
		{`distinct_over_time(users[1d])`, `86400 0`},
		{`count_distinct(users[1d], "country")`, `86400 0`},
		{`a @ 1000`, `0 0, at 700 to 1000`},
		{`a / rate(b[1m] @ 1000 offset 100s)`, `300 0, at 840 to 900`},
		{`topk(3, a)`, `300 0`},
		{`label_replace(a, "x", "$1", "y", "(.*)")`, `300 0`},
		{`sum(label_join(rate(a[1m]), "x", "-", "y"))`, `60 0`},
		{`sum(a) or vector(0)`, `300 0`},
		{`{__name__=~"a|b"}`, `300 0`},
		// The range that is asked for decides.
		{`a @ start()`, ``},
		{`rate(a[5m] @ end())`, ``},
		{`a * start()`, ``},
		{`a > bool range()`, ``},
		{`rate(a[step()])`, ``},
		{`max_over_time(a[5m:1m] @ 1000)`, ``},
		{`max_over_time((a @ 1000)[5m:1m])`, ``},
		{`topk(scalar(b), a)`, ``},
		// Series that are one without their names, at steps of their own.
		{`rate({__name__=~"a|b"}[5m])`, ``},
		{`abs(a or b)`, ``},
		{`-(a or b)`, ``},
		{`-(label_replace(a, "__name__", "b", "y", "1"))`, ``},
		{`label_join(a, "__name__", "", "y")`, ``},
		// Series that are one at times between the steps.
		{`sum_over_time(label_replace(a, "x", "$1", "y", "(.*)")[5m:1m])`, ``},
		{`info(a)`, ``},
		{`limitk(3, a)`, ``},
		// What is said of counter resets depends on where reading began.
		{`histogram_count(sum(a))`, ``},
		{`timestamp(avg_over_time(a[5m]))`, ``},
		{`absent(sum(last_over_time(a[5m])))`, ``},
		{`histogram_avg(a - b)`, ``},
		{`histogram_sum(sum(rate(a[5m])))`, `300 0`},
		{`timestamp(a + 1)`, `300 0`},
		{`histogram_count(max(a))`, `300 0`},
		{`histogram_quantile(0.5, sum(a))`, `300 0`},
		// Nothing is read.
		{`time()`, ``},
		{`1 + 1`, ``},
	} {
		expr, err := NewParser().ParseExpr(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r, ok := reachOf(expr, 300_000); ok {
			got = fmt.Sprintf("%d %d", r.before/1000, r.after/1000)
			if r.pinned {
				got += fmt.Sprintf(", at %d to %d", r.fixed.From/1000, r.fixed.To/1000)
			}
		}
		if got != tc.want {
			t.Errorf("%s reaches %q, want %q", tc.query, got, tc.want)
		}
	}
}

// A step is kept if nothing in its reach changes, and the longest stretch of them is.
func TestUnchangedSteps(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 9))
		reach := reach{before: r.Int64N(100), after: r.Int64N(60) - 40}
		s := steps{start: 1000, interval: 1 + r.Int64N(30)}
		s.end = s.at(r.IntN(20))
		var changes []past.Interval
		for range r.IntN(4) {
			from := 800 + r.Int64N(900)
			changes = append(changes, past.Interval{From: from, To: from + r.Int64N(100)})
		}
		if r.IntN(20) == 0 {
			changes = append(changes, past.Interval{From: math.MinInt64, To: math.MaxInt64})
		}
		most, run := 0, 0
		hit := make([]bool, s.count())
		for i := range hit {
			for _, c := range changes {
				hit[i] = hit[i] || c.Overlaps(past.Interval{From: s.at(i) - reach.before, To: s.at(i) + reach.after})
			}
			if run++; hit[i] {
				run = 0
			}
			most = max(most, run)
		}
		lo, hi := reach.unchanged(s, changes)
		for i := lo; i < hi; i++ {
			if hit[i] {
				t.Fatalf("seed %d: step %d of [%d, %d) is hit", seed, i, lo, hi)
			}
		}
		if hi-lo != most {
			t.Fatalf("seed %d: [%d, %d) of %d steps, the longest stretch has %d", seed, lo, hi, s.count(), most)
		}
		until := 900 + r.Int64N(800)
		n := reach.settled(s, until)
		for i := range s.count() {
			if settled := s.at(i)+reach.after <= until; settled != (i < n) {
				t.Fatalf("seed %d: step %d at %d, %d are settled by %d", seed, i, s.at(i), n, until)
			}
		}
	}
}

func testTenant(t testing.TB, name string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// No entry is another tenant's, nor another generation's of the tenant, whatever its
// key and size; an entry that lost a part is none.
func TestResultStoreKeepsTenantsApart(t *testing.T) {
	s := newResultStore(64<<20, time.Now)
	defer s.close()
	a, b := testTenant(t, "a"), testTenant(t, "b")
	entry := func(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n) }
	for _, n := range []int{1, partBytes, partBytes + 1, 10 * partBytes} {
		key := fmt.Appendf(nil, "%d", n)
		for _, e := range []struct {
			id         tenant.ID
			generation uint64
			fill       byte
		}{{a, 1, 'x'}, {a, 2, 'y'}, {b, 1, 'z'}} {
			if got := s.get(e.id, e.generation, key); got != nil {
				t.Fatalf("%s of generation %d has an entry %q before it put one", e.id, e.generation, got[0])
			}
			if !s.put(e.id, e.generation, key, entry(n, e.fill)) {
				t.Fatal("not stored")
			}
			if got := s.get(e.id, e.generation, key); !bytes.Equal(got, entry(n, e.fill)) {
				t.Fatalf("%d bytes became %d", n, len(got))
			}
		}
		if got := s.get(a, 1, key); !bytes.Equal(got, entry(n, 'x')) {
			t.Fatal("the entry of another took its place")
		}
	}
	key := fmt.Appendf(nil, "%d", 10*partBytes)
	s.cache.Del(numbered(partKey(owner(a, 1), key), 7))
	if got := s.get(a, 1, key); got != nil {
		t.Errorf("an entry without one of its parts has %d bytes", len(got))
	}
}

// While others store too a tenant stores its part of the cache in a window of time;
// alone, what it likes.
func TestShareOfATenant(t *testing.T) {
	now := time.Unix(1000, 0)
	s := shares{now: func() time.Time { return now }}
	a, b := testTenant(t, "a"), testTenant(t, "b")
	take := func(id tenant.ID, n int64, want bool) {
		t.Helper()
		if s.take(id, n, 100) != want {
			t.Errorf("%s may store %d: %v", id, n, !want)
		}
	}
	take(a, 90, true)
	take(a, 90, true) // alone
	take(b, 60, false)
	take(b, 50, true)
	take(b, 1, false)
	take(a, 1, false) // it has had more than its share
	now = now.Add(shareWindow)
	take(a, 60, false) // b stored in the window before
	take(a, 50, true)
	now = now.Add(2 * shareWindow)
	take(a, 100, true) // alone again
	take(a, 100, true)
}

// What the cache does not keep, and counts as that.
func TestCacheSkips(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(3, 3)))
	for k := range int64(150) {
		c.set("many_total", labels.FromStrings("n", ""), c.now-(150-k)*tick, float64(k)/7)
	}
	m := c.byName["many_total"]
	for i := range 4000 {
		m = append(m, upstream.Series{Metric: labels.FromStrings("n", fmt.Sprint(i)), Floats: m[0].Floats})
	}
	c.byName["many_total"] = m
	cache, _ := cacheOver(t, c)
	s := steps{c.now - 150*tick, c.now, tick}
	for range 2 {
		outcome(t, cache, c, `many_total`, s)
		outcome(t, cache, c, `histogram_quantile(2, a_total)`, s)
	}
	for reason, want := range map[string]float64{skipSize: 2, skipAnnotated: 2, skipShare: 0} {
		if got := testutil.ToFloat64(cache.metrics.skipped.WithLabelValues(reason)); got != want {
			t.Errorf("%v answers were not kept because of %q, want %v", got, reason, want)
		}
	}
}

// An answer from the cache is as large as one without it may be.
func TestCacheObeysTheLimitOfSamples(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(4, 4)))
	cache, _ := cacheOver(t, c)
	cache.options.MaxSamples = 60
	s := steps{c.now - 100*tick, c.now - 10*tick, tick}
	if got := outcome(t, cache, c, `sum(a_total) or vector(0)`, s); got == "" {
		t.Fatal("no answer")
	}
	if got, want := outcome(t, cache, c, `sum(a_total) or vector(0)`, s), "error query processing would load too many samples into memory in query execution"; got != want {
		t.Errorf("got %q", got)
	}
}

// Another step, another phase, another lookback, other start times: another entry.
func TestKeyOfAnEntry(t *testing.T) {
	yes, no := true, false
	seen := map[string]string{}
	for _, k := range []struct {
		what     string
		text     string
		s        steps
		lookback time.Duration
		starts   *bool
	}{
		{"first", "a", steps{1000, 2000, 15}, time.Minute, nil},
		{"step", "a", steps{1000, 2000, 20}, time.Minute, nil},
		{"phase", "a", steps{1001, 2000, 15}, time.Minute, nil},
		{"lookback", "a", steps{1000, 2000, 15}, 2 * time.Minute, nil},
		{"starts", "a", steps{1000, 2000, 15}, time.Minute, &yes},
		{"no starts", "a", steps{1000, 2000, 15}, time.Minute, &no},
		{"text", "a ", steps{1000, 2000, 15}, time.Minute, nil},
		{"other text", "b", steps{1000, 2000, 15}, time.Minute, nil},
	} {
		key := string(entryKey(k.text, k.s, k.lookback, upstream.NewPrometheusQueryOpts(false, 0, k.starts)))
		if other, ok := seen[key]; ok && k.what != "text" {
			t.Errorf("%q has the key of %q", k.what, other)
		}
		seen[key] = k.what
	}
	if len(seen) != 7 {
		t.Errorf("%d keys, want 7: space around the text makes none", len(seen))
	}
	if a, b := entryKey("a", steps{1000, 2000, 15}, time.Minute, nil), entryKey("a", steps{1015, 3000, 15}, time.Minute, nil); !bytes.Equal(a, b) {
		t.Error("another range has another key")
	}
}

func TestCacheThatCannotBeMade(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: &world{}})
	if _, err := NewCache(e, CacheOptions{Bytes: cacheBytesMin - 1, History: &changing{}}); err == nil {
		t.Error("a cache smaller than it can be was made")
	}
	if _, err := NewCache(e, CacheOptions{Bytes: cacheBytesMin}); err == nil {
		t.Error("a cache was made that learns of no changes")
	}
}
