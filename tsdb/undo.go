package tsdb

import (
	"math"
	"slices"
	"sync"
)

// cut is a point between batches: a reader that took it sees all that was applied
// before and nothing that was applied after, in every series. Cuts are numbered
// from 1.
type cut uint64

// newest is the cut of who wants what there is now.
const newest cut = math.MaxUint64

// cuts hands out a tenant's cuts. While any is out, what a batch changes in a
// memtable is kept beside it (memSeries.undo).
type cuts struct {
	// applying is held shared while a batch is applied, for microseconds, and
	// exclusively to take a cut: no batch is half applied at a cut.
	applying sync.RWMutex
	last     cut   // the newest that was taken
	out      []cut // those in use, ascending
}

// take returns a cut at which nothing is half applied, and the version of that time; give
// it back, and unpin that.
func (c *cuts) take(v *versions) (cut, *version) {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.last++
	c.out = append(c.out, c.last)
	return c.last, v.pin()
}

func (c *cuts) giveBack(at cut) {
	c.applying.Lock()
	defer c.applying.Unlock()
	if i, ok := slices.BinarySearch(c.out, at); ok {
		c.out = slices.Delete(c.out, i, i+1)
	}
}

// cutsInUse says what to keep for readers: none where the zero value.
type cutsInUse struct {
	oldest cut // in use; 0: none is
	last   cut // the newest that was taken
}

// REQUIRES: c.applying, shared
func (c *cuts) inUse() cutsInUse {
	if len(c.out) == 0 {
		return cutsInUse{}
	}
	return cutsInUse{oldest: c.out[0], last: c.last}
}

// undo is what a series held before the first batch that was applied after a cut.
type undo struct {
	after cut // the newest cut at that time
	state memState
}

// remember keeps what s holds for the readers of cuts, once for each cut, and forgets
// what was kept for readers that have gone.
//
// REQUIRES: s.mu
func (s *memSeries) remember(in cutsInUse) {
	switch {
	case in.oldest == 0 && s.undo == nil:
		return
	case in.oldest == 0:
		s.undo = nil
		return
	case s.undo == nil:
		s.undo = new([]undo)
	}
	if n := len(*s.undo); n == 0 || (*s.undo)[n-1].after != in.last {
		*s.undo = slices.DeleteFunc(*s.undo, func(u undo) bool { return u.after < in.oldest })
		*s.undo = append(*s.undo, undo{in.last, s.state()})
	}
}
