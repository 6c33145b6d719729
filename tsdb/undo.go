package tsdb

import (
	"math"
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
	last     cut // the newest that was taken
	out      int // how many are in use
}

// take returns a cut at which nothing is half applied; give it back.
func (c *cuts) take() cut {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.last++
	c.out++
	return c.last
}

func (c *cuts) giveBack() {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.out--
}

// undo is what a series held before the first batch that was applied after a cut.
type undo struct {
	after cut // the newest cut at that time
	state memState
}

// remember keeps what s holds for the readers of cuts up to after, once for each
// cut; where keep is not set there are no readers.
//
// REQUIRES: s.mu
func (s *memSeries) remember(after cut, keep bool) {
	switch {
	case !keep && s.undo == nil:
		return
	case !keep:
		s.undo = nil
		return
	case s.undo == nil:
		s.undo = new([]undo)
	}
	if n := len(*s.undo); n == 0 || (*s.undo)[n-1].after != after {
		*s.undo = append(*s.undo, undo{after, s.state()})
	}
}
