package main

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/quipudb/quipu/ingest"
)

func sortedPaths(rows map[string][]leakRequest) []string { return slices.Sorted(maps.Keys(rows)) }

// leakMatrix is what is asked of each route.
func leakMatrix() map[string][]leakRequest {
	out := map[string][]leakRequest{}
	for _, part := range []map[string][]leakRequest{leakQueries(), leakLabels(), leakStatus(), leakEvents(), leakAdmin()} {
		maps.Copy(out, part)
	}
	return out
}

// get is a GET with parameters, which are pairs of name and value.
func get(own, path string, params ...string) leakRequest {
	return leakRequest{method: "GET", path: path + query(params), own: own}
}

// ofProcess is a GET of what is not one tenant's.
func ofProcess(own, path string) leakRequest {
	return leakRequest{method: "GET", path: path, own: own, process: true}
}

// post is get as a form.
func post(own, path string, params ...string) leakRequest {
	return leakRequest{method: "POST", path: path, body: form(params), contentType: "application/x-www-form-urlencoded", own: own}
}

func query(params []string) string {
	if len(params) == 0 {
		return ""
	}
	return "?" + form(params)
}

// form leaves { and } of what is filled in later as they are.
func form(params []string) string {
	out := ""
	for i := 0; i < len(params); i += 2 {
		if i > 0 {
			out += "&"
		}
		out += url.QueryEscape(params[i]) + "=" + escapeButMarks(params[i+1])
	}
	return out
}

// escapeButMarks is url.QueryEscape, but for the marks that are filled in later.
func escapeButMarks(s string) string {
	s = url.QueryEscape(s)
	for _, mark := range []string{"me", "other", "number", "start", "end"} {
		s = strings.ReplaceAll(s, "%7B"+mark+"%7D", "{"+mark+"}")
	}
	return s
}

const (
	anySeries = `{__name__=~".+"}`
	noneFound = `"result":[]`
)

// over are the times of a range.
func over(expr string) []string {
	return []string{"query", expr, "start", "{start}", "end", "{end}", "step", "60"}
}

// leakQueries are those of PromQL.
func leakQueries() map[string][]leakRequest {
	const q, r, e = "/api/v1/query", "/api/v1/query_range", "/api/v1/explain"
	exprs := func(path string, ask func(string) []string) []leakRequest {
		var out []leakRequest
		for _, expr := range []string{
			"revenue_total", anySeries, "sum by (page) (increase(revenue_total[1h]))", "topk(1, revenue_total)", "load_seconds_bucket", "load_seconds",
			"visitors", `count_distinct(visitors[1h], "page")`, `histogram_quantile(0.5, sum by (le, page) (rate(load_seconds_bucket[10m])))`,
			`info(revenue_total)`, `label_join(revenue_total, "copy", "-", "page", "page")`, `sort_by_label(revenue_total, "page")`,
			// Errors and warnings that name series.
			"revenue_total + on (nothing) revenue_total",
		} {
			out = append(out, get("/{me}/", path, ask(expr)...))
		}
		return append(out,
			get("{number}", path, ask(`max(load_seconds_sum) or max_over_time(revenue_total[5m])`)...),
			post("/{me}/", path, ask("revenue_total")...),
			get(noneFound, path, ask(`revenue_total{page="/{other}/0"}`)...),
			get("", path, ask(`absent(revenue_total{page="/{me}/0"})`)...),
			get("parse error", path, ask("revenue_total{")...),
			get("", path, append(ask("sum(revenue_total)"), "stats", "all", "limit", "1")...),
			get("timeout", path, append(ask("revenue_total"), "timeout", "-1s")...),
		)
	}
	instant := func(expr string) []string { return []string{"query", expr} }
	explains := []leakRequest{get(`"`, e, instant("sum(increase(revenue_total[1h]))")...), get(`"`, e, over("sum by (page) (rate(revenue_total[5m]))")...), get("/{me}/", e, instant("revenue_total + on (nothing) revenue_total")...)}
	return map[string][]leakRequest{
		q: exprs(q, instant), r: exprs(r, over), e: explains,
		"/api/v1/query_exemplars": {
			get("trace-{me}-", "/api/v1/query_exemplars", "query", "revenue_total", "start", "{start}", "end", "{end}"),
			post("/{me}/", "/api/v1/query_exemplars", "query", `{page!=""}`),
			get(`"data":[]`, "/api/v1/query_exemplars", "query", `revenue_total{page="/{other}/0"}`),
		},
		"/api/v1/format_query": {get("sum by (a)", "/api/v1/format_query", "query", "sum(b)by(a)"), post("sum by (a)", "/api/v1/format_query", "query", "sum(b)by(a)")},
		"/api/v1/parse_query":  {get("vectorSelector", "/api/v1/parse_query", "query", "revenue_total")},
		"/api/v1/read": {
			{method: "POST", path: "/api/v1/read", body: remoteRead("revenue_total"), contentType: "application/x-protobuf", own: "/{me}/"},
			{method: "POST", path: "/api/v1/read", body: "not snappy", own: "snappy"},
		},
		"/federate": {
			get("/{me}/", "/federate", "match[]", "revenue_total"),
			{method: "GET", path: "/federate" + query([]string{"match[]", anySeries}), own: "/{me}/", accept: "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"},
			get("parse error", "/federate", "match[]", "{"),
		},
	}
}

