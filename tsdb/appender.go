package tsdb

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb/dedup"
)

// appender is the scratch memory of one batch on its way into the log and the
// memtables.
type appender struct {
	to      []routed     // by position in the batch
	fresh   []*memSeries // those that segment does not define yet
	segment uint64
	payload []byte
	frame   []byte
	holds   []*logHold

	// mem is the memtable that the increment before went to, and series what it
	// has: most of a batch go to one.
	mem    *memtable
	series []*memSeries
	read   uint64 // of memory that is needed next; means nothing
}

var appenders = sync.Pool{New: func() any { return new(appender) }}

// labelsBytesMax is the most that the labels of one series take.
const labelsBytesMax = 64 << 10

// appenderBytesMax is the most that an appender keeps for the next batch.
const appenderBytesMax = 4 << 20

func (a *appender) release() {
	clear(a.to)
	clear(a.fresh)
	clear(a.holds)
	a.to, a.fresh, a.holds, a.mem, a.series = a.to[:0], a.fresh[:0], a.holds[:0], nil, nil
	if cap(a.payload)+cap(a.frame)+16*cap(a.to) <= appenderBytesMax {
		appenders.Put(a)
	}
}

// route finds or makes the series of every increment of a batch, with admission.
// What is refused refuses the batch, or is left out where the batch says so.
func (a *appender) route(ctx context.Context, s *store, b *increment.Batch, now int64) error {
	oldest := int64(math.MinInt64)
	keep := s.settings().Retention
	if keep > 0 {
		// A range more, so that who looked at an event's age a moment ago and who
		// looks now agree.
		oldest = now - time.Duration(keep).Milliseconds() - tenant.BlockRange.Milliseconds()
	}
	if n := s.notes.admit(b); n > 0 {
		s.db.metrics.notesRefused.Add(float64(n))
	}
	a.readAhead(s, b.Increments)
	checked := int64(math.MinInt64) // a time on the grid
	size, kept := notesSize(b)+len(b.State), 0
	if ids := reservationOf(b); ids != nil {
		size += 24 + len(dedup.ID{})*len(ids.Fresh())
	}
	for i := range b.Increments {
		inc := &b.Increments[i]
		to, err := routed{}, error(nil)
		switch {
		case inc.Kind == increment.Counter && inc.Time == checked && inc.Value >= 0 && inc.Value <= math.MaxFloat64:
			// The usual case of what Validate allows.
		default:
			if err = inc.Validate(s.grid()); err == nil && inc.Kind != increment.Sample {
				checked = inc.Time
			}
			if err == nil {
				size += encodedMax(inc)
			}
		}
		if err == nil && inc.Time < oldest {
			err = &AgeError{Series: inc.Labels, Time: inc.Time, Retention: keep}
		}
		if err == nil {
			to, err = a.find(ctx, s, inc)
		}
		if err != nil {
			if !b.SkipRefused || ctx.Err() != nil {
				return err
			}
			b.Refused = append(b.Refused, increment.Refusal{Index: i, Err: err})
			continue
		}
		if kept < i {
			b.Increments[kept] = *inc
		}
		kept++
		a.to = append(a.to, to)
	}
	b.Increments = b.Increments[:kept]
	if size += 64 * kept; size > walPayloadMax {
		return errBatchTooLarge
	}
	return nil
}

var errBatchTooLarge = fmt.Errorf("%w, %d bytes: split it", increment.ErrTooLarge, walPayloadMax)

// notesSize is at least what a batch's exemplars and metadata take in a record.
func notesSize(b *increment.Batch) (n int) {
	for i := range b.Exemplars {
		e := &b.Exemplars[i]
		n += 64 + int(e.Series.ByteSize()+e.Labels.ByteSize()) + 16*(e.Series.Len()+e.Labels.Len())
	}
	for i := range b.Metadata {
		n += 16 + len(b.Metadata[i].Metric) + metadataBytesMax
	}
	return n
}

