package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// errorsMax is how many rejected events one answer describes; past it they
	// are counted only, so that a bad body has no answer many times its size.
	errorsMax = 10_000
	// cancelCheckEvents is how many lines are read between two looks at whether
	// the client is still there.
	cancelCheckEvents = 1024
	// eventsMax is the most events of a body: those that are rejected take time too.
	eventsMax = 4 << 20
)

// verdicts count the events of one batch.
type verdicts struct {
	result   Result
	good     int // events that wait for the store
	rejected [reasons]int
	filtered [filters]int
}

func (v *verdicts) reject(index int, r *rejection) {
	v.result.Rejected++
	v.rejected[r.reason]++
	if len(v.result.Errors) < errorsMax {
		v.result.Errors = append(v.result.Errors, EventError{index, r.text, r.reason})
	} else {
		v.result.ErrorsOmitted++
	}
}

// count adds the verdicts to the process's metrics.
func (v *verdicts) count(m *tenantMetrics) {
	m.accepted.Add(float64(v.result.Accepted))
	m.duplicate.Add(float64(v.result.Duplicate))
	by := 0
	for f := notFiltered + 1; f < filters; f++ {
		by += v.filtered[f]
		m.filteredBy[f].Add(float64(v.filtered[f]))
	}
	m.filtered.Add(float64(v.result.Filtered - by))
	for r, n := range v.rejected {
		if n > 0 {
			m.rejected[r].Add(float64(n))
		}
	}
}

// countLag counts how old the events were that the store took.
func (w *worker) countLag(m *tenantMetrics) {
	if w.result.Accepted > 0 {
		m.lag.add(w.counted)
	}
}

// decoder makes events of the texts of one body. What it returns is good until its next
// call.
type decoder interface {
	decode(raw []byte) (*event, *rejection)
	// elementLen is the length of the element of an array that src begins with, as
	// valueLen finds it. The text of that length is decoded next.
	elementLen(src []byte) int
}

// worker is the scratch memory of one request at a time.
type worker struct {
	rules     *ruleset
	plain     *plain
	tracker   *tracker
	decoder   decoder // one of these
	enriching enriching
	coalescer *coalescer
	hits      []hit
	verdicts
	events    int // read so far
	eventsMax int // the constant, or a test's
	// counted are the good events; what each touched ends where it says.
	counted []countedEvent
	// ids are those of the good events that have one; reserved says which of them were
	// seen before.
	ids      [][16]byte
	reserved increment.Reservation
}

// countedEvent is an event that waits for the store.
type countedEvent struct {
	index    int    // in the body
	end      int    // in coalescer.touched
	sessions int    // where what it adds to sessions ends
	id       int32  // position of its id in worker.ids, plus one; 0: it has none
	lag      uint32 // how old it was, see lag
}

func newWorker(e *enrich.Enricher) *worker {
	return &worker{enriching: enriching{cache: e.NewCache()}, plain: newPlain(), tracker: newTracker(), coalescer: newCoalescer(), eventsMax: eventsMax}
}

// read gives the events of a post their verdicts, but for the good ones, and coalesces
// those. It fails where the body as a whole cannot be read. Events with ids count once
// these are reserved.
func (w *worker) read(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, post *Post) error {
	w.reserved = nil
	w.begin(rules, p, now, post)
	err := w.pass(ctx, rules, p, now, post)
	w.plain.shrink()
	w.tracker.shrink()
	w.enriching.cache.Flush()
	return err
}

// reserve looks up the ids of the events that were read, as a Store's Reserve does, and
// counts those that are new.
func (w *worker) reserve(reserve func(ids [][16]byte) (increment.Reservation, error)) error {
	if len(w.ids) == 0 {
		return nil
	}
	var err error
	if w.reserved, err = reserve(w.ids); err != nil {
		return err
	}
	w.settle()
	return nil
}

// pass goes over the events of a body.
func (w *worker) pass(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, post *Post) error {
	var err error
	switch post.form {
	case formLines:
		err = lines(post.body, w.line(ctx))
	case formArray:
		err = elements(post.body, w.decoder.elementLen, func(raw []byte) error {
			if r := w.event(raw); r != nil && r.reason == reasonBadJSON {
				return errors.New(r.text)
			}
			if err := w.full(); err != nil {
				return err
			}
			return ctx.Err()
		})
	case formValue:
		err = w.value(ctx, rules, p, now, post)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: read the body: %w", ErrBadRequest, err)
	}
	return err
}

