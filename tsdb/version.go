package tsdb

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"sync"
)

// version is one immutable state of a tenant's data: every increment is in
// exactly one of its memtables or blocks. Memtables that still take appends grow,
// but which there are does not change.
type version struct {
	mems   []*memtable // by when they were made
	blocks []*block    // by blockInfo.Seq
	refs   int         // guarded by versions.mu
}

// versions hands out a tenant's current version and frees superseded ones when
// their last reader is done. Safe for concurrent use.
type versions struct {
	logger *slog.Logger
	swap   sync.Mutex // one replace at a time; taken before mu

	mu      sync.Mutex
	current *version
}

func newVersions(l *slog.Logger, blocks []*block) *versions {
	v := &versions{logger: l}
	v.install(&version{blocks: blocks})
	return v
}

// pin returns the current version; the caller must unpin it.
func (v *versions) pin() *version {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.refs++
	return v.current
}

func (v *versions) unpin(ver *version) {
	v.mu.Lock()
	ver.refs--
	free := ver.refs == 0
	v.mu.Unlock()
	if !free {
		return
	}
	var err error
	for _, b := range ver.blocks {
		err = errors.Join(err, b.release())
	}
	if err != nil {
		v.logger.Error("release blocks", "err", err)
	}
}

// install makes next the current version.
func (v *versions) install(next *version) {
	slices.SortStableFunc(next.blocks, func(a, b *block) int { return cmp.Compare(a.Seq, b.Seq) })
	next.refs = 1 // held by being current
	for _, b := range next.blocks {
		if b.refs.Add(1) == 1 {
			b.home.users.Add(1)
		}
	}
	v.mu.Lock()
	old := v.current
	v.current = next
	v.mu.Unlock()
	if old != nil {
		v.unpin(old)
	}
}

// replace installs the current version with some memtables and blocks added and
// removed.
func (v *versions) replace(addMems, dropMems []*memtable, addBlocks, dropBlocks []*block) {
	v.swap.Lock()
	defer v.swap.Unlock()
	cur := v.pin()
	next := &version{
		mems:   append(slices.DeleteFunc(slices.Clone(cur.mems), func(m *memtable) bool { return slices.Contains(dropMems, m) }), addMems...),
		blocks: append(slices.DeleteFunc(slices.Clone(cur.blocks), func(b *block) bool { return slices.Contains(dropBlocks, b) }), addBlocks...),
	}
	v.install(next)
	v.unpin(cur)
}

// close drops the hold of being current; no pin may follow.
func (v *versions) close() {
	v.mu.Lock()
	cur := v.current
	v.mu.Unlock()
	v.unpin(cur)
}
