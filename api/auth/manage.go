package auth

import "fmt"

// Manages reports whether s may make and revoke the keys of a tenant, which Everywhere
// names for an operator's.
func (s *Subject) Manages(of string) bool {
	if !s.May(Admin) {
		return false
	}
	return s.Operator || s.Tenant.String() == of
}

// Allow says whether s may make a key, and completes it: no tenant is that of who asks,
// and a tenant's administrator makes keys of its own plan. An error is a *Refusal.
func (a *Authenticator) Allow(s *Subject, n *NewKey) error {
	if n.Tenant == "" && !s.Operator {
		n.Tenant = s.Tenant.String()
	}
	if n.Tenant == "" {
		return &Refusal{Status: 400, reason: reasonHeader, Message: fmt.Sprintf("tenant: name one, or %q for a key of the operator's", Everywhere)}
	}
	if !s.Manages(n.Tenant) {
		return forbidden(reasonTenant, "the credential may only make keys of its own tenant")
	}
	if !s.Operator {
		set, err := ParsePermissions(n.Permissions)
		if err == nil && set&ProcessRead != 0 {
			return forbidden(reasonMissing, "only the operator may give process:read, which shows other tenants")
		}
		if n.Plan != "" && n.Plan != s.plan {
			return forbidden(reasonMissing, "only the operator may choose the plan of a key")
		}
		n.Plan = s.plan
	}
	if n.Plan != "" && !a.HasPlan(n.Plan) {
		return &Refusal{Status: 400, reason: reasonPlan, Message: fmt.Sprintf("plan: there is no plan %q in the configuration (auth.plans)", n.Plan)}
	}
	return nil
}
