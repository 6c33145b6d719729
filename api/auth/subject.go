package auth

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

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

	plan  string // of the key; "": that of the tenant
	usage *usage // that requests are charged to; nil: none
}

// Issuers of subjects that are no address.
const (
	issuerKey  = "key"
	issuerUser = "user"
)

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

// Request is what is known of a request once it is known who makes it.
type Request struct {
	Subject *Subject
	// Client is the address of who sent it, Route the route that it takes.
	Client, Route string
	// Log is where acts are written; nil: nowhere.
	Log *AuditLog

	audited atomic.Bool
}

// ClientOf is the address of who sent r, without its port.
func ClientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

type requestKey struct{}

// With returns a context of a request.
func With(ctx context.Context, r *Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// From returns who asks, nil where ctx is of no request.
func From(ctx context.Context) *Subject {
	if r := requestOf(ctx); r != nil {
		return r.Subject
	}
	return nil
}

func requestOf(ctx context.Context) *Request {
	r, _ := ctx.Value(requestKey{}).(*Request)
	return r
}
