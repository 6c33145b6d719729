package tsdb

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// PinnedError says that fields of a tenant's settings are decided by the server's
// configuration, so that the tenant's own cannot change them.
type PinnedError struct {
	Tenant tenant.ID
	Fields []string
}

func (e *PinnedError) Error() string {
	return fmt.Sprintf("%s of tenant %s: the server's configuration decides it (tenants.%s), so it cannot be changed here", strings.Join(e.Fields, ", "), e.Tenant, e.Tenant)
}

// SettingsError says what is wrong with settings; nothing has changed.
type SettingsError struct{ Err error }

func (e *SettingsError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong, which names the field.
func (e *SettingsError) Unwrap() error { return e.Err }

// settings returns those in force: one value that never changes. Who needs two of them to
// agree asks once.
func (s *store) settings() *tenant.Profile { return s.profile.Load() }

// use puts settings in force. What readers kept of before is theirs no longer where the
// view depends on what changed.
//
// REQUIRES: s.settingsMu, unless the store is not in use yet
func (s *store) use(settings tenant.Settings) {
	had := s.settings()
	next := *had
	next.Settings = settings
	func() {
		s.cuts.applying.Lock()
		defer s.cuts.applying.Unlock()
		s.profile.Store(&next)
		if settings.IdleTimeout != had.IdleTimeout || !maps.Equal(settings.IdleTimeouts, had.IdleTimeouts) {
			// Quarters, so that lengths of unions fit.
			s.late.note(past.Interval{From: math.MinInt64 / 4, To: math.MaxInt64 / 4})
		}
	}()
	s.admission.setLimits(&settings.Limits)
	s.notes.setMax(settings.Limits.Exemplars)
}

// settingsBy are the settings that a policy gives a tenant which says own of itself.
func (s *store) settingsBy(p *tenant.Policy, own *tenant.Patch) (tenant.Settings, error) {
	out, err := p.Settings(s.id, own, s.madeGrid)
	if err != nil {
		return out, &SettingsError{err}
	}
	return out, nil
}

// CheckPolicy returns the error of SetPolicy, and changes nothing.
func (db *DB) CheckPolicy(p *tenant.Policy) error { return db.withPolicy(p, nil) }

// SetPolicy puts a policy in force, for tenants that are open and those that will be.
// Where the settings of one would be wrong by it, nothing changes and the error says
// which.
func (db *DB) SetPolicy(p *tenant.Policy) error {
	return db.withPolicy(p, func(stores []*store, next []tenant.Settings) {
		db.policy.Store(p)
		for i, s := range stores {
			if !next[i].Equal(&s.settings().Settings) {
				s.use(next[i])
			}
		}
	})
}

// withPolicy calls use with the settings that a policy gives each open tenant. No tenant
// is opened or made and no settings change meanwhile.
func (db *DB) withPolicy(p *tenant.Policy, use func([]*store, []tenant.Settings)) error {
	db.openMu.Lock()
	defer db.openMu.Unlock()
	stores := db.openStores()
	next := make([]tenant.Settings, len(stores))
	for i, s := range stores {
		s.settingsMu.Lock()
		defer s.settingsMu.Unlock()
		var err error
		if next[i], err = s.settingsBy(p, &s.own); err != nil {
			return fmt.Errorf("settings of tenant %s: %w", s.id, err)
		}
	}
	if use != nil {
		use(stores, next)
	}
	return nil
}

// ReloadSettings reads the settings of all open tenants again, which somebody may have
// edited. One whose file is wrong keeps those it had, and the error says what is.
func (db *DB) ReloadSettings() error {
	var errs []error
	for _, s := range db.openStores() {
		if err := s.reloadSettings(); err != nil {
			errs = append(errs, fmt.Errorf("settings of tenant %s stay as they were: %w", s.id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *store) reloadSettings() error {
	s.settingsMu.Lock()
	defer s.settingsMu.Unlock()
	own, err := readSettings(s.db.opts.FS, s.dir)
	if err != nil {
		return err
	}
	next, err := s.settingsBy(s.db.policy.Load(), &own)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(s.dir, settingsName), err)
	}
	s.own = own
	if !next.Equal(&s.settings().Settings) {
		s.use(next)
	}
	return nil
}

// readSettings returns what a tenant's file says.
func readSettings(fsys vfs.FS, dir string) (tenant.Patch, error) {
	src, err := fsys.ReadFile(filepath.Join(dir, settingsName))
	if err != nil {
		return tenant.Patch{}, fmt.Errorf("read settings: %w", err)
	}
	own, err := tenant.ParsePatch(src)
	if err != nil {
		return tenant.Patch{}, fmt.Errorf("%s: %w", filepath.Join(dir, settingsName), err)
	}
	return own, nil
}

// ChangeSettings changes what a tenant says of itself, durably, and puts it in force. A
// crash in the middle leaves it as it was or as it becomes. change returns the fields
// that it changes. A *PinnedError or a *SettingsError says that nothing has changed;
// tenant.ErrUnknown that there is no such tenant.
func (db *DB) ChangeSettings(id tenant.ID, change func(own *tenant.Patch) (fields []string, err error)) (tenant.Settings, error) {
	s, err := db.existing(id)
	if err != nil {
		return tenant.Settings{}, err
	}
	// Whoever deletes the tenant or makes it again waits: what is written is its own.
	db.openMu.Lock()
	defer db.openMu.Unlock()
	db.mu.RLock()
	now := db.stores[id]
	db.mu.RUnlock()
	if now != s {
		return tenant.Settings{}, errUnknown(id)
	}
	s.settingsMu.Lock()
	defer s.settingsMu.Unlock()
	own := s.own
	fields, err := change(&own)
	if err != nil {
		return tenant.Settings{}, &SettingsError{err}
	}
	policy := db.policy.Load()
	if err := checkPinned(policy, id, fields); err != nil {
		return tenant.Settings{}, err
	}
	next, err := s.settingsBy(policy, &own)
	if err != nil {
		return tenant.Settings{}, err
	}
	if own.Grid == nil {
		grid := tenant.Duration(s.madeGrid)
		own.Grid = &grid // pinned in the file, whatever the defaults become
	}
	if err := vfs.WriteFile(db.opts.FS, filepath.Join(s.dir, settingsName), own.File(policy.Defaults)); err != nil {
		return tenant.Settings{}, fmt.Errorf("keep the settings of tenant %s: %w", id, err)
	}
	s.own = own
	s.use(next)
	return next, nil
}

func checkPinned(p *tenant.Policy, id tenant.ID, fields []string) error {
	var pinned []string
	for _, f := range p.Pinned(id) {
		if slices.Contains(fields, f) {
			pinned = append(pinned, f)
		}
	}
	if len(pinned) > 0 {
		return &PinnedError{id, pinned}
	}
	return nil
}

// CreateTenant makes a tenant that says own of itself. It fails with tenant.ErrExists
// where there is one, as ChangeSettings does where its settings are wrong.
func (db *DB) CreateTenant(id tenant.ID, own tenant.Patch) error {
	policy := db.policy.Load()
	if err := checkPinned(policy, id, own.Fields()); err != nil {
		return err
	}
	if _, err := policy.Settings(id, &own, 0); err != nil {
		return &SettingsError{err}
	}
	made := false
	if _, err := db.openStore(id, func() error {
		made = true
		return createStore(db, id, &own)
	}); err != nil {
		return err
	}
	if !made {
		return fmt.Errorf("tenant %s %w", id, tenant.ErrExists)
	}
	return nil
}

// existing returns the store of a tenant that exists.
func (db *DB) existing(id tenant.ID) (*store, error) {
	s, err := db.store(id, false)
	if err == nil && s == nil {
		err = errUnknown(id)
	}
	return s, err
}

// OwnSettings returns what a tenant says of itself, or tenant.ErrUnknown.
func (db *DB) OwnSettings(id tenant.ID) (tenant.Patch, error) {
	s, err := db.existing(id)
	if err != nil {
		return tenant.Patch{}, err
	}
	s.settingsMu.Lock()
	defer s.settingsMu.Unlock()
	return s.own, nil
}

// Tenants returns the ids of the tenants that exist, in order, also of those that cannot
// be opened.
func (db *DB) Tenants() ([]tenant.ID, error) { return tenantsIn(db.opts.Dir) }

// Pinned returns the fields of a tenant's settings that the policy decides.
func (db *DB) Pinned(id tenant.ID) []string { return db.policy.Load().Pinned(id) }
