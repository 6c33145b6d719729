package tsdb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// userEpochsMax is how many changes of a tenant's key of user ids are remembered.
const userEpochsMax = 1000

// ErasedUsers is what became of a tenant's user ids.
type ErasedUsers struct {
	// Time is when the key was destroyed: what is counted later is by another.
	Time time.Time
	// Epochs is how many keys the tenant has had.
	Epochs int
	// Snapshots have the tenant, and with it a key that was destroyed here.
	Snapshots []string
}

// EraseUsers destroys the key of a tenant's user ids and puts a new one in its place: no
// hash that is stored can be told to be somebody's any more, also by who knows their id.
// What was counted stays as it is, and everybody is counted as somebody new from then on.
// A crash leaves the old key or the new one, whole. Batches that are under way may still
// be counted by the old one. The error is tenant.ErrUnknown where there is no such tenant.
func (db *DB) EraseUsers(_ context.Context, id tenant.ID) (ErasedUsers, error) {
	s, err := db.existing(id)
	if err != nil {
		return ErasedUsers{}, err
	}
	at, err := s.eraseUsers()
	if err != nil {
		return ErasedUsers{}, fmt.Errorf("erase the users of tenant %s: %w", id, err)
	}
	out := ErasedUsers{Time: at, Epochs: len(s.settings().UserEpochs) + 1}
	all, err := db.Snapshots()
	if err != nil {
		return out, fmt.Errorf("the users of tenant %s are erased, but it is not known which snapshots have them: %w", id, err)
	}
	for _, sn := range all {
		if slices.ContainsFunc(sn.Tenants, func(t SnapshotTenant) bool { return t.ID == id }) {
			out.Snapshots = append(out.Snapshots, sn.Name)
		}
	}
	return out, nil
}

func (s *store) eraseUsers() (time.Time, error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.settingsMu.Lock()
	defer s.settingsMu.Unlock()
	if s.dropped {
		return time.Time{}, errUnknown(s.id)
	}
	fsys := s.db.opts.FS
	key, name, err := readIDKey(fsys, s.dir, s.man)
	if err == nil && name == idKeyNew { // of an erasure that could not be finished
		err = placeIDKey(fsys, s.dir)
	}
	if err != nil {
		return time.Time{}, err
	}
	next, profile := *s.man, *s.settings()
	next.EventKey = slices.Clone(profile.EventKey[:])
	if _, err := rand.Read(profile.IDKey[:]); err != nil {
		return time.Time{}, err
	}
	next.IDKeySum = crc32.Checksum(profile.IDKey[:], castagnoli)
	if next.IDKeySum == 0 || next.IDKeySum == crc32.Checksum(key, castagnoli) {
		return time.Time{}, fmt.Errorf("the new key cannot be told from the old one: try again")
	}
	if err := vfs.WriteFile(fsys, filepath.Join(s.dir, idKeyNew), profile.IDKey[:]); err != nil {
		return time.Time{}, err
	}
	at := s.db.opts.Now()
	next.UserEpochs = append(slices.Clone(next.UserEpochs), max(at.UnixMilli(), lastOf(next.UserEpochs)))
	next.UserEpochs = next.UserEpochs[max(0, len(next.UserEpochs)-userEpochsMax):]
	if err := s.commit(&next); err != nil {
		return time.Time{}, err
	}
	// From here on it is the new one, whatever happens.
	profile.UserEpochs = next.UserEpochs
	s.profile.Store(&profile)
	if err := placeIDKey(fsys, s.dir); err != nil {
		return time.Time{}, fmt.Errorf("the key is not in use any more, but still in the directory; the next erasure or start removes it: %w", err)
	}
	return at, nil
}

func lastOf(times []int64) int64 {
	if len(times) == 0 {
		return 0
	}
	return times[len(times)-1]
}

// eventKeyOf is the key of ids of events: the manifest's or, until users are erased, one
// that is made of the key of user ids and does not tell it.
func eventKeyOf(m *manifest, idKey []byte) (key [16]byte) {
	if len(m.EventKey) > 0 {
		copy(key[:], m.EventKey)
		return key
	}
	sum := sha256.Sum256(slices.Concat([]byte("ids of events"), idKey))
	copy(key[:], sum[:])
	return key
}

// epochWarnings says where users on both sides of an erasure are counted together.
func epochWarnings(in []sketch.Interval, epochs []int64) annotations.Annotations {
	var out annotations.Annotations
	for _, at := range epochs {
		if i, ok := sketch.Find(in, at); ok && in[i].Lo < at && at < in[i].Hi {
			out.Add(fmt.Errorf("%w: users were erased at %s: who was there before and after it counts twice in a range that has both",
				annotations.PromQLWarning, time.UnixMilli(at).UTC().Format(time.RFC3339)))
			return out
		}
	}
	return out
}
