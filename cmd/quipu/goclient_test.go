package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	remoteclient "github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// postEvents posts a body to a server and fails the test unless it is accepted.
func postEvents(t *testing.T, url, body string) {
	t.Helper()
	resp, err := http.Post(url+"/api/v1/events", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("post events: %s", resp.Status)
	}
}

// TestGoClient calls every method of Prometheus's own client for Go. A method that a new
// version adds fails the test until it is called here.
func TestGoClient(t *testing.T) {
	s := startServer(t)
	now := time.Now()
	for i := range 10 {
		at := now.Add(-time.Duration(i) * time.Minute).UnixMilli()
		postEvents(t, s.URL, fmt.Sprintf(`{"data":{"timestamp":%d,"correlation_id":"c%d","user_id":"u%d","further_data":{"event":"view","page":"/%d","amount":%d}}}`, at, i, i, i%2, i))
	}
	for _, base := range []string{s.URL, s.URL + "/prometheus"} {
		client, err := prom.NewClient(prom.Config{Address: base})
		if err != nil {
			t.Fatal(err)
		}
		calls := goClientCalls(v1.NewAPI(client), now)
		methods := reflect.TypeFor[v1.API]()
		for i := range methods.NumMethod() {
			name := methods.Method(i).Name
			call, ok := calls[name]
			if !ok {
				t.Errorf("the client has a method %s that is not called here", name)
				continue
			}
			got, err := call(t.Context())
			if text := fmt.Sprintf("%+v %v", got, err); !strings.Contains(text, goClientWants[name]) || goClientWants[name] == "" {
				t.Errorf("%s at %s: %s\nwant %s", name, base, text, goClientWants[name])
			}
		}
	}
}

// goClientWants are parts of what the methods return, result and error as text.
var goClientWants = map[string]string{
	"Alerts":          "{Alerts:[]} <nil>",
	"AlertManagers":   "{Active:[] Dropped:[]} <nil>",
	"CleanTombstones": "<nil> <nil>",
	"Config":          "global: {}",
	"DeleteSeries":    "<nil> <nil>",
	"Flags":           "map[] <nil>",
	"LabelNames":      "__name__, event, field, page <nil>",
	"LabelValues":     "[/0 /1] <nil>",
	"Query":           `{event="view", page="/0"} => 5 @`,
	"QueryRange":      `{event="view", page="/0"} =>`,
	"QueryExemplars":  `Labels:{correlation_id="c0"}`,
	"Buildinfo":       "Version:3.16.0",
	"Runtimeinfo":     "ReloadConfigSuccess:true",
	"Series":          `[{__name__="events_total", event="view", page="/0"} {__name__="events_total", event="view", page="/1"}] <nil>`,
	"Snapshot":        "{Name:20",
	"Rules":           "{Groups:[]} <nil>",
	"Targets":         "{Active:[] Dropped:[]} <nil>",
	"TargetsMetadata": "[] <nil>",
	"Metadata":        "map[events_total:[{Type:counter Help:Events by name and by the well-known fields they carry. Unit:}]] <nil>",
	"TSDB":            "SeriesCountByMetricName:[{Name:events_total Value:2}",
	"TSDBBlocks":      "NumSeries:4",
	"WalReplay":       "{Min:0 Max:0 Current:0} <nil>",
	"FormatQuery":     `"sum by (a) (b)" <nil>`,
}

// goClientCalls are by the names of the methods.
func goClientCalls(c v1.API, now time.Time) map[string]func(context.Context) (any, error) {
	start := now.Add(-time.Hour)
	views := []string{"events_total"}
	const counts = `sum by (event, page) (increase(events_total[1h] anchored))`
	return map[string]func(context.Context) (any, error){
		"Alerts":          func(ctx context.Context) (any, error) { return c.Alerts(ctx) },
		"AlertManagers":   func(ctx context.Context) (any, error) { return c.AlertManagers(ctx) },
		"CleanTombstones": func(ctx context.Context) (any, error) { return nil, c.CleanTombstones(ctx) },
		"Config":          func(ctx context.Context) (any, error) { return c.Config(ctx) },
		"DeleteSeries":    func(ctx context.Context) (any, error) { return nil, c.DeleteSeries(ctx, []string{"none"}, start, now) },
		"Flags":           func(ctx context.Context) (any, error) { return c.Flags(ctx) },
		"LabelNames": func(ctx context.Context) (any, error) {
			got, _, _, err := c.LabelNames(ctx, nil, start, now)
			return got, err
		},
		"LabelValues": func(ctx context.Context) (any, error) {
			got, _, _, err := c.LabelValues(ctx, "page", views, start, now)
			return got, err
		},
		"Query": func(ctx context.Context) (any, error) {
			got, _, _, err := c.Query(ctx, counts, now.Add(time.Minute), v1.WithTimeout(time.Minute), v1.WithLimit(10), v1.WithStats(v1.AllStatsValue), v1.WithLookbackDelta(time.Minute))
			return got, err
		},
		"QueryRange": func(ctx context.Context) (any, error) {
			got, _, _, err := c.QueryRange(ctx, counts, v1.Range{Start: start, End: now, Step: time.Minute})
			return got, err
		},
		"QueryExemplars": func(ctx context.Context) (any, error) {
			return c.QueryExemplars(ctx, "events_total", start, now.Add(time.Minute))
		},
		"Buildinfo":   func(ctx context.Context) (any, error) { return c.Buildinfo(ctx) },
		"Runtimeinfo": func(ctx context.Context) (any, error) { return c.Runtimeinfo(ctx) },
		"Series": func(ctx context.Context) (any, error) {
			got, _, _, err := c.Series(ctx, views, start, now.Add(time.Minute))
			return got, err
		},
		"Snapshot":        func(ctx context.Context) (any, error) { return c.Snapshot(ctx, true) },
		"Rules":           func(ctx context.Context) (any, error) { return c.Rules(ctx, nil) },
		"Targets":         func(ctx context.Context) (any, error) { return c.Targets(ctx) },
		"TargetsMetadata": func(ctx context.Context) (any, error) { return c.TargetsMetadata(ctx, "", "", "") },
		"Metadata":        func(ctx context.Context) (any, error) { return c.Metadata(ctx, "events_total", "") },
		"TSDB":            func(ctx context.Context) (any, error) { return c.TSDB(ctx, v1.WithLimit(5)) },
		"TSDBBlocks":      func(ctx context.Context) (any, error) { return c.TSDBBlocks(ctx) },
		"WalReplay":       func(ctx context.Context) (any, error) { return c.WalReplay(ctx) },
		"FormatQuery":     func(ctx context.Context) (any, error) { return c.FormatQuery(ctx, "sum(b)by(a)") },
	}
}

