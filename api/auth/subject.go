package auth

import (
	"context"

	"github.com/quipudb/quipu/internal/tenant"
)

// Subject is who makes a request, as its credential says.
type Subject struct {
	// ID is that of the key, the token's subject, or the user's name; "" where there are
	// no credentials.
	ID string
	// Issuer is who says so: "key", "user", or the address of the token's issuer.
	Issuer string
	// Tenant is the one that the credential is of; the zero ID of an operator's.
	Tenant tenant.ID
	// Operator says that the credential is of no tenant, and so may name any.
	Operator    bool
	Permissions Permissions
}

// Everybody is who asks a server without credentials: all may do everything.
var Everybody = Subject{Operator: true, Permissions: all}

// effective are the permissions with what they imply: an operator's admin may do
// everything, a tenant's all that shows no other tenant.
func (s *Subject) effective() Permissions {
	p := s.Permissions
	if p.Has(Admin) {
		p |= ofTenant
		if s.Operator {
			p = all
		}
	}
	return p
}

// May reports whether s may do what p names.
func (s *Subject) May(p Permissions) bool { return s.effective().Has(p) }

type subjectKey struct{}

// With returns a context that carries who asks.
func With(ctx context.Context, s *Subject) context.Context {
	return context.WithValue(ctx, subjectKey{}, s)
}

// From returns who asks, nil where ctx is of no request.
func From(ctx context.Context) *Subject {
	s, _ := ctx.Value(subjectKey{}).(*Subject)
	return s
}
