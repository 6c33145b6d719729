package tsdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// A state file is "QUIPUSTA", version (1 byte), the state as it was saved, then the
// CRC-32C of all before it (4 bytes).
const (
	stateMagic   = "QUIPUSTA"
	stateVersion = 1
	stateSuffix  = ".state"
)

// State is what another package keeps of a tenant besides increments, in step with the
// log: what a batch changes of it is logged with the batch, and it is in a file as of
// the log position that the manifest names. Implementations are safe for concurrent use.
type State interface {
	// Apply applies what a batch's State says, once it is logged. Changes of batches that
	// are under way at the same time are applied in any order, also in another one by
	// a replay; those that Settle returned between all before and all after them.
	Apply(change []byte) error
	// Save returns all of it; nil where there is nothing.
	Save() []byte
	// Load replaces all of it by what Save returned.
	Load(saved []byte) error
	// Settle returns what is to be counted of it at now, in windows of grid milliseconds,
	// and as the batch's State what that changes; nil where that is nothing. It changes
	// nothing itself.
	Settle(now, grid int64) *increment.Batch
	// Due reports whether Settle would return something.
	Due(now int64) bool
	// Crowded reports whether there is too much of it, so that appends are to wait for
	// Settle.
	Crowded() bool
}

// errNoState refuses what would be lost.
var errNoState = errors.New("there is state of events beside the increments, and nothing takes it")

// keptState is a tenant's State, nil where nothing is kept.
type keptState struct {
	State
	// logged: it has changes that are in no file. Set with store.barrier held shared.
	logged atomic.Bool
}

// openState makes a tenant's state as of its manifest.
func (s *store) openState() error {
	if s.db.opts.NewState != nil {
		s.state.State = s.db.opts.NewState(s.id)
	}
	if s.man.State == "" || s.state.State == nil {
		return nil // with nothing to take it, the file stays
	}
	saved, err := readState(s.db.opts.FS, filepath.Join(s.dir, s.man.State))
	if err == nil {
		err = s.state.Load(saved)
	}
	return err
}

// apply applies what a batch changed.
//
// REQUIRES: store.barrier, shared
func (k *keptState) apply(change []byte) error {
	if len(change) == 0 {
		return nil
	}
	k.logged.Store(true)
	if err := k.Apply(change); err != nil {
		return fmt.Errorf("apply a batch: %w", err)
	}
	return nil
}

// replay applies a record's.
func (k *keptState) replay(rec *walRecord) error {
	if k.State == nil {
		if len(rec.state) > 0 {
			return errNoState
		}
		return nil
	}
	if rec.whole {
		k.logged.Store(true)
		return k.Load(rec.state)
	}
	return k.apply(rec.state)
}

// all is what a tenant's record has of it.
func (k *keptState) all() []byte {
	if k.State == nil {
		return nil
	}
	return k.Save()
}

// forget empties it, for a tenant that is not served any more.
func (k *keptState) forget() {
	if k.State == nil {
		return
	}
	if err := k.Load(nil); err != nil {
		panic(err) // it takes no file to be empty
	}
}

// stateSnapshot is a state at a log position; nil: it is as the file has it.
type stateSnapshot struct{ saved []byte }

// takeFresh returns the state where no file has it; it is the caller's to write.
//
// REQUIRES: store.barrier
func (k *keptState) takeFresh() *stateSnapshot {
	if !k.logged.Swap(false) {
		return nil
	}
	return &stateSnapshot{k.Save()}
}

// giveBack undoes takeFresh after the file could not be written.
func (k *keptState) giveBack() { k.logged.Store(true) }

// writeState writes a file with the state and names it in m; none where it is empty.
func (s *store) writeState(m *manifest, taken *stateSnapshot) error {
	m.State = ""
	if len(taken.saved) == 0 {
		return nil
	}
	name := s.db.newULID().String() + stateSuffix
	if err := vfs.WriteFile(s.db.opts.FS, filepath.Join(s.dir, name), appendState(nil, taken.saved)); err != nil {
		return fmt.Errorf("write state of events: %w", err)
	}
	m.State = name
	return nil
}

func appendState(dst, saved []byte) []byte {
	dst = append(append(dst, stateMagic...), stateVersion)
	dst = append(dst, saved...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

func readState(fsys vfs.FS, path string) ([]byte, error) {
	src, err := fsys.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state of events: %w", err)
	}
	saved, err := decodeState(src)
	if err != nil {
		return nil, fmt.Errorf("read state of events %s: %w", path, err)
	}
	return saved, nil
}

// decodeState returns what was saved, which is a part of src.
func decodeState(src []byte) ([]byte, error) {
	body, head := len(src)-4, len(stateMagic)+1
	switch {
	case body < head || !bytes.HasPrefix(src, []byte(stateMagic)):
		return nil, errors.New("not a file of state")
	case crc32.Checksum(src[:body], castagnoli) != binary.BigEndian.Uint32(src[body:]):
		return nil, errors.New("checksum is wrong")
	case src[head-1] != stateVersion:
		return nil, fmt.Errorf("version %d, only %d is known", src[head-1], stateVersion)
	}
	return src[head:body], nil
}

// makeRoom counts what is due of a state that has too much, before a batch adds to it.
func (s *store) makeRoom(ctx context.Context) error {
	for s.state.State != nil && s.state.Crowded() {
		if did, err := s.settle(ctx); err != nil || !did {
			return err
		}
	}
	return nil
}

// settleDue counts what is due of a tenant's state.
func (s *store) settleDue(ctx context.Context) error {
	for s.state.State != nil && s.state.Due(s.db.opts.Now().UnixMilli()) && s.db.pressure.refuse(s) == nil {
		if did, err := s.settle(ctx); err != nil || !did {
			return err
		}
	}
	return nil
}

// settle counts some of what is due and reports whether there was any. Appends wait: what
// it counts is of all batches that were logged before and of none after.
func (s *store) settle(ctx context.Context) (bool, error) {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if s.refuse(&increment.Batch{}) != nil {
		return false, nil // nothing is counted of a tenant that takes nothing
	}
	now := s.db.opts.Now().UnixMilli()
	b := s.state.Settle(now, s.grid())
	if b == nil {
		return false, nil
	}
	if _, err := s.appendLocked(ctx, b, now); err != nil {
		return false, fmt.Errorf("tenant %s: count sessions that ended: %w", s.id, err)
	}
	if n := len(b.Refused); n > 0 {
		s.db.opts.Logger.Warn("storage refused increments of sessions that ended", "tenant", s.id, "increments", n, "err", b.Refused[0].Err)
	}
	return true, nil
}

// SettleState counts what is due of a tenant's state now, without waiting for background work.
func (db *DB) SettleState(ctx context.Context, id tenant.ID) error {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return err
	}
	return s.settleDue(ctx)
}

// typed is the type of a batch's or tenant's record with this head.
func (h *recordHead) typed(record byte) byte {
	if len(h.state) > 0 {
		record += recordBatchState - recordBatch
	}
	return record
}
