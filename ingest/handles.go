package ingest

import (
	"hash/maphash"
	"sync"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	handleShards = 16
	// handlesPerShard bounds what a tenant's handles take: 64 Ki of them at some
	// 500 bytes. A shard that is full starts again, empty.
	handlesPerShard = 4096
)

// handles are the series that a ruleset has made, by rule and label values, for
// all workers. A worker comes here once for a series and window of a batch, so a
// lock of one shard is seldom waited for.
type handles struct {
	seed   maphash.Seed
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
