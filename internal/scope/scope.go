// Package scope carries what is decided once, where a request enters, through
// its context: whose data it may touch and what the present is. Reading the
// clock a second time further in would let two selectors of one query disagree.
package scope

import (
	"context"

	"github.com/quipudb/quipu/internal/tenant"
)

// Scope is the tenant of a request and its pinned present.
type Scope struct {
	Tenant tenant.ID
	Now    int64 // milliseconds since 1970
}

type key struct{}

// With returns a context that carries s.
func With(ctx context.Context, s Scope) context.Context {
	return context.WithValue(ctx, key{}, s)
}

// From returns the scope of ctx and whether it has one.
func From(ctx context.Context) (Scope, bool) {
	s, ok := ctx.Value(key{}).(Scope)
	return s, ok
}
