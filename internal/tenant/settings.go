package tenant

import (
	"fmt"
	"reflect"
	"time"

	"github.com/prometheus/common/model"
)

// BlockRange is the time span of one memtable. A grid step divides it, so that
// no window straddles two memtables.
const BlockRange = 2 * time.Hour

// EventRulesFile is the name of a tenant's event rules, in its directory beside
// settings.yaml.
const EventRulesFile = "events.yaml"

// RulesDir is the name of the directory of a tenant's recording and alerting rules.
const RulesDir = "rules"

// Settings are what an operator may set for one tenant; they live in
// <data.dir>/<tenant>/settings.yaml.
type Settings struct {
	// Plan names settings that tenants share; "" is none.
	Plan string `yaml:"plan" json:"plan"`
	// Grid is the width of a window: at least 1s, a divisor of BlockRange, and a
	// divisor or multiple of the 5 minutes that a distinct metric shows.
	// It is fixed when the tenant is created.
	Grid model.Duration `yaml:"grid" json:"grid"`
	// IdleTimeout ends a run of a counter or histogram: its view goes stale
	// that long after its last increment. A multiple of Grid.
	IdleTimeout model.Duration `yaml:"idle_timeout" json:"idle_timeout"`
	// IdleTimeouts are those of metrics that have one of their own.
	IdleTimeouts IdleTimeouts `yaml:"idle_timeouts" json:"idle_timeouts,omitempty"`
	// Retention is the age past which data is dropped; 0 keeps all.
	Retention model.Duration `yaml:"retention" json:"retention"`
	// RetentionRules are shorter ages for some series; the first that selects one decides.
	RetentionRules RetentionRules `yaml:"retention_rules" json:"retention_rules"`
	// RetentionSize is how many bytes of blocks are kept, the newest; 0 keeps all. Memory
	// and the log are not counted.
	RetentionSize ByteSize `yaml:"retention_size" json:"retention_size"`
	// Downsample are the ages from which on data is kept on coarser grids.
	Downsample DownsampleRules `yaml:"downsample" json:"downsample,omitempty"`
	// ExactCounts: increase and rate of counts mean their anchored form.
	ExactCounts bool `yaml:"exact_counts" json:"exact_counts"`
	// FilterBots: events of programs, by their user agents, are not counted.
	FilterBots bool `yaml:"filter_bots" json:"filter_bots"`
	// HonourDoNotTrack: events of pages whose visitors ask not to be tracked are not
	// counted.
	HonourDoNotTrack bool `yaml:"honour_do_not_track" json:"honour_do_not_track"`
	// Suspended: reads and writes are refused, and what is stored stays.
	Suspended bool   `yaml:"suspended" json:"suspended"`
	Limits    Limits `yaml:"limits" json:"limits"`
}

// DefaultSettings are those of a new tenant when nothing else is said.
func DefaultSettings() Settings {
	return Settings{
		Grid:        model.Duration(15 * time.Second),
		IdleTimeout: model.Duration(time.Hour),
		Limits:      DefaultLimits(),
	}
}

// Validate says which field is out of range, and what it may be.
func (s Settings) Validate() error {
	grid := time.Duration(s.Grid)
	switch {
	case grid < time.Second || BlockRange%grid != 0:
		return fmt.Errorf("grid is %s, it must be at least 1s and divide %s", s.Grid, model.Duration(BlockRange))
	case grid%time.Second != 0:
		return fmt.Errorf("grid is %s, it must be whole seconds", s.Grid)
	case 5*time.Minute%grid != 0 && grid%(5*time.Minute) != 0:
		return fmt.Errorf("grid is %s, it must divide 5m or be a multiple of it", s.Grid)
	}
	if err := s.validateRetention(); err != nil {
		return err
	}
	if err := checkIdle("idle_timeout", time.Duration(s.IdleTimeout), grid); err != nil {
		return err
	}
	if err := s.IdleTimeouts.validate(grid); err != nil {
		return err
	}
	if err := s.validateDownsample(); err != nil {
		return err
	}
	return s.Limits.validate()
}

// Equal reports whether all settings are the same.
func (s *Settings) Equal(o *Settings) bool { return reflect.DeepEqual(s, o) }

// IdleTimeoutFor is the idle timeout where nothing is said: an hour, rounded up to a
// multiple of the grid.
func IdleTimeoutFor(grid model.Duration) model.Duration {
	return roundUp(model.Duration(time.Hour), grid)
}

// roundUp raises d to a multiple of the grid.
func roundUp(d, grid model.Duration) model.Duration {
	if rest := d % max(1, grid); rest > 0 {
		d += grid - rest
	}
	return d
}

// ParseSettings decodes YAML over the given defaults; unknown fields are errors
// that name their line. An idle timeout that is not set follows the file's grid.
func ParseSettings(src []byte, defaults Settings) (Settings, error) {
	own, err := ParsePatch(src)
	if err != nil {
		return Settings{}, err
	}
	return (&Policy{Defaults: defaults}).Settings(ID{}, &own, 0)
}

// NewFile is the settings file of a tenant made with these settings: it pins what
// cannot change later and leaves the rest to the server's defaults.
func (s Settings) NewFile() []byte {
	grid := Duration(s.Grid)
	return (&Patch{Grid: &grid}).File(s)
}

// File is the settings file of a tenant that says p of itself, which says its grid. What
// it could say is in comments, as it is by the defaults.
func (p *Patch) File(s Settings) []byte {
	return append(fmt.Appendf(nil, `# Settings of this tenant. What is not set here follows the server's defaults; what
# could be is below. The server reads this file when it starts and when it is told
# to (SIGHUP); "quipu tenants set" writes it anew, these comments included.
#
#   suspended: false           # true: reads and writes are refused
#   idle_timeout: %s          # a series without increments goes stale after this
#   idle_timeouts: %s          # the same of single metrics, as {orders_total: 3h}
#   retention: %s             # age at which data is dropped; 0s keeps all
#   retention_rules: []        # - {match: '{env="dev"}', retention: 7d}: sooner for these
#   retention_size: %s         # bytes of blocks past which the oldest go; 0B keeps all
#   downsample: %s             # older data on a coarser grid, as [{after: 30d, to: 5m}]
#   exact_counts: %t        # increase and rate of counts mean their anchored form
#   filter_bots: %t         # events of programs are not counted
#   honour_do_not_track: %t # nor of visitors who ask not to be tracked
%s
# The grid, the width of a window, is fixed since the tenant was made.
`, s.IdleTimeout, s.IdleTimeouts, s.Retention, s.RetentionSize, s.Downsample, s.ExactCounts, s.FilterBots, s.HonourDoNotTrack, s.Limits.newFile()), p.yaml()...)
}

// Profile is what the write path needs to know of a tenant.
type Profile struct {
	Settings
	// IDKey keys the hashes under which user ids are kept; it is random, made
	// with the tenant, and never leaves the process.
	IDKey [16]byte
	// EventKey keys the hashes of events' ids, as IDKey those of users'; it stays when
	// IDKey goes.
	EventKey [16]byte
	// UserEpochs are when keys of user ids were put in the place of others, milliseconds
	// since 1970, ascending. What is shared is never changed.
	UserEpochs []int64
	// EventTag begins the ids of the tenant's events; zero: they begin as their hashes do.
	EventTag [4]byte
	// Generation tells the tenant from an earlier one of its name.
	Generation uint64
}

// GridMillis is the grid step in milliseconds.
func (s Settings) GridMillis() int64 { return time.Duration(s.Grid).Milliseconds() }
