package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler"
	"github.com/quipudb/quipu/tsdb"
)

// ruleWorld is storage, an engine and a ruler, with a clock that tests move.
type ruleWorld struct {
	*testing.T
	dir     string
	clock   atomic.Int64
	db      *tsdb.DB
	batches atomic.Int64 // that the ruler has appended
	engine  upstream.QueryEngine
	ruler   *ruler.Ruler
	reg     *prometheus.Registry
	alerts  ruler.Alerting
	config  ruler.Config
	// Where these are set, range queries and questions for what came late ask them first.
	refuseRange func(steps int64) error
	refuseLate  func() error
}

// refusingEngine is the engine of the ruler of a world.
type refusingEngine struct {
	upstream.QueryEngine
	w *ruleWorld
}

func (e refusingEngine) NewRangeQuery(ctx context.Context, q storage.Queryable, o upstream.QueryOpts, text string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	if e.w.refuseRange != nil {
		if err := e.w.refuseRange(int64(end.Sub(start)/interval) + 1); err != nil {
			return nil, err
		}
	}
	return e.QueryEngine.NewRangeQuery(ctx, q, o, text, start, end, interval)
}

// refusingHistory is what the ruler of a world asks for what came late.
type refusingHistory struct {
	*tsdb.DB
	w *ruleWorld
}

func (h refusingHistory) CameLate(ctx context.Context, m past.Mark) ([]past.Interval, error) {
	if h.w.refuseLate != nil {
		if err := h.w.refuseLate(); err != nil {
			return nil, err
		}
	}
	return h.DB.CameLate(ctx, m)
}

// countedStore counts the ruler's batches.
type countedStore struct {
	*tsdb.DB
	batches *atomic.Int64
}

func (s countedStore) Append(ctx context.Context, id tenant.ID, b *increment.Batch) (bool, error) {
	s.batches.Add(1)
	return s.DB.Append(ctx, id, b)
}

// ruleStart is an even hour of some day.
var ruleStart = time.Date(2026, 3, 4, 10, 0, 0, 0, time.UTC)

func newRuleWorld(t *testing.T) *ruleWorld {
	w := &ruleWorld{T: t, dir: t.TempDir()}
	w.clock.Store(ruleStart.UnixMilli())
	return w
}

func (w *ruleWorld) now() time.Time { return time.UnixMilli(w.clock.Load()) }

