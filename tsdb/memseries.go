package tsdb

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// memSeries is one series of one memtable. What an append touches comes first, in two
// cache lines; the whole is a multiple of them, so that memory for it begins with one.
// kind is in the first line and ref in the second: encoding a batch reads both of all
// its series, without locks, and so has the lines when apply takes the locks. A lock
// whose line is not there waits for it alone, reads wait together.
type memSeries struct {
	mu sync.Mutex
	// segment is the one whose records may refer to the series: it is defined
	// there, or will be before what is appended next. Set by who writes the log.
	segment atomic.Uint32
	kind    increment.Kind
	undo    *[]undo    // by ascending cut
	open    openWindow // the window that was written to last: most increments go there
	hash    uint64

	ref uint64 // in the log
	log memlog // the windows that are not open

	labels labels.Labels
	next   *memSeries // with the same hash
	place  uint64     // see increment.Series: memtable and position in it
	_      [3]uint64
}

func newMemSeries(ref uint64, kind increment.Kind, ls labels.Labels, hash uint64) *memSeries {
	return &memSeries{ref: ref, kind: kind, labels: ls, hash: hash, open: openWindow{time: noWindow}}
}

// openWindow is one window in the form in which values are merged into it.
type openWindow struct {
	time  int64   // noWindow: there is none
	value float64 // counter, gauge, sample
	at    int64   // gauge, sample
	wide  *wideValue
}

const noWindow = math.MinInt64

// memState is what a reader needs of a series. Nothing that it points to changes.
type memState struct {
	log  []byte
	open openWindow
}

// empty says that there is no window: the series was made for a batch that was then
// refused or is not logged yet.
func (st *memState) empty() bool { return st.open.time == noWindow && len(st.log) == 0 }

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

// entry is the window as one of the log.
func (o *openWindow) entry() entry {
	e := entry{time: o.time, value: o.value, at: o.at}
	if w := o.wide; w != nil {
		e.hist, e.ids, e.native = w.hist, w.ids, w.native
	}
	return e
}

// add merges one increment into s, which readers with a cut of those in use must not
// see. It returns by about how many bytes s grew.
func (s *memSeries) add(inc *increment.Increment, in cutsInUse) (grown int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(in)
	before := s.bytes()
	if s.open.time == inc.Time {
		err = s.merge(inc)
		return s.bytes() - before, err
	}
	if err := s.closeWindow(); err != nil {
		return 0, err
	}
	if s.log.untidy() {
		if err := s.log.tidyUp(s.kind); err != nil {
			return 0, err
		}
	}
	s.open.time, s.open.value = inc.Time, inc.Value
	if s.kind != increment.Counter {
		err = s.begin(inc)
	}
	return s.bytes() - before, err
}

// bytes is about what s takes that grows.
//
// REQUIRES: s.mu
func (s *memSeries) bytes() int {
	n := cap(s.log.bytes)
	if w := s.open.wide; w != nil {
		n += w.bytes()
	}
	return n
}

func (w *wideValue) bytes() int {
	switch {
	case w.hist != nil:
		return 64 + 16*(len(w.hist.Pos)+len(w.hist.Neg))
	case w.ids != nil:
		return w.ids.Bytes()
	}
	return 0 // a native histogram's are counted when its window is closed
}

// closeWindow puts the open window into the log.
//
// REQUIRES: s.mu
func (s *memSeries) closeWindow() error {
	switch {
	case s.open.time == noWindow:
		return nil
	case s.kind == increment.Counter:
		s.log.pushCount(s.open.time, s.open.value)
		return nil
	}
	e := s.open.entry()
	return s.log.push(s.kind, &e)
}

// begin sets what a counter does not have of the open window.
//
// REQUIRES: s.mu
func (s *memSeries) begin(inc *increment.Increment) (err error) {
	s.open.at, s.open.wide = inc.At, nil
	switch {
	case inc.Hist != nil:
		s.open.wide = &wideValue{hist: inc.Hist.Clone()}
	case s.kind == increment.Distinct:
		s.open.wide = &wideValue{ids: new(sketch.Sketch)}
		err = s.open.wide.ids.Add(inc.IDs...)
	case inc.Native != nil:
		s.open.wide = &wideValue{native: inc.Native.Clone()}
	}
	return err
}

// merge adds an increment to the open window.
//
// REQUIRES: s.mu
func (s *memSeries) merge(inc *increment.Increment) (err error) {
	o := &s.open
	switch s.kind {
	case increment.Counter:
		o.value += inc.Value
		return nil
	case increment.Gauge:
		if gaugeAfter(inc.At, inc.Value, o.at, o.value) {
			o.value, o.at = inc.Value, inc.At
		}
		return nil
	case increment.Sample:
		o.value = inc.Value
		return s.begin(inc)
	}
	if o.wide.shared {
		if o.wide, err = o.wide.clone(); err != nil {
			return err
		}
	}
	if o.wide.hist != nil {
		o.wide.hist.Merge(inc.Hist)
		return nil
	}
	return o.wide.ids.Add(inc.IDs...)
}

// absorb merges points into s while the log is replayed.
func (s *memSeries) absorb(p *points) (grown int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.bytes()
	if err := s.closeWindow(); err != nil {
		return 0, err
	}
	s.open = openWindow{time: noWindow}
	for i := range p.win {
		e := p.entry(i)
		if err := s.log.push(s.kind, &e); err != nil {
			return 0, err
		}
	}
	return s.bytes() - before, nil
}

// state is what s holds now.
//
// REQUIRES: s.mu
func (s *memSeries) state() memState {
	if s.open.wide != nil {
		s.open.wide.shared = true
	}
	return memState{log: s.log.bytes, open: s.open}
}

// stateAt is what s held at a cut.
func (s *memSeries) stateAt(at cut) memState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.undo != nil {
		for _, u := range *s.undo {
			if u.after >= at { // the first change after the cut
				return u.state
			}
		}
	}
	return s.state()
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
	log := memlog{bytes: st.log}
	if err := log.appendTo(p); err != nil {
		return err
	}
	if st.open.time != noWindow {
		own := st.open
		if own.wide != nil { // p may be changed, what the window points to may not
			var err error
			if own.wide, err = own.wide.clone(); err != nil {
				return err
			}
		}
		e := own.entry()
		p.push(&e)
	}
	if err := p.settle(); err != nil {
		return err
	}
	if err := p.hintResets(); err != nil { // of all samples, as a chunk knows the one before
		return err
	}
	p.between(mint, maxt)
	return nil
}

// overlaps reports whether s has a window that starts in [mint, maxt) and was not
// deleted; its memtable has windows in [start, end).
func (s *memSeries) overlaps(start, end, mint, maxt int64, dead []span) (bool, error) {
	st := s.stateAt(newest)
	if len(dead) > 0 {
		p := points{kind: s.kind}
		err := st.appendTo(&p, mint, maxt)
		p.without(0, dead)
		return p.len() > 0, err
	}
	if mint <= start && end <= maxt {
		return !st.empty(), nil
	}
	if t := st.open.time; t != noWindow && t >= mint && t < maxt {
		return true, nil
	}
	p := points{kind: s.kind}
	if err := st.appendTo(&p, mint, maxt); err != nil {
		return false, err
	}
	return p.len() > 0, nil
}

// logged are all points of s in the form of a log.
func (s *memSeries) logged() (log memlog, err error) {
	st := s.stateAt(newest)
	p := points{kind: s.kind}
	if err := st.appendTo(&p, math.MinInt64, math.MaxInt64); err != nil {
		return memlog{}, err
	}
	err = log.set(&p)
	return log, err
}
