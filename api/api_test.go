package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

const present = int64(1_700_000_000_123)

// world is what an api stands on: a storage for each of the tenants default, a
// and b, and a store that counts the events it is given.
type world struct {
	storages map[tenant.ID]*teststorage.TestStorage

	mu       sync.Mutex
	appended map[tenant.ID]float64 // increments of events_total
	keys     map[[16]byte]bool
	fail     error // of the store
	notReady error
	broken   error // of Tenants
	scopes   []scope.Scope
	asked    []string // of Inventory and Admin
}

func (w *world) Tenant(tenant.ID) (tenant.Profile, error) {
	return tenant.Profile{Settings: tenant.DefaultSettings()}, nil
}

func (w *world) Reserve([][16]byte) (increment.Reservation, error) {
	return nil, errors.New("no event has an id here")
}

func (w *world) Append(_ context.Context, id tenant.ID, b *increment.Batch) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return false, w.fail
	}
	if b.HasKey && w.keys[b.Key] {
		return true, nil
	}
	if b.HasKey {
		w.keys[b.Key] = true
	}
	for _, inc := range b.Increments {
		if inc.Labels.Get(model.MetricNameLabel) == "events_total" {
			w.appended[id] += inc.Value
		}
	}
	return false, nil
}

func (w *world) DataRange(_ context.Context, id tenant.ID) (mint, maxt int64, ok bool, err error) {
	return 1000, 2000, id != tenant.Default, w.broken
}

func (w *world) Metrics(_ context.Context, id tenant.ID) ([]Metric, error) {
	return []Metric{
		{Name: "events_total", Type: model.MetricTypeCounter, Help: "Events of " + id.String() + "."},
		{Name: "event_value", Type: model.MetricTypeHistogram, Help: "Values."},
	}, w.broken
}

// ExemplarQuerier has one exemplar for each tenant.
func (w *world) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	s, ok := scope.From(ctx)
	if !ok {
		return nil, errors.New("no scope")
	}
	return exemplarsOf{s.Tenant}, nil
}

type exemplarsOf struct{ id tenant.ID }

func (e exemplarsOf) Select(int64, int64, ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return []exemplar.QueryResult{{
		SeriesLabels: labels.FromStrings(model.MetricNameLabel, "events_total"),
		Exemplars:    []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", "of "+e.id.String()), Value: 1, Ts: present}},
	}}, nil
}

// Querier returns a querier that finds its tenant when it is called.
func (w *world) Querier(mint, maxt int64) (storage.Querier, error) {
	return &lazyQuerier{world: w, mint: mint, maxt: maxt}, nil
}

type lazyQuerier struct {
	world      *world
	mint, maxt int64
}

func (q *lazyQuerier) open(ctx context.Context) (storage.Querier, error) {
	s, ok := scope.From(ctx)
	if !ok {
		return nil, errors.New("no scope")
	}
	q.world.mu.Lock()
	q.world.scopes = append(q.world.scopes, s)
	q.world.mu.Unlock()
	return q.world.storages[s.Tenant].Querier(q.mint, q.maxt)
}

