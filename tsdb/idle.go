package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// idleRound is how often each tenant that is not in memory is looked at.
	idleRound = time.Hour
	// idleVisitsMax is how many of them one tick looks at: 10,000 take 17 minutes and two
	// small files each.
	idleVisitsMax = 50
)

// idleVisits are the tenants that nobody has asked for since the start. Their data ages as
// that of others does, so their manifests are read now and then.
type idleVisits struct {
	left []tenant.ID
	next time.Time // when the round after this one begins
}

// visitIdle opens tenants that are not in memory and of whose blocks something is to be
// dropped, rewritten or merged. A tenant that was opened stays.
func (db *DB) visitIdle(now time.Time) error {
	v := &db.idle
	if len(v.left) == 0 {
		if now.Before(v.next) {
			return nil
		}
		all, err := db.Tenants()
		if err != nil {
			return err
		}
		v.left, v.next = all, now.Add(idleRound)
	}
	var failed error
	for n := 0; n < idleVisitsMax && len(v.left) > 0; {
		id := v.left[0]
		v.left = v.left[1:]
		if db.knows(id) {
			continue
		}
		n++
		// What cannot be read is for opening to tell, and to remember.
		if due, err := db.idleDue(id, now); due || err != nil {
			if _, err := db.store(id, false); err != nil {
				failed = errors.Join(failed, fmt.Errorf("open tenant %s, whose blocks need work: %w", id, err))
			}
		}
	}
	return failed
}

// knows reports whether a tenant is in memory, or failed.
func (db *DB) knows(id tenant.ID) bool {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.stores[id] != nil || db.failed[id] != nil
}

// idleDue reports whether the blocks of a tenant that is not in memory need work, as far as
// its manifest and settings tell.
func (db *DB) idleDue(id tenant.ID, now time.Time) (bool, error) {
	dir := db.tenantDir(id)
	man, err := readManifest(db.opts.FS, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // dropped meanwhile
	}
	if err != nil {
		return false, err
	}
	own, err := readSettings(db.opts.FS, dir)
	if err != nil {
		return false, err
	}
	settings, err := db.policy.Load().Settings(id, &own, model.Duration(time.Duration(man.Grid)*time.Second))
	if err != nil {
		return false, err
	}
	if man.State != "" && db.opts.NewState != nil {
		return true, nil // what it has may be due
	}
	aged, over := planRetention(man.Blocks, &settings, now)
	if len(aged)+len(over)+len(man.Deletions) > 0 || len(planCompaction(man.Blocks, now, &settings).blocks) > 0 {
		return true, nil
	}
	rules, err := settings.RetentionRules.Rules()
	if err != nil {
		return false, err
	}
	// Whether a block has such series its index knows, which is not read here.
	return slices.ContainsFunc(man.Blocks, func(b blockInfo) bool {
		return slices.Max(append(cutoffs(rules, b.MinTime, b.MaxTime, now), math.MinInt64)) > math.MinInt64
	}), nil
}
