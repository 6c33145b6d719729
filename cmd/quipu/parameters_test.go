package main

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Parameters mean what they mean to Prometheus, in a query and in a form, over the server
// as it is put together.
func TestParameters(t *testing.T) {
	w := newLeakWorld(t, false)
	as := w.tenants[0]
	const instant, over = "/api/v1/query", "/api/v1/query_range?start={start}&end={end}&"
	for _, tc := range []struct {
		path string
		code int
		want string
	}{
		{instant + "?query=revenue_total&limit=1", 200, `"warnings":["results truncated due to limit"]`},
		{instant + "?query=revenue_total&limit=-1", 400, `invalid parameter \"limit\": limit must be non-negative`},
		{instant + "?query=revenue_total&limit=x", 400, `invalid parameter \"limit\"`},
		{instant + "?query=revenue_total&time=x", 400, `invalid parameter \"time\"`},
		{instant + "?query=1&time=2020-01-01T00:00:00Z", 200, `"result":[1577836800,"1"]`},
		{instant + "?query=revenue_total&stats=all", 200, `"peakSamples"`},
		{instant + "?query=revenue_total&stats=true", 200, `"evalTotalTime"`},
		{instant + "?query=revenue_total&stats=x", 200, `is deprecated`},
		{instant + "?query=revenue_total&lookback_delta=x", 400, `error parsing lookback delta duration`},
		{instant + "?query=revenue_total&timeout=x", 400, `invalid parameter \"timeout\"`},
		{instant + "?query=revenue_total&timeout=0", 400, `timeout must be positive`},
		{instant + "?query=count_over_time(vector(1)[30d:1s])&timeout=1ms", 503, `"errorType":"timeout"`},
		{instant + "?query=label_replace(revenue_total,%22a%22,%22%22,%22b%22,%22(%22)", 422, `"errorType":"execution"`},
		{instant + "?query=sum(", 400, `"errorType":"bad_data"`},
		{instant + "?query=rate(size_bytes_sum[5m])%20or%20histogram_quantile(2,size_bytes)", 200, `"warnings":["PromQL warning: quantile value should be between 0 and 1`},
		{instant + "?query=rate(visitors[5m])", 200, `"infos":["PromQL info: metric might not be a counter`},
		{over + "query=revenue_total&step=60&limit=1", 200, `"warnings":["results truncated due to limit"]`},
		{over + "query=revenue_total&step=0", 400, `zero or negative query resolution step widths are not accepted`},
		{over + "query=revenue_total&step=x", 400, `invalid parameter \"step\"`},
		{over + "query=revenue_total&step=0.1", 400, `exceeded maximum resolution of 11,000 points per timeseries`},
		{"/api/v1/query_range?query=1&start=2&end=1&step=1", 400, `end timestamp must not be before start time`},
		{"/api/v1/query_exemplars?query=revenue_total&start=2&end=1", 400, `end timestamp must not be before start timestamp`},
		{"/api/v1/query_exemplars?query=sum(", 400, `bad_data`},
		{"/api/v1/query_exemplars?query=1", 204, ``},
		{"/api/v1/format_query?query=sum(", 400, `invalid parameter \"query\"`},
		{"/api/v1/parse_query?query=sum(", 400, `invalid parameter \"query\"`},
		{"/api/v1/series", 400, `no match[] parameter provided`},
		{"/api/v1/series?match[]={}", 400, `match[] must contain at least one non-empty matcher`},
		{"/api/v1/series?match[]=revenue_total&limit=1", 200, `"warnings":["results truncated due to limit"]`},
		{"/api/v1/series?match[]=revenue_total&start=1&end=2", 200, `"data":[]`},
		{"/api/v1/series?match[]=revenue_total&start=x", 400, `invalid parameter \"start\"`},
		{"/api/v1/labels?limit=1", 200, `"data":["__name__"],"warnings":["results truncated due to limit"]`},
		{"/api/v1/labels?match[]={}", 400, `match[] must contain at least one non-empty matcher`},
		{"/api/v1/labels?start=1&end=2", 200, `"data":[]`},
	} {
		for _, method := range []string{"GET", "POST"} {
			path, body := w.fill(tc.path, as), ""
			if method == "POST" {
				path, body, _ = strings.Cut(path, "?")
			}
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w.dress(r, as)
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, r)
			if rec.Code != tc.code || !strings.Contains(rec.Body.String(), tc.want) {
				t.Errorf("%s %s: %d %.400s\nwant %d %s", method, tc.path, rec.Code, rec.Body, tc.code, tc.want)
			}
		}
	}
	for path, want := range map[string]string{
		"/api/v1/label/page/values?limit=1":                  `"data":["/zanzibar/0"],"warnings":["results truncated due to limit"]`,
		"/api/v1/label/U__page/values":                       `"data":["/zanzibar/0","/zanzibar/1"]`,
		"/api/v1/label/" + url.PathEscape("a b") + "/values": `"data":[]`,
		"/api/v1/metadata?limit=x":                           `limit must be a number`,
		"/api/v1/metadata?limit_per_metric=x":                `limit_per_metric must be a number`,
		"/api/v1/targets/metadata?limit=x":                   `limit must be a number`,
	} {
		if _, body, _ := w.do(as, leakRequest{method: "GET", path: path}); !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, want %s", path, body, want)
		}
	}
}

// lookback_delta says how old a sample may be.
func TestLookbackDelta(t *testing.T) {
	w := newLeakWorld(t, false)
	as := w.tenants[0]
	// Distinct ids show for 5 minutes; past that only the lookback has them.
	at := w.now.Add(6*time.Minute + 30*time.Second).UTC().Format(time.RFC3339)
	for delta, want := range map[string]string{"1s": `"result":[]`, "20m": "/zanzibar/"} {
		_, body, _ := w.do(as, leakRequest{method: "GET", path: "/api/v1/query?query=visitors&time=" + at + "&lookback_delta=" + delta})
		if !strings.Contains(string(body), want) {
			t.Errorf("lookback_delta=%s: %s, want %s", delta, body, want)
		}
	}
}