func (w *worker) begin(rules *ruleset, p tenant.Profile, now int64, post *Post) {
	w.rules = rules
	if post.layout == nil {
		w.plain.begin(rules, p, now)
		w.decoder = w.plain
	} else {
		w.tracker.begin(rules, p, now)
		w.tracker.open(post)
		w.decoder = w.tracker
	}
	w.enriching.begin(rules, &p.Settings, post)
	w.coalescer.begin(rules, p.GridMillis())
	w.verdicts = verdicts{result: Result{Errors: []EventError{}, at: now}}
	if cap(w.counted) > 4*coalescedKept {
		w.counted, w.ids = nil, nil
	}
	w.events, w.counted, w.ids = 0, w.counted[:0], w.ids[:0]
}

// value reads a body that looks like one value, or else, of plain events, is lines.
func (w *worker) value(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, post *Post) error {
	r := w.event(post.body)
	if r == nil || r.reason != reasonBadJSON {
		return nil
	}
	n := 0
	err := lines(post.body, func([]byte) error { n++; return nil })
	if err != nil || n == 1 || post.layout != nil {
		return errors.New(r.text)
	}
	w.begin(rules, p, now, post)
	return lines(post.body, w.line(ctx))
}

// full says why the body cannot have more events, nil where it can.
func (w *worker) full() error {
	if w.events > w.eventsMax {
		return fmt.Errorf("there are more than %d events: send them in several requests", w.eventsMax)
	}
	return w.coalescer.full()
}

// line returns what is done with each line: a bad one is a rejected event.
func (w *worker) line(ctx context.Context) func(raw []byte) error {
	return func(raw []byte) error {
		w.event(raw)
		if w.events%cancelCheckEvents == 0 {
			return ctx.Err()
		}
		return w.full()
	}
}

// event reads one event and returns why it was rejected, nil where it was not.
func (w *worker) event(raw []byte) *rejection {
	index := w.events
	w.events++
	e, rejected := w.decoder.decode(raw)
	if w.hits = w.hits[:0]; rejected == nil && !e.ignored {
		if by := w.enriching.enrich(e); by != notFiltered {
			w.result.Filtered++
			w.filtered[by]++
			return nil
		}
		w.hits, rejected = w.rules.match(e, w.hits)
	}
	if rejected != nil {
		w.reject(index, rejected) // I2
		return rejected
	}
	if len(w.hits) == 0 {
		w.result.Filtered++
		return nil
	}
	c := countedEvent{index: index, lag: lag(w.result.at, e.ms)}
	if id, ok := e.id(w.rules); ok {
		w.ids = append(w.ids, id)
		c.id = int32(len(w.ids))
	}
	w.good++
	w.coalescer.add(e, w.hits, c.id > 0)
	c.end, c.sessions = len(w.coalescer.touched), len(w.coalescer.sessions.events)
	w.counted = append(w.counted, c)
	return nil
}

// settle gives the events with ids that were seen before their verdict, and counts the
// others.
func (w *worker) settle() {
	c := w.coalescer
	counted, touched, later, from := w.counted[:0], c.touched[:0], c.later, 0
	exemplars, left := c.exemplars[:0], c.exemplars
	sessions, fromSession := c.sessions.events[:0], 0
	for _, e := range w.counted {
		of := c.touched[from:e.end]
		from = e.end
		inSessions := c.sessions.events[fromSession:e.sessions]
		fromSession = e.sessions
		its := 0
		for its < len(left) && left[its].touch < e.end {
			its++
		}
		itsExemplars := left[:its]
		left = left[its:]
		if e.id > 0 {
			additions := later[:len(of)]
			later = later[len(of):]
			if w.reserved.Duplicate(int(e.id - 1)) {
				w.result.Duplicate++
				w.good--
				continue
			}
			for i := range additions {
				c.apply(int(of[i]), &additions[i])
			}
		}
		exemplars = append(exemplars, itsExemplars...)
		touched = append(touched, of...)
		sessions = append(sessions, inSessions...)
		e.end, e.sessions = len(touched), len(sessions)
		counted = append(counted, e)
	}
	dropped := len(counted) < len(w.counted)
	w.counted, c.touched, c.exemplars, c.sessions.events = counted, touched, exemplars, sessions
	if dropped {
		c.dropUntouched()
	}
}

// giveUp settles the ids of a batch that comes to nothing.
func (w *worker) giveUp() {
	if w.reserved != nil {
		w.reserved.Settle(false)
		w.reserved = nil
	}
}
