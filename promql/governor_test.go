package promql

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/util/stats"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
)

// governed is a governor over storage with the limits given.
func governed(t testing.TB, c *changing, log *bytes.Buffer, change func(*tenant.Limits)) *Governor {
	t.Helper()
	limits := tenant.DefaultLimits()
	if change != nil {
		change(&limits)
	}
	cache, err := NewCache(NewEngines(EngineOptions{Distinct: c, Timeout: tenant.QueryTimeMax}), CacheOptions{Bytes: cacheBytesMin, History: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	o := GovernorOptions{Engine: cache, Limits: func(tenant.ID) (tenant.Limits, error) { return limits, nil }}
	if log != nil {
		o.Logger, o.LogSlowerThan = slog.New(slog.NewTextHandler(log, nil)), time.Nanosecond
	}
	g, err := NewGovernor(o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func execute(t testing.TB, e upstream.QueryEngine, c *changing, ctx context.Context, qs string, s steps) error {
	t.Helper()
	q, err := e.NewRangeQuery(ctx, &c.matrices, nil, qs, time.UnixMilli(s.start), time.UnixMilli(s.end), time.Duration(s.interval)*time.Millisecond)
	if err != nil {
		return err
	}
	defer q.Close()
	return q.Exec(ctx).Err
}

// An exceeded limit fails with an error that names it and its value, of the kind that
// the API answers with the status of Prometheus's like.
func TestLimitsOfAQuery(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(5, 5)))
	s := steps{c.now - 100*tick, c.now, tick}
	for _, tc := range []struct {
		limit   string
		change  func(*tenant.Limits)
		want    string
		timeout bool // 503
	}{
		{limitSteps, func(l *tenant.Limits) { l.QuerySteps = 99 },
			"the range has 100 steps, which is too many: limits.query_steps of tenant default is 99", false},
		{limitSamples, func(l *tenant.Limits) { l.QuerySamples = 10 },
			"query processing would load too many samples into memory in query execution: limits.query_samples of tenant default is 10", false},
		{limitTime, func(l *tenant.Limits) { l.QueryTime = model.Duration(time.Millisecond) },
			"the query took too long: limits.query_time of tenant default is 1ms", true},
		{limitQueued, func(l *tenant.Limits) { l.QueuedQueries, l.ConcurrentQueries = 0, 1 },
			"too many queries wait for their turn: limits.queued_queries of tenant default is 0", true},
	} {
		g := governed(t, c, nil, tc.change)
		ctx := c.scoped(t.Context())
		switch tc.limit {
		case limitTime:
			c.onRead = func(ctx context.Context, _ []sketch.Interval) { <-ctx.Done() }
		case limitQueued:
			_, release, err := g.Admit(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
		err := execute(t, g, c, ctx, `sum(a_total) or distinct_over_time(users[5m])`, s)
		c.onRead = nil
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: got error %v\nwant %s", tc.limit, err, tc.want)
			continue
		}
		if _, ok := errors.AsType[upstream.ErrQueryTimeout](err); ok != tc.timeout {
			t.Errorf("%s is a timeout: %v, want %v", tc.limit, ok, tc.timeout)
		}
		if n := testutil.ToFloat64(g.limited.WithLabelValues(tc.limit)); n != 1 {
			t.Errorf("%s is counted %v times", tc.limit, n)
		}
	}
}

func TestLimitOfSeriesIsOfTheBudget(t *testing.T) {
	b := &budget.Query{Tenant: tenant.Default, SeriesMax: 10}
	if err := b.AddSeries(10); err != nil {
		t.Errorf("ten series of ten: %v", err)
	}
	err := b.AddSeries(1)
	if err == nil || err.Error() != "the query selects too many series: limits.query_series of tenant default is 10" {
		t.Errorf("got %v", err)
	}
	var none *budget.Query
	if err := none.AddSeries(1); err != nil {
		t.Errorf("a query without a budget: %v", err)
	}
}

// Queries that are canceled while they wait say so, as upstream says it.
func TestQueryIsCanceledWhileItWaits(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(6, 6)))
	g := governed(t, c, nil, func(l *tenant.Limits) { l.ConcurrentQueries = 1 })
	_, release, err := g.Admit(c.scoped(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(c.scoped(t.Context()))
	done := make(chan error)
	go func() { done <- execute(t, g, c, ctx, `a_total`, steps{c.now, c.now, tick}) }()
	g.turns.awaitWaiting(1)
	cancel()
	if err := <-done; !errors.Is(err, upstream.ErrQueryCanceled(where)) {
		t.Errorf("got %v", err)
	}
}

// A slow query is logged with what it was and what it took; its text is cut.
func TestSlowQueryIsLogged(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(7, 7)))
	var log bytes.Buffer
	g := governed(t, c, &log, nil)
	s := steps{c.now - 100*tick, c.now, tick}
	for range 2 {
		if err := execute(t, g, c, c.scoped(t.Context()), `sum(a_total)`, s); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("logged %q", lines)
	}
	for _, want := range []string{"a query was slow", "tenant=default", "query=sum(a_total)", "end=2023-11-15T00:00:00Z", "step=15s", "took=", "samples=", "series=", "cached_steps=99"} {
		if !strings.Contains(lines[1], want) {
			t.Errorf("%q is not in %s", want, lines[1])
		}
	}
	log.Reset()
	if err := execute(t, g, c, c.scoped(t.Context()), `a_total + b_total`+strings.Repeat(" + a_total", 500), s); err != nil {
		t.Fatal(err)
	}
	if n := log.Len(); n > 2*queryLogMax || !strings.Contains(log.String(), "(5017 bytes)") {
		t.Errorf("%d bytes are logged of a long query: %s", n, log.String())
	}
	log.Reset()
	g.options.LogSlowerThan = 0
	if err := execute(t, g, c, c.scoped(t.Context()), `a_total`, s); err != nil || log.Len() > 0 {
		t.Errorf("%v; logged %s", err, log.String())
	}
}

// The statistics of a query say how long it waited.
func TestStatisticsHaveTheTimeInTheQueue(t *testing.T) {
	c := newChanging(rand.New(rand.NewPCG(8, 8)))
	g := governed(t, c, nil, nil)
	ctx := c.scoped(t.Context())
	q, err := g.NewRangeQuery(ctx, &c.matrices, nil, `a_total`, time.UnixMilli(c.now-tick), time.UnixMilli(c.now), tick*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if res := q.Exec(ctx); res.Err != nil {
		t.Fatal(res.Err)
	}
	st := stats.NewQueryStats(q.Stats()).Builtin()
	if st.Timings.ExecQueueTime <= 0 || st.Timings.ExecTotalTime <= 0 || st.Samples.TotalQueryableSamples == 0 {
		t.Errorf("statistics %+v, samples %+v", st.Timings, st.Samples)
	}
}
