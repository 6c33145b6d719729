package promql

import (
	"context"
	"slices"
	"sync"

	"github.com/quipudb/quipu/internal/tenant"
)

// turns lets a number of queries run at once, those of no tenant before those of the
// others. Safe for concurrent use.
//
// A tenant that says nothing else runs its part of the places were they divided among
// those that have queries and one who may come: half of them while it is alone. So who
// comes finds a place free, or gets the next of one who has more than that.
type turns struct {
	places int

	mu    sync.Mutex
	free  int
	lines map[tenant.ID]*line // of tenants with queries that run or wait
	// ring are the lines in which queries wait, the one whose turn is next first.
	ring []*line
}

// line is the queries of one tenant.
type line struct {
	id      tenant.ID
	limit   int // of queries at once; 0: its part
	running int
	waiting []*turn // in the order in which they came
}

// turn is one query that waits.
type turn struct{ granted chan struct{} }

func newTurns(places int) *turns {
	return &turns{places: places, free: places, lines: map[tenant.ID]*line{}}
}

// mayRun reports whether one more query of l may run.
//
// REQUIRES: t.mu
func (t *turns) mayRun(l *line) bool {
	limit := l.limit
	if limit == 0 {
		limit = t.places / (len(t.lines) + 1)
	}
	// One place is always left for others, where there is more than one.
	return t.free > 0 && l.running < max(1, min(limit, t.places-1))
}

// acquire waits for the turn of a query, and reports false where as many of its tenant
// wait as may. limit is how many run at once, 0 its part. An error is that of ctx.
func (t *turns) acquire(ctx context.Context, id tenant.ID, limit, waitMax int) (ok bool, err error) {
	t.mu.Lock()
	l := t.lines[id]
	if l == nil {
		l = &line{id: id}
		t.lines[id] = l
	}
	l.limit = limit
	if len(l.waiting) == 0 && t.mayRun(l) {
		t.start(l)
		t.mu.Unlock()
		return true, nil
	}
	if len(l.waiting) >= waitMax {
		t.leave(l)
		t.mu.Unlock()
		return false, nil
	}
	w := &turn{make(chan struct{})}
	if l.waiting = append(l.waiting, w); len(l.waiting) == 1 {
		t.ring = append(t.ring, l)
	}
	t.mu.Unlock()
	select {
	case <-w.granted:
		return true, nil
	case <-ctx.Done():
		t.giveUp(l, w)
		return true, ctx.Err()
	}
}

// REQUIRES: t.mu
func (t *turns) start(l *line) {
	t.free--
	l.running++
}

// leave forgets a line without queries.
//
// REQUIRES: t.mu
func (t *turns) leave(l *line) {
	if l.running == 0 && len(l.waiting) == 0 {
		delete(t.lines, l.id)
	}
}

// giveUp takes a query out of its line, or gives back the turn that it got meanwhile.
func (t *turns) giveUp(l *line, w *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(l.waiting, w)
	if i < 0 {
		t.end(l)
		return
	}
	if l.waiting = slices.Delete(l.waiting, i, i+1); len(l.waiting) == 0 {
		t.ring = slices.DeleteFunc(t.ring, func(o *line) bool { return o == l })
	}
	t.leave(l)
	t.grant() // the others may have more places with one tenant less
}

// release ends the turn of a query of a tenant.
func (t *turns) release(id tenant.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(t.lines[id])
}

// REQUIRES: t.mu
func (t *turns) end(l *line) {
	t.free++
	l.running--
	t.leave(l)
	t.grant()
}

// grant starts queries that wait, of each tenant in turn.
//
// REQUIRES: t.mu
func (t *turns) grant() {
	for i := 0; i < len(t.ring); {
		l := t.ring[i]
		if !t.mayRun(l) {
			i++
			continue
		}
		close(l.waiting[0].granted)
		t.start(l)
		l.waiting = l.waiting[1:]
		t.ring = slices.Delete(t.ring, i, i+1)
		if len(l.waiting) > 0 {
			t.ring = append(t.ring, l)
		}
		i = 0
	}
}

// counts are how many queries run and wait.
func (t *turns) counts() (running, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.ring {
		waiting += len(l.waiting)
	}
	return t.places - t.free, waiting
}
