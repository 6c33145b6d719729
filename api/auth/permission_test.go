package auth

import (
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

// What a route needs is met by its permission, or by admin of whom it is about.
func TestNeeds(t *testing.T) {
	id, err := tenant.Parse("acme")
	if err != nil {
		t.Fatal(err)
	}
	of := func(p Permissions) *Subject { return &Subject{Tenant: id, Permissions: p} }
	operator := &Subject{Operator: true, Permissions: Admin}
	reader := &Subject{Operator: true, Permissions: MetricsRead}
	for _, c := range []struct {
		name string
		need Need
		who  *Subject
		want string
	}{
		{"open", Open, of(0), ""},
		{"its permission", Any(MetricsRead), of(MetricsRead), ""},
		{"one of two", Any(MetricsRead | RulesWrite), of(RulesWrite), ""},
		{"none of two", Any(MetricsRead | RulesWrite), of(EventsWrite), "metrics:read or rules:write"},
		{"another one", Any(EventsWrite), of(MetricsRead), "events:write"},
		{"admin of the tenant writes events", Any(EventsWrite), of(Admin), ""},
		{"admin of the tenant does not see the process", Process, of(Admin), "process:read"},
		{"nor changes what is not its tenant's", Operator, of(Admin), "admin of all tenants"},
		{"process:read sees the process", Process, of(ProcessRead), ""},
		{"the operator sees the process", Process, operator, ""},
		{"the operator changes everything", Operator, operator, ""},
		{"who reads all tenants changes none", Operator, reader, "admin of all tenants"},
		{"nor writes", Any(RulesWrite), reader, "rules:write"},
		{"everybody, without credentials", Operator, &Everybody, ""},
	} {
		if got := c.need.metBy(c.who); got != c.want {
			t.Errorf("%s: lacks %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPermissionsAreParsed(t *testing.T) {
	set, err := ParsePermissions([]string{"metrics:read", "events:write"})
	if err != nil || set != EventsWrite|MetricsRead {
		t.Errorf("%v, %v", set, err)
	}
	if _, err := ParsePermissions([]string{"metrics:rite"}); err == nil {
		t.Error("a permission that there is not was taken")
	}
	if got, err := ParsePermissions(all.Names()); err != nil || got != all {
		t.Errorf("the names of all permissions are %v: %v", got, err)
	}
}
