package tsdb

import (
	"slices"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// memtable returns the one that takes what begins at t, made where there is none.
func (s *store) memtable(t int64) *memtable {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.taking(t)
	if m == nil {
		span := memtableSpan(t, s.db.opts.Now(), &s.settings().Settings, s.overlapsTaking)
		m = newMemtable(s.db.memtables.Add(1), span.start, span.end, &s.db.pressure.memory)
		m.clean = s.deleted.Load()
		s.routing[span] = m
		s.versions.replace([]*memtable{m}, nil, nil, nil)
	}
	return m
}

// memtableAt is memtable where it is there already, or else nil.
func (s *store) memtableAt(t int64) *memtable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taking(t)
}

// taking is the memtable that takes what begins at t, nil where there is none.
//
// REQUIRES: s.mu
func (s *store) taking(t int64) *memtable {
	if m := s.routing[spanAt(t, tenant.BlockRange)]; m != nil {
		return m
	}
	for _, r := range compactRanges {
		if m := s.routing[spanAt(t, r)]; m != nil {
			return m
		}
	}
	return nil
}

// overlapsTaking reports whether memtables that take appends have a part of a span.
//
// REQUIRES: s.mu
func (s *store) overlapsTaking(span blockSpan) bool {
	for o := range s.routing {
		if o.overlaps(span) {
			return true
		}
	}
	return false
}

// memtableSpan is that of the memtable to make for t: the longest that is over and has
// nothing of the memtables that there are, or a block range.
func memtableSpan(t int64, now time.Time, settings *tenant.Settings, taken func(blockSpan) bool) blockSpan {
	for _, r := range slices.Backward(mergeSpans(settings)) {
		if s := spanAt(t, r); s.over(now) && !taken(s) {
			return s
		}
	}
	return spanAt(t, tenant.BlockRange)
}
