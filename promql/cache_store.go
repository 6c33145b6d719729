package promql

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/fastcache"

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// cacheBytesMin is the least that the cache of all tenants can have: it keeps at
	// least 64 KiB in each of its 512 buckets.
	cacheBytesMin = 32 << 20
	// entryPart is the part of the cache that one entry may take.
	entryPart = 16
	// partBytes is how much of an entry is in one value of the cache. A bucket of a
	// cache of 64 MiB has two chunks of 64 KiB, and no value straddles two.
	partBytes = 16<<10 - 256
	// shareWindow is the time for which a tenant may fill its share once.
	shareWindow = 10 * time.Minute
)

// resultStore keeps entries of bytes for all tenants. What is older goes first,
// whosever it is: so what is bounded is how much a tenant stores. Safe for concurrent
// use.
type resultStore struct {
	cache    *fastcache.Cache
	bytesMax int64
	shares   shares
	writes   atomic.Uint64
}

func newResultStore(bytesMax int, now func() time.Time) *resultStore {
	return &resultStore{cache: fastcache.New(bytesMax), bytesMax: int64(bytesMax), shares: shares{now: now}}
}

// close gives the memory back; nothing is kept after it.
func (s *resultStore) close() { s.cache.Reset() }

// owner begins every key in the cache, and every value.
func owner(id tenant.ID, generation uint64) []byte {
	b := append([]byte(id.String()), 0) // no id has a zero byte
	return binary.BigEndian.AppendUint64(b, generation)
}

// partKey is owner, a hash of the key of the entry, and the number of the part. Keys
// may be longer than values of the cache; who reads an entry finds the whole key in it.
func partKey(owner, key []byte) []byte {
	sum := sha256.Sum256(key)
	out := append(bytes.Clone(owner), sum[:]...)
	return append(out, 0, 0)
}

func numbered(key []byte, part int) []byte {
	binary.BigEndian.PutUint16(key[len(key)-2:], uint16(part))
	return key
}

// put stores an entry in parts. Each begins with its owner, the number of this write,
// so that parts of two are never taken for one entry, and how many there are. It
// reports false where the tenant has filled its share.
func (s *resultStore) put(id tenant.ID, generation uint64, key, entry []byte) bool {
	own := owner(id, generation)
	parts := (len(entry) + partBytes - 1) / partBytes
	if !s.shares.take(id, int64(len(entry)+parts*(2*len(own)+48)), s.bytesMax) {
		return false
	}
	head := binary.BigEndian.AppendUint64(bytes.Clone(own), s.writes.Add(1))
	head = binary.BigEndian.AppendUint16(head, uint16(parts))
	at, value := partKey(own, key), make([]byte, 0, len(head)+partBytes)
	for i := range parts {
		value = append(value[:0], head...)
		value = append(value, entry[i*partBytes:min((i+1)*partBytes, len(entry))]...)
		s.cache.Set(numbered(at, i), value)
	}
	return true
}

// get returns what was put last under a key, nil where a part of it is gone.
func (s *resultStore) get(id tenant.ID, generation uint64, key []byte) []byte {
	own := owner(id, generation)
	at := partKey(own, key)
	first := s.cache.Get(nil, numbered(at, 0))
	n := len(own) + 8 + 2
	if len(first) < n || !bytes.Equal(first[:len(own)], own) {
		return nil
	}
	entry := first[n:]
	parts := int(binary.BigEndian.Uint16(first[n-2:]))
	var value []byte
	for i := 1; i < parts; i++ {
		value = s.cache.Get(value[:0], numbered(at, i))
		if len(value) < n || !bytes.Equal(value[:n], first[:n]) {
			return nil
		}
		entry = append(entry, value[n:]...)
	}
	return entry
}

// shares bound what a tenant stores while others store too. The cache drops what is
// oldest, so that what a tenant stores is what it can take from the others: in a window
// of time each may store the part of the cache that is its own, were it divided among
// those that have stored something in this window or the one before.
type shares struct {
	now func() time.Time

	mu      sync.Mutex
	began   time.Time
	current map[tenant.ID]int64 // bytes stored
	before  map[tenant.ID]int64
}

// take counts n bytes that a tenant wants to store, and reports whether it may.
func (s *shares) take(id tenant.ID, n, capacity int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if age := now.Sub(s.began); s.current == nil || age >= shareWindow || age < 0 {
		if s.before = s.current; age >= 2*shareWindow {
			s.before = nil
		}
		s.current, s.began = map[tenant.ID]int64{}, now
	}
	tenants := int64(len(s.current))
	for other := range s.before {
		if _, ok := s.current[other]; !ok && other != id {
			tenants++
		}
	}
	have, ok := s.current[id]
	if !ok {
		tenants++
	}
	if tenants > 1 && have+n > capacity/tenants {
		s.current[id] = have // it is one of those that share
		return false
	}
	s.current[id] = have + n
	return true
}