// open starts what a process does.
func (w *ruleWorld) open() {
	w.Helper()
	var err error
	if w.db, err = tsdb.Open(tsdb.Options{Dir: w.dir, Now: w.now, Defaults: tenant.DefaultSettings(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		w.Fatal(err)
	}
	w.engine = promql.NewEngine(promql.EngineOptions{Distinct: w.db})
	w.reg = prometheus.NewRegistry()
	w.ruler, err = ruler.New(ruler.Options{
		Store: countedStore{w.db, &w.batches}, Queryable: w.db, Engine: refusingEngine{w.engine, w}, Parser: promql.NewParser(), History: refusingHistory{w.db, w},
		Files: ruler.NewFiles(w.dir), Now: w.now, Alerting: w.alerts, Config: w.config, Reg: w.reg,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.ruler.Scan(true)
	db := w.db
	w.Cleanup(func() {
		if w.db == db { // the last one
			db.Close()
		}
	})
}

// write replaces a rule file by hand.
func (w *ruleWorld) write(id, namespace, text string) {
	w.Helper()
	dir := filepath.Join(w.dir, id, "rules")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, namespace+".yaml"), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// count adds to a counter in the window that has the time.
func (w *ruleWorld) count(id string, at time.Time, n float64, ls ...string) {
	w.Helper()
	inc := increment.Increment{
		Series: increment.NewSeries(labels.FromStrings(ls...), increment.Counter, nil),
		Time:   at.UnixMilli() / 15000 * 15000, Value: n,
	}
	if _, err := w.db.Append(w.Context(), mustTenant(w, id), &increment.Batch{Increments: []increment.Increment{inc}}); err != nil {
		w.Fatal(err)
	}
}

func mustTenant(t testing.TB, id string) tenant.ID {
	t.Helper()
	out, err := tenant.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// run moves the clock, evaluating every group at its times.
func (w *ruleWorld) run(d time.Duration) {
	w.Helper()
	until := w.now().Add(d)
	for {
		next, ok := w.ruler.EvaluateDue(w.Context())
		if !ok || next.After(until) {
			w.clock.Store(until.UnixMilli())
			return
		}
		w.clock.Store(next.UnixMilli())
	}
}

// query answers an instant query at a time, as text.
func (w *ruleWorld) query(id, text string, at time.Time) string {
	w.Helper()
	ctx := scope.With(w.Context(), scope.Scope{Tenant: mustTenant(w, id), Now: w.now().UnixMilli()})
	q, err := w.engine.NewInstantQuery(ctx, w.db, nil, text, at)
	if err != nil {
		w.Fatal(err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		w.Fatal(res.Err)
	}
	return res.String()
}

// health is that of the first rule of a name.
func (w *ruleWorld) health(id, name string) (rules.RuleHealth, string) {
	w.Helper()
	for _, g := range w.ruler.RuleGroups(mustTenant(w, id)) {
		for _, r := range g.Rules() {
			if r.Name() == name {
				if r.LastError() != nil {
					return r.Health(), r.LastError().Error()
				}
				return r.Health(), ""
			}
		}
	}
	w.Fatalf("there is no rule %s", name)
	return "", ""
}

// sentAlert is an alert as an Alertmanager receives it.
type sentAlert struct {
	Labels      map[string]string
	Annotations map[string]string
	StartsAt    time.Time
	EndsAt      time.Time
}

// receiver is an Alertmanager that notes what it is sent.
func receiver(t testing.TB) (alerts chan sentAlert, server *httptest.Server) {
	alerts = make(chan sentAlert, 1000)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got []sentAlert
		if err == nil {
			err = json.Unmarshal(body, &got)
		}
		if err != nil || r.URL.Path != "/api/v2/alerts" {
			http.Error(w, "not alerts", http.StatusBadRequest)
			return
		}
		for _, a := range got {
			alerts <- a
		}
	}))
	t.Cleanup(server.Close)
	return alerts, server
}

// alerting is a section "alerting" with one Alertmanager.
func alertingTo(t testing.TB, server *httptest.Server, more string) (a ruler.Alerting) {
	t.Helper()
	text := fmt.Sprintf("alertmanagers:\n- static_configs: [{targets: [%q]}]\n%s", strings.TrimPrefix(server.URL, "http://"), more)
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&a); err != nil {
		t.Fatal(err)
	}
	if err := a.Validate(); err != nil {
		t.Fatal(err)
	}
	return a
}

// received waits for an alert.
func received(t testing.TB, alerts chan sentAlert) sentAlert {
	t.Helper()
	select {
	case a := <-alerts:
		return a
	case <-time.After(30 * time.Second):
		t.Fatal("no alert was received")
		return sentAlert{}
	}
}

// What a rule records is what the query answers at that time, on the grid, of closed
// windows only, and a group whose rules do not read each other is one batch.
func TestRecordingRules(t *testing.T) {
	w := newRuleWorld(t)
	w.write("shop", "orders", `groups:
- name: orders
  interval: 30s
  rules:
  - {record: "plan:orders:increase5m", expr: "sum by (plan) (increase(orders_total[5m] anchored))", labels: {team: shop}}
  - {record: "orders:rate1m", expr: "rate(orders_total[1m])"}
`)
	w.open()
	for i := range 40 {
		w.count("shop", ruleStart.Add(time.Duration(i-20)*15*time.Second), float64(1+i%3), "__name__", "orders_total", "plan", "pro")
	}
	w.run(5 * time.Minute)
	if got := w.batches.Load(); got != 10 {
		t.Errorf("%d batches of 10 evaluations", got)
	}
	if health, err := w.health("shop", "orders:rate1m"); health != rules.HealthGood {
		t.Errorf("health is %s: %s", health, err)
	}
	recorded := w.query("shop", `{__name__="plan:orders:increase5m"}[5m]`, w.now())
	if n := strings.Count(recorded, "@["); n < 9 {
		t.Fatalf("%d samples were recorded: %s", n, recorded)
	}
	for _, part := range strings.Split(recorded, "\n")[1:] {
		var value float64
		var at int64
		if _, err := fmt.Sscanf(strings.TrimSuffix(part, "]"), "%f @[%d", &value, &at); err != nil {
			t.Fatalf("%q: %v", part, err)
		}
		if at%15000 != 0 {
			t.Errorf("a sample at %d is not on the grid", at)
		}
		want := w.query("shop", `sum by (plan) (increase(orders_total[5m] anchored))`, time.UnixMilli(at))
		if !strings.Contains(want, fmt.Sprintf("=> %v @", value)) {
			t.Errorf("recorded %v at %d, the query says %s", value, at, want)
		}
	}
	if got := w.query("shop", `{__name__="plan:orders:increase5m", team="shop", plan="pro"}`, w.now()); got == "" {
		t.Error("the rule's labels are not there")
	}
	if got := w.query("other", `{__name__=~".+"}`, w.now()); got != "" {
		t.Errorf("another tenant has %s", got)
	}
}

// A rule that reads what the one before it records sees what that has recorded now.
func TestRulesReadEachOther(t *testing.T) {
	w := newRuleWorld(t)
	w.write("shop", "chain", `groups:
- name: chain
  interval: 15s
  rules:
  - {record: one, expr: "vector(time())"}
  - {record: two, expr: "one + 1"}
  - {record: three, expr: "two - one"}
`)
	w.open()
	w.run(15 * time.Second)
	if got := w.query("shop", "three", w.now()); !strings.Contains(got, "=> 1 @") {
		t.Errorf("after one evaluation three is %q", got)
	}
}

// A rule that records under the name of a counter says so in its health, and the others
// of its group go on.
func TestKindClashIsTheRulesHealth(t *testing.T) {
	w := newRuleWorld(t)
	w.write("shop", "clash", `groups:
- name: clash
  interval: 15s
  rules:
  - {record: orders_total, expr: "vector(1)"}
  - {record: fine, expr: "vector(2)"}
`)
	w.open()
	w.count("shop", w.now(), 1, "__name__", "orders_total")
	w.run(time.Minute)
	health, err := w.health("shop", "orders_total")
	if health != rules.HealthBad || !strings.Contains(err, `metric "orders_total" is a counter, not a sample`) {
		t.Errorf("health of the rule is %s: %q", health, err)
	}
	if health, err := w.health("shop", "fine"); health != rules.HealthGood {
		t.Errorf("health of the other is %s: %q", health, err)
	}
	if got := w.query("shop", "fine", w.now()); !strings.Contains(got, "=> 2 @") {
		t.Errorf("the other recorded %q", got)
	}
}

const noOrders = `groups:
- name: shop
  interval: 30s
  rules:
  - alert: ManyOrders
    expr: sum by (plan) (increase(orders_total[1m] anchored)) > 5
    for: 2m
    labels: {severity: page, tenant: forged}
    annotations: {summary: "{{ $value }} orders of {{ $labels.plan }}"}
`

// An alert fires after its time and is resolved, at an Alertmanager, with the labels of
// the configuration and the tenant that it is really of.
func TestAlertIsSent(t *testing.T) {
	alerts, server := receiver(t)
	w := newRuleWorld(t)
	w.alerts = alertingTo(t, server, "external_labels: {cluster: eu}\nalert_relabel_configs: [{action: labeldrop, regex: plan}]\n")
	w.write("shop", "orders", noOrders)
	w.open()
	for i := range 40 {
		w.count("shop", ruleStart.Add(time.Duration(i)*15*time.Second), 3, "__name__", "orders_total", "plan", "pro")
	}
	w.run(5 * time.Minute)
	a := received(t, alerts)
	want := map[string]string{"alertname": "ManyOrders", "severity": "page", "tenant": "shop", "cluster": "eu"}
	if fmt.Sprint(a.Labels) != fmt.Sprint(want) {
		t.Errorf("labels are %v, want %v", a.Labels, want)
	}
	if a.Annotations["summary"] != "12 orders of pro" {
		t.Errorf("annotations are %v", a.Annotations)
	}
	w.run(time.Hour)
	for a.EndsAt.After(w.now()) {
		a = received(t, alerts)
	}
}

// The time that an alert has been pending outlives the process: it fires when it would
// have, where no evaluation was missed, and later by those that were.
func TestPendingAlertIsRestored(t *testing.T) {
	for _, down := range []time.Duration{0, time.Minute, 10 * time.Minute} {
		t.Run(down.String(), func(t *testing.T) {
			w := newRuleWorld(t)
			w.write("shop", "orders", noOrders)
			w.open()
			for i := range 120 {
				w.count("shop", ruleStart.Add(time.Duration(i)*15*time.Second), 3, "__name__", "orders_total", "plan", "pro")
			}
			w.run(90 * time.Second)
			active := w.ruler.AlertingRules(mustTenant(t, "shop"))[0].ActiveAlerts()
			if len(active) != 1 || active[0].State != rules.StatePending {
				t.Fatalf("alerts before the restart are %v", active)
			}
			due := active[0].ActiveAt.Add(2 * time.Minute).Add(down)
			if err := w.db.Close(); err != nil {
				t.Fatal(err)
			}
			w.clock.Add(down.Milliseconds())
			w.open()
			rule := w.ruler.AlertingRules(mustTenant(t, "shop"))[0]
			for rule.State() != rules.StateFiring {
				if w.now().After(due.Add(time.Minute)) {
					t.Fatalf("it is %s and does not fire, %s was the time", w.now(), due)
				}
				w.run(time.Second)
			}
			if fired := rule.ActiveAlerts()[0].FiredAt; !fired.Equal(due) {
				t.Errorf("fired at %s, want %s", fired, due)
			}
		})
	}
}

// A file that changes is loaded, one that is wrong changes nothing, and what a removed
// group recorded ends.
func TestRuleFilesAreReloaded(t *testing.T) {
	w := newRuleWorld(t)
	file := "groups: [{name: g, interval: 15s, rules: [{record: %s, expr: \"vector(%d)\"}]}]\n"
	w.write("shop", "a", fmt.Sprintf(file, "a", 1))
	w.write("shop", "b", fmt.Sprintf(file, "b", 1))
	w.open()
	w.run(time.Minute)
	w.write("shop", "a", fmt.Sprintf(file, "a", 22))
	w.write("shop", "b", "groups: [{name: g, rules: [{record: b, expr: \"vector(\"}]}]\n")
	w.ruler.Scan(false)
	w.run(time.Minute)
	if got := w.query("shop", "a", w.now()); !strings.Contains(got, "=> 22 @") {
		t.Errorf("a changed to %q", got)
	}
	if got := w.query("shop", "b", w.now()); !strings.Contains(got, "=> 1 @") {
		t.Errorf("b, whose file is wrong, is %q", got)
	}
	if err := os.Remove(filepath.Join(w.dir, "shop", "rules", "a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.ruler.Scan(false)
	w.run(15 * time.Second)
	if got := w.query("shop", "a", w.now()); got != "" {
		t.Errorf("a, whose file is gone, is %q", got)
	}
	if n := len(w.ruler.RuleGroups(mustTenant(t, "shop"))); n != 1 {
		t.Errorf("%d groups are left", n)
	}
}

// Rules whose interval is not on the grid are refused with the group that it is of.
func TestRulesFitTheGrid(t *testing.T) {
	w := newRuleWorld(t)
	w.open()
	for text, want := range map[string]string{
		"name: g\ninterval: 20s\nrules: []\n":          `namespace "n": group "g": its interval is 20s, it must be a multiple of the tenant's grid (15s)`,
		"name: g\nrules:\n- record: x\n  expr: sum(\n": `namespace "n": 4:9: group "g", rule 1, "x": could not parse expression: 1:5: parse error`,
		"name: g\nrules:\n- record: x\n  exp: 1\n":     `namespace "n": yaml: unmarshal errors:` + "\n" + `  line 4: field exp not found`,
		"rules: []\n": `namespace "n": the group has no name`,
		"":            `namespace "n": the text is empty`,
	} {
		err := w.ruler.SetGroup(mustTenant(t, "shop"), "n", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if err := w.ruler.SetGroup(mustTenant(t, "shop"), "a/b ü", []byte("name: g\nquery_offset: 20s\nrules: [{record: x, expr: \"1\"}]\n")); err != nil {
		t.Fatal(err)
	}
	g := w.ruler.RuleGroups(mustTenant(t, "shop"))[0]
	if g.QueryOffset() != 30*time.Second || g.File() != "a/b ü" || model.Duration(g.Interval()) != model.Duration(time.Minute) {
		t.Errorf("the group looks %s back every %s, in %q", g.QueryOffset(), g.Interval(), g.File())
	}
}

// A tenant whose directory is gone does not come to be again by its rules.
func TestRulesOfADeletedTenant(t *testing.T) {
	w := newRuleWorld(t)
	w.write("gone", "a", "groups: [{name: g, interval: 15s, rules: [{record: a, expr: \"vector(1)\"}]}]\n")
	w.open()
	w.run(time.Minute)
	if err := os.RemoveAll(filepath.Join(w.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	before := w.batches.Load()
	w.run(30 * time.Second)
	w.ruler.Scan(false)
	w.run(time.Minute)
	if n := w.batches.Load() - before; n > 0 || len(w.ruler.RuleGroups(mustTenant(t, "gone"))) > 0 {
		t.Errorf("%d batches were stored of a tenant that is gone", n)
	}
}

func TestExternalURL(t *testing.T) {
	for given, want := range map[string]string{
		"":                         "http://127.0.0.1:9480",
		"https://quipu.example/q/": "https://quipu.example/q",
		"quipu.example":            "--web.external-url=quipu.example: it must begin with http:// or https://",
	} {
		u, err := (&serveCmd{ExternalURL: given, Listen: "127.0.0.1:9480"}).externalURL()
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = u.String()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
