package overload

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// No more are at work at once than there are slots, and all come to it.
func TestSlotsBoundWhoWorks(t *testing.T) {
	s := NewSlots(3, time.Minute)
	var working, most, done atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := s.Acquire(context.Background()); err != nil {
				t.Error(err)
				return
			}
			n := working.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			done.Add(1)
			working.Add(-1)
			s.Release()
		})
	}
	wg.Wait()
	if most.Load() > 3 || done.Load() != 50 {
		t.Errorf("%d were at work at once, %d in all; want at most 3, and 50", most.Load(), done.Load())
	}
}

// Who waits for too long is told so; who is gone does not wait; a slot that is given
// back is there for the next.
func TestSlotsAreNotWaitedForForever(t *testing.T) {
	s := NewSlots(1, time.Millisecond)
	if err := s.Acquire(context.Background()); err != nil {
		t.Fatal(err)
	}
	var over *Error
	if err := s.Acquire(context.Background()); !errors.As(err, &over) || over.Reason != ReasonBusy {
		t.Errorf("no slot is free: %v", err)
	} else if want := "the server is overloaded: no processor came free within 1ms: send it again later"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	s.wait = time.Hour
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Acquire(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller is gone: %v", err)
	}
	s.Release()
	if err := s.Acquire(context.Background()); err != nil {
		t.Errorf("a slot is free: %v", err)
	}
}
