package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/tenant"
)

// newFederatedWorld has series of tenant a: samples are at the present where nothing else
// is said.
func newFederatedWorld(t *testing.T, change func(*Options)) *httptest.Server {
	t.Helper()
	w, srv := newWorld(t, change)
	id, err := tenant.Parse("a")
	if err != nil {
		t.Fatal(err)
	}
	app := w.storages[id].Appender(context.Background())
	float := func(at int64, v float64, ls ...string) {
		if _, err := app.Append(0, labels.FromStrings(ls...), at, v); err != nil {
			t.Fatal(err)
		}
	}
	native := func(h *histogram.Histogram, ls ...string) {
		if _, err := app.AppendHistogram(0, labels.FromStrings(ls...), present, h, nil); err != nil {
			t.Fatal(err)
		}
	}
	float(present-60_000, 1, "__name__", "views_total", "page", "/")
	float(present-1, 2, "__name__", "views_total", "page", "/")
	float(present-299_999, 3, "__name__", "views_total", "page", "/old", "instance", "i")
	float(present-300_001, 4, "__name__", "views_total", "page", "/too_old")
	float(present-2, 5, "__name__", "gone_total")
	float(present-1, math.Float64frombits(value.StaleNaN), "__name__", "gone_total")
	float(present+1, 6, "__name__", "future_total")
	float(present, 7, "page", "without a name")
	native(&histogram.Histogram{
		Count: 6, Sum: 12.5, Schema: histogram.CustomBucketsSchema, CustomValues: []float64{1, 2, 5},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 1}, {Offset: 1, Length: 2}}, PositiveBuckets: []int64{1, 1, 1},
	}, "__name__", "load_seconds")
	native(&histogram.Histogram{
		Count: 3, Sum: 4, ZeroThreshold: 0.001, ZeroCount: 1,
		PositiveSpans: []histogram.Span{{Offset: 2, Length: 1}}, PositiveBuckets: []int64{1},
		NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{1},
	}, "__name__", "size_bytes")
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return srv
}

func TestFederate(t *testing.T) {
	srv := newFederatedWorld(t, nil)
	at := fmt.Sprint(present)
	for _, tc := range []struct{ query, want string }{
		{"", ""},
		{"?match[]=views_total", `# TYPE views_total untyped
views_total{instance="i",page="/old"} 3 1699999700124
views_total{page="/",instance=""} 2 1700000000122`},
		{`?match[]=views_total{page="/"}&match[]={page=~"/|/old"}`, `# TYPE views_total untyped
views_total{instance="i",page="/old"} 3 1699999700124
views_total{page="/",instance=""} 2 1700000000122`},
		{"?match[]=gone_total", ""},
		{"?match[]=future_total", ""},
		{`?match[]={page="without%20a%20name"}`, ""},
		{"?match[]=load_seconds", `# TYPE load_seconds histogram
load_seconds_bucket{instance="",le="1"} 1 ` + at + `
load_seconds_bucket{instance="",le="2"} 1 ` + at + `
load_seconds_bucket{instance="",le="5"} 3 ` + at + `
load_seconds_bucket{instance="",le="+Inf"} 6 ` + at + `
load_seconds_sum{instance=""} 12.5 ` + at + `
load_seconds_count{instance=""} 6 ` + at},
		{"?match[]=size_bytes", ""}, // the text format has no native histograms
	} {
		for _, prefix := range []string{"", "/prometheus"} {
			code, got, header := call(t, srv, "GET", prefix+"/federate"+tc.query, "", "X-Scope-OrgID", "a")
			if code != 200 || got != tc.want || header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8; escaping=underscores" {
				t.Errorf("%s: %d %s %v\nwant %s", tc.query, code, got, header["Content-Type"], tc.want)
			}
		}
	}
	if code, got, _ := call(t, srv, "GET", "/federate?match[]=)", "", "X-Scope-OrgID", "a"); code != 400 || !strings.Contains(got, "parse error") {
		t.Errorf("a selector that is wrong: %d %s", code, got)
	}
	if code, got, _ := call(t, srv, "GET", "/federate?match[]=views_total", "", "X-Scope-OrgID", "b"); code != 200 || got != "" {
		t.Errorf("of another tenant: %d %s", code, got)
	}
}

