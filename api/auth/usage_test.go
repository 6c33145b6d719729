package auth

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// plannedKey makes a key of a plan and returns a request with it.
func plannedKey(t testing.TB, a *Authenticator, plan string) (id string, r *http.Request) {
	t.Helper()
	k, text, err := a.Keys().Create(NewKey{Tenant: "a", Permissions: []string{"events:write", "metrics:read"}, Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	a.Refresh()
	r, err = http.NewRequest("GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("Authorization", "Bearer "+text)
	return k.ID, r
}

func identify(a *Authenticator, r *http.Request, p Permissions) *Refusal {
	_, _, err := a.Identify(r, Any(p), "")
	refusal, _ := AsRefusal(err)
	return refusal
}

// A key may make so many requests a second, and as many at once.
func TestRequestsPerSecond(t *testing.T) {
	c := newClock()
	a := newTest(t, t.TempDir(), c, Config{Plans: map[string]Plan{"p": {RequestsPerSecond: 3}}})
	_, r := plannedKey(t, a, "p")
	for i := range 3 {
		if refusal := identify(a, r, MetricsRead); refusal != nil {
			t.Fatalf("request %d: %v", i, refusal)
		}
	}
	if refusal := identify(a, r, MetricsRead); refusal == nil || refusal.Status != 429 || refusal.RetryAfter != time.Second {
		t.Errorf("the fourth: %+v", refusal)
	}
	c.forward(334 * time.Millisecond)
	if refusal := identify(a, r, MetricsRead); refusal != nil {
		t.Errorf("a third of a second later: %v", refusal)
	}
	if refusal := identify(a, r, MetricsRead); refusal == nil {
		t.Error("and another one")
	}
}

// A quota is of a day of UTC, and a restart does not begin another.
func TestQuotaOfADay(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	plans := Config{Plans: map[string]Plan{"p": {EventsPerDay: 10, RequestsPerDay: 4}}}
	a, err := New(Options{DataDir: dir, Now: c.time, Registerer: prometheus.NewRegistry(), Config: plans})
	if err != nil {
		t.Fatal(err)
	}
	id, r := plannedKey(t, a, "p")
	s, _, err := a.Identify(r, Any(EventsWrite), "")
	if err != nil {
		t.Fatal(err)
	}
	a.Charge(s, 12) // the batch that crosses the quota is taken whole
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}

	a = newTest(t, dir, c, plans)
	if used := a.Used(id); used.Events != 12 || used.Requests != 1 || used.Day != "2026-03-04" || !used.Last.Equal(testStart) {
		t.Errorf("after a restart it has used %+v", used)
	}
	if refusal := identify(a, r, EventsWrite); refusal == nil || refusal.Status != 429 || refusal.RetryAfter != 9*time.Hour {
		t.Errorf("more events: %+v, want 429 until midnight", refusal)
	}
	for range 3 {
		if refusal := identify(a, r, MetricsRead); refusal != nil {
			t.Errorf("a query: %v", refusal)
		}
	}
	if refusal := identify(a, r, MetricsRead); refusal == nil || refusal.Status != 429 {
		t.Errorf("the fifth request: %v", refusal)
	}
	c.set(time.Date(2026, 3, 5, 0, 0, 0, 0, time.UTC))
	if refusal := identify(a, r, EventsWrite); refusal != nil {
		t.Errorf("the next day: %v", refusal)
	}
}

// A key of a plan that the configuration no longer has is not one without bounds.
func TestKeyOfAnUnknownPlan(t *testing.T) {
	a := newTest(t, t.TempDir(), newClock(), Config{})
	_, r := plannedKey(t, a, "gone")
	if refusal := identify(a, r, MetricsRead); refusal == nil || refusal.Status != 403 {
		t.Errorf("%v, want 403", refusal)
	}
	if err := a.Apply(Config{Plans: map[string]Plan{"gone": {}}}); err != nil {
		t.Fatal(err)
	}
	if refusal := identify(a, r, MetricsRead); refusal != nil {
		t.Errorf("once it is there: %v", refusal)
	}
}

// A tenant's administrator gives no more than it has.
func TestWhoMakesKeys(t *testing.T) {
	a := newTest(t, t.TempDir(), newClock(), Config{Plans: map[string]Plan{"free": {}, "paid": {}}})
	admin := &Subject{Tenant: mustTenant(t, "a"), Permissions: Admin, plan: "free"}
	operator := &Subject{Operator: true, Permissions: Admin}
	for _, c := range []struct {
		name string
		who  *Subject
		key  NewKey
		want int
	}{
		{"of its own tenant", admin, NewKey{Permissions: []string{"admin"}}, 0},
		{"of another", admin, NewKey{Tenant: "b", Permissions: []string{"metrics:read"}}, 403},
		{"of the operator's", admin, NewKey{Tenant: "*", Permissions: []string{"metrics:read"}}, 403},
		{"that sees the process", admin, NewKey{Permissions: []string{"process:read"}}, 403},
		{"of a better plan", admin, NewKey{Permissions: []string{"admin"}, Plan: "paid"}, 403},
		{"by the operator, of any", operator, NewKey{Tenant: "b", Permissions: []string{"process:read"}, Plan: "paid"}, 0},
		{"by the operator, of none", operator, NewKey{Permissions: []string{"admin"}}, 400},
		{"by the operator, of no plan that there is", operator, NewKey{Tenant: "b", Permissions: []string{"admin"}, Plan: "x"}, 400},
		{"by who may not", &Subject{Tenant: admin.Tenant, Permissions: MetricsRead}, NewKey{Permissions: []string{"admin"}}, 403},
	} {
		refusal, _ := AsRefusal(a.Allow(c.who, &c.key))
		if got := 0; refusal != nil && refusal.Status != c.want || refusal == nil && c.want != got {
			t.Errorf("%s: %v, want %d", c.name, refusal, c.want)
		}
		if c.who == admin && refusal == nil && (c.key.Plan != "free" || c.key.Tenant != "a") {
			t.Errorf("%s: the key is %+v", c.name, c.key)
		}
	}
}

// Users of --web.config.file are operators as long as the file has them.
func TestUsersAreOperators(t *testing.T) {
	file := t.TempDir() + "/web.yaml"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// "secret", at bcrypt's least cost
	write("basic_auth_users:\n  ann: " + bcryptOf(t, "secret") + "\n")
	a, err := New(Options{DataDir: t.TempDir(), Now: newClock().time, Registerer: prometheus.NewRegistry(), WebConfig: file})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ask := func(user, password string) *Refusal {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		_, _, err := a.Identify(r, Operator, "")
		refusal, _ := AsRefusal(err)
		return refusal
	}
	for range 2 {
		if refusal := ask("ann", "secret"); refusal != nil {
			t.Errorf("a user: %v", refusal)
		}
	}
	if refusal := ask("ann", "wrong"); refusal == nil || refusal.Status != 401 {
		t.Errorf("a wrong password: %v", refusal)
	}
	if refusal := ask("bob", "secret"); refusal == nil || refusal.Status != 401 {
		t.Errorf("nobody: %v", refusal)
	}
	write("{}\n")
	a.look()
	if refusal := ask("ann", "secret"); refusal == nil || refusal.Status != 401 {
		t.Errorf("a user that is gone: %v", refusal)
	}
}
