package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// history is storage of two tenants, whose clock moves only when it is told, with a
// cache in front of the engine.
type history struct {
	t       testing.TB
	r       *rand.Rand
	db      *tsdb.DB
	engine  upstream.QueryEngine
	cache   *promql.Cache
	metrics *prometheus.Registry
	clock   atomic.Int64 // milliseconds since 1970
	tenants []tenant.ID
}

func (h *history) now() time.Time { return time.UnixMilli(h.clock.Load()).UTC() }

const historyGrid = 15 * time.Second

func newHistory(t testing.TB, r *rand.Rand) *history {
	h := &history{t: t, r: r, metrics: prometheus.NewRegistry()}
	h.clock.Store(time.Date(2026, 3, 4, 22, 40, 0, 0, time.UTC).UnixMilli())
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(72 * time.Hour)
	var err error
	h.db, err = tsdb.Open(tsdb.Options{
		Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Defaults: settings, WALSyncEvery: time.Hour,
		MaintainInterval: 5 * time.Millisecond, Now: h.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.engine = promql.NewEngine(promql.EngineOptions{Distinct: h.db})
	if h.cache, err = promql.NewCache(h.engine, promql.CacheOptions{Bytes: 32 << 20, History: h.db, Reg: h.metrics}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.cache.Close()
		if err := h.db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"one", "two"} {
		id, err := tenant.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		h.tenants = append(h.tenants, id)
		for range 600 {
			h.append(id, h.now().Add(-time.Duration(r.Int64N(int64(5*time.Hour)))))
		}
	}
	return h
}

// append adds a batch of a few increments of any kind about the time given.
func (h *history) append(id tenant.ID, about time.Time) {
	h.t.Helper()
	var b increment.Batch
	for range 1 + h.r.IntN(4) {
		at := about.Add(-time.Duration(h.r.IntN(90)) * time.Second).Truncate(historyGrid)
		inc := increment.Increment{Time: at.UnixMilli(), Value: float64(1 + h.r.IntN(5))}
		page := fmt.Sprint("/", h.r.IntN(3))
		if h.r.IntN(20) == 0 {
			page = fmt.Sprint("/new", h.r.IntN(1000))
		}
		set := func(name string, kind increment.Kind) {
			inc.Series = increment.NewSeries(labels.FromStrings(model.MetricNameLabel, name, "page", page, "country", []string{"DE", "PE"}[h.r.IntN(2)]), kind, nil)
		}
		switch h.r.IntN(7) {
		case 0:
			set("seconds", increment.Histogram)
			inc.Hist = &increment.Hist{}
			inc.Hist.Observe(h.r.ExpFloat64())
		case 1:
			set("size", increment.Buckets)
			inc.Hist = &increment.Hist{Bounds: []float64{1, 2, 5}}
			inc.Hist.Observe(h.r.ExpFloat64() * 3)
		case 2:
			set("users", increment.Distinct)
			inc.IDs = []uint64{h.r.Uint64N(50) << 32}
		case 3:
			set("temperature", increment.Gauge)
			inc.At = inc.Time + h.r.Int64N(15_000)
		case 4:
			set("load", increment.Sample)
			inc.Time += h.r.Int64N(15_000)
		default:
			set([]string{"views_total", "clicks_total"}[h.r.IntN(2)], increment.Counter)
		}
		b.Increments = append(b.Increments, inc)
	}
	if _, err := h.db.Append(context.Background(), id, &b); err != nil {
		h.t.Fatal(err)
	}
}

// advance lets time pass and something happen.
func (h *history) advance() {
	h.clock.Add(h.r.Int64N(45_000))
	id := h.tenants[h.r.IntN(2)]
	h.append(id, h.now())
	switch h.r.IntN(8) {
	case 0, 1, 2: // late, on the same day or the one before
		h.append(id, h.now().Add(-time.Duration(h.r.IntN(360))*time.Minute))
	case 3: // days late
		h.append(id, h.now().Add(-time.Duration(h.r.IntN(60))*time.Hour))
	case 4:
		if err := h.db.Flush(context.Background(), id); err != nil {
			h.t.Fatal(err)
		}
	}
	if h.r.IntN(50) == 0 { // long enough for retention to drop something
		h.clock.Add(int64(8+h.r.IntN(60)) * 3_600_000)
	}
}

// askedFor is a query that is asked again and again.
type askedFor struct {
	text       string
	span, step time.Duration
	phase      time.Duration
}

func (h *history) query() askedFor {
	one := func(of ...string) string { return of[h.r.IntN(len(of))] }
	counter := one("views_total", "clicks_total", `views_total{page="/1"}`, `{__name__="clicks_total",country!="DE"}`)
	any := one(counter, counter, "temperature", "load", "users", "seconds", "size_bucket", "size_count")
	width := one("1m", "5m", "1h", "1d")
	suffix := one("", "", "", "", " offset 5m", " offset 1d", " offset -2m")
	vector := one(
		any+suffix,
		fmt.Sprintf("rate(%s[%s]%s)", counter, width, suffix),
		fmt.Sprintf("increase(%s[%s] anchored%s)", counter, width, suffix),
		fmt.Sprintf("increase(%s[%s] smoothed%s)", counter, width, suffix),
		fmt.Sprintf("max_over_time(%s[%s]%s)", one("temperature", "load", "users"), width, suffix),
		fmt.Sprintf("histogram_quantile(0.9, sum(rate(seconds[%s]%s)))", width, suffix),
		fmt.Sprintf("histogram_quantile(0.9, sum by (le) (rate(size_bucket[%s])))", width),
		fmt.Sprintf("distinct_over_time(users[%s]%s)", width, suffix),
		fmt.Sprintf(`count_distinct(users[%s], "country")`, width),
		fmt.Sprintf("max_over_time(rate(%s[5m])[30m:1m])", counter),
		fmt.Sprintf("%s @ %d", counter, h.now().Add(-time.Hour).Unix()),
		fmt.Sprintf("topk(2, rate(%s[%s]))", counter, width), // over nothing that the engine leaves to its maps
		fmt.Sprintf("absent(%s)", any),
		fmt.Sprintf("timestamp(%s)", any),
		fmt.Sprintf("%s - %s offset 1h", counter, counter))
	text := one("%s", "%s", "sum by (page) (%s)", "max by (country) (%s)", "count(%s) or vector(0)", "(%s) > 1", "(%s) / on (page, country) views_total")
	return askedFor{
		text: fmt.Sprintf(text, vector),
		span: []time.Duration{time.Hour, 4 * time.Hour, 6 * time.Hour, 50 * time.Hour, 90 * time.Hour}[h.r.IntN(5)],
		step: []time.Duration{15 * time.Second, time.Minute, 5 * time.Minute, time.Hour}[h.r.IntN(4)],
	}
}

// outcome is all that a query gives, in a form to compare.
func (h *history) outcome(e upstream.QueryEngine, id tenant.ID, q askedFor, start, end time.Time) string {
	h.t.Helper()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: id, Now: h.now().UnixMilli()})
	query, err := e.NewRangeQuery(ctx, h.db, nil, q.text, start, end, q.step)
	if err != nil {
		h.t.Fatalf("%s: %v", q.text, err)
	}
	defer query.Close()
	res := query.Exec(ctx)
	if res.Err != nil {
		return "error " + res.Err.Error()
	}
	var lines []string
	for _, s := range res.Value.(upstream.Matrix) {
		lines = append(lines, s.String())
	}
	slices.Sort(lines) // upstream leaves the order of some results to its maps
	warnings, infos := res.Warnings.AsStrings(q.text, 0, 0)
	slices.Sort(warnings)
	slices.Sort(infos)
	return strings.Join(append(append(lines, warnings...), infos...), "\n")
}

