package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// storageAdmin changes what is stored of a tenant, with errors as the API knows them.
type storageAdmin struct{ *tsdb.DB }

func (s storageAdmin) Delete(ctx context.Context, id tenant.ID, mint, maxt int64, matchers ...*labels.Matcher) (uint64, error) {
	number, err := s.DB.Delete(ctx, id, mint, maxt, matchers...)
	if wrong := (*tsdb.SelectorError)(nil); errors.As(err, &wrong) {
		return 0, fmt.Errorf("%w: %w", api.ErrBadSelector, err)
	}
	return number, err
}

func (s storageAdmin) Deletions(id tenant.ID) ([]api.Deletion, error) {
	all, err := s.DB.Deletions(id)
	if err != nil {
		return nil, err
	}
	out := make([]api.Deletion, len(all))
	for i := range all {
		out[i] = deletionOf(&all[i])
	}
	return out, nil
}

func (s storageAdmin) Deletion(id tenant.ID, number uint64) (api.Deletion, bool, error) {
	d, ok, err := s.DB.Deletion(id, number)
	return deletionOf(&d), ok, err
}

// deletionStates are those of storage as the API names them.
var deletionStates = map[tsdb.DeletionState]string{
	tsdb.DeletionAccepted: api.DeletionPending,
	tsdb.DeletionRunning:  api.DeletionRewriting,
	tsdb.DeletionFailed:   api.DeletionFailed,
	tsdb.DeletionDone:     api.DeletionDone,
}

func deletionOf(d *tsdb.DeletionStatus) api.Deletion {
	out := api.Deletion{ID: d.Number, State: deletionStates[d.State], Left: d.Left}
	if d.Err != nil {
		out.Error = d.Err.Error()
	}
	if len(d.Matchers) == 0 {
		return out // it is only known that there was one
	}
	texts := make([]string, len(d.Matchers))
	for i, m := range d.Matchers {
		texts[i] = m.String()
	}
	out.Match, out.Accepted = "{"+strings.Join(texts, ", ")+"}", textOfTime(d.Accepted.UnixMilli())
	out.Start, out.End = textOfTime(d.MinTime), textOfTime(d.MaxTime)
	return out
}

// textOfTime is RFC 3339; "" of a time past those that anybody asks for.
func textOfTime(ms int64) string {
	at := timestamp.Time(ms).UTC()
	if math.Abs(float64(ms)) > 1<<47 || at.Before(v1.MinTime) || at.After(v1.MaxTime) {
		return ""
	}
	return at.Format(time.RFC3339Nano)
}

func (s storageAdmin) EraseUsers(ctx context.Context, id tenant.ID) (api.ErasedUsers, error) {
	got, err := s.DB.EraseUsers(ctx, id)
	return api.ErasedUsers{Time: got.Time.UTC().Format(time.RFC3339Nano), Keys: got.Epochs, Snapshots: got.Snapshots}, err
}

// backups are storage's, with errors as the API knows them.
type backups struct {
	db *tsdb.DB
	// begin is told of a tenant that is about to be replaced, by what works by its files, and
	// end when it was or was not; forget of one that was, by what remembers them.
	begin  func(id tenant.ID) error
	end    func(id tenant.ID)
	forget []func(id tenant.ID)
}

func (b *backups) Snapshots() ([]api.SnapshotStatus, error) {
	all, err := b.db.Snapshots()
	if err != nil {
		return nil, err
	}
	out := make([]api.SnapshotStatus, len(all))
	for i, s := range all {
		out[i] = api.SnapshotStatus{Name: s.Name, Time: s.Time.UTC().Format(time.RFC3339), Tenants: []api.SnapshotTenant{}}
		for _, t := range s.Tenants {
			one := api.SnapshotTenant{ID: t.ID.String(), Blocks: t.Blocks, Bytes: t.Bytes}
			if t.Err != nil {
				one.Error = t.Err.Error()
			}
			out[i].Tenants = append(out[i].Tenants, one)
		}
	}
	return out, nil
}

func (b *backups) MakeSnapshot(ctx context.Context, ids []tenant.ID, skipHead bool) (api.MadeSnapshot, error) {
	name, failed, err := b.db.SnapshotAll(ctx, ids, skipHead)
	out := api.MadeSnapshot{Name: name}
	for id, err := range failed {
		if out.Failed == nil {
			out.Failed = map[string]string{}
		}
		out.Failed[id.String()] = err.Error()
	}
	return out, err
}

func (b *backups) DeleteSnapshot(ctx context.Context, name string) error {
	return snapshotError(b.db.DeleteSnapshot(ctx, name))
}

func (b *backups) Restore(ctx context.Context, snapshot string, id tenant.ID, how api.Restore) (api.RestoredTenant, error) {
	begun := false
	got, err := b.db.Restore(ctx, snapshot, id, tsdb.RestoreOptions{
		Replace: how.Replace, NoEventIDs: how.WithoutEventIDs,
		Begin: func() error { begun = true; return b.begin(id) },
		Replaced: func() {
			for _, forget := range b.forget {
				forget(id)
			}
		},
	})
	if begun {
		b.end(id)
	}
	return api.RestoredTenant{Tenant: id.String(), Blocks: got.Blocks, Bytes: got.Bytes, EventIDs: got.EventIDs}, snapshotError(err)
}

func snapshotError(err error) error {
	if errors.Is(err, tsdb.ErrNoSnapshot) {
		return fmt.Errorf("%w: %w", api.ErrNoSnapshot, err)
	}
	return err
}
