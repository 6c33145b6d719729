package ruler

import (
	"container/heap"
	"context"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/rules"
)

// group is one group of rules and when it is evaluated.
type group struct {
	tenant    *tenantRules
	namespace string
	rules     *rules.Group
	interval  int64 // milliseconds, a multiple of the grid
	phase     int64 // evaluation times are phase after multiples of interval
	offset    int64 // how far back queries look, a multiple of the grid
	grid      int64

	// evaluating is held while the group is evaluated or replaced.
	evaluating sync.Mutex
	gone       bool
	// restore: the state of its alerts is to be restored after the next evaluation.
	restore bool
	last    int64 // time of the last evaluation, 0: none
	late    lateState
	// goesOn is the group whose rules these are too, until this one is scheduled: what it
	// knows of late data is then this one's.
	goesOn *group

	// Guarded by Ruler.mu.
	next   int64
	slot   int                // in the schedule, -1: not there
	cancel context.CancelFunc // of the evaluation under way; nil: there is none
}

// phaseOf spreads groups over their interval, on the grid: evaluation times are those
// of samples, so that nothing is read of a window that is open.
func phaseOf(tenant, key string, interval, grid int64) int64 {
	h := fnv.New64a()
	h.Write([]byte(tenant + "/" + key))
	return int64(h.Sum64()%uint64(interval/grid)) * grid
}

// slotAt is the last evaluation time at or before t.
func (g *group) slotAt(t int64) int64 {
	return floorTo(t-g.phase, g.interval) + g.phase
}

func floorTo(t, step int64) int64 {
	if r := t % step; r < 0 {
		return t - r - step
	} else {
		return t - r
	}
}

// sorted are the groups by namespace and name.
//
// REQUIRES: Ruler.mu
func (t *tenantRules) sorted() []*group {
	out := make([]*group, 0, len(t.groups))
	for _, g := range t.groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int {
		if c := strings.Compare(a.namespace, b.namespace); c != 0 {
			return c
		}
		return strings.Compare(a.rules.Name(), b.rules.Name())
	})
	return out
}

// schedule is a heap of groups, the next one first.
type schedule []*group

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next < s[j].next }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].slot, s[j].slot = i, j
}

// Push is heap.Interface's.
func (s *schedule) Push(x any) {
	g := x.(*group)
	g.slot = len(*s)
	*s = append(*s, g)
}

// Pop is heap.Interface's.
func (s *schedule) Pop() any {
	old := *s
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	g.slot = -1
	return g
}

// dispatch starts what is due, as many evaluations as may run at once, and returns when
// the next one is; ok is false where there is none.
func (r *Ruler) dispatch(ctx context.Context) (next time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.options.Now().UnixMilli()
	for len(r.due) > 0 && r.due[0].next <= now {
		g := heap.Pop(&r.due).(*group)
		if g.tenant.waiting = append(g.tenant.waiting, g); len(g.tenant.waiting) == 1 {
			r.ring = append(r.ring, g.tenant)
		}
	}
	for i := 0; i < len(r.ring) && r.running < r.config.ConcurrentGroups; {
		t := r.ring[i]
		// One place is left for others where there is more than one.
		if t.running > 0 && t.running >= r.config.ConcurrentGroups-1 {
			i++
			continue
		}
		g := t.waiting[0]
		t.waiting = t.waiting[1:]
		if r.ring = slices.Delete(r.ring, i, i+1); len(t.waiting) > 0 {
			r.ring = append(r.ring, t)
		}
		i = 0
		r.start(ctx, g)
	}
	if len(r.due) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(r.due[0].next), true
}

// start evaluates g in a goroutine of its own, at the last of its times that has come.
//
// REQUIRES: r.mu
func (r *Ruler) start(ctx context.Context, g *group) {
	ts := g.slotAt(r.options.Now().UnixMilli())
	if missed := (ts - g.next) / g.interval; missed > 0 {
		r.metrics.missed.WithLabelValues(g.tenant.id.String()).Add(float64(missed))
	}
	g.next = ts + g.interval
	r.running++
	g.tenant.running++
	ctx, g.cancel = context.WithCancel(ctx)
	r.active.Go(func() {
		r.evaluate(ctx, g, ts)
		r.mu.Lock()
		g.cancel()
		g.cancel = nil
		r.running--
		g.tenant.running--
		if r.tenants[g.tenant.id] == g.tenant && g.tenant.groups[g.key()] == g {
			heap.Push(&r.due, g)
		}
		r.mu.Unlock()
		r.wake()
	})
}

// EvaluateDue evaluates what is due, waits for it, and returns when the next group is.
// It is Run without a clock of its own.
func (r *Ruler) EvaluateDue(ctx context.Context) (next time.Time, ok bool) {
	for {
		next, ok = r.dispatch(ctx)
		r.active.Wait()
		r.mu.Lock()
		idle := len(r.ring) == 0 && (len(r.due) == 0 || r.due[0].next > r.options.Now().UnixMilli())
		r.mu.Unlock()
		if idle {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.due) == 0 {
				return time.Time{}, false
			}
			return time.UnixMilli(r.due[0].next), true
		}
	}
}

func (g *group) key() string { return rules.GroupKey(g.namespace, g.rules.Name()) }
