package tsdb

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
)

// settleTime is how long after its end a window takes increments that are not late:
// what clients keep back to send together.
const settleTime = time.Minute

// lateMax is how many changes of the settled past are told apart.
const lateMax = 64

// lateLog is what has changed in the part of the past that a reader was promised is
// settled. Where no reader asks, nothing is late and nothing is noted.
//
// The promise is a time, not a delay: whoever writes at or before it notes that,
// however long its batch has been under way, so no clock decides what is noted.
type lateLog struct {
	// settled is the latest time that was promised: samples at or before it change
	// only by what is noted.
	settled atomic.Int64

	mu      sync.Mutex
	seq     uint64   // of the newest change
	told    uint64   // the newest seq that a reader has
	changes []change // by ascending seq
}

// change is an interval of samples that may have changed up to seq.
type change struct {
	seq uint64
	past.Interval
}

func newLateLog() *lateLog {
	l := &lateLog{}
	l.settled.Store(math.MinInt64)
	return l
}

// settle promises that samples up to until are settled, and returns the seq of the
// newest change. A reader that takes its cut afterwards sees all changes up to that,
// and those that it does not see come later.
func (l *lateLog) settle(until int64) uint64 {
	for old := l.settled.Load(); until > old && !l.settled.CompareAndSwap(old, until); old = l.settled.Load() {
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = l.seq
	return l.seq
}

// note notes that samples in iv may have changed. Who changes what readers see calls it
// while no cut can be taken, before the change can be seen: whoever has a seq without
// the change then takes a cut that lacks it, and whoever sees the change finds it here.
func (l *lateLog) note(iv past.Interval) {
	if iv.From > l.settled.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	if n := len(l.changes); n > 0 && l.changes[n-1].seq > l.told {
		// No reader knows of the one before, so none has to tell the two apart.
		l.changes[n-1] = change{l.seq, iv.Union(l.changes[n-1].Interval)}
		return
	}
	if len(l.changes) == lateMax {
		l.fold()
	}
	l.changes = append(l.changes, change{l.seq, iv})
}

// fold joins the two neighbours whose union is longest known by one of them: a reader
// then takes the older for as new as the younger, and no change is lost.
//
// REQUIRES: l.mu
func (l *lateLog) fold() {
	best, least := 0, int64(math.MaxInt64)
	for i := range len(l.changes) - 1 {
		a, b := l.changes[i].Interval, l.changes[i+1].Interval
		u := a.Union(b)
		if grown := (u.To - u.From) - max(a.To-a.From, b.To-b.From); grown < least {
			best, least = i, grown
		}
	}
	joined := change{l.changes[best+1].seq, l.changes[best].Union(l.changes[best+1].Interval)}
	l.changes = append(l.changes[:best], l.changes[best+1:]...)
	l.changes[best] = joined
}

// since returns the changes after seq.
func (l *lateLog) since(seq uint64) []past.Interval {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = l.seq
	var out []past.Interval
	for _, c := range l.changes {
		if c.seq > seq {
			out = append(out, c.Interval)
		}
	}
	return out
}

// shownBy is when samples can depend on windows that start in [from, to]: from the
// start of the first, where a zero may appear, to the marker that ends the run of the
// last, at midnight if not before, and that of a gauge or a distinct series.
func (s *store) shownBy(from, to int64) past.Interval {
	g := s.grid()
	run := dayStart(to) + dayMillis + g
	span := to + 2*g + max(s.settings().IdleTimeoutMost().Milliseconds(), distinctSpan)
	return past.Interval{From: from, To: max(run, span)}
}

// changed notes that increments in windows that start in [from, to] were added or
// removed: whatever changes the past of a tenant comes here.
//
// REQUIRES: s.cuts.applying, at least shared
func (s *store) changed(from, to int64) {
	if from <= s.late.settled.Load() {
		s.late.note(s.shownBy(from, to))
	}
}

// cameLate notes increments of windows that start in [from, to], where rules have
// recorded what they read of that time. What is removed is not noted, nor what rules
// recorded themselves.
//
// REQUIRES: s.cuts.applying, at least shared
func (s *store) cameLate(from, to int64) {
	if from <= s.recorded.settled.Load() {
		s.recorded.note(s.shownBy(from, to))
	}
}

// drop installs a version with next in the place of blocks, of which they do not show what
// was before some time as it was.
func (s *store) drop(blocks, next []*block, before int64) {
	s.cuts.applying.Lock()
	defer s.cuts.applying.Unlock()
	for _, b := range blocks {
		s.changed(b.MinTime, min(b.MaxTime, before)-1)
	}
	s.versions.replace(nil, nil, next, blocks)
}

// Settle returns a mark for the tenant and the present of ctx: what is read after it
// stays as it is up to the time Settled of the mark, but for what Changed tells.
func (db *DB) Settle(ctx context.Context) (past.Mark, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return past.Mark{}, errNoScope
	}
	s, err := db.store(sc.Tenant, false)
	if err != nil || s == nil {
		return past.Mark{}, err
	}
	// The open window and the one that has just ended are never settled.
	until := floorTo(sc.Now, s.grid()) - s.grid() - settleTime.Milliseconds()
	return past.Mark{Generation: s.generation, Seq: s.late.settle(until), Settled: until}, nil
}

// Changed returns the intervals in which samples at or before a mark's time may have
// changed since it was made, for the tenant of ctx: all of time where that is not the
// mark's.
func (db *DB) Changed(ctx context.Context, m past.Mark) ([]past.Interval, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil, errNoScope
	}
	s, err := db.store(sc.Tenant, false)
	if err != nil {
		return nil, err
	}
	if s == nil || s.generation != m.Generation {
		return []past.Interval{{From: math.MinInt64, To: math.MaxInt64}}, nil
	}
	return s.late.since(m.Seq), nil
}

// Recorded is Settle for who evaluates rules: the mark is for samples up to until, which
// need not be settled, and CameLate tells what came after it.
func (db *DB) Recorded(ctx context.Context, until int64) (past.Mark, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return past.Mark{}, errNoScope
	}
	s, err := db.store(sc.Tenant, false)
	if err != nil || s == nil {
		return past.Mark{}, err
	}
	return past.Mark{Generation: s.generation, Seq: s.recorded.settle(until), Settled: until}, nil
}

// CameLate returns the intervals in which samples may have changed since the mark was
// made with Recorded, by events that came after it: none where the tenant is another one
// now.
func (db *DB) CameLate(ctx context.Context, m past.Mark) ([]past.Interval, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil, errNoScope
	}
	s, err := db.store(sc.Tenant, false)
	if err != nil || s == nil || s.generation != m.Generation {
		return nil, err
	}
	return s.recorded.since(m.Seq), nil
}