// Errors are those that the client tells apart.
func TestGoClientErrors(t *testing.T) {
	s := startServer(t)
	client, err := prom.NewClient(prom.Config{Address: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	c := v1.NewAPI(client)
	for _, tc := range []struct {
		expr string
		opts []v1.Option
		want v1.ErrorType
	}{
		{"sum(", nil, v1.ErrBadData},
		{`label_replace(vector(1), "a", "$1", "b", "(")`, nil, v1.ErrExec},
		{`count_over_time(vector(1)[30d:1s])`, []v1.Option{v1.WithTimeout(time.Millisecond)}, v1.ErrServer},
	} {
		_, _, _, err := c.Query(t.Context(), tc.expr, time.Now(), tc.opts...)
		if got, ok := err.(*v1.Error); !ok || got.Type != tc.want {
			t.Errorf("%s: %v, want %s", tc.expr, err, tc.want)
		}
	}
	_, warnings, infos, err := c.Query(t.Context(), `rate(vector(1)[5m:1m]) or histogram_quantile(2, vector(1))`, time.Now())
	if err != nil || len(warnings)+len(infos) == 0 {
		t.Errorf("warnings %q, infos %q, %v", warnings, infos, err)
	}
	if v, _, _, err := c.Query(t.Context(), "1", time.Time{}); err != nil || v.Type() != model.ValScalar {
		t.Errorf("without a time: %v %v", v, err)
	}
}

// TestRemoteRead reads as a Prometheus does that has Quipu as a remote_read.
func TestRemoteRead(t *testing.T) {
	s := startServer(t)
	now := time.Now()
	for i := range 3 {
		postEvents(t, s.URL, fmt.Sprintf(`{"data":{"timestamp":%d,"further_data":{"event":"view","page":"/%d"}}}`, now.Add(-time.Minute).UnixMilli(), i%2))
	}
	read := func(accepted ...prompb.ReadRequest_ResponseType) (storage.SeriesSet, error) {
		url, err := url.Parse(s.URL + "/api/v1/read")
		if err != nil {
			t.Fatal(err)
		}
		c, err := remoteclient.NewReadClient("quipu", &remoteclient.ClientConfig{
			URL: &config.URL{URL: url}, Timeout: model.Duration(time.Minute), ChunkedReadLimit: 1 << 20, AcceptedResponseTypes: accepted,
		})
		if err != nil {
			t.Fatal(err)
		}
		q, err := remoteclient.ToQuery(now.Add(-time.Hour).UnixMilli(), now.UnixMilli(), []*labels.Matcher{
			labels.MustNewMatcher(labels.MatchEqual, "__name__", "events_total"), labels.MustNewMatcher(labels.MatchNotEqual, "page", "/1"),
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Read(t.Context(), q, true)
	}
	set, err := read() // it prefers chunks
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for set.Next() {
		highest := 0.0
		for it := set.At().Iterator(nil); it.Next() == chunkenc.ValFloat; {
			if _, v := it.At(); v > highest {
				highest = v
			}
		}
		got += fmt.Sprintln(set.At().Labels(), highest)
	}
	if want := "{__name__=\"events_total\", event=\"view\", page=\"/0\"} 2\n"; got != want || set.Err() != nil {
		t.Errorf("%s%v, want %s", got, set.Err(), want)
	}
	if _, err := read(prompb.ReadRequest_STREAMED_XOR_CHUNKS); err == nil || !strings.Contains(err.Error(), "accept samples") {
		t.Errorf("a client that takes nothing but chunks: %v", err)
	}
}
