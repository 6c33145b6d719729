package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/usage"
	"github.com/quipudb/quipu/tsdb"
)

// tenantAdmin is what the API does with tenants: storage has them, ingest, usage and ruler
// know something of them.
type tenantAdmin struct {
	db    *tsdb.DB
	dir   string
	usage *usage.Book
	now   func() time.Time
	// dropped is told of a tenant that is to be deleted, by what keeps something of
	// tenants elsewhere than in storage; forget of one that was, by what remembers it.
	dropped []func(ctx context.Context, id tenant.ID) error
	forget  []func(id tenant.ID)
}

func (t *tenantAdmin) Refused(id tenant.ID) error {
	s, err := t.db.Settings(id)
	if err == nil && s.Suspended {
		return fmt.Errorf("tenant %s %w", id, tenant.ErrSuspended)
	}
	return nil // whoever needs a tenant that failed says how
}

func (t *tenantAdmin) List(after string, limit int) ([]api.TenantStatus, bool, error) {
	ids, err := t.db.Tenants()
	if err != nil {
		return nil, false, err
	}
	from, found := slices.BinarySearchFunc(ids, after, func(id tenant.ID, name string) int { return strings.Compare(id.String(), name) })
	if found {
		from++
	}
	ids = ids[from:]
	more := len(ids) > limit
	out := make([]api.TenantStatus, 0, min(limit, len(ids)))
	for _, id := range ids[:min(limit, len(ids))] {
		s := t.status(id)
		if s.ID != "" {
			out = append(out, s)
		}
	}
	return out, more, nil
}

// status is that of a tenant; the zero status where it has just been deleted.
func (t *tenantAdmin) status(id tenant.ID) api.TenantStatus {
	out := api.TenantStatus{ID: id.String(), State: api.StateActive}
	u, err := t.db.Usage(id)
	var s tenant.Settings
	if err == nil {
		s, err = t.db.Settings(id)
	}
	switch {
	case errors.Is(err, tenant.ErrUnknown):
		return api.TenantStatus{}
	case err != nil:
		out.State, out.Error = api.StateFailed, err.Error()
	case s.Suspended:
		out.State = api.StateSuspended
	}
	out.Series, out.Blocks, out.BlockBytes, out.MemoryBytes = u.Series, u.Blocks, u.BlockBytes, u.MemoryBytes
	return out
}

func (t *tenantAdmin) Create(id tenant.ID, settings []byte) error {
	var own tenant.Patch
	if _, err := own.Merge(settings); err != nil {
		return fmt.Errorf("%w: %w", api.ErrBadSettings, err)
	}
	return adminError(t.db.CreateTenant(id, own))
}

func (t *tenantAdmin) Get(id tenant.ID) (api.TenantSettings, error) {
	own, err := t.db.OwnSettings(id)
	if errors.Is(err, tenant.ErrUnknown) {
		return api.TenantSettings{}, err
	}
	out := api.TenantSettings{TenantStatus: t.status(id), Own: own, Pinned: t.db.Pinned(id)}
	if err == nil {
		out.Settings, err = t.db.Settings(id)
	}
	if err != nil {
		out.State, out.Error = api.StateFailed, err.Error()
	}
	return out, nil
}

func (t *tenantAdmin) Change(id tenant.ID, settings []byte) error {
	_, err := t.db.ChangeSettings(id, func(own *tenant.Patch) ([]string, error) { return own.Merge(settings) })
	return adminError(err)
}

// adminError is an error of storage as the API knows it.
func adminError(err error) error {
	pinned, wrong := (*tsdb.PinnedError)(nil), (*tsdb.SettingsError)(nil)
	switch {
	case errors.As(err, &pinned):
		return fmt.Errorf("%w: %w", api.ErrPinned, err)
	case errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", api.ErrBadSettings, err)
	}
	return err
}

func (t *tenantAdmin) Usage(id tenant.ID) (api.TenantUsage, error) {
	out := api.TenantUsage{TenantStatus: t.status(id)}
	if out.ID == "" { // not made yet
		out.TenantStatus = api.TenantStatus{ID: id.String(), State: api.StateActive}
	}
	text := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	out.Start, out.Day = text(t.usage.Start()), text(t.now().UTC().Truncate(24*time.Hour))
	out.SinceStart, out.Today = t.usage.Of(id)
	return out, nil
}

func (t *tenantAdmin) Delete(ctx context.Context, id tenant.ID) (api.DeletedTenant, error) {
	if _, err := t.db.OwnSettings(id); errors.Is(err, tenant.ErrUnknown) {
		return api.DeletedTenant{}, err
	}
	status, dir := t.status(id), filepath.Join(t.dir, id.String())
	bytes, err := diskBytes(dir)
	if err != nil {
		return api.DeletedTenant{}, fmt.Errorf("measure the directory of tenant %s: %w", id, err)
	}
	// First what lets requests in, so that none makes the tenant again.
	for _, dropped := range t.dropped {
		if err := dropped(ctx, id); err != nil {
			return api.DeletedTenant{}, fmt.Errorf("delete what is kept of tenant %s, whose data is all there: %w", id, err)
		}
	}
	if err := t.db.DropTenant(ctx, id); err != nil {
		return api.DeletedTenant{}, err
	}
	for _, forget := range t.forget {
		forget(id)
	}
	_, left := os.Stat(dir)
	return api.DeletedTenant{
		ID: id.String(), Series: status.Series, DiskBytes: bytes, MemoryBytes: status.MemoryBytes,
		DirectoryGone: errors.Is(left, fs.ErrNotExist),
	}, nil
}

// knownTenants counts queries of tenants that there are: who may name any could fill the
// memory with names.
type knownTenants struct {
	book *usage.Book
	db   *tsdb.DB
}

func (k knownTenants) Query(id tenant.ID, samples int64) {
	if _, err := k.db.OwnSettings(id); !errors.Is(err, tenant.ErrUnknown) {
		k.book.Query(id, samples)
	}
}

// diskBytes is what the files of a directory have. Files that go meanwhile count nothing.
func diskBytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				n += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return n, err
}

// storedUsage is what tenants have, for the process's metrics.
func storedUsage(db *tsdb.DB) func(func(tenant.ID, usage.Stored)) {
	return func(f func(tenant.ID, usage.Stored)) {
		db.OpenUsage(func(id tenant.ID, u tsdb.Usage) {
			f(id, usage.Stored{Series: u.Series, BlockBytes: u.BlockBytes, MemoryBytes: u.MemoryBytes})
		})
	}
}