// leakLabels are the routes that list names and values.
func leakLabels() map[string][]leakRequest {
	values := "/api/v1/label/{name}/values"
	return map[string][]leakRequest{
		"/api/v1/series": {
			get("/{me}/", "/api/v1/series", "match[]", "revenue_total"),
			post("/{me}/", "/api/v1/series", "match[]", anySeries, "match[]", "load_seconds_bucket", "start", "{start}"),
			get(`"data":[]`, "/api/v1/series", "match[]", `{page="/{other}/0"}`),
			get("results truncated", "/api/v1/series", "match[]", anySeries, "limit", "1"),
		},
		"/api/v1/labels": {get("page", "/api/v1/labels"), post("page", "/api/v1/labels", "match[]", "revenue_total"), get(`"data":[]`, "/api/v1/labels", "match[]", `{page="/{other}/0"}`)},
		values: {
			get("/{me}/", "/api/v1/label/page/values"),
			get("/{me}/", "/api/v1/label/page/values", "match[]", "load_seconds_count", "limit", "1"),
			get(`"data":[]`, "/api/v1/label/page/values", "match[]", `{page="/{other}/0"}`),
			get("revenue_total", "/api/v1/label/__name__/values"),
		},
		"/api/v1/metadata": {get("Revenue of {me}.", "/api/v1/metadata"), get("Loads of {me}.", "/api/v1/metadata", "metric", "load_seconds", "limit", "1")},
		// They are off, so that nothing is kept of what one tenant asked.
		"/api/v1/search/metric_names": {{method: "GET", path: "/api/v1/search/metric_names?include_metadata=true", own: "disabled", fails: true}},
		"/api/v1/search/label_names":  {{method: "GET", path: "/api/v1/search/label_names", own: "disabled", fails: true}},
		"/api/v1/search/label_values": {{method: "GET", path: "/api/v1/search/label_values?label=page", own: "disabled", fails: true}},
	}
}

