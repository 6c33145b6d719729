package tsdb

import "github.com/quipudb/quipu/internal/tenant"

// Usage is what a tenant has in storage.
type Usage struct {
	// Series is how many are stored. Memtables and blocks have series in common, and
	// those are counted twice where there are far fewer than the limit.
	Series int
	// MemoryBytes is about what increments take that are in no block yet; they are in the
	// log too.
	MemoryBytes int64
	Blocks      int
	BlockBytes  int64 // on disk
}

// Usage returns what a tenant has, or tenant.ErrUnknown.
func (db *DB) Usage(id tenant.ID) (Usage, error) {
	s, err := db.existing(id)
	if err != nil {
		return Usage{}, err
	}
	return s.usage(), nil
}

// OpenUsage calls f with what each tenant in memory has.
func (db *DB) OpenUsage(f func(tenant.ID, Usage)) {
	for _, s := range db.openStores() {
		f(s.id, s.usage())
	}
}

// usage reads no file.
func (s *store) usage() Usage {
	v := s.versions.pin()
	defer s.versions.unpin(v)
	u := Usage{Blocks: len(v.blocks), Series: s.admission.exactSeries()}
	sum := 0
	for _, m := range v.mems {
		u.MemoryBytes += m.bytes.Load()
		sum += len(m.all())
	}
	for _, b := range v.blocks {
		u.BlockBytes += b.Bytes
		if sum += int(b.Series); b.Series == 0 {
			sum += int(b.Bytes / blockSeriesBytesMin)
		}
	}
	if u.Series < 0 {
		u.Series = sum
	}
	return u
}

// exactSeries is how many series of all metrics are stored, -1 where that is not known.
func (a *admission) exactSeries() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.total.exact {
		return -1
	}
	return a.total.n
}