func (q *lazyQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if ms[0].Value == "panic" {
		panic("a selector of the metric panic")
	}
	inner, err := q.open(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	return inner.Select(ctx, sorted, hints, ms...)
}

func (q *lazyQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	inner, err := q.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return inner.LabelValues(ctx, name, hints, ms...)
}

func (q *lazyQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	inner, err := q.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return inner.LabelNames(ctx, hints, ms...)
}

func (q *lazyQuerier) Close() error { return nil }

// newWorld starts a server; the change is made to its options.
func newWorld(t testing.TB, change func(*Options)) (*world, *httptest.Server) {
	t.Helper()
	w := &world{storages: map[tenant.ID]*teststorage.TestStorage{}, appended: map[tenant.ID]float64{}, keys: map[[16]byte]bool{}}
	for _, name := range []string{"default", "a", "b"} {
		id, err := tenant.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		st := teststorage.New(t)
		w.storages[id] = st
		app := st.Appender(context.Background())
		for i := int64(9); i >= 0; i-- {
			if _, err := app.Append(0, labels.FromStrings("__name__", "of_"+name, "tenant", name), present-i*15_000, 7); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewRegistry()
	ingester, err := ingest.New(ingest.Options{Store: w, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	p := parser.NewParser(parser.Options{})
	o := Options{
		Events: ingester, Rules: ingester, Parser: p, Storage: w, Exemplars: w, Tenants: w, Inventory: w, Admin: w, Backups: w, Registry: registry, TenantHeader: "X-Scope-OrgID",
		Engine:       promql.NewEngine(promql.EngineOpts{MaxSamples: 1000, Timeout: time.Minute, Parser: p, EnableAtModifier: true}),
		Now:          func() time.Time { return time.UnixMilli(present) },
		Ready:        func() error { return w.notReady },
		UI:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "the page at ", r.URL.Path) }),
		Version:      "1.2.3",
		Revision:     "abcdef",
		BodyBytesMax: 1000, DecodedBytesMax: 2000,
	}
	if change != nil {
		change(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return w, srv
}

// call sends a request; headers are pairs of name and value.
func call(t *testing.T, srv *httptest.Server, method, path, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(bytes.TrimSpace(b)), resp.Header
}

// Every route answers at / and at /prometheus, and alike.
func TestRoutes(t *testing.T) {
	w, srv := newWorld(t, nil)
	at := fmt.Sprintf("%.3f", float64(present)/1000)
	for _, tc := range []struct {
		method, path string
		code         int
		want         string // in the body
	}{
		{"GET", "/-/healthy", 200, "Quipu is healthy."},
		{"GET", "/-/ready", 200, "Quipu is ready."},
		{"GET", "/metrics", 200, "quipu_api_requests_total"},
		{"POST", "/api/v1/events", 200, `{"accepted":1,"duplicate":0,"filtered":0,"rejected":0,"errors":[]}`},
		{"GET", "/api/v1/events", 405, `"error":"events are sent with POST, not GET"`},
		{"GET", "/api/v1/status/range", 200, `{"status":"success","data":null}`},
		{"DELETE", "/api/v1/status/range", 405, "not DELETE"},
		{"GET", "/api/v1/query?query=of_default", 200, `"value":[` + at + `,"7"]`},
		{"POST", "/api/v1/query?query=of_default", 200, `"value":[` + at + `,"7"]`},
		{"GET", "/api/v1/query?query=of_default&time=1700000000", 200, `"value":[1700000000,"7"]`},
		{"GET", "/api/v1/query?query=)", 400, `"errorType":"bad_data"`},
		{"GET", "/api/v1/query_range?query=of_default&start=1699999980&end=1700000000&step=10", 200, `[1699999990,"7"]`},
		{"GET", "/api/v1/query_exemplars?query=of_default", 200, `"exemplars":[{"labels":{"trace_id":"of default"},"value":"1","timestamp":1700000000.123}]`},
		{"GET", "/api/v1/format_query?query=sum(a)by(b)", 200, `sum by (b) (a)`},
		{"GET", "/api/v1/parse_query?query=a", 200, `"vectorSelector"`},
		{"GET", "/api/v1/series?match[]=of_default", 200, `[{"__name__":"of_default","tenant":"default"}]`},
		{"GET", "/api/v1/labels", 200, `["__name__","tenant"]`},
		{"GET", "/api/v1/label/tenant/values", 200, `["default"]`},
		{"GET", "/api/v1/metadata", 200, `"events_total":[{"type":"counter","unit":"","help":"Events of default."}]`},
		{"GET", "/api/v1/metadata?metric=event_value", 200, `{"event_value":[{"type":"histogram","unit":"","help":"Values."}]}`},
		{"GET", "/api/v1/metadata?metric=none", 200, `"data":{}`},
		{"GET", "/api/v1/rules", 200, `{"status":"success","data":{"groups":[]}}`},
		{"GET", "/api/v1/rules?type=alert", 200, `{"groups":[]}`},
		{"GET", "/api/v1/alerts", 200, `{"alerts":[]}`},
		{"GET", "/api/v1/targets", 200, `"activeTargets":[]`},
		{"GET", "/api/v1/targets/metadata", 200, `"data":[]`},
		{"GET", "/api/v1/targets/relabel_steps?scrapePool=x&labels={}", 400, `there is no scrape pool`},
		{"GET", "/api/v1/scrape_pools", 200, `{"scrapePools":[]}`},
		{"GET", "/api/v1/alertmanagers", 200, `"activeAlertmanagers":[]`},
		{"GET", "/api/v1/status/buildinfo", 200, `"version":"3.16.0","revision":"abcdef","branch":"quipu-1.2.3"`},
		{"GET", "/api/v1/status/runtimeinfo", 200, `"startTime":"2023-11-14T22:13:20.123Z"`},
		{"GET", "/api/v1/status/config", 200, `"yaml"`},
		{"GET", "/api/v1/status/flags", 200, `"data":{}`},
		{"GET", "/api/v1/status/tsdb", 200, `{"status":"success","data":{"headStats":{"numSeries":10,`},
		{"GET", "/api/v1/status/tsdb/blocks", 200, `{"status":"success","data":{"blocks":[]}}`},
		{"GET", "/api/v1/status/walreplay", 200, `{"status":"success","data":{"min":0,"max":0,"current":0}}`},
		{"GET", "/federate?match[]=of_default", 200, `of_default{tenant="default",instance=""} 7 1700000000123`},
		{"GET", "/api/v1/status/self_metrics", 200, `"data":[]`},
		{"GET", "/api/v1/features", 200, `"api":{"admin":true,"exclude_alerts":true,`},
		{"GET", "/api/v1/notifications", 200, `"data":[]`},
		{"GET", "/api/v1/notifications/live", 204, ""},
		{"POST", "/api/v1/admin/tsdb/delete_series?match[]=of_default", 204, ``},
		{"PUT", "/api/v1/admin/tsdb/snapshot", 200, `{"status":"success","data":{"name":"snapshot-of-default"}}`},
		{"POST", "/api/v1/admin/tsdb/clean_tombstones", 204, ``},
		{"GET", "/api/v1/admin/tsdb/snapshot", 405, `takes POST, PUT, not GET`},
		{"POST", "/api/v1/status/tsdb", 405, `takes GET, HEAD, not POST`},
		{"POST", "/api/v1/write", 404, `"errorType":"not_found","error":"there is nothing at \"/api/v1/write\""`},
		{"POST", "/api/v1/otlp/v1/metrics", 404, `"errorType":"not_found"`},
		{"GET", "/api/v1/nothing", 404, `{"status":"error","errorType":"not_found","error":"there is nothing at \"/api/v1/nothing\""}`},
		{"GET", "/api/", 404, `"errorType":"not_found"`},
	} {
		for _, prefix := range []string{"", "/prometheus"} {
			t.Run(tc.method+" "+prefix+tc.path, func(t *testing.T) {
				body := ""
				if tc.path == "/api/v1/events" {
					body = `{}`
				}
				code, got, _ := call(t, srv, tc.method, prefix+tc.path, body)
				if code != tc.code || !strings.Contains(got, tc.want) {
					t.Errorf("got %d %s\nwant %d and %s", code, got, tc.code, tc.want)
				}
			})
		}
	}
	if got := w.appended[tenant.Default]; got != 2 {
		t.Errorf("%v events stored, want one by each of two routes", got)
	}
	for _, path := range []string{"/", "/graph", "/metrics/more"} {
		if code, got, _ := call(t, srv, "GET", path, ""); code != 200 || got != "the page at "+path {
			t.Errorf("GET %s: %d %s", path, code, got)
		}
	}
	if code, _, _ := call(t, srv, "POST", "/graph", ""); code != 404 {
		t.Errorf("POST of a page: %d", code)
	}
}

// The version that Grafana reads is that of the module built in.
func TestPrometheusVersion(t *testing.T) {
	gomod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`github.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`).FindSubmatch(gomod)
	if m == nil {
		t.Fatal("go.mod does not require github.com/prometheus/prometheus")
	}
	want := fmt.Sprintf("%s.%s.%s", m[1], bytes.TrimLeft(m[2], "0"), m[3])
	if prometheusVersion != want {
		t.Errorf("buildinfo says %s, go.mod %s", prometheusVersion, want)
	}
}

func TestTenantsSeeOnlyTheirs(t *testing.T) {
	w, srv := newWorld(t, nil)
	a, b := "X-Scope-OrgID", "x-scope-orgid"
	for _, tc := range []struct{ path, inA, inB, never string }{
		{"/api/v1/label/tenant/values", `["a"]`, `["b"]`, "default"},
		{"/api/v1/query_exemplars?query=x", `"of a"`, `"of b"`, "default"},
		{"/api/v1/series?match[]=" + url.QueryEscape(`{__name__!=""}`), `"of_a"`, `"of_b"`, "default"},
		{"/api/v1/query?query=" + url.QueryEscape(`{tenant!=""}`), `"of_a"`, `"of_b"`, "default"},
		{"/api/v1/metadata", "Events of a.", "Events of b.", "default"},
		{"/api/v1/status/range", `{"minTime":1000,"maxTime":2000}`, `{"minTime":1000,"maxTime":2000}`, "null"},
	} {
		for header, want := range map[string]string{a: tc.inA, b: tc.inB} {
			id := map[string]string{a: "a", b: "b"}[header]
			code, got, _ := call(t, srv, "GET", tc.path, "", header, id)
			if code != 200 || !strings.Contains(got, want) || strings.Contains(got, tc.never) || tc.inA != tc.inB && strings.Contains(got, map[string]string{a: tc.inB, b: tc.inA}[header]) {
				t.Errorf("%s as %s: %d %s", tc.path, id, code, got)
			}
		}
	}
	call(t, srv, "POST", "/api/v1/events", `[{},{}]`, a, "a")
	call(t, srv, "POST", "/prometheus/api/v1/events", `{}`, b, "b")
	if fmt.Sprint(w.appended) != "map[a:2 b:1]" {
		t.Errorf("events stored: %v", w.appended)
	}
	for _, s := range w.scopes {
		if s.Now != present {
			t.Errorf("a query saw the present as %d", s.Now)
		}
	}
	for _, headers := range [][]string{{a, "../b"}, {a, ""}, {a, "."}, {a, "a|b"}, {a, "a", a, "b"}} {
		for _, path := range []string{"/api/v1/labels", "/prometheus/api/v1/status/range", "/api/v1/metadata"} {
			if code, got, _ := call(t, srv, "GET", path, "", headers...); code != 400 || !strings.Contains(got, a) {
				t.Errorf("%s with %q: %d %s", path, headers, code, got)
			}
		}
	}
}

// Who names a tenant must not be answered for another one.
func TestTenantsAreRefusedWithoutATenantHeader(t *testing.T) {
	w, srv := newWorld(t, func(o *Options) { o.TenantHeader = "" })
	h := "X-Scope-OrgID"
	for _, headers := range [][]string{nil, {h, "default"}, {h, ""}} {
		if code, got, _ := call(t, srv, "GET", "/api/v1/label/tenant/values", "", headers...); code != 200 || !strings.Contains(got, `["default"]`) {
			t.Errorf("with %q: %d %s", headers, code, got)
		}
	}
	for _, headers := range [][]string{{h, "a"}, {h, "default", h, "a"}, {h, "../x"}} {
		for _, path := range []string{"/api/v1/label/tenant/values", "/prometheus/api/v1/status/range", "/api/v1/query?query=1"} {
			code, got, cors := call(t, srv, "GET", path, "", append(headers, "Origin", "http://example.org")...)
			if code != 400 || !strings.Contains(got, "start it with --tenant.header=X-Scope-OrgID") || cors.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s with %q: %d %s", path, headers, code, got)
			}
		}
	}
	if code, got, _ := call(t, srv, "POST", "/api/v1/events", "{}", h, "a"); code != 400 || len(w.appended) > 0 {
		t.Errorf("events: %d %s, stored %v", code, got, w.appended)
	}
	for _, path := range []string{"/-/ready", "/metrics", "/"} {
		if code, got, _ := call(t, srv, "GET", path, "", h, "a"); code != 200 {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}

func TestNotReady(t *testing.T) {
	w, srv := newWorld(t, nil)
	w.notReady = errors.New("3 of 9 segments are replayed")
	for _, path := range []string{"/-/ready", "/api/v1/query?query=1", "/api/v1/status/range", "/prometheus/api/v1/metadata"} {
		if code, got, _ := call(t, srv, "GET", path, ""); code != 503 || !strings.Contains(got, "3 of 9 segments are replayed") {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
	if code, _, h := call(t, srv, "POST", "/api/v1/events", "{}"); code != 503 || h.Get("Retry-After") == "" || len(w.appended) > 0 {
		t.Errorf("events: %d, Retry-After %q, stored %v", code, h.Get("Retry-After"), w.appended)
	}
	if code, _, _ := call(t, srv, "GET", "/-/healthy", ""); code != 200 {
		t.Errorf("healthy: %d", code)
	}
}

func TestErrorsOfTenants(t *testing.T) {
	w, srv := newWorld(t, nil)
	w.broken = errors.New("manifest is torn")
	for _, path := range []string{"/api/v1/status/range", "/api/v1/metadata"} {
		code, got, _ := call(t, srv, "GET", path, "")
		var f failure
		if err := json.Unmarshal([]byte(got), &f); err != nil || code != 500 || f.Status != "error" || f.ErrorType != "internal" || !strings.Contains(f.Error, "tenant default: manifest is torn") {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}

// A page of any origin may read, as it may from Prometheus.
func TestCORS(t *testing.T) {
	_, srv := newWorld(t, nil)
	for _, tc := range []struct{ method, path string }{
		{"GET", "/api/v1/labels"}, {"GET", "/api/v1/status/range"}, {"GET", "/api/v1/nothing"},
		{"OPTIONS", "/api/v1/query"},
	} {
		_, _, h := call(t, srv, tc.method, tc.path, "{}", "Origin", "http://example.org")
		if got := h.Get("Access-Control-Allow-Origin"); got != "*" {
			t.Errorf("%s %s: allowed origin %q", tc.method, tc.path, got)
		}
	}
}

// A page of any origin may post events, in every format: a browser asks before it posts
// with headers that are not plain ones, and a beacon sends the page's cookies.
func TestCORSOfEvents(t *testing.T) {
	_, srv := newWorld(t, nil)
	allowed := map[string]string{"/prometheus/api/v1/events": "POST, OPTIONS"}
	for _, f := range ingest.Formats() {
		for _, path := range f.Paths {
			if f.InQuery {
				allowed[path] = "GET, POST, OPTIONS"
			} else if allowed[path] == "" {
				allowed[path] = "POST, OPTIONS"
			}
		}
	}
	for path, methods := range allowed {
		for _, method := range []string{"OPTIONS", "POST"} {
			code, _, h := call(t, srv, method, path, "{}", "Origin", "http://example.org",
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-encoding,idempotency-key")
			if h.Get("Access-Control-Allow-Origin") != "http://example.org" || h.Get("Access-Control-Allow-Credentials") != "true" || !strings.Contains(h.Get("Vary"), "Origin") {
				t.Errorf("%s %s: %v", method, path, h)
			}
			if method == "OPTIONS" && (code != 204 || h.Get("Access-Control-Allow-Methods") != methods || h.Get("Access-Control-Allow-Headers") != "content-encoding,idempotency-key") {
				t.Errorf("%s %s: %d, %v", method, path, code, h)
			}
		}
	}
	if _, _, h := call(t, srv, "OPTIONS", "/api/v1/query", "", "Origin", "http://example.org"); strings.Contains(h.Get("Access-Control-Allow-Headers"), "Idempotency-Key") {
		t.Error("queries have no idempotency key")
	}
	if _, _, h := call(t, srv, "OPTIONS", "/api/v1/events", ""); h.Get("Access-Control-Allow-Headers")+h.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a request of no other origin is told what other origins may do")
	}
}

func TestPanicIsAnError(t *testing.T) {
	_, srv := newWorld(t, func(o *Options) {
		o.UI = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				fmt.Fprint(w, "half an ans")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
			panic("a page")
		})
	})
	if code, got, _ := call(t, srv, "GET", "/page", ""); code != 500 || !strings.Contains(got, `"errorType":"internal"`) || strings.Contains(got, "a page") {
		t.Errorf("%d %s", code, got)
	}
	resp, err := srv.Client().Get(srv.URL + "/late")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("an answer that broke off looks whole")
	}
	if code, got, _ := call(t, srv, "GET", "/api/v1/query?query=panic", ""); code != 500 || strings.Contains(got, "selector") {
		t.Errorf("a panic in a query: %d %s", code, got)
	}
	if _, got, _ := call(t, srv, "GET", "/metrics", ""); !strings.Contains(got, `quipu_api_requests_total{code="500",handler="ui"} 1`) {
		t.Errorf("the panic is not counted: %s", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no options, no error")
	}
	var o Options
	newWorld(t, func(given *Options) { o = *given })
	o.Registry, o.BodyBytesMax = prometheus.NewRegistry(), -1
	if _, err := New(o); err == nil {
		t.Error("a negative bound, no error")
	}
}