// leakStatus are what an operator or a page looks at.
func leakStatus() map[string][]leakRequest {
	out := map[string][]leakRequest{
		"/":                          {get("", "/"), get("", "/graph")},
		"/-/healthy":                 {get("healthy", "/-/healthy")},
		"/-/ready":                   {get("ready", "/-/ready")},
		"/metrics":                   {ofProcess("quipu_api_requests_total", "/metrics")},
		"/api/v1/":                   {{method: "OPTIONS", path: "/api/v1/query"}},
		"/api/":                      {get("{me}", "/api/v1/nothing/{me}")},
		"/api/v1/status/range":       {get("minTime", "/api/v1/status/range")},
		"/api/v1/status/tsdb":        {get("/{me}/", "/api/v1/status/tsdb", "limit", "100"), get("limit", "/api/v1/status/tsdb", "limit", "0")},
		"/api/v1/rules":              {get("groups", "/api/v1/rules")},
		"/api/v1/targets":            {get("activeTargets", "/api/v1/targets")},
		"/-/reload":                  {{method: "POST", path: "/-/reload", process: true}},
		"/debug/pprof/":              {ofProcess("", "/debug/pprof/"), ofProcess("", "/debug/pprof/heap")},
		"/debug/pprof/cmdline":       {ofProcess("", "/debug/pprof/cmdline")},
		"/debug/pprof/profile":       {ofProcess("", "/debug/pprof/profile")},
		"/debug/pprof/symbol":        {ofProcess("", "/debug/pprof/symbol")},
		"/debug/pprof/trace":         {ofProcess("", "/debug/pprof/trace")},
		"/api/v1/notifications":      {ofProcess("[]", "/api/v1/notifications")},
		"/api/v1/scrape_pools":       {get("scrapePools", "/api/v1/scrape_pools")},
		"/api/v1/alertmanagers":      {get("activeAlertmanagers", "/api/v1/alertmanagers")},
		"/api/v1/openapi.yaml":       {get("openapi", "/api/v1/openapi.yaml")},
		"/api/v1/features":           {get("promql", "/api/v1/features")},
		"/api/v1/status/tsdb/blocks": {get("{block}", "/api/v1/status/tsdb/blocks")},
		"/api/v1/targets/relabel_steps": {
			get("no scrape pool", "/api/v1/targets/relabel_steps", "scrapePool", "x", "labels", `{"page":"/0"}`),
		},
		"/api/v1/scrape_pools/config": {get("", "/api/v1/scrape_pools/config", "scrape_pool", "x")},
	}
	for path, own := range map[string]string{
		"alerts": "alerts", "targets/metadata": "data", "status/buildinfo": "version", "status/walreplay": "current",
	} {
		out["/api/v1/"+path] = []leakRequest{get(own, "/api/v1/"+path)}
	}
	for path, own := range map[string]string{
		"notifications/live": "", "status/config": "yaml", "status/flags": "data", "status/runtimeinfo": "startTime", "status/self_metrics": "data",
	} {
		out["/api/v1/"+path] = []leakRequest{ofProcess(own, "/api/v1/"+path)}
	}
	return out
}

// leakGroup is a group of PromQL rules.
const leakGroup = `
name: {me}-group
interval: 1m
rules:
  - {record: "page:revenue:sum", expr: sum by (page) (revenue_total), labels: {team: "rule of {me}"}}
  - {alert: Revenue, expr: revenue_total > 0, annotations: {summary: "alert of {me}"}}
`

// leakEvents are the routes of events and of their rules.
func leakEvents() map[string][]leakRequest {
	const event = `{"data":{"correlation_id":"trace-{me}","user_id":"user-{me}","further_data":{"event":"view","page":"/{me}/0","amount":1}}}`
	out := map[string][]leakRequest{
		"/api/v1/events/explain": {{method: "POST", path: "/api/v1/events/explain", body: event, own: "/{me}/0"}},
		"/api/v1/event-rules":    {get("Revenue of {me}.", "/api/v1/event-rules"), {method: "PUT", path: "/api/v1/event-rules", body: leakRules, own: "Revenue of {me}."}},
		"/config/v1/rules": {
			{method: "POST", path: "/config/v1/rules/views", body: leakGroup},
			get("{me}-group", "/config/v1/rules"), get("{me}-group", "/config/v1/rules/views"), get("rule of {me}", "/config/v1/rules/views/{me}-group"),
			get("not exist", "/config/v1/rules/views/{other}-group"),
			{method: "DELETE", path: "/config/v1/rules/views/{other}-group", own: "not exist"},
			{method: "POST", path: "/config/v1/rules/views", body: "name: {me}-wrong\nrules: [{record: x, expr: sum(}]", own: "{me}-wrong"},
			get("{me}-group", "/api/v1/rules"), get("alerts", "/api/v1/alerts"),
		},
		"/api/v1/event-rules/check": {{method: "POST", path: "/api/v1/event-rules/check", body: "metrics: [{name: revenue_total, type: {me}}]", own: "{me}"}},
	}
	for _, f := range ingest.Formats() {
		for _, path := range f.Paths {
			for _, body := range []string{
				event,
				`{"event":"view","name":"view","url":"https://{me}.example/","domain":"{me}.example","distinct_id":"{me}","userId":"{me}","properties":{"page":"/{me}/0"}}`,
				`{"batch":[{"type":"track","event":"view","distinct_id":"{me}","userId":"{me}","properties":{"page":"/{me}/0"}}]}`,
				`[{"{me}`,
			} {
				out[path] = append(out[path], leakRequest{method: "POST", path: path, body: body})
			}
		}
	}
	return out
}

