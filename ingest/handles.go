package ingest

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	handleShards = 16
	// handlesPerShard bounds how many handles a tenant has, 64 Ki. A shard that is full
	// starts again, empty.
	handlesPerShard = 4096
	// handleBytes is about what one takes beside its key and its labels.
	handleBytes = 300
	// handleBytesMax is what those of all tenants take together, about.
	handleBytesMax = 128 << 20
)

// handles are the series that a ruleset has made, by rule and label values, for
// all workers. A worker comes here once for a series and window of a batch, so a
// lock of one shard is seldom waited for.
type handles struct {
	seed   maphash.Seed
	budget *handleBudget // nil: none
	shards [handleShards]handleShard
}

type handleShard struct {
	mu     sync.RWMutex
	series map[string]*increment.Series
}

// get returns the series of key, whose hash is given, and makes it where it is
// not there.
func (h *handles) get(key []byte, hash uint64, create func() *increment.Series) *increment.Series {
	s := &h.shards[hash%handleShards]
	s.mu.RLock()
	series := s.series[string(key)]
	s.mu.RUnlock()
	if series != nil {
		return series
	}
	made := create()
	if h.budget != nil {
		h.budget.take(handleBytes + len(key) + int(made.Labels.ByteSize()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if series = s.series[string(key)]; series != nil {
		return series
	}
	if s.series == nil || len(s.series) >= handlesPerShard {
		s.series = map[string]*increment.Series{}
	}
	s.series[string(key)] = made
	return made
}

// drop forgets all.
func (h *handles) drop() {
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		s.series = nil
		s.mu.Unlock()
	}
}

// handleBudget bounds what the handles of all tenants take: past it all are dropped,
// and made again as they are needed. That is cheaper than to know which were not used
// for long, and tenants that are idle by then keep nothing.
type handleBudget struct {
	max  int64
	used atomic.Int64
	drop func()
}

// take notes that a handle was made. The caller holds no lock of a shard.
func (b *handleBudget) take(bytes int) {
	// What shards forgot that were full still counts, and what is made while others
	// drop may not: it is about the order of magnitude.
	if used := b.used.Add(int64(bytes)); used > b.max && b.used.CompareAndSwap(used, 0) {
		b.drop()
	}
}
