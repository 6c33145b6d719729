package tsdb

import (
	"context"
	"encoding/binary"
	"fmt"
)

// blockBytesMin is the least that memtables must hold for a block to be worth its
// files: a tenant with less is logged again when the log needs its old segments
// back, so that 10,000 quiet tenants do not write 10,000 blocks.
const blockBytesMin = 256 << 10

// relog writes all that a tenant has in memory as one record, which stands for all
// its records before; what is past, nil for nothing, is left out of it and given up.
// Appends to the tenant wait for that one write. It reports
// false, and does nothing, where a flush has taken memtables and failed: only a
// flush gives back what those need.
func (s *store) relog(ctx context.Context, past *memoryPast) (did bool, err error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.dropped {
		return true, nil
	}
	if len(s.frozen) > 0 {
		return false, nil
	}
	s.barrier.Lock()
	defer s.barrier.Unlock()
	if s.unsaid {
		// The log is to give back the record that says what was deleted from blocks.
		next := *s.man
		if err := s.commit(&next); err != nil {
			return false, fmt.Errorf("log tenant %s again: %w", s.id, err)
		}
	}
	head := recordHead{tenant: s.id, generation: s.generation, step: s.grid(), keys: s.keys.peekFresh()}
	head.exemplars, head.metadata = s.notes.all()
	if head.state = s.state.all(); len(head.state) > blockBytesMin {
		return false, nil // worth a file
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	left, made, gone, err := s.leftInMemory(v, past)
	defer func() {
		if !did {
			s.db.pressure.forget(made)
		}
	}()
	var payload []byte
	var to []routed
	if err == nil {
		payload, to, err = encodeMemory(ctx, &head, left)
	}
	if err != nil {
		return false, fmt.Errorf("log tenant %s again: %w", s.id, err)
	}
	if len(payload) > walPayloadMax {
		return false, nil
	}
	segment, err := s.db.wal.append(walWrite{frame: appendFrame(nil, payload), to: to, sync: true})
	if err != nil {
		return false, fmt.Errorf("log tenant %s again: %w", s.id, err)
	}
	s.hold.flushed() // with no memtable frozen, what was held for a flush is in the record too
	s.hold.moved(segment)
	if len(gone) > 0 {
		s.installLeft(made, gone, past)
	}
	return true, nil
}

// encodeMemory makes the record of all that memtables hold, and returns the series
// that it refers to.
func encodeMemory(ctx context.Context, h *recordHead, mems []*memtable) (payload []byte, to []routed, err error) {
	for _, m := range mems {
		for _, ser := range m.all() {
			to = append(to, routed{m, ser})
		}
	}
	var logs []byte
	n := 0
	for _, r := range to {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		log, err := r.series.logged()
		if err != nil {
			return nil, nil, err
		}
		if log.n == 0 {
			continue // made for a batch that was not logged
		}
		logs = binary.AppendUvarint(logs, r.series.ref)
		logs = binary.AppendUvarint(logs, uint64(len(log.bytes)))
		logs = append(logs, log.bytes...)
		n++
	}
	payload = h.append([]byte{h.typed(recordTenant)})
	payload = binary.AppendUvarint(payload, uint64(n))
	return append(payload, logs...), to, nil
}

// forgetMemory drops all memtables of a tenant while the log is replayed.
func (s *store) forgetMemory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.routing)
	s.frozen = nil
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for _, m := range v.mems {
		m.closed = true
	}
	s.versions.replace(nil, v.mems, nil, nil)
	s.db.pressure.forget(v.mems)
	s.notes.reset()
	s.hold.flushed()
	s.hold.moved(0)
}