// find returns where an increment goes.
func (a *appender) find(ctx context.Context, s *store, inc *increment.Increment) (routed, error) {
	if a.mem == nil || inc.Time < a.mem.start || inc.Time >= a.mem.end {
		a.mem = s.memtable(inc.Time)
		a.series = a.mem.all()
	}
	if ser := a.placed(inc); ser != nil {
		return routed{a.mem, ser}, nil
	}
	ser := a.mem.get(inc.Hash(), inc.Labels)
	if ser == nil {
		if inc.Kind == increment.Buckets && inc.Labels.Has(model.BucketLabel) {
			return routed{}, fmt.Errorf("%s %s: the label %q is that of its buckets", inc.Kind, inc.Labels, model.BucketLabel)
		}
		if n := inc.Labels.ByteSize(); n > labelsBytesMax {
			return routed{}, fmt.Errorf("%s %q: its labels have %d bytes, at most %d are allowed", inc.Kind, inc.Labels.Get(model.MetricNameLabel), n, labelsBytesMax)
		}
		hash := inc.Hash()
		ls, folded, err := s.admission.admit(ctx, inc.Series)
		if err != nil {
			return routed{}, err
		}
		if folded {
			s.db.metrics.countFolded(s.id, ls)
			hash = ls.Hash()
		}
		if ser = a.mem.getOrCreate(hash, ls, inc.Kind, s.db.nextRef); folded {
			return routed{a.mem, ser}, nil // found anew each time, to be counted
		}
	}
	if ser.kind != inc.Kind {
		return routed{}, &KindError{Metric: inc.Labels.Get(model.MetricNameLabel), Have: ser.kind, Got: inc.Kind}
	}
	inc.Place.Store(ser.place)
	return routed{a.mem, ser}, nil
}

// readAhead reads what route, encode and apply are going to read of the series that were
// found before. Of many series those of a batch are in no cache: in a loop with nothing
// else in it the processor waits for many of them at once, between all that is done
// with an increment for one at a time.
func (a *appender) readAhead(s *store, incs []increment.Increment) {
	const few = 8
	if len(incs) < few {
		return
	}
	mem := s.memtableAt(incs[0].Time) // nothing is known of the time yet
	if mem == nil {
		return
	}
	series := mem.all()
	for i := range incs {
		p := incs[i].Place.Load()
		if n := int(uint32(p)); uint32(p>>32) == mem.id && n < len(series) {
			a.read ^= series[n].hash ^ series[n].ref
		}
	}
}

// placed returns the series that an increment's Series was found to be before, nil
// where that was elsewhere: another storage numbers its memtables the same way, so
// what is there must be it too. encode reads the same memory soon.
func (a *appender) placed(inc *increment.Increment) *memSeries {
	p := inc.Place.Load()
	if uint32(p>>32) != a.mem.id {
		return nil
	}
	n := int(uint32(p))
	if n >= len(a.series) {
		if a.series = a.mem.all(); n >= len(a.series) {
			return nil
		}
	}
	if ser := a.series[n]; ser.hash == inc.Hash() && ser.kind == inc.Kind {
		return ser
	}
	return nil
}

// encode makes the frame of the batch's record.
func (a *appender) encode(w *wal, h *recordHead, incs []increment.Increment) {
	a.payload = encodeBatch(a.payload[:0], h, incs, a.to)
	a.frame = appendFrame(a.frame[:0], a.payload)
	a.segment = w.segment.Load()
	for i := range a.to {
		if s := a.to[i].series; s.segment.Load() != uint32(a.segment) {
			a.fresh = append(a.fresh, s)
		}
	}
}

// apply adds the increments to their memtables, once they are logged.
func (a *appender) apply(s *store, b *increment.Batch, now int64) error {
	s.cuts.applying.RLock()
	defer s.cuts.applying.RUnlock()
	in := s.cuts.inUse()
	s.notes.add(b.Exemplars, b.Metadata)
	for i := 0; i < len(a.to); {
		m := a.to[i].mem
		mint, maxt, grown := int64(math.MaxInt64), int64(math.MinInt64), 0
		for ; i < len(a.to) && a.to[i].mem == m; i++ {
			inc := &b.Increments[i]
			more, err := a.to[i].series.add(inc, in)
			if err != nil {
				s.changed(m.start, m.end-1)
				return fmt.Errorf("apply increment of %s: %w", a.to[i].series.labels, err)
			}
			mint, maxt, grown = min(mint, inc.Time), max(maxt, s.endOf(inc.Kind, inc.Time)), grown+more
		}
		s.changed(mint, maxt-1)
		if !b.Derived {
			s.cameLate(mint, maxt-1)
		}
		m.wrote(mint, maxt, grown)
		m.lastAppend.Store(now)
	}
	return nil
}
