package ruler

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// Config is the section "rules" of the server's configuration: how the rules of all
// tenants are evaluated.
type Config struct {
	// EvaluationInterval is that of groups that name none.
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	// LateHorizon is how far back recording rules are evaluated again where late events
	// change what they read; 0 evaluates nothing again.
	LateHorizon model.Duration `yaml:"late_horizon"`
	// OutageTolerance is the age past which the state of an alert is not restored.
	OutageTolerance model.Duration `yaml:"outage_tolerance"`
	// ForGracePeriod is the least time between a start and the firing of an alert that
	// was pending before.
	ForGracePeriod model.Duration `yaml:"for_grace_period"`
	// ResendDelay is the least time between two notifications of one alert.
	ResendDelay model.Duration `yaml:"resend_delay"`
	// ConcurrentGroups is how many groups are evaluated at once, of all tenants.
	ConcurrentGroups int `yaml:"concurrent_groups"`
	// RulesPerTenant is the most rules that one tenant may have.
	RulesPerTenant int `yaml:"rules_per_tenant"`
}

// DefaultConfig is what is in force where nothing is said.
func DefaultConfig() Config {
	return Config{
		EvaluationInterval: model.Duration(time.Minute),
		LateHorizon:        model.Duration(time.Hour),
		OutageTolerance:    model.Duration(time.Hour),
		ResendDelay:        model.Duration(time.Minute),
		ConcurrentGroups:   4,
		RulesPerTenant:     10_000,
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Config
	*c = DefaultConfig()
	return unmarshal((*plain)(c))
}

// orDefault is c, or the defaults where its section is not there.
func (c Config) orDefault() Config {
	if c == (Config{}) {
		return DefaultConfig()
	}
	return c
}

// Validate says which field of the section is out of range, and what it may be.
func (c Config) Validate() error {
	c = c.orDefault()
	const day = model.Duration(24 * time.Hour)
	for _, f := range []struct {
		name          string
		have, min, to model.Duration
	}{
		{"evaluation_interval", c.EvaluationInterval, model.Duration(time.Second), day},
		{"late_horizon", c.LateHorizon, 0, 7 * day},
		{"outage_tolerance", c.OutageTolerance, 0, 7 * day},
		{"for_grace_period", c.ForGracePeriod, 0, day},
		{"resend_delay", c.ResendDelay, 0, day},
	} {
		if f.have < f.min || f.have > f.to {
			return fmt.Errorf("%s is %s, it must be from %s to %s", f.name, f.have, f.min, f.to)
		}
	}
	switch {
	case c.ConcurrentGroups < 1 || c.ConcurrentGroups > 1000:
		return fmt.Errorf("concurrent_groups is %d, it must be from 1 to 1000", c.ConcurrentGroups)
	case c.RulesPerTenant < 1:
		return fmt.Errorf("rules_per_tenant is %d, it must be at least 1", c.RulesPerTenant)
	}
	return nil
}
