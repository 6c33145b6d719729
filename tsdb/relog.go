package tsdb

import (
	"context"
	"fmt"
	"math"

	"github.com/quipudb/quipu/internal/increment"
)

// blockBytesMin is the least that memtables must hold for a block to be worth its
// files: a tenant with less is logged again when the log needs its old segments
// back, so that 10,000 quiet tenants do not write 10,000 blocks.
const blockBytesMin = 256 << 10

// relog writes all that a tenant has in memory as one record, which stands for all
// its records before. Appends to the tenant wait for that one write. It reports
// false, and does nothing, where a flush has taken memtables and failed: only a
// flush gives back what those need.
func (s *store) relog(ctx context.Context) (bool, error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if len(s.frozen) > 0 {
		return false, nil
	}
	s.barrier.Lock()
	defer s.barrier.Unlock()
	rec := walRecord{tenant: s.id, generation: s.generation, whole: true, step: s.grid(), keys: s.keys.peekFresh()}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	bytes := 24 * len(rec.keys)
	for _, m := range v.mems {
		for _, ser := range m.all() {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			more, err := ser.logged()
			if err != nil {
				return false, fmt.Errorf("log tenant %s again: %w", s.id, err)
			}
			for i := range more {
				if bytes += encodedMax(more[i].inc); bytes > walPayloadMax {
					return false, nil
				}
			}
			rec.increments = append(rec.increments, more...)
		}
	}
	segment := uint64(0)
	err := s.db.wal.append(func(dst []byte, n uint64) []byte {
		segment = n
		return rec.append(dst, n)
	})
	if err != nil {
		return false, fmt.Errorf("log tenant %s again: %w", s.id, err)
	}
	s.hold.moved(segment)
	return true, nil
}

// logged is a copy of a series of a memtable as increments of a record. A sketch
// that is no longer exact has no ids to log but its registers.
func (s *memSeries) logged() ([]loggedIncrement, error) {
	p := points{kind: s.kind}
	if err := s.snapshot(&p, math.MinInt64, math.MaxInt64, newest); err != nil {
		return nil, err
	}
	out := make([]loggedIncrement, p.len())
	for i, win := range p.win {
		inc := &increment.Increment{Kind: s.kind, Time: win, Labels: s.labels}
		switch s.kind {
		case increment.Counter:
			inc.Count = p.count[i]
		case increment.Histogram:
			inc.Hist = p.hist[i]
		case increment.Distinct:
			enc, err := p.ids[i].Append(nil)
			if err != nil {
				return nil, err
			}
			inc.Sketch = enc
		}
		out[i] = loggedIncrement{&s.loggedSeries, inc}
	}
	return out, nil
}

// forgetMemory drops all memtables of a tenant while the log is replayed.
func (s *store) forgetMemory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.routing)
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for _, m := range v.mems {
		m.dropped = true
	}
	s.versions.replace(nil, v.mems, nil, nil)
	s.hold.moved(0)
}
