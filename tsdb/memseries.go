package tsdb

import (
	"math"
	"sync"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// memSeries is one series of one memtable.
type memSeries struct {
	loggedSeries
	hash  uint64
	next  *memSeries // with the same hash
	place uint64     // see increment.Series: memtable and position in it

	mu sync.Mutex
	memState
	undo []undo // by ascending cut
}

// memState is what a series holds. Nothing that it points to changes: a reader may
// keep a copy.
type memState struct {
	log memlog // closed windows
	// The open window is the one that was written to last: most increments go
	// there.
	isOpen bool
	time   int64
	value  float64 // counter, gauge, sample
	at     int64   // gauge, sample
	wide   *wideValue
}

// wideValue is the open window of a histogram or distinct series, or a native
// histogram sample. Who changes it in place clones it first where it is shared.
type wideValue struct {
	shared bool
	hist   *increment.Hist
	ids    *sketch.Sketch
	native *increment.Native
}

func (w *wideValue) clone() (*wideValue, error) {
	out := &wideValue{native: w.native}
	if w.hist != nil {
		out.hist = w.hist.Clone()
	}
	if w.ids != nil {
		ids, err := w.ids.Clone()
		if err != nil {
			return nil, err
		}
		out.ids = &ids
	}
	return out, nil
}

// entry is the open window as an entry of the log.
func (st *memState) entry() entry {
	e := entry{time: st.time, value: st.value, at: st.at}
	if w := st.wide; w != nil {
		e.hist, e.ids, e.native = w.hist, w.ids, w.native
	}
	return e
}

// add merges one increment into s. Where keep is set, readers with a cut up to after
// must not see it. It returns by about how many bytes s grew.
func (s *memSeries) add(inc *increment.Increment, after cut, keep bool) (grown int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(after, keep)
	if s.isOpen && s.time == inc.Time {
		return s.merge(inc)
	}
	before := cap(s.log.bytes)
	if s.isOpen {
		e := s.memState.entry()
		if err := s.log.push(s.kind, &e); err != nil {
			return 0, err
		}
		if s.log.untidy() {
			if err := s.log.tidyUp(s.kind); err != nil {
				return 0, err
			}
		}
	}
	s.isOpen, s.time, s.value, s.at = true, inc.Time, inc.Value, inc.At
	more, err := s.begin(inc)
	return cap(s.log.bytes) - before + more, err
}

// begin makes the open window's wide value of an increment.
//
// REQUIRES: s.mu
func (s *memSeries) begin(inc *increment.Increment) (grown int, err error) {
	switch {
	case s.kind == increment.Histogram:
		s.wide = &wideValue{hist: inc.Hist.Clone()}
		grown = histBytes(inc.Hist)
	case s.kind == increment.Distinct:
		s.wide = &wideValue{ids: new(sketch.Sketch)}
		err = s.wide.ids.Add(inc.IDs...)
		grown = s.wide.ids.Bytes()
	case inc.Native != nil:
		s.wide = &wideValue{native: inc.Native}
	default:
		s.wide = nil
	}
	return grown, err
}

// histBytes is about what a histogram increment takes.
func histBytes(h *increment.Hist) int { return 64 + 16*(len(h.Pos)+len(h.Neg)) }

// merge adds an increment to the open window.
//
// REQUIRES: s.mu
func (s *memSeries) merge(inc *increment.Increment) (grown int, err error) {
	switch s.kind {
	case increment.Counter:
		s.value += inc.Value
		return 0, nil
	case increment.Gauge:
		if gaugeAfter(inc.At, inc.Value, s.at, s.value) {
			s.value, s.at = inc.Value, inc.At
		}
		return 0, nil
	case increment.Sample:
		s.value, s.at = inc.Value, inc.At
		return s.begin(inc)
	}
	if s.wide.shared {
		if s.wide, err = s.wide.clone(); err != nil {
			return 0, err
		}
	}
	if s.kind == increment.Histogram {
		before := histBytes(s.wide.hist)
		s.wide.hist.Merge(inc.Hist)
		return histBytes(s.wide.hist) - before, nil
	}
	before := s.wide.ids.Bytes()
	err = s.wide.ids.Add(inc.IDs...)
	return s.wide.ids.Bytes() - before, err
}

// absorb merges points into s while the log is replayed.
func (s *memSeries) absorb(p *points) (grown int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := cap(s.log.bytes)
	if s.isOpen {
		e := s.memState.entry()
		if err := s.log.push(s.kind, &e); err != nil {
			return 0, err
		}
		s.isOpen, s.wide = false, nil
	}
	for i := range p.win {
		e := p.entry(i)
		if err := s.log.push(s.kind, &e); err != nil {
			return 0, err
		}
	}
	return cap(s.log.bytes) - before, nil
}

// stateAt is a copy of the state at a cut.
func (s *memSeries) stateAt(at cut) memState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.memState
	for i := range s.undo { // the first one after the cut is what it was at the cut
		if s.undo[i].after >= at {
			st = s.undo[i].state
			break
		}
	}
	if st.wide != nil {
		st.wide.shared = true
	}
	return st
}

// snapshot sets dst to s's points in [mint, maxt), as they were at a cut. They
// share no memory with s but native histograms, which nobody changes.
func (s *memSeries) snapshot(dst *points, mint, maxt int64, at cut) error {
	st := s.stateAt(at)
	dst.reset(s.kind)
	return st.appendTo(dst, mint, maxt)
}

// appendTo sets p, which is empty, to the points in [mint, maxt).
func (st *memState) appendTo(p *points, mint, maxt int64) error {
	if err := st.log.appendTo(p); err != nil {
		return err
	}
	if st.isOpen {
		e := st.entry()
		if st.wide != nil { // what it points to is shared, p may be changed
			own, err := st.wide.clone()
			if err != nil {
				return err
			}
			e.hist, e.ids = own.hist, own.ids
		}
		p.push(&e)
	}
	if err := p.settle(); err != nil {
		return err
	}
	p.between(mint, maxt)
	return nil
}

// overlaps reports whether s has a window that starts in [mint, maxt); its memtable
// has windows in [start, end).
func (s *memSeries) overlaps(start, end, mint, maxt int64) (bool, error) {
	if mint <= start && end <= maxt {
		return true, nil
	}
	st := s.stateAt(newest)
	if st.isOpen && st.time >= mint && st.time < maxt {
		return true, nil
	}
	p := points{kind: s.kind}
	if err := st.appendTo(&p, mint, maxt); err != nil {
		return false, err
	}
	return p.len() > 0, nil
}

// parts is a copy of a memtable's series between two times.
func (s *memSeries) parts(mint, maxt int64) ([]points, error) {
	p := points{kind: s.kind}
	err := s.snapshot(&p, mint, maxt, newest)
	return []points{p}, err
}

// logged are all points of s in the form of a log, and their number.
func (s *memSeries) logged() (log memlog, err error) {
	st := s.stateAt(newest)
	if !st.isOpen {
		return st.log, nil
	}
	p := points{kind: s.kind}
	if err := st.appendTo(&p, math.MinInt64, math.MaxInt64); err != nil {
		return memlog{}, err
	}
	err = log.set(&p)
	return log, err
}
