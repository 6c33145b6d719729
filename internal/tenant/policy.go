package tenant

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

// Plans are settings that tenants share, by the plan's name.
type Plans map[string]Patch

// Validate says which plan is wrong, and where.
func (p Plans) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		plan := p[name]
		if name == "" {
			return fmt.Errorf("%s: a plan needs a name", name)
		}
		if err := plan.cannotSay(name, "plan", "grid", "suspended"); err != nil {
			return err
		}
		if err := plan.Validate(); err != nil {
			return fmt.Errorf("%s.%w", name, err)
		}
	}
	return nil
}

// Overrides are the settings of tenants that the operator decides, by the tenants' ids.
type Overrides map[string]Patch

// Validate says which tenant's settings are wrong, and where.
func (o Overrides) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if _, err := Parse(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := o[name].Validate(); err != nil {
			return fmt.Errorf("%s.%w", name, err)
		}
	}
	return nil
}

// Validate says which field of p can be in no tenant's settings. What depends on other
// fields is only known of Settings.
func (p Patch) Validate() error {
	s := p.over(DefaultSettings())
	if p.IdleTimeout == nil {
		s.IdleTimeout = IdleTimeoutFor(s.Grid)
	}
	if (p.IdleTimeout != nil || p.IdleTimeouts != nil || p.Downsample != nil) && p.Grid == nil {
		s.Grid = model.Duration(time.Second)
	}
	if p.Downsample != nil && p.IdleTimeout == nil {
		s.IdleTimeout = model.Duration(idleTimeoutMax)
	}
	return s.Validate()
}

func (p *Patch) cannotSay(where string, fields ...string) error {
	for _, f := range p.Fields() {
		if slices.Contains(fields, f) {
			return fmt.Errorf("%s.%s: it is decided for each tenant", where, f)
		}
	}
	return nil
}

// Defaults are settings of all tenants that do not say.
type Defaults Patch

// Validate says which field is wrong.
func (d Defaults) Validate() error {
	p := Patch(d)
	for _, f := range p.Fields() {
		if f == "suspended" {
			return fmt.Errorf("%s: it is decided for each tenant", f)
		}
	}
	return p.Validate()
}

// Policy is what decides the settings of tenants, beside what each says of itself.
type Policy struct {
	// Defaults are settings where nothing else says: of the server's flags, and what the
	// configuration says of all tenants.
	Defaults Settings
	Plans    Plans
	// Overrides are what no tenant's own settings change.
	Overrides map[ID]Patch
	// NoCreate: events of a tenant that does not exist are refused instead of making it.
	NoCreate bool
}

// NewPolicy joins flags and configuration, and says which field of it is wrong.
func NewPolicy(flags Settings, d Defaults, plans Plans, o Overrides) (*Policy, error) {
	defaults := Patch(d)
	p := &Policy{Defaults: defaults.over(flags), Plans: plans, Overrides: make(map[ID]Patch, len(o))}
	if defaults.IdleTimeout == nil {
		p.Defaults.IdleTimeout = IdleTimeoutFor(p.Defaults.Grid)
	}
	if err := p.Defaults.Validate(); err != nil {
		return nil, fmt.Errorf("defaults.%w", err)
	}
	if err := p.checkPlan(p.Defaults.Plan); err != nil {
		return nil, fmt.Errorf("defaults.%w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		id, err := Parse(name)
		if err != nil {
			return nil, fmt.Errorf("tenants.%s: %w", name, err)
		}
		p.Overrides[id] = o[name]
		if _, err := p.Settings(id, &Patch{}, 0); err != nil {
			return nil, fmt.Errorf("tenants.%s.%w", name, err)
		}
	}
	return p, nil
}

func (p *Policy) checkPlan(name string) error {
	if _, ok := p.Plans[name]; !ok && name != "" {
		return fmt.Errorf("plan is %q, there is none of this name", name)
	}
	return nil
}

// Settings are those in force for a tenant that says own of itself. grid is the one that
// it was made with; 0 where it is not made yet.
func (p *Policy) Settings(id ID, own *Patch, grid model.Duration) (Settings, error) {
	pinned := p.Overrides[id]
	s := p.Defaults
	for _, patch := range []*Patch{own, &pinned} {
		if patch.Plan != nil {
			s.Plan = *patch.Plan
		}
	}
	if err := p.checkPlan(s.Plan); err != nil {
		return Settings{}, err
	}
	plan := p.Plans[s.Plan]
	name := s.Plan
	s = pinned.over(own.over(plan.over(s)))
	s.Plan = name
	if grid != 0 {
		if (own.Grid != nil || pinned.Grid != nil) && s.Grid != grid {
			return Settings{}, fmt.Errorf("grid is %s, but the tenant was made with %s, which cannot change", s.Grid, grid)
		}
		s.Grid = grid
	}
	if own.IdleTimeout == nil && pinned.IdleTimeout == nil && plan.IdleTimeout == nil {
		s.IdleTimeout = p.idleTimeout(s.Grid)
	}
	if own.IdleTimeouts == nil && pinned.IdleTimeouts == nil && plan.IdleTimeouts == nil {
		s.IdleTimeouts = p.Defaults.IdleTimeouts.on(s.Grid)
	}
	if own.Downsample == nil && pinned.Downsample == nil && plan.Downsample == nil {
		s.Downsample = p.Defaults.Downsample.on(s.Grid, s.IdleTimeout)
	}
	return s, s.Validate()
}

// idleTimeout is the default one for a grid, of which it has to be a multiple. One that
// only follows the default grid follows that of the tenant.
func (p *Policy) idleTimeout(grid model.Duration) model.Duration {
	if p.Defaults.IdleTimeout == IdleTimeoutFor(p.Defaults.Grid) {
		return IdleTimeoutFor(grid)
	}
	return roundUp(p.Defaults.IdleTimeout, grid)
}

// Pinned are the names of the fields that a tenant's own settings cannot change.
func (p *Policy) Pinned(id ID) []string {
	o := p.Overrides[id]
	return o.Fields()
}