// Prometheus asks for protobuf where it wants native histograms.
func TestFederateProtobuf(t *testing.T) {
	srv := newFederatedWorld(t, nil)
	req, err := http.NewRequest("GET", srv.URL+`/federate?match[]={__name__!=""}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Scope-OrgID", "a")
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,text/plain;q=0.1")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dec := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
	var got []string
	for {
		f := &dto.MetricFamily{}
		if err := dec.Decode(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(f.GetName(), " ", f.GetType(), " ", len(f.GetMetric())))
		if f.GetName() == "size_bytes" {
			h := f.GetMetric()[0].GetHistogram()
			if h.GetSampleCountFloat() != 3 || h.GetSampleSum() != 4 || h.GetSchema() != 0 || h.GetZeroCountFloat() != 1 ||
				fmt.Sprint(h.GetPositiveSpan(), h.GetPositiveCount(), h.GetNegativeSpan(), h.GetNegativeCount()) == "" || h.GetPositiveSpan()[0].GetOffset() != 2 || h.GetPositiveCount()[0] != 1 || h.GetNegativeCount()[0] != 1 {
				t.Errorf("the native histogram is %v", h)
			}
		}
	}
	if want := []string{"load_seconds HISTOGRAM 1", "of_a UNTYPED 1", "size_bytes HISTOGRAM 1", "views_total UNTYPED 2"}; !slices.Equal(got, want) {
		t.Errorf("families %q, want %q", got, want)
	}
}

// bounded admits requests with a budget.
type bounded struct{ samples int }

func (b bounded) Admit(ctx context.Context) (context.Context, func(), error) {
	return budget.With(ctx, &budget.Query{Tenant: tenant.Default, SamplesMax: b.samples}), func() {}, nil
}

func TestFederateIsBounded(t *testing.T) {
	for samples, want := range map[int]int{2: 200, 1: 422} {
		srv := newFederatedWorld(t, func(o *Options) { o.Admission = bounded{samples} })
		code, got, _ := call(t, srv, "GET", "/federate?match[]=views_total", "", "X-Scope-OrgID", "a")
		if code != want || want == 422 && !strings.Contains(got, "limits.query_samples of tenant default is 1") {
			t.Errorf("with room for %d samples: %d %s", samples, code, got)
		}
		if code, got, _ := call(t, srv, "GET", "/federate?match[]=load_seconds", "", "X-Scope-OrgID", "a"); code != 422 {
			t.Errorf("a histogram in the room of %d samples: %d %s", samples, code, got)
		}
	}
}

// A series that cannot be read does not go missing unnoticed.
func TestFederateFailsWhereAReadDoes(t *testing.T) {
	torn := errors.New("a chunk is torn")
	srv := newFederatedWorld(t, func(o *Options) { o.Storage = failing{torn} })
	if code, got, _ := call(t, srv, "GET", "/federate?match[]=x", ""); code != 500 || !strings.Contains(got, torn.Error()) {
		t.Errorf("%d %s", code, got)
	}
}

type failing struct{ err error }

func (f failing) Querier(int64, int64) (storage.Querier, error) {
	q := storage.MockQuerier{SelectMockFunction: func(bool, *storage.SelectHints, ...*labels.Matcher) storage.SeriesSet {
		return storage.TestSeriesSet(&storage.SeriesEntry{
			Lset:             labels.FromStrings("__name__", "x"),
			SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return failingIterator{chunkenc.NewNopIterator(), f.err} },
		})
	}}
	return &q, nil
}

type failingIterator struct {
	chunkenc.Iterator
	err error
}

func (it failingIterator) Err() error { return it.err }
