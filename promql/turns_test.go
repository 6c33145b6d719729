package promql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

func (t *turns) must(tb testing.TB, id tenant.ID, limit, waitMax int) {
	tb.Helper()
	if ok, err := t.acquire(tb.Context(), id, limit, waitMax); !ok || err != nil {
		tb.Fatalf("no turn for %s: %v, %v", id, ok, err)
	}
}

// ended has ended already: who acquires with it finds out whether it would wait.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// waits reports whether a query of the tenant would have to wait now.
func (t *turns) waits(tb testing.TB, id tenant.ID, limit int) bool {
	tb.Helper()
	_, err := t.acquire(ended(), id, limit, 1_000_000)
	if err == nil {
		t.release(id)
		return false
	}
	return errors.Is(err, context.Canceled)
}

// awaitWaiting returns once n queries wait.
func (t *turns) awaitWaiting(n int) {
	for _, waiting := t.counts(); waiting < n; _, waiting = t.counts() {
		runtime.Gosched()
	}
}

// However many queries a tenant has that run and wait, others find a place at once.
func TestSaturatingTenantLeavesPlaces(t *testing.T) {
	a, b, c := testTenant(t, "a"), testTenant(t, "b"), testTenant(t, "c")
	ts := newTurns(8)
	for range 4 {
		ts.must(t, a, 0, 0)
	}
	if !ts.waits(t, a, 0) {
		t.Error("a tenant alone runs more than half of all")
	}
	var waiting sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 50 {
		waiting.Go(func() {
			if _, err := ts.acquire(ctx, a, 0, 50); err == nil {
				ts.release(a)
			}
		})
	}
	ts.awaitWaiting(50)
	if ok, _ := ts.acquire(t.Context(), a, 0, 50); ok {
		t.Error("one more waits than may")
	}
	for _, id := range []tenant.ID{b, c} {
		if ts.waits(t, id, 0) {
			t.Errorf("%s waits for %s", id, a)
		}
		ts.must(t, id, 0, 0) // and keeps the place
	}
	cancel()
	waiting.Wait()
	if running, left := ts.counts(); running != 6 || left != 0 {
		t.Errorf("%d run and %d wait, want 6 and none", running, left)
	}
}

// A limit of its own lets a tenant run more than its part, and never all.
func TestLimitOfConcurrentQueries(t *testing.T) {
	a, b := testTenant(t, "a"), testTenant(t, "b")
	ts := newTurns(8)
	ts.must(t, a, 2, 0)
	ts.must(t, a, 2, 0)
	if !ts.waits(t, a, 2) {
		t.Error("a third query runs where two may")
	}
	for range 5 {
		ts.must(t, a, 100, 0)
	}
	if !ts.waits(t, a, 100) || ts.waits(t, b, 0) {
		t.Error("a tenant took the last place")
	}
}

// The places that come free go to the tenants in turn, whoever has more that wait.
func TestTurnsGoRound(t *testing.T) {
	ts := newTurns(2)
	holder := testTenant(t, "holder")
	ts.must(t, holder, 0, 0)
	other := testTenant(t, "other")
	ts.must(t, other, 0, 0)
	order := make(chan string, 100)
	var wg sync.WaitGroup
	queued := 0
	for _, q := range []struct {
		name string
		n    int
	}{{"a", 5}, {"b", 2}, {"c", 1}} {
		id := testTenant(t, q.name)
		for range q.n {
			wg.Go(func() {
				if ok, err := ts.acquire(t.Context(), id, 0, 10); !ok || err != nil {
					t.Error(ok, err)
				}
				order <- id.String()
				ts.release(id)
			})
			queued++
			ts.awaitWaiting(queued)
		}
	}
	ts.release(holder) // one place goes round, the other stays taken
	wg.Wait()
	got := ""
	for len(order) > 0 {
		got += <-order
	}
	if got != "abcabaaa" {
		t.Errorf("turns went %s, want abcabaaa", got)
	}
}

// Whatever comes, waits, gives up and ends: places are never exceeded nor lost.
func TestTurnsAreNeitherExceededNorLost(t *testing.T) {
	ts := newTurns(5)
	var running atomic.Int64
	var wg sync.WaitGroup
	for w := range 24 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			id := testTenant(t, fmt.Sprint(w%6))
			for range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(3) == 0 {
					go cancel()
				}
				ok, err := ts.acquire(ctx, id, w%3, 3)
				if ok && err == nil {
					if n := running.Add(1); n > 5 {
						t.Errorf("%d run", n)
					}
					running.Add(-1)
					ts.release(id)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if n, waiting := ts.counts(); n != 0 || waiting != 0 || len(ts.lines) != 0 || len(ts.ring) != 0 {
		t.Errorf("%d run and %d wait after all have ended: %v %v", n, waiting, ts.lines, ts.ring)
	}
}
