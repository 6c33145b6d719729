package ruler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

func mustTenant(t testing.TB, name string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// world is a store that takes everything, and an engine whose queries wait for tests.
type world struct {
	clock  atomic.Int64
	begun  chan tenant.ID // of each query, when it has come
	mayEnd chan struct{}
	mu     sync.Mutex
	most   int // queries at once
	now    int
}

func (w *world) Append(context.Context, tenant.ID, *increment.Batch) (bool, error) { return false, nil }

func (w *world) Tenant(tenant.ID) (tenant.Profile, error) { return tenant.Profile{}, nil }

func (w *world) Settings(tenant.ID) (tenant.Settings, error) { return tenant.DefaultSettings(), nil }

func (w *world) Querier(int64, int64) (storage.Querier, error) { return storage.NoopQuerier(), nil }

func (w *world) NewRangeQuery(context.Context, storage.Queryable, upstream.QueryOpts, string, time.Time, time.Time, time.Duration) (upstream.Query, error) {
	return nil, errors.New("no rule is evaluated over a range here")
}

// NewInstantQuery waits until the test lets it go.
func (w *world) NewInstantQuery(ctx context.Context, _ storage.Queryable, _ upstream.QueryOpts, _ string, _ time.Time) (upstream.Query, error) {
	sc, _ := scope.From(ctx)
	w.mu.Lock()
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	w.begun <- sc.Tenant
	<-w.mayEnd
	w.mu.Lock()
	w.now--
	w.mu.Unlock()
	return nil, errors.New("nothing is known")
}

func newRuler(t *testing.T, dir string, w *world, c Config) *Ruler {
	t.Helper()
	w.clock.Store(1_000_000_000_000)
	r, err := New(Options{
		Store: w, Engine: w, Queryable: w, Parser: parser.NewParser(parser.Options{}), Files: NewFiles(dir), Config: c,
		Now: func() time.Time { return time.UnixMilli(w.clock.Load()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func writeGroups(t *testing.T, dir, id string, n int) {
	t.Helper()
	var b strings.Builder
	b.WriteString("groups:\n")
	for i := range n {
		fmt.Fprintf(&b, "- {name: g%d, interval: 15s, rules: [{record: x, expr: y}]}\n", i)
	}
	if err := os.MkdirAll(filepath.Join(dir, id, "rules"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, id, "rules", "n.yaml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A tenant with very many groups that are due holds up no other's: some place is always
// left, no more run at once than may, and tenants take turns.
func TestTenantsTakeTurns(t *testing.T) {
	dir := t.TempDir()
	writeGroups(t, dir, "many", 50)
	writeGroups(t, dir, "few", 2)
	w := &world{begun: make(chan tenant.ID, 100), mayEnd: make(chan struct{}, 100)}
	c := DefaultConfig()
	c.ConcurrentGroups = 3
	r := newRuler(t, dir, w, c)
	r.Scan(true)
	w.clock.Add(15_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.EvaluateDue(t.Context())
	}()
	var order []string
	for range 3 {
		order = append(order, (<-w.begun).String())
	}
	if n := strings.Count(strings.Join(order, " "), "few"); n == 0 {
		t.Errorf("the first that run are of %v: none is left for the other tenant", order)
	}
	close(w.mayEnd)
	<-done
	close(w.begun)
	for id := range w.begun {
		order = append(order, id.String())
	}
	if len(order) != 52 || w.most > 3 {
		t.Errorf("%d groups were evaluated, %d at once", len(order), w.most)
	}
	last := 0
	for i, id := range order {
		if id == "few" {
			last = i
		}
	}
	if last > 6 {
		t.Errorf("the other tenant's last group was evaluated as number %d: %v", last, order)
	}
}

// A tenant without rules costs nothing: no entry, no timer.
func TestNoRulesCostNothing(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint("t", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := newRuler(t, dir, &world{}, Config{})
	r.Scan(true)
	if _, ok := r.EvaluateDue(t.Context()); ok || len(r.tenants) > 0 {
		t.Errorf("something is due, %d tenants are known", len(r.tenants))
	}
}

// An evaluation that takes longer than the interval is made up for by one.
func TestMissedEvaluationsAreNotMadeUpFor(t *testing.T) {
	dir := t.TempDir()
	writeGroups(t, dir, "slow", 1)
	w := &world{begun: make(chan tenant.ID, 100), mayEnd: make(chan struct{})}
	close(w.mayEnd)
	r := newRuler(t, dir, w, Config{})
	r.Scan(true)
	w.clock.Add(15_000)
	r.EvaluateDue(t.Context())
	w.clock.Add(10 * 15_000)
	next, ok := r.EvaluateDue(t.Context())
	if n := len(w.begun); n != 2 || !ok || next.UnixMilli() <= w.clock.Load() {
		t.Errorf("%d evaluations, the next one is at %s", n, next)
	}
}

// What a configuration may say, and what is said of what it may not.
func TestAlertingConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"alertmanagers: [{static_configs: [{targets: [\"a:9093\"]}], basic_auth: {username: u, password: p}, path_prefix: /am, timeout: 3s, api_version: v2}]": "",
		"tenants: {acme: {alertmanagers: [{static_configs: [{targets: [\"a:9093\"]}]}]}}":                                                                      "",
		"tenants: {\"a/b\": {}}":         `tenants: tenant id "a/b" has the character`,
		"alertmanagers: [{timeout: 3s}]": "alertmanagers[0] has no static_configs",
		"alertmanagers: [{static_configs: [{targets: [\"a\"]}], api_version: v1}]":         "expected Alertmanager api version",
		"alertmanagers: [{static_configs: [{targets: [\"http://a\"]}]}]":                   "is not a valid hostname",
		"alertmanagers: [{static_config: []}]":                                             "field static_config not found",
		"queue_capacity: -1":                                                               "queue_capacity is -1",
		"alert_relabel_configs: [{action: replace, target_label: x, replacement: \"$1\"}]": "",
		"alert_relabel_configs: [{action: nothing}]":                                       "unknown relabel action",
	} {
		var a Alerting
		dec := yaml.NewDecoder(strings.NewReader(text))
		dec.KnownFields(true)
		err := dec.Decode(&a)
		if err == nil {
			err = a.Validate()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                         "",
		"late_horizon: 0s":           "",
		"late_horizon: 8d":           "late_horizon is 8d, it must be from 0s to 1w",
		"evaluation_interval: 500ms": "evaluation_interval is 500ms",
		"concurrent_groups: 0":       "concurrent_groups is 0",
		"rules_per_tenant: 0":        "rules_per_tenant is 0",
	} {
		var c Config
		err := yaml.Unmarshal([]byte(text), &c)
		if err == nil {
			err = c.Validate()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if c := (Config{}).orDefault(); c != DefaultConfig() {
		t.Errorf("without a section the configuration is %+v", c)
	}
}

// Files of rules are namespaces whatever they are called, and nothing else is.
func TestNamespacesAreFiles(t *testing.T) {
	f := NewFiles(t.TempDir())
	id := tenant.Default
	names := []string{"a", "a/b", "..", "ü x", ".hidden", "a%2Fb"}
	for _, name := range names {
		if err := f.write(id, name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.path(id), "x.yaml.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := f.read(id)
	if err != nil || len(got) != len(names) {
		t.Errorf("read %q, %v", got, err)
	}
	for _, name := range names {
		if string(got[name]) != name {
			t.Errorf("namespace %q has %q", name, got[name])
		}
		before, _ := f.stamp(id)
		if err := f.write(id, name, nil); err != nil {
			t.Fatal(err)
		}
		if after, _ := f.stamp(id); after == before {
			t.Errorf("the stamp does not change where %q is removed", name)
		}
	}
	if err := f.write(id, strings.Repeat("x", 300), []byte("x")); !errors.Is(err, ErrBadRules) {
		t.Errorf("a namespace that is too long: %v", err)
	}
}

// Whoever deletes a tenant is told that its rules are forgotten when no evaluation is
// under way; files that are not yet removed are not loaded again, those that are written
// later are.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	writeGroups(t, dir, "gone", 3)
	w := &world{begun: make(chan tenant.ID, 100), mayEnd: make(chan struct{}, 100)}
	r := newRuler(t, dir, w, DefaultConfig())
	r.Scan(true)
	id, err := tenant.Parse("gone")
	if err != nil {
		t.Fatal(err)
	}
	w.clock.Add(15_000)
	evaluated, forgotten := make(chan struct{}), make(chan error)
	go func() {
		defer close(evaluated)
		r.EvaluateDue(t.Context())
	}()
	<-w.begun
	go func() { forgotten <- r.Forget(id) }()
	for len(r.RuleGroups(id)) > 0 { // until Forget waits for the evaluation
		runtime.Gosched()
	}
	select {
	case err := <-forgotten:
		t.Errorf("forgotten, %v, while a rule is evaluated", err)
	default:
	}
	close(w.mayEnd)
	if err := <-forgotten; err != nil {
		t.Fatal(err)
	}
	<-evaluated
	for len(w.begun) > 0 {
		<-w.begun
	}
	r.Scan(false)
	w.clock.Add(60_000)
	if _, ok := r.EvaluateDue(t.Context()); ok || len(w.begun) > 0 || len(r.RuleGroups(id)) > 0 {
		t.Errorf("%d queries of a tenant that was forgotten", len(w.begun))
	}
	if err := os.RemoveAll(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	r.Scan(false)
	if n := len(r.tenants); n != 0 {
		t.Errorf("%d tenants are left", n)
	}
	writeGroups(t, dir, "gone", 1)
	r.Scan(false)
	if n := len(r.RuleGroups(id)); n != 1 {
		t.Errorf("%d groups of a tenant that is made again", n)
	}
}

// Files that were written by hand may spell a namespace otherwise than the API does: it is
// one namespace all the same, which is replaced and removed whole. What is wrong with one
// file keeps nobody from changing others, or from removing it.
func TestFilesWrittenByHand(t *testing.T) {
	dir := t.TempDir()
	id := mustTenant(t, "a")
	r := newRuler(t, dir, &world{}, DefaultConfig())
	path := filepath.Join(dir, "a", "rules")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	files := func() (out []string) {
		t.Helper()
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	byHand := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.Scan(false)
	}
	const group = "groups: [{name: old, rules: [{record: x, expr: y}]}]"
	for _, namespace := range []string{"my rules", "übersicht", "a,b", "a(b)"} {
		byHand(namespace+".yaml", group)
		if err := r.SetGroup(id, namespace, []byte("{name: new, rules: [{record: z, expr: y}]}")); err != nil {
			t.Fatal(err)
		}
		if got := files(); len(got) != 1 {
			t.Errorf("%s is in the files %q", namespace, got)
		}
		if got, err := r.Groups(id); err != nil || len(got[namespace]) != 2 {
			t.Errorf("%s: %+v, %v", namespace, got, err)
		}
		byHand(namespace+".yaml", group)
		if err := r.DeleteNamespace(id, namespace); err != nil {
			t.Fatal(err)
		}
		if got := files(); len(got) != 0 {
			t.Errorf("%s was removed, and is in the files %q", namespace, got)
		}
	}

	byHand("wrong.yaml", "groups: [{name: g, rules: [{record: x, expr: (}]}]")
	if err := r.SetGroup(id, "right", []byte("{name: g, rules: [{record: x, expr: y}]}")); err != nil {
		t.Errorf("beside a wrong file: %v", err)
	}
	if err := r.SetGroup(id, "wrong", []byte("{name: h, rules: [{record: x, expr: y}]}")); !errors.Is(err, ErrBadRules) {
		t.Errorf("into a wrong file: %v", err)
	}
	if _, err := r.Groups(id); err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("of a wrong file: %v", err)
	}
	if err := r.DeleteNamespace(id, "wrong"); err != nil {
		t.Error(err)
	}
	if got := files(); len(got) != 1 || got[0] != "right.yaml" {
		t.Errorf("the files are %q", got)
	}
}

// A configuration that is read while alerts are sent makes notifiers anew, each with the
// metrics of its tenant, which can be registered once.
func TestReconfiguredWhileAlertsAreSent(t *testing.T) {
	var a Alerting
	if err := yaml.Unmarshal([]byte("alertmanagers: [{static_configs: [{targets: [\"127.0.0.1:1\"]}]}]"), &a); err != nil {
		t.Fatal(err)
	}
	n := newNotifiers(a, "", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	defer n.stop()
	ids := make([]tenant.ID, 50)
	for i := range ids {
		ids[i] = mustTenant(t, fmt.Sprintf("t%d", i))
	}
	use := func() {
		for _, id := range ids {
			if active, _ := n.alertmanagers(id); len(active) != 1 {
				t.Errorf("tenant %s has the alertmanagers %v", id, active)
			}
		}
	}
	for range 20 {
		use()
		var wait sync.WaitGroup
		wait.Go(func() { n.configure(a) })
		wait.Go(func() { n.forget(ids[0]) })
		use()
		wait.Wait()
	}
}
