package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/tenant"
)

// What is wrong with a configuration is said with the line and the name of the field.
func TestConfigErrorsNameLineAndField(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"defaults:\n  gird: 15s\n", "q.yaml: line 2: field gird is not known"},
		{"defaults:\n  retention: soon\n", `q.yaml: line 2: not a valid duration string: "soon"`},
		{"defaults:\n  limits:\n    series: many\n", "q.yaml: line 3: cannot unmarshal !!str `many` into int"},
		{"defaults:\n  retention: 1d\n  limits:\n    json_depth: 2\n", "q.yaml:4: defaults.limits.json_depth is 2, it must be from 3 to 300"},
		{"defaults:\n  suspended: true\n", "q.yaml:2: defaults.suspended: it is decided for each tenant"},
		{"tenants:\n  a: {}\n  a.b:\n    limits: {series: 3}\n", "q.yaml:4: tenants.a.b.limits.series is 3"},
		{"tenants:\n  a/b: {}\n", `q.yaml:2: tenants.a/b: tenant id "a/b" has the character '/'`},
		{"tenants:\n  a:\n    plan: gold\n", `q.yaml:3: tenants.a.plan is "gold", there is none of this name`},
		{"plans:\n  gold:\n    grid: 1m\n", "q.yaml:3: plans.gold.grid: it is decided for each tenant"},
		{"tenants:\n  a:\n    idle_timeout: 20s\n", "q.yaml:3: tenants.a.idle_timeout is 20s, it must be a multiple of the grid (15s)"},
		{"tenants:\n  a:\n    idle_timeouts:\n      orders_total: 3h\n      logins_total: 20s\n", "q.yaml:5: tenants.a.idle_timeouts.logins_total is 20s, it must be a multiple of the grid (15s)"},
		{"defaults:\n  idle_timeouts: {orders_total: 2d}\n", "q.yaml:2: defaults.idle_timeouts.orders_total is 2d"},
		{"\ncreate_tenants: never\n", `q.yaml:2: create_tenants is "never", it must be on_first_event or by_admin`},
		{"tenants: {}\n---\ntenants: {}\n", "q.yaml: there is more than one document in it"},
		{"tenants: {}\ntenants: {}\n", `q.yaml: line 2: mapping key "tenants" already defined at line 1`},
	} {
		name := filepath.Join(t.TempDir(), "q.yaml")
		if err := os.WriteFile(name, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		status := run([]string{"config", "check", name}, &console{ctx: t.Context(), out: &out, err: &errs, now: time.Now})
		if got := strings.ReplaceAll(errs.String(), filepath.Dir(name)+"/", ""); status != 1 || !strings.HasPrefix(got, "quipu: "+tc.want) {
			t.Errorf("%q: status %d, %s\nwant %s", tc.text, status, got, tc.want)
		}
	}
}

