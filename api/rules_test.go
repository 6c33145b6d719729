package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql/ruler"
)

// notedRuler has two groups and notes what it is asked to change.
type notedRuler struct{ asked []string }

func (*notedRuler) RuleGroups(tenant.ID) []*rules.Group                  { return nil }
func (*notedRuler) AlertingRules(tenant.ID) []*rules.AlertingRule        { return nil }
func (*notedRuler) Alertmanagers(tenant.ID) (active, dropped []*url.URL) { return nil, nil }

func (*notedRuler) Groups(tenant.ID) (map[string][]rulefmt.RuleGroup, error) {
	return map[string][]rulefmt.RuleGroup{
		"a/b": {{Name: "g", Rules: []rulefmt.Rule{{Record: "x", Expr: "1"}}}, {Name: "h"}},
	}, nil
}

func (n *notedRuler) SetGroup(id tenant.ID, namespace string, text []byte) error {
	n.asked = append(n.asked, fmt.Sprintf("set %s %s %s", id, namespace, text))
	if string(text) == "bad" {
		return fmt.Errorf("%w: namespace %q: 1:1: bad", ruler.ErrBadRules, namespace)
	}
	if string(text) == "broken" {
		return errors.New("the disk is full")
	}
	return nil
}

func (n *notedRuler) DeleteGroup(id tenant.ID, namespace, name string) error {
	n.asked = append(n.asked, fmt.Sprintf("delete %s %s %s", id, namespace, name))
	return ruler.ErrNoGroup
}

func (n *notedRuler) DeleteNamespace(id tenant.ID, namespace string) error {
	n.asked = append(n.asked, fmt.Sprintf("delete %s %s", id, namespace))
	return nil
}

// What Grafana and mimirtool send is answered as Mimir's documentation says, at both
// paths, with namespaces that have slashes.
func TestRuleConfiguration(t *testing.T) {
	noted := &notedRuler{}
	_, server := newWorld(t, func(o *Options) { o.Ruler, o.TenantHeader = noted, "X-Scope-OrgID" })
	const taken = `{"status":"success","data":null,"errorType":"","error":""}` + "\n"
	group := "name: g\nrules:\n    - record: x\n      expr: \"1\"\n"
	for _, c := range []struct {
		method, path, body string
		status             int
		want, asked        string
	}{
		{"GET", "", "", 200, "a/b:\n    - name: g\n", ""},
		{"GET", "/a%2Fb", "", 200, "a/b:\n    - name: g\n", ""},
		{"GET", "/a%2Fb/g", "", 200, group, ""},
		{"GET", "/a%2Fb/none", "", 404, "group does not exist\n", ""},
		{"GET", "/test/test", "", 404, "group does not exist\n", ""},
		{"GET", "/none", "", 404, "no rule groups found\n", ""},
		{"POST", "/a%2Fb", "name: g", 202, taken, "set shop a/b name: g"},
		{"POST", "/n", "bad", 400, "namespace \"n\": 1:1: bad\n", "set shop n bad"},
		{"POST", "/n", "broken", 500, "the disk is full\n", "set shop n broken"},
		{"DELETE", "/a%2Fb/g%20h", "", 404, "group does not exist\n", "delete shop a/b g h"},
		{"DELETE", "/n", "", 202, taken, "delete shop n"},
		{"DELETE", "", "", 405, "", ""},
		{"PUT", "/n", "", 405, "", ""},
		{"GET", "/a/b/c", "", 404, "", ""},
		{"GET", "more", "", 404, "", ""},
	} {
		for _, prefix := range []string{"", "/prometheus"} {
			noted.asked = nil
			r, err := http.NewRequest(c.method, server.URL+prefix+"/config/v1/rules"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Scope-OrgID", "shop")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != c.status || !strings.HasPrefix(string(got), c.want) || strings.Join(noted.asked, ";") != c.asked {
				t.Errorf("%s %s: %d %q, asked %q; want %d %q, %q", c.method, r.URL, resp.StatusCode, got, noted.asked, c.status, c.want, c.asked)
			}
		}
	}
}

// Grafana learns from status/buildinfo that it may change rules, and still reads the
// version of Prometheus there.
func TestBuildInfoSaysThatRulesCanBeChanged(t *testing.T) {
	_, server := newWorld(t, func(o *Options) { o.Ruler = &notedRuler{} })
	resp, err := http.Get(server.URL + "/prometheus/api/v1/status/buildinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Data struct {
			Version  string
			Features map[string]string
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.Data.Features["ruler_config_api"] != "true" || got.Data.Version != prometheusVersion {
		t.Errorf("build info is %+v, %v", got, err)
	}
}
