// Package overload is how the server says that it is asked for more than it can do:
// one error for all of its parts, and slots, which bound how many do a piece of work
// at once. What is refused for it had no effect, and the same request may succeed a
// moment later.
//
// Work that takes the processor runs in slots, so that more requests than processors
// do not each take memory for what they have half done; waiting for a disk or for a
// client is done outside of them.
package overload

import (
	"context"
	"time"
)

// Reasons of an Error, as metrics count them.
const (
	ReasonMemory    = "memory"    // bodies would take more than their budget
	ReasonBusy      = "busy"      // no slot came free in time
	ReasonLog       = "log"       // the write-ahead log is far past its budget
	ReasonMemtables = "memtables" // memtables are far past their budget
	ReasonDeletions = "deletions" // too many deletions have not been rewritten yet
	ReasonRestore   = "restore"   // the tenant has just been restored, or is being
)

// Error says that the server is overloaded: nothing was done.
type Error struct {
	Reason string
	Text   string // what is full, and how much of it there is
}

func (e *Error) Error() string {
	if e.Reason == ReasonRestore {
		return e.Text + ": send it again later"
	}
	return "the server is overloaded: " + e.Text + ": send it again later"
}

// Slots let a number of callers do a piece of work at once, the others in the order in
// which they came. Nil Slots are as many as there are callers. Safe for concurrent use.
type Slots struct {
	taken chan struct{} // as many as are taken
	wait  time.Duration
}

// NewSlots returns n slots, for which a caller waits at most the time given.
func NewSlots(n int, wait time.Duration) *Slots {
	return &Slots{make(chan struct{}, n), wait}
}

// Acquire takes a slot. The error is an *Error where none came free in time, or that of
// the context.
func (s *Slots) Acquire(ctx context.Context) error {
	if s == nil {
		return nil
	}
	select {
	case s.taken <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	select {
	case s.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return &Error{ReasonBusy, "no processor came free within " + s.wait.String()}
	}
}

// Release gives a slot back.
func (s *Slots) Release() {
	if s != nil {
		<-s.taken
	}
}
