package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
)

// keptRules are event rules in memory.
type keptRules struct {
	texts map[tenant.ID]string
	err   error
}

func (k *keptRules) EventRules(id tenant.ID, have string) (ingest.RuleText, bool, error) {
	text, ok := k.texts[id]
	r := ingest.RuleText{Name: "events.yaml", Stamp: "of " + text}
	if ok {
		r.Text = []byte(text)
	}
	return r, r.Stamp != have, nil
}

func (k *keptRules) SetEventRules(id tenant.ID, text []byte) error {
	switch {
	case k.err != nil:
	case text == nil:
		delete(k.texts, id)
	default:
		k.texts[id] = string(text)
	}
	return k.err
}

func TestEventRules(t *testing.T) {
	kept := &keptRules{texts: map[tenant.ID]string{}}
	_, srv := newWorld(t, func(o *Options) {
		ingester, err := ingest.New(ingest.Options{Store: o.Storage.(*world), Rules: kept, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		o.Events, o.Rules = ingester, ingester
	})
	const rules, check, explain = "/api/v1/event-rules", "/api/v1/event-rules/check", "/api/v1/events/explain"
	const good, bad = "metrics: [{name: n_total, type: counter, when: {event: a}}]", "metrics: [{name: n}]"
	for _, tc := range []struct {
		method, path, tenant, body string
		code                       int
		want                       string
	}{
		{"GET", rules, "a", "", 200, `"default":true`},
		{"POST", check, "a", bad, 400, `"error":"events.yaml:1: metrics[0].type: missing"`},
		{"POST", check, "a", good, 200, `{"status":"success","data":{"version":"`},
		{"GET", rules, "a", "", 200, `"default":true`}, // a check changes nothing
		{"PUT", rules, "a", bad, 400, `"error":"events.yaml:1: metrics[0].type: missing"`},
		{"PUT", rules, "a", good, 200, `"rules":"metrics: [{name: n_total`},
		{"GET", rules, "a", "", 200, `"default":false`},
		{"PUT", rules, "a", "", 400, `"error":"events.yaml`},
		{"GET", rules, "a", "", 200, `"default":false`},
		{"GET", rules, "b", "", 200, `"default":true`},
		{"POST", explain, "a", `{"event":"a"}`, 200, `"series":[{"series":"n_total","value":1,`},
		{"POST", explain, "a", `{"event":"b"}`, 200, `"verdict":"filtered"`},
		{"POST", explain, "b", `{"event":"b"}`, 200, `"events_total{event=\"b\"}"`},
		{"POST", explain + "?format=umami", "b", `{"type":"event","payload":{"url":"/a"}}`, 200, `"events_total{event=\"pageview\", page=\"/a\"}"`},
		{"POST", explain + "?format=snowplow&e=pv&url=%2Fa", "b", "", 200, `"events_total{event=\"page_view\", page=\"/a\"}"`},
		{"POST", explain + "?format=matomo", "b", `idsite=1&rec=1&e_a=play`, 200, `"events_total{event=\"play\"}"`},
		{"POST", explain + "?format=mixpanel", "b", `{"event":"a","properties":{"plan":"pro"}}`, 200, `"events_total{event=\"a\", plan=\"pro\"}"`},
		{"POST", explain, "a", `nonsense`, 200, `"verdict":"rejected","reason":"`},
		{"POST", "/api/v1/events", "a", `{"event":"b"}`, 200, `"filtered":1`},
		{"DELETE", rules, "a", "", 200, `"default":true`},
		{"GET", rules, "a", "", 200, `"default":true`},
		{"POST", rules, "a", good, 405, "event rules are read with GET, replaced with PUT and removed with DELETE, not POST"},
		{"GET", check, "a", "", 405, "event rules are checked with POST, not GET"},
		{"GET", explain, "a", "", 405, "an event is explained with POST, not GET"},
		{"PUT", rules, "a", strings.Repeat("#", 1001), 413, "longer than 1000 bytes"},
		{"PUT", "/prometheus" + rules, "a", good, 200, `"version":"`},
		{"OPTIONS", rules, "a", "", 204, ""},
	} {
		code, answer, _ := call(t, srv, tc.method, tc.path, tc.body, "X-Scope-OrgID", tc.tenant)
		if code != tc.code || !strings.Contains(answer, tc.want) {
			t.Errorf("%s %s of %s %q: %d %s, want %d %s", tc.method, tc.path, tc.tenant, tc.body, code, answer, tc.code, tc.want)
		}
	}
	kept.err = errors.New("disk is full")
	code, answer, _ := call(t, srv, http.MethodPut, rules, good, "X-Scope-OrgID", "a")
	if code != http.StatusServiceUnavailable || !strings.Contains(answer, "keep event rules of tenant a: disk is full") {
		t.Errorf("%d %s", code, answer)
	}
}
