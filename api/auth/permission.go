package auth

import (
	"fmt"
	"slices"
	"strings"
)

// Permissions are a set of what a credential lets do.
type Permissions uint16

// Every permission. What a tenant's credential may do it may do to its own tenant's
// data only.
const (
	EventsWrite  Permissions = 1 << iota // post events
	MetricsWrite                         // write samples
	MetricsRead                          // ask queries, and what there is to be asked
	RulesWrite                           // replace event rules, and recording and alerting rules
	Admin                                // administer: keys, deletions; of all tenants, if the credential is the operator's
	ProcessRead                          // read the process's own metrics, profiles and status, which name other tenants
)

// ofTenant are what Admin of a tenant implies: all but what shows other tenants.
const ofTenant = EventsWrite | MetricsWrite | MetricsRead | RulesWrite | Admin

// all is every permission.
const all = ofTenant | ProcessRead

var permissionNames = []string{"events:write", "metrics:write", "metrics:read", "rules:write", "admin", "process:read"}

// ParsePermission returns the permission of that name.
func ParsePermission(name string) (Permissions, error) {
	i := slices.Index(permissionNames, name)
	if i < 0 {
		return 0, fmt.Errorf("there is no permission %q, there are %s", name, strings.Join(permissionNames, ", "))
	}
	return 1 << i, nil
}

// ParsePermissions returns the set of the permissions of these names.
func ParsePermissions(names []string) (Permissions, error) {
	var set Permissions
	for _, name := range names {
		p, err := ParsePermission(name)
		if err != nil {
			return 0, err
		}
		set |= p
	}
	return set, nil
}

// Has reports whether all of p are in the set.
func (s Permissions) Has(p Permissions) bool { return s&p == p }

// Names are the names of the permissions in the set.
func (s Permissions) Names() []string {
	out := []string{}
	for i, name := range permissionNames {
		if s&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

func (s Permissions) String() string { return strings.Join(s.Names(), " or ") }

// Need is what a route needs of who asks. The zero Need is no need that anybody
// declared: no route may have it.
type Need struct {
	any      Permissions
	open     bool
	operator bool
}

// Open is a route that needs no credential.
var Open = Need{open: true}

// Any is a route of one tenant's that any of these permissions opens.
func Any(p Permissions) Need { return Need{any: p} }

// Process is a route that shows the process, and so all tenants: process:read opens it,
// or the operator's admin.
var Process = Need{any: ProcessRead}

// Operator is a route that changes what is not one tenant's: only admin of all tenants
// opens it.
var Operator = Need{any: Admin, operator: true}

// Declared reports whether n says anything.
func (n Need) Declared() bool { return n.open || n.any != 0 }

// IsOpen reports whether n needs no credential.
func (n Need) IsOpen() bool { return n.open }

// Administrative reports whether only who may administer or write rules passes n: what is
// done there is written to the audit log.
func (n Need) Administrative() bool { return n.any != 0 && n.any&^(Admin|RulesWrite) == 0 }

// metBy says what s lacks; "" where it has what n needs.
func (n Need) metBy(s *Subject) string {
	switch {
	case n.open:
		return ""
	case n.operator && (!s.Operator || !s.Permissions.Has(Admin)):
		return "admin of all tenants"
	case s.effective()&n.any == 0:
		return n.any.String()
	}
	return ""
}
