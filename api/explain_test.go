package api

import (
	"net/url"
	"strings"
	"testing"

	"github.com/quipudb/quipu/promql"
)

// A query is explained with the parameters that it is asked with, and what is wrong with
// it is said as then.
func TestExplainQuery(t *testing.T) {
	_, srv := newWorld(t, func(o *Options) {
		o.Engine = promql.NewEngine(promql.EngineOptions{Distinct: struct{ promql.DistinctSource }{}}) // of which nothing is asked
	})
	const path = "/api/v1/explain"
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", path + "?query=sum(m)&time=60", "", 200, `{"status":"success","data":{"cachedSteps":0,"runs":[{"start":60000,"end":60000,"step":0,"plan":{"expr":"sum(m)","start":0,"end":6,"direct":true,`},
		{"POST", path, "query=sum(m)&start=0&end=60&step=30", 200, `"runs":[{"start":0,"end":60000,"step":30000,"plan":{"expr":"sum(m)"`},
		{"POST", "/prometheus" + path, "query=abs(m)", 200, `"plan":{"expr":"abs(m)","start":0,"end":6,"direct":false,"parts":[{"expr":"m",`},
		{"GET", path, "", 400, `"errorType":"bad_data","error":"invalid parameter \"query\"`},
		{"GET", path + "?query=" + url.QueryEscape("sum("), "", 400, "parse error: unclosed left parenthesis"},
		{"GET", path + "?query=m&start=0&end=60", "", 400, `invalid parameter \"step\"`},
	} {
		code, got, h := call(t, srv, tc.method, tc.path, tc.body, form...)
		if code != tc.code || !strings.Contains(got, tc.want) || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %q: %d %s %s\nwant %d %s", tc.method, tc.path, tc.body, code, h.Get("Content-Type"), got, tc.code, tc.want)
		}
	}
}
