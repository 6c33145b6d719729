package tsdb

import "sync"

// logHold is what one tenant needs of the log: the first segment with a record
// that no live block has. Safe for concurrent use.
type logHold struct {
	mu     sync.Mutex
	open   uint64 // first segment with a record of memtables that take appends; 0: none
	frozen uint64 // the same of memtables that a flush has taken; 0: none
}

// use notes a record in a segment, before it is written there.
func (h *logHold) use(segment uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == 0 {
		h.open = segment
	}
}

// freeze hands what is open to a flush, in addition to what a failed one left.
func (h *logHold) freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.frozen == 0 {
		h.frozen = h.open
	}
	h.open = 0
}

// moved says that all that is open was logged again, in a segment.
func (h *logHold) moved(segment uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = segment
}

// flushed says that what was frozen is in live blocks.
func (h *logHold) flushed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = 0
}

// first is the first segment needed; ok is false where none is.
func (h *logHold) first() (segment uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.frozen != 0 { // never after open
		return h.frozen, true
	}
	return h.open, h.open != 0
}
