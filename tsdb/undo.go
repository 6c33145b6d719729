package tsdb

import (
	"math"
	"slices"
	"sync"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// cut is a point between batches: a reader that took it sees all that was applied
// before and nothing that was applied after, in every series. Cuts are numbered
// from 1.
type cut uint64

// newest is the cut of who wants what there is now.
const newest cut = math.MaxUint64

// cuts hands out a tenant's cuts. While any is out, what a batch overwrites in a
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

// undo is what one window of a series held before a batch that was applied after
// a cut.
type undo struct {
	after cut // the newest cut at that time
	win   int64
	had   bool // false: there was no such window

	count float64
	hist  *increment.Hist
	ids   *sketch.Sketch
}

// remember keeps what p holds in a window, once for each cut.
func (p *points) remember(log []undo, after cut, win int64) ([]undo, error) {
	for i := len(log) - 1; i >= 0 && log[i].after == after; i-- {
		if log[i].win == win {
			return log, nil
		}
	}
	u := undo{after: after, win: win}
	i, found := slices.BinarySearch(p.win, win)
	if u.had = found; found {
		switch p.kind {
		case increment.Counter:
			u.count = p.count[i]
		case increment.Histogram:
			u.hist = p.hist[i].Clone()
		case increment.Distinct:
			c, err := p.ids[i].Clone()
			if err != nil {
				return log, err
			}
			u.ids = &c
		}
	}
	return append(log, u), nil
}

// revert takes p, which holds the windows of a series that start in [mint, maxt),
// back to a cut. What it takes over from the log is shared and must not be
// changed, so it is copied.
func (p *points) revert(log []undo, to cut, mint, maxt int64) error {
	for i := len(log) - 1; i >= 0 && log[i].after >= to; i-- {
		u := &log[i]
		if u.win < mint || u.win >= maxt {
			continue
		}
		at, found := slices.BinarySearch(p.win, u.win)
		switch {
		case !found: // an older entry of a window that was not there either
		case !u.had:
			p.remove(at)
		case p.kind == increment.Counter:
			p.count[at] = u.count
		case p.kind == increment.Histogram:
			p.hist[at] = u.hist.Clone()
		default:
			c, err := u.ids.Clone()
			if err != nil {
				return err
			}
			p.ids[at] = &c
		}
	}
	return nil
}

func (p *points) remove(i int) {
	p.win = slices.Delete(p.win, i, i+1)
	switch p.kind {
	case increment.Counter:
		p.count = slices.Delete(p.count, i, i+1)
	case increment.Histogram:
		p.hist = slices.Delete(p.hist, i, i+1)
	case increment.Distinct:
		p.ids = slices.Delete(p.ids, i, i+1)
	}
}
