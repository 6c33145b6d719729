package tsdb

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// memoryRulesEvery is how often memtables are looked through for what rules say is past:
// their cutoffs move by whole days, and late events may come below them.
const memoryRulesEvery = time.Hour

// memoryPast is what retention says is past in memtables, by reason.
type memoryPast struct {
	age   int64         // windows that end at or before it
	rules []*memoryRule // by memtable
}

// memoryRule is what the rules say of one memtable.
type memoryRule struct {
	mem  *memtable
	past pastData
}

// agedBefore is the time at or before which memtables are too old to be kept. It moves by
// whole days where retention is ten or more, or else by block ranges, so that a tenant
// with a little of each hour is logged again once a day and not at every range's end.
func agedBefore(settings *tenant.Settings, now time.Time) int64 {
	if settings.Retention == 0 {
		return math.MinInt64
	}
	unit := tenant.BlockRange.Milliseconds()
	if time.Duration(settings.Retention) >= 10*24*time.Hour {
		unit = dayMillis
	}
	return floorTo(now.Add(-time.Duration(settings.Retention)).UnixMilli(), unit)
}

// isAged reports whether a memtable has windows and all end before what is kept.
func (p *memoryPast) isAged(m *memtable) bool {
	_, maxt, ok := m.span()
	return ok && maxt <= p.age
}

// before is the time before which rules take a series of a memtable away.
func (p *memoryPast) before(m *memtable, s *memSeries) int64 {
	for _, r := range p.rules {
		if r.mem == m {
			return r.past.before(s.labels)
		}
	}
	return math.MinInt64
}

// takes reports whether a rule takes something of a series away.
func (r *memoryRule) takes(s *memSeries) (bool, error) {
	before := r.past.before(s.labels)
	if before <= r.mem.start {
		return false, nil
	}
	return s.overlaps(r.mem.start, r.mem.end, r.mem.start, before, nil)
}

// takesAny reports whether a rule takes something away.
func (r *memoryRule) takesAny() (bool, error) {
	if r.past.end() <= r.mem.start {
		return false, nil
	}
	for _, s := range r.mem.all() {
		if takes, err := r.takes(s); takes || err != nil {
			return takes, err
		}
	}
	return false, nil
}

// pastInMemory returns what retention says is past in a version's memtables, nil where
// nothing is. Rules are looked at where byRules is true.
func (s *store) pastInMemory(v *version, now time.Time, byRules bool) (*memoryPast, error) {
	p, some := &memoryPast{age: agedBefore(&s.settings().Settings, now)}, false
	for _, m := range v.mems {
		if p.isAged(m) {
			some = true
			continue
		}
		if !byRules {
			continue
		}
		r := &memoryRule{m, pastData{s.byRules.rules, cutoffs(s.byRules.rules, m.start, m.end, now)}}
		takes, err := r.takesAny()
		if err != nil {
			return nil, err
		}
		if takes {
			p.rules, some = append(p.rules, r), true
		}
	}
	if !some {
		return nil, nil
	}
	return p, nil
}

// retainMemory takes what is past out of memory, and out of what a replay would read, of
// a tenant that has too little there for a block: what it has may be logged again and
// again and never be flushed. Any other is flushed, and its blocks lose what is past.
func (s *store) retainMemory(ctx context.Context, now time.Time) error {
	r := &s.byRules // its rules are those in force: see retainByRules
	byRules := len(r.rules) > 0 && now.Sub(r.inMemory).Abs() >= memoryRulesEvery
	v := s.versions.pin()
	past, err := s.pastInMemory(v, now, byRules)
	s.versions.unpin(v)
	if err != nil {
		return fmt.Errorf("find what is past in the memory of tenant %s: %w", s.id, err)
	}
	if past == nil {
		if byRules {
			r.inMemory = now
		}
		return nil
	}
	if now.Before(s.memoryAfter) {
		return nil
	}
	did := false
	if s.memBytes() < blockBytesMin {
		did, err = s.relog(ctx, past)
	}
	if err == nil && !did {
		err = s.flush(ctx)
	}
	if err != nil {
		s.memoryAfter = now.Add(compactRetry)
		return fmt.Errorf("remove what is past from the memory of tenant %s: %w", s.id, err)
	}
	if byRules {
		r.inMemory = now
	}
	return nil
}

// leftInMemory returns the memtables that stand for a version's: those that have
// something past are left out of it, or are made anew without it.
//
// REQUIRES: s.barrier exclusively
func (s *store) leftInMemory(v *version, past *memoryPast) (left, made, gone []*memtable, err error) {
	if past == nil {
		return v.mems, nil, nil, nil
	}
	for _, m := range v.mems {
		switch {
		case past.isAged(m):
			gone = append(gone, m)
			continue
		case !slices.ContainsFunc(past.rules, func(r *memoryRule) bool { return r.mem == m }):
			left = append(left, m)
			continue
		}
		next, err := s.withoutPast(m, past)
		if next != nil {
			left, made = append(left, next), append(made, next)
		}
		if err != nil {
			return nil, made, nil, err
		}
		gone = append(gone, m)
	}
	return left, made, gone, nil
}

// withoutPast is a copy of a memtable less what rules say is past, nil where nothing is
// left. Readers of the one it stands for go on with that.
func (s *store) withoutPast(m *memtable, past *memoryPast) (*memtable, error) {
	out := newMemtable(s.db.memtables.Add(1), m.start, m.end, m.total)
	out.clean = m.clean
	out.lastAppend.Store(m.lastAppend.Load())
	for _, ser := range m.all() {
		p := points{kind: ser.kind}
		if err := ser.snapshot(&p, past.before(m, ser), math.MaxInt64, newest); err != nil {
			return out, err
		}
		if p.len() == 0 {
			continue // past, or made for a batch that was not logged
		}
		grown, err := out.getOrCreate(ser.hash, ser.labels, ser.kind, s.db.nextRef).absorb(&p)
		if err != nil {
			return out, err
		}
		out.wrote(p.win[0], s.endOf(ser.kind, p.win[p.len()-1]), grown)
	}
	if len(out.all()) == 0 {
		return nil, nil
	}
	return out, nil
}

// installLeft puts made in the place of gone, which the log does not have any more.
//
// REQUIRES: s.flushMu, and s.barrier exclusively
func (s *store) installLeft(made, gone []*memtable, past *memoryPast) {
	s.mu.Lock()
	for _, m := range gone {
		delete(s.routing, blockSpan{m.start, m.end})
	}
	for _, m := range made {
		s.routing[blockSpan{m.start, m.end}] = m
	}
	s.mu.Unlock()
	s.cuts.applying.Lock()
	defer s.cuts.applying.Unlock()
	bytes := map[string]int64{}
	for _, m := range gone {
		reason := removedByRule
		if past.isAged(m) {
			reason = removedByAge
		}
		bytes[reason] += m.bytes.Load()
		s.changed(m.start, m.end-1)
	}
	for _, m := range made {
		bytes[removedByRule] -= m.bytes.Load()
	}
	for reason, n := range bytes {
		s.db.metrics.retentionMemory.WithLabelValues(reason).Add(float64(max(0, n)))
	}
	s.versions.replace(made, gone, nil, nil)
	s.db.pressure.forget(gone)
	s.admission.forget()
}
