package tsdb

import (
	"fmt"
	"sync/atomic"

	"github.com/quipudb/quipu/internal/overload"
)

// pressureSlack is how far past a budget log and memtables may be in any case: a flush
// takes some time however small its budget is.
const pressureSlack = 64 << 20

// pressure is how far appends are ahead of the flushes that make room: the log is
// allowed twice its budget and memtables one and a half times theirs, past which nothing
// is taken until background work has caught up. Tenants that cannot be flushed are
// refused halfway there, so that they leave the others room. Safe for concurrent use.
type pressure struct {
	logMax, memoryMax, stuckMax int64

	log    atomic.Int64 // bytes that could be given back; what only tenants need that cannot be flushed is not counted
	memory atomic.Int64 // bytes of all memtables, about
	stuck  atomic.Int64 // tenants whose last flush failed
}

func (p *pressure) begin(o *Options) {
	p.logMax = o.WALBytesMax + max(o.WALBytesMax, pressureSlack)
	p.memoryMax = o.MemtableBytesMax + max(o.MemtableBytesMax/2, pressureSlack)
	p.stuckMax = o.MemtableBytesMax + max(o.MemtableBytesMax/4, pressureSlack/2)
}

// refuse says why an append is not taken, nil where it is.
func (p *pressure) refuse(s *store) error {
	log, memory := p.log.Load(), p.memory.Load()
	switch {
	case log > p.logMax:
		return &overload.Error{Reason: overload.ReasonLog, Text: fmt.Sprintf("the write-ahead log has %d bytes that are not flushed yet, at most %d are allowed", log, p.logMax)}
	case memory > p.memoryMax:
		return &overload.Error{Reason: overload.ReasonMemtables, Text: fmt.Sprintf("memtables take %d bytes, at most %d are allowed", memory, p.memoryMax)}
	case memory > p.stuckMax && s.stuck.Load():
		return &overload.Error{Reason: overload.ReasonMemtables, Text: fmt.Sprintf("memtables take %d bytes, and those of tenant %s cannot be flushed, the server's log says why", memory, s.id)}
	}
	return nil
}

// noteFlush says whether a tenant could be flushed.
func (p *pressure) noteFlush(s *store, failed bool) {
	switch was := s.stuck.Swap(failed); {
	case failed && !was:
		p.stuck.Add(1)
	case was && !failed:
		p.stuck.Add(-1)
	}
}

// forget takes memtables that are dropped out of the count.
func (p *pressure) forget(mems []*memtable) {
	for _, m := range mems {
		p.memory.Add(-m.bytes.Load())
	}
}

// stuckStores are the tenants whose last flush failed.
func (db *DB) stuckStores() map[*store]bool {
	out := map[*store]bool{}
	for _, s := range db.openStores() {
		if s.stuck.Load() {
			out[s] = true
		}
	}
	return out
}
