package ingest

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	// handlesMax bounds how many handles a tenant has. A table that is full starts
	// again, empty.
	handlesMax = 256 << 10
	// handlePlaces is how many places a table begins with.
	handlePlaces = 64
	// handleBytes is about what one takes beside its key and its labels.
	handleBytes = 300
	// handleBytesMax is what those of all tenants take together, about.
	handleBytesMax = 128 << 20
)

// handles are the series that a ruleset has made, by rule and label values, for
// all workers. Who looks one up takes no lock.
type handles struct {
	seed   maphash.Seed
	budget *handleBudget // nil: none
	table  atomic.Pointer[handleTable]
	mu     sync.Mutex // one handle is put in at a time
}

// handle is a series and the key it is found by, in one cache line.
type handle struct {
	increment.Series
	key string
}

// handleTable is an open hash table of handles. At least half of its places are
// empty. One that was superseded stays right for what it has.
type handleTable struct {
	places []handlePlace // a power of two
	n      int           // guarded by handles.mu
}

// handlePlace is empty where its handle is nil. The hash is set after the handle.
type handlePlace struct {
	hash   atomic.Uint64
	handle atomic.Pointer[handle]
}

// first returns a handle that most probably has the key of this hash, nil where there
// is none: where two keys have one hash, it is that of either.
func (t *handleTable) first(hash uint64) *handle {
	if t == nil {
		return nil
	}
	mask := uint64(len(t.places) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		p := &t.places[i]
		if p.hash.Load() == hash {
			return p.handle.Load() // nil where the hash is 0 and the place empty
		}
		if p.handle.Load() == nil {
			return nil
		}
	}
}

// find returns the handle of key.
func (t *handleTable) find(key []byte, hash uint64) *handle {
	if t == nil {
		return nil
	}
	mask := uint64(len(t.places) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		h := t.places[i].handle.Load()
		if h == nil || t.places[i].hash.Load() == hash && h.key == string(key) {
			return h
		}
	}
}

// put puts in a handle that is not there. Only one does at a time.
func (t *handleTable) put(h *handle, hash uint64) {
	mask := uint64(len(t.places) - 1)
	i := hash & mask
	for t.places[i].handle.Load() != nil {
		i = (i + 1) & mask
	}
	t.places[i].handle.Store(h)
	t.places[i].hash.Store(hash)
	t.n++
}

// get returns the handle of key, whose hash is given, and makes it where it is not
// there.
func (hs *handles) get(key []byte, hash uint64, create func(h *handle)) *handle {
	if h := hs.table.Load().find(key, hash); h != nil {
		return h
	}
	made := &handle{}
	create(made)
	if hs.budget != nil {
		hs.budget.take(handleBytes + len(key) + int(made.Labels.ByteSize()))
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	t := hs.table.Load()
	if h := t.find(key, hash); h != nil {
		return h
	}
	switch {
	case t == nil || t.n >= handlesMax:
		t = newHandleTable(handlePlaces)
		hs.table.Store(t)
	case 2*t.n >= len(t.places):
		t = t.grown()
		hs.table.Store(t)
	}
	t.put(made, hash)
	return made
}

func newHandleTable(places int) *handleTable {
	return &handleTable{places: make([]handlePlace, places)}
}

// grown is a table of the same handles with twice the places.
func (t *handleTable) grown() *handleTable {
	out := newHandleTable(2 * len(t.places))
	for i := range t.places {
		if h := t.places[i].handle.Load(); h != nil {
			out.put(h, t.places[i].hash.Load())
		}
	}
	return out
}

// len is how many handles there are.
func (hs *handles) len() int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if t := hs.table.Load(); t != nil {
		return t.n
	}
	return 0
}

// drop forgets all.
func (hs *handles) drop() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.table.Store(nil)
}

// handleBudget bounds what the handles of all tenants take: past it all are dropped,
// and made again as they are needed. That is cheaper than to know which were not used
// for long, and tenants that are idle by then keep nothing.
type handleBudget struct {
	max  int64
	used atomic.Int64
	drop func()
}

// take notes that a handle was made. The caller holds no lock.
func (b *handleBudget) take(bytes int) {
	// What tables forgot that were full still counts, and what is made while others
	// drop may not: it is about the order of magnitude.
	if used := b.used.Add(int64(bytes)); used > b.max && b.used.CompareAndSwap(used, 0) {
		b.drop()
	}
}
