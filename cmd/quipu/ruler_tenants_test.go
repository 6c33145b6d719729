package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/tenant"
)

// Rules of a suspended tenant read and store nothing, and their health says why; those of
// a tenant that is served again go on.
func TestRulesOfASuspendedTenant(t *testing.T) {
	w := newRuleWorld(t)
	w.write("shop", "a", "groups: [{name: g, interval: 15s, rules: [{record: a, expr: \"vector(time())\"}, {alert: B, expr: \"vector(1)\"}]}]\n")
	w.open()
	w.run(time.Minute)
	suspend := func(yes string) {
		t.Helper()
		if _, err := w.db.ChangeSettings(mustTenant(t, "shop"), func(own *tenant.Patch) ([]string, error) {
			return own.Merge([]byte(`{"suspended": ` + yes + `}`))
		}); err != nil {
			t.Fatal(err)
		}
	}
	last := w.query("shop", "a", w.now())
	if last == "" {
		t.Fatal("nothing is recorded before")
	}
	suspend("true")
	batches := w.batches.Load()
	w.run(time.Minute)
	for _, name := range []string{"a", "B"} {
		if health, err := w.health("shop", name); health != rules.HealthBad || !strings.HasPrefix(err, "not evaluated: tenant shop is suspended: ") {
			t.Errorf("health of %s is %s: %q", name, health, err)
		}
	}
	if n := w.batches.Load() - batches; n != 0 {
		t.Errorf("%d batches came of a suspended tenant", n)
	}
	suspend("null")
	w.run(15 * time.Second)
	for _, name := range []string{"a", "B"} {
		if health, err := w.health("shop", name); health != rules.HealthGood || err != "" {
			t.Errorf("served again, health of %s is %s: %q", name, health, err)
		}
	}
	if got := w.query("shop", "a", w.now()); got == last || got == "" {
		t.Errorf("served again, it records %q", got)
	}
}

// The rules of a tenant that is deleted are forgotten when the answer comes, and those of
// one that is made again under its name are its own.
func TestRulesGoWithTheirTenant(t *testing.T) {
	s := newTenantServer(t)
	const group = "name: %s\ninterval: 15s\nrules: [{record: a, expr: \"vector(1)\"}, {alert: B, expr: \"vector(1)\"}]\n"
	s.expect(202, "", "acme", "POST", "/config/v1/rules/n", fmt.Sprintf(group, "first"))
	s.expect(202, "", "other", "POST", "/config/v1/rules/n", fmt.Sprintf(group, "others"))
	s.expect(200, `"name":"first"`, "acme", "GET", "/api/v1/rules", "")
	s.expect(200, "", "", "DELETE", "/api/v1/admin/tenants/acme", "")
	s.expect(200, `"groups":[]`, "acme", "GET", "/api/v1/rules", "")
	s.expect(200, "quipu_ruler_groups 1\n", "", "GET", "/metrics", "")
	s.expect(200, `"name":"others"`, "other", "GET", "/api/v1/rules", "")
	s.expect(202, "", "acme", "POST", "/config/v1/rules/n", fmt.Sprintf(group, "second"))
	if got := s.expect(200, `"name":"second"`, "acme", "GET", "/api/v1/rules", ""); strings.Contains(got, "first") {
		t.Errorf("made again it has %s", got)
	}
}