// Whatever comes late, on the same day or days before, begins, is flushed and is
// dropped between queries: with the cache they give what they give without it.
func TestQueryCacheAgainstStorage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	results := map[string]float64{}
	for range 6 {
		h := newHistory(t, r)
		var queries []askedFor
		for range 5 {
			q := h.query()
			if q.span/q.step > 500 {
				q.step = q.span / 200
			}
			q.phase = time.Duration(r.Int64N(int64(q.step/time.Second))) * time.Second
			queries = append(queries, q)
		}
		for i := range 100 {
			h.advance()
			q, id := queries[r.IntN(len(queries))], h.tenants[r.IntN(2)]
			end := h.now()
			if r.IntN(8) == 0 {
				end = end.Add(-time.Duration(r.Int64N(int64(q.span))))
			}
			end = end.Truncate(q.step).Add(q.phase)
			start := end.Add(-q.span / q.step * q.step)
			for {
				// Retention runs beside this: what it drops between the two is not compared.
				before, _, _, _ := h.db.DataRange(context.Background(), id)
				got, want := h.outcome(h.cache, id, q, start, end), h.outcome(h.engine, id, q, start, end)
				after, _, _, _ := h.db.DataRange(context.Background(), id)
				if before != after {
					continue
				}
				if got != want {
					t.Fatalf("seed %d, query %d of tenant %s: %s\nfrom %s to %s by %s, now %s\n got %s\nwant %s", seed, i, id, q.text, start, end, q.step, h.now(), got, want)
				}
				break
			}
		}
		for result, n := range h.counts("cache_queries_total", "result") {
			results[result] += n
		}
	}
	t.Logf("%v", results)
	if results["hit"]+results["partial"] < 100 {
		t.Errorf("seed %d: the cache knew too little for this to say anything: %v", seed, results)
	}
}

// counts are the values of a counter of the cache by a label.
func (h *history) counts(name, label string) map[string]float64 {
	h.t.Helper()
	families, err := h.metrics.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					out[l.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return out
}
