package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/usage"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// heavy is storage of tenants with many series, and what the server puts in front of it.
type heavy struct {
	t       *testing.T
	db      *tsdb.DB
	queries *promql.Governor
	metrics *prometheus.Registry // of queries
	handler http.Handler
	now     time.Time
	step    time.Duration
}

// newHeavy has the tenants named, with series counters of an hour each; settings are
// lines of their limits.
func newHeavy(t *testing.T, series int, settings string, tenants ...string) *heavy {
	h := &heavy{t: t, now: time.Date(2026, 3, 4, 12, 0, 7, 0, time.UTC), step: 15 * time.Second, metrics: prometheus.NewRegistry()}
	dir := t.TempDir()
	for _, name := range tenants {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("grid: 15s\nlimits:\n  series_per_metric: %d\n%s", 2*series+100, settings)
		if err := os.WriteFile(filepath.Join(dir, name, "settings.yaml"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	h.db, err = tsdb.Open(tsdb.Options{
		Dir: dir, Logger: slog.New(slog.DiscardHandler), WALSyncEvery: time.Minute, Now: func() time.Time { return h.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.db.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &serveCmd{MetricsTenants: 100, QueryCache: 32 << 20, IngestMemory: 64 << 20, TenantHeader: "X-Scope-OrgID"}
	reg := prometheus.NewRegistry()
	if _, h.handler, err = c.handler(h.db, &guards{}, slog.New(slog.DiscardHandler), reg, &configs{}); err != nil {
		t.Fatal(err)
	}
	if h.queries, err = c.queries(h.db, usage.NewBook(time.Now), slog.New(slog.DiscardHandler), h.metrics, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range tenants {
		for i := 0; i < series; i += 5000 {
			b := &increment.Batch{}
			for n := i; n < min(i+5000, series); n++ {
				s := increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "hits_total", "page", fmt.Sprint(n%10), "n", fmt.Sprint(n)), increment.Counter, nil)
				for _, ago := range []time.Duration{time.Hour, 30 * time.Minute, 2 * time.Minute} {
					b.Increments = append(b.Increments, increment.Increment{Series: s, Time: h.now.Add(-ago).Truncate(15 * time.Second).UnixMilli(), Value: 1})
				}
			}
			if _, err := h.db.Append(context.Background(), h.id(name), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

func (h *heavy) id(name string) tenant.ID {
	id, err := tenant.Parse(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// run runs a range query of an hour, with the present that storage has.
func (h *heavy) run(ctx context.Context, name, qs string) error {
	ctx = scope.With(ctx, scope.Scope{Tenant: h.id(name), Now: h.now.UnixMilli()})
	q, err := h.queries.NewRangeQuery(ctx, h.db, nil, qs, h.now.Add(-time.Hour), h.now, h.step)
	if err != nil {
		return err
	}
	defer q.Close()
	return q.Exec(ctx).Err
}

// A query over many series stops soon after its request is given up, whatever it does
// then: select, read, evaluate.
func TestHeavyQueryStopsWhenItIsCanceled(t *testing.T) {
	h := newHeavy(t, 20_000, "", "a")
	h.step = 5 * time.Minute
	const qs = `sum by (page) (rate(hits_total[5m])) / sum by (page) (hits_total)`
	var whole time.Duration
	for _, text := range []string{qs, qs + " + 0"} { // the first one makes postings
		began := time.Now()
		if err := h.run(t.Context(), "a", text); err != nil {
			t.Fatal(err)
		}
		whole = time.Since(began)
	}
	var worst time.Duration
	within, canceled := 0, 0
	const points = 8
	for i := range points {
		ctx, cancel := context.WithCancel(t.Context())
		var at time.Time
		timer := time.AfterFunc(whole*time.Duration(i)/points, func() {
			at = time.Now()
			cancel()
		})
		// A text of its own each time: the cache knows nothing of it.
		err := h.run(ctx, "a", fmt.Sprintf("%s + %d", qs, i+1))
		ended := time.Now()
		if timer.Stop() {
			cancel()
			continue // it was faster than the first one
		}
		<-ctx.Done()
		canceled++
		if _, ok := errors.AsType[upstream.ErrQueryCanceled](err); err != nil && !ok {
			t.Errorf("canceled after %s of %s: %v", whole*time.Duration(i)/points, whole, err)
		}
		took := ended.Sub(at)
		worst = max(worst, took)
		if took < 100*time.Millisecond {
			within++
		}
	}
	t.Logf("the whole query takes %s; %d of %d stopped within 100ms, the last after %s", whole, within, canceled, worst)
	// On a machine that does other things too a goroutine may not get its turn in time.
	if canceled < points/2 || 4*within < 3*canceled || worst > time.Second {
		t.Errorf("%d of %d stopped within 100ms, the last after %s", within, canceled, worst)
	}
}

// While one tenant has more heavy queries than can run at once, a light query of
// another is answered as if it were alone, but for the processors that they share.
func TestLightQueryDoesNotWaitForAnotherTenant(t *testing.T) {
	h := newHeavy(t, 20_000, "", "busy", "quiet")
	const light = `sum(increase(hits_total{n="7"}[1h]))`
	if err := h.run(t.Context(), "quiet", light); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var heavy sync.WaitGroup
	for i := range 40 {
		heavy.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				if err := h.run(ctx, "busy", fmt.Sprintf(`sum(rate(hits_total[10m])) + %d`, i*100_000+k)); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for h.gauge("waiting_queries") < 20 {
		runtime.Gosched()
	}
	var slowest time.Duration
	for i := range 10 {
		began := time.Now()
		if err := h.run(t.Context(), "quiet", fmt.Sprintf("%s + %d", light, i+1)); err != nil {
			t.Error(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	waiting := h.gauge("waiting_queries")
	cancel()
	heavy.Wait()
	t.Logf("beside %v heavy queries that wait, light ones of another tenant took at most %s", waiting, slowest)
	if waiting < 20 {
		t.Errorf("only %v queries wait in the end: nothing was busy", waiting)
	}
	if slowest > 2*time.Second {
		t.Errorf("a light query took %s", slowest)
	}
}

// The API answers a limit with its name and value, and the status of Prometheus's like.
func TestLimitsOfQueriesOverHTTP(t *testing.T) {
	h := newHeavy(t, 200, "  query_series: 100\n  query_samples: 1000\n  query_steps: 50\n  query_time: 1h\n", "a")
	server := httptest.NewServer(h.handler)
	defer server.Close()
	for _, tc := range []struct {
		path   string
		form   url.Values
		status int
		kind   string
		want   string
	}{
		{"query", url.Values{"query": {"hits_total"}}, 422, "execution",
			"the query selects too many series: limits.query_series of tenant a is 100"},
		{"query_range", url.Values{"query": {`hits_total{page=~"1|2"}`}, "step": {"120"}}, 422, "execution",
			"query processing would load too many samples into memory in query execution: limits.query_samples of tenant a is 1000"},
		{"query_range", url.Values{"query": {`hits_total{n="1"}`}, "step": {"60"}}, 400, "bad_data",
			`invalid parameter "query": the range has 60 steps, which is too many: limits.query_steps of tenant a is 50`},
		{"series", url.Values{"match[]": {"hits_total"}}, 422, "execution",
			"the query selects too many series: limits.query_series of tenant a is 100"},
		{"query_range", url.Values{"query": {`sum(hits_total{page="1"})`}, "step": {"120"}}, 200, "", ""},
		{"series", url.Values{"match[]": {`hits_total{page="1"}`}}, 200, "", ""},
		{"labels", url.Values{}, 200, "", ""},
	} {
		end := h.now
		tc.form.Set("start", fmt.Sprint(end.Add(-time.Hour).Unix()))
		tc.form.Set("end", fmt.Sprint(end.Unix()))
		if tc.path == "query" {
			tc.form.Set("time", fmt.Sprint(end.Unix()))
		}
		status, body := h.get(server.URL+"/api/v1/"+tc.path, tc.form)
		var got struct{ ErrorType, Error string }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s: %v: %s", tc.path, err, body)
		}
		if status != tc.status || got.ErrorType != tc.kind || !strings.HasSuffix(got.Error, tc.want) || (got.Error == "") != (tc.want == "") {
			t.Errorf("%s %v\n got %d %s: %s\nwant %d %s: %s", tc.path, tc.form, status, got.ErrorType, got.Error, tc.status, tc.kind, tc.want)
		}
	}
}

// stats=all has the same statistics for an answer that was known as for one that was
// computed, but for what was read.
func TestStatisticsOfACachedAnswerOverHTTP(t *testing.T) {
	h := newHeavy(t, 20, "", "a")
	server := httptest.NewServer(h.handler)
	defer server.Close()
	type stats struct {
		Timings map[string]float64
		Samples struct {
			TotalQueryableSamplesPerStep [][]float64
			TotalQueryableSamples        int
			SamplesRead                  int
		}
	}
	ask := func() (out stats) {
		_, body := h.get(server.URL+"/api/v1/query_range", url.Values{
			"query": {"rate(hits_total[5m])"}, "step": {"60"}, "stats": {"all"},
			"start": {fmt.Sprint(h.now.Add(-50 * time.Minute).Unix())}, "end": {fmt.Sprint(h.now.Add(-10 * time.Minute).Unix())},
		})
		var got struct{ Data struct{ Stats stats } }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return got.Data.Stats
	}
	// The server's present is the clock's, at which all of this is long settled.
	first, again := ask(), ask()
	if fmt.Sprint(first.Samples.TotalQueryableSamplesPerStep) != fmt.Sprint(again.Samples.TotalQueryableSamplesPerStep) ||
		len(first.Samples.TotalQueryableSamplesPerStep) != 41 || first.Samples.TotalQueryableSamples == 0 ||
		first.Samples.TotalQueryableSamples != again.Samples.TotalQueryableSamples {
		t.Errorf("statistics were %+v\nand are %+v", first.Samples, again.Samples)
	}
	if first.Samples.SamplesRead == 0 || again.Samples.SamplesRead != 0 {
		t.Errorf("read %d samples, then %d, want some, then none", first.Samples.SamplesRead, again.Samples.SamplesRead)
	}
	if _, ok := again.Timings["execTotalTime"]; !ok {
		t.Errorf("timings %v", again.Timings)
	}
}

// gauge is a metric of queries.
func (h *heavy) gauge(name string) float64 {
	families, err := h.metrics.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	h.t.Fatalf("there is no metric %s", name)
	return 0
}

func (h *heavy) get(address string, form url.Values) (status int, body []byte) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, address+"?"+form.Encode(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("X-Scope-OrgID", "a")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// Where one query runs and one may wait, of two more one is refused at once and the other
// when its time is over.
func TestFullQueue(t *testing.T) {
	h := newHeavy(t, 20, "  concurrent_queries: 1\n  queued_queries: 1\n  query_time: 200ms\n", "a")
	_, release, err := h.queries.Admit(scope.With(t.Context(), scope.Scope{Tenant: h.id("a"), Now: h.now.UnixMilli()}))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- h.run(t.Context(), "a", "hits_total") }()
	}
	for _, want := range []string{
		"too many queries wait for their turn: limits.queued_queries of tenant a is 1",
		"the query took too long: limits.query_time of tenant a is 200ms",
	} {
		err := <-errs
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, ok := errors.AsType[upstream.ErrQueryTimeout](err); !ok {
			t.Errorf("%v is not answered as a timeout", err)
		}
	}
}