// The file is read again when it changes and when somebody says so. One that is wrong,
// or that a check refuses, leaves the one before in force and is told of once.
func TestConfigsReload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "q.yaml")
	at := time.Unix(1_700_000_000, 0)
	write := func(text string) {
		t.Helper()
		at = at.Add(time.Second)
		// At once, as who may read it now must not find a half of it.
		next := name + ".new"
		if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Chtimes(next, at, at), os.Rename(next, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("create_tenants: by_admin\n")
	var log strings.Builder
	reg := prometheus.NewRegistry()
	c, err := newConfigs(name, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return at }, reg)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for i := range 2 {
		c.subscribe(func(old, now *configFile) {
			told = append(told, fmt.Sprintf("%d: %q to %q", i, old.CreateTenants, now.CreateTenants))
		})
	}
	var unasked []string
	c.unasked = func(why string, err error) { unasked = append(unasked, fmt.Sprintf("%s: %v", why, err != nil)) }
	refuse := false
	c.check(func(*configFile) error {
		if refuse {
			return fmt.Errorf("refused")
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	signals, ticks, stopped := make(chan os.Signal), make(chan time.Time), make(chan struct{})
	go func() {
		defer close(stopped)
		c.watch(ctx, signals, ticks)
	}()
	expect := func(what string, lines int, good float64, want ...string) {
		t.Helper()
		ticks <- at // a second one is taken once the first is done
		if !slices.Equal(told, want) {
			t.Errorf("%s: told %q, want %q", what, told, want)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != lines {
			t.Errorf("%s: %d errors in the log, want %d:\n%s", what, n, lines, log.String())
		}
		if got := gaugeOf(t, reg, "quipu_config_last_reload_successful"); got != good {
			t.Errorf("%s: last reload successful is %v", what, got)
		}
		told = nil
	}
	ticks <- at
	expect("nothing changed", 0, 1)
	write("create_tenants: on_first_event\n")
	ticks <- at
	expect("the file changed", 0, 1, `0: "by_admin" to "on_first_event"`, `1: "by_admin" to "on_first_event"`)
	if got := gaugeOf(t, reg, "quipu_config_last_reload_success_timestamp_seconds"); got != float64(at.Unix()) {
		t.Errorf("last success at %v, want %d", got, at.Unix())
	}
	signals <- syscall.SIGHUP
	expect("a signal", 0, 1, `0: "on_first_event" to "on_first_event"`, `1: "on_first_event" to "on_first_event"`)
	write("create_tenant: by_admin\n")
	ticks <- at
	ticks <- at
	expect("a wrong file", 1, 0)
	if !strings.Contains(log.String(), "q.yaml: line 1: field create_tenant is not known") {
		t.Errorf("the log does not say what is wrong:\n%s", log.String())
	}
	refuse = true
	write("create_tenants: by_admin\n")
	ticks <- at
	expect("a check fails", 2, 0)
	if c.get().CreateTenants != createOnFirstEvent {
		t.Errorf("in force is %q", c.get().CreateTenants)
	}
	refuse = false
	if err := c.reload(); err != nil {
		t.Error(err)
	}
	expect("all is right again", 2, 1, `0: "on_first_event" to "by_admin"`, `1: "on_first_event" to "by_admin"`)
	stop()
	<-stopped
	// Who asked for the others has its answer.
	if want := []string{"the file has changed: false", "SIGHUP: false", "the file has changed: true", "the file has changed: true"}; !slices.Equal(unasked, want) {
		t.Errorf("reloads that nobody asked for are %q, want %q", unasked, want)
	}
}

func gaugeOf(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0] // one of the two is nil, which has 0
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// A server with a wrong configuration does not start; one that runs keeps what it had, and
// says so to who asked.
func TestConfigOfARunningServer(t *testing.T) {
	name := filepath.Join(t.TempDir(), "q.yaml")
	if err := os.WriteFile(name, []byte("defaults: {retention: 30d}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startServer(t, "--config.file="+name)
	reload := func() (int, string) {
		t.Helper()
		resp, err := http.Post(server.URL+"/-/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := reload(); code != http.StatusOK {
		t.Errorf("a right file: %d %s", code, body)
	}
	inForce := func(want string) {
		t.Helper()
		if got := request(t, http.MethodGet, server.URL+"/api/v1/status/runtimeinfo", "", http.StatusOK); !strings.Contains(got, `"reloadConfigSuccess":`+want) {
			t.Errorf("runtimeinfo says %s, want a reload that was right to be %s", got, want)
		}
	}
	inForce("true")
	if err := os.WriteFile(name, []byte("defaults: {retention: -1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, body := reload(); code != http.StatusInternalServerError || !strings.Contains(body, "q.yaml: line 1: not a valid duration") {
		t.Errorf("a wrong file: %d %s", code, body)
	}
	inForce("false")
	if err := server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	var audit []byte
	var err error
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(string(audit), `"SIGHUP"`) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if audit, err = os.ReadFile(filepath.Join(server.DataDir, "@audit", "audit.log")); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`"act":"POST /-/reload","client":"127.0.0.1","route":"/-/reload","outcome":"done"`, `"outcome":"failed with 500"`,
		`"act":"reload configuration","who":"quipu","issuer":"process","outcome":"failed","detail":"SIGHUP"`,
	} {
		if strings.Count(string(audit), want) != 1 {
			t.Errorf("the audit log is\n%swant once %s", audit, want)
		}
	}
	if code := run([]string{"serve", "--listen=" + freeAddress(t), "--data.dir=" + t.TempDir(), "--config.file=" + name},
		&console{ctx: t.Context(), out: io.Discard, err: io.Discard, now: time.Now}); code != 1 {
		t.Errorf("a server that starts with a wrong file ends with %d", code)
	}
}

// configsOf are the configurations that a page of the documentation shows: blocks that
// begin with a section of one.
func configsOf(t *testing.T, page string) (out []*configFile) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begins := regexp.MustCompile(`(?m)^(?:(?:#.*)?\n)*(\w+):`)
	for _, block := range regexp.MustCompile(`(?m)(?:^(?:    .*)?\n)+`).FindAllString(string(text), -1) {
		block = strings.TrimLeft(regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, ""), "\n")
		first := begins.FindStringSubmatch(block)
		if first == nil || !slices.ContainsFunc((&configFile{}).sections(), func(s section) bool { return s.name == first[1] }) {
			continue
		}
		c, err := parseConfig(page, []byte(block))
		if err != nil {
			t.Errorf("%v\nin\n%s", err, block)
			continue
		}
		out = append(out, c)
	}
	return out
}

// The configurations that the documentation shows are some.
func TestConfigOfTheDocumentation(t *testing.T) {
	for page, want := range map[string]int{"auth": 2, "limits": 1, "rules": 1, "tenants": 1} {
		if got := len(configsOf(t, "../../docs/"+page+".md")); got != want {
			t.Errorf("docs/%s.md shows %d configurations, want %d", page, got, want)
		}
	}
	for _, c := range configsOf(t, "../../docs/auth.md") {
		if len(c.Auth.Issuers)+len(c.Auth.Plans) == 0 {
			t.Errorf("docs/auth.md shows a configuration without issuers and plans: %+v", c.Auth)
		}
	}
	c := configsOf(t, "../../docs/tenants.md")[0]
	flags, err := (&serveDefaults{Grid: model.Duration(15 * time.Second)}).settings()
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.policy("docs/tenants.md", flags)
	if err != nil {
		t.Fatal(err)
	}
	acme, err := tenant.Parse("acme")
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Settings(acme, &tenant.Patch{}, 0)
	if err != nil || s.Limits.EventsPerSecond != 50_000 || s.Plan != "gold" {
		t.Errorf("settings of acme are %+v, %v", s, err)
	}
}