// leakAdmin are the routes that change what is stored.
func leakAdmin() map[string][]leakRequest {
	out := map[string][]leakRequest{}
	for path, params := range map[string][]string{
		"delete_series": {"match[]", `doomed_total{page="/{other}/0"}`}, "clean_tombstones": nil, "snapshot": nil,
	} {
		path = "/api/v1/admin/tsdb/" + path
		q := post("", path, params...)
		q.process = strings.HasSuffix(path, "snapshot") // it writes to the server's disk
		out[path] = []leakRequest{q}
	}
	const one = "/api/v1/admin/tenants/{id}"
	operate := func(method, path, body string) leakRequest {
		return leakRequest{method: method, path: path, body: body, own: "{id}", process: true}
	}
	maps.Copy(out, map[string][]leakRequest{
		"/api/v1/admin/tenants": {operate("GET", "/api/v1/admin/tenants", ""), operate("POST", "/api/v1/admin/tenants", `{"id":"{id}"}`)},
		one:                     {operate("GET", one, ""), operate("PATCH", one, `{"limits":{"queued_queries":99}}`)},
		one + "/suspend":        {operate("POST", one+"/suspend", ""), operate("POST", one+"/resume", "")},
		one + "/resume":         {operate("POST", one+"/resume", "")},
		one + "/usage":          {operate("GET", one+"/usage", "")},
		"/api/v1/status/usage":  {get("{id}", "/api/v1/status/usage")},
	})
	const snapshots, data = "/api/v1/admin/snapshots", "/api/v1/admin/event-rules/{name}/delete_data"
	operated := func(method, path, body, own string) leakRequest {
		return leakRequest{method: method, path: path, body: body, own: own, process: true}
	}
	maps.Copy(out, map[string][]leakRequest{
		// What a deletion says of itself is what was asked for, above.
		"/api/v1/admin/tsdb/deletions":      {get("deletions", "/api/v1/admin/tsdb/deletions", "asked", "{other}")},
		"/api/v1/admin/tsdb/deletions/{id}": {get("", "/api/v1/admin/tsdb/deletions/1", "asked", "{other}"), get("no deletion", "/api/v1/admin/tsdb/deletions/1000000")},
		data:                                {post("doomed_total", "/api/v1/admin/event-rules/doomed_total/delete_data"), post("{me}-rule", "/api/v1/admin/event-rules/{me}-rule/delete_data")},
		"/api/v1/admin/users/erase":         {post("somebody new", "/api/v1/admin/users/erase")},
		snapshots:                           {operated("POST", snapshots, `{"tenants":["{id}"]}`, "name"), operated("GET", snapshots, "", "{id}")},
		snapshots + "/{name}":               {operated("DELETE", snapshots+"/none", "", "no such snapshot")},
		snapshots + "/{name}/restore":       {operated("POST", snapshots+"/none/restore", `{"tenant":"{id}","replace":true}`, "no such snapshot")},
	})
	out["/api/v1/admin/keys"] = []leakRequest{
		get("{key}", "/api/v1/admin/keys"), get("{key}", "/api/v1/admin/keys", "tenant", ""),
		{method: "POST", path: "/api/v1/admin/keys", body: `{"name":"another of {me}","permissions":["metrics:read"]}`, own: "another of {me}"},
	}
	out["/api/v1/admin/keys/{id}"] = []leakRequest{
		{method: "DELETE", path: "/api/v1/admin/keys/none", own: "there is no such key"},
		{method: "DELETE", path: "/api/v1/admin/keys/{otherkey}", own: "there is no such key"},
	}
	return out
}

// remoteRead is the body of a remote read of all series of a metric.
func remoteRead(metric string) string {
	request := prompb.ReadRequest{Queries: []*prompb.Query{{
		StartTimestampMs: 0, EndTimestampMs: 1 << 50, Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: metric}},
	}}}
	body, err := request.Marshal()
	if err != nil {
		panic(err)
	}
	return string(snappy.Encode(nil, body))
}
