package ingest

import (
	"context"
	"errors"
	"fmt"

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
)

// verdicts count the events of one batch.
type verdicts struct {
	result   Result
	good     int // events that wait for the store
	rejected [reasons]int
}

func (v *verdicts) reject(index int, r *rejection) {
	v.result.Rejected++
	v.rejected[r.reason]++
	if len(v.result.Errors) < errorsMax {
		v.result.Errors = append(v.result.Errors, EventError{index, r.text})
	} else {
		v.result.ErrorsOmitted++
	}
}

// count adds the verdicts to the process's metrics.
func (v *verdicts) count(m *tenantMetrics) {
	m.accepted.Add(float64(v.result.Accepted))
	m.duplicate.Add(float64(v.result.Duplicate))
	m.filtered.Add(float64(v.result.Filtered))
	for r, n := range v.rejected {
		if n > 0 {
			m.rejected[r].Add(float64(n))
		}
	}
}

// worker is the scratch memory of one request at a time.
type worker struct {
	rules     *ruleset
	decoder   *plain
	coalescer *coalescer
	hits      []hit
	verdicts
	events int // read so far
	// counted are the good events; what each touched ends where it says.
	counted []countedEvent

	collecting bool // ids; nothing counts

	// ids are those of the events of a body that have one, and idOf the position of an
	// event's among them, less one. reserved says which of them were seen before.
	ids      [][16]byte
	idOf     []int32
	reserved increment.Reservation
}

// countedEvent is an event that waits for the store.
type countedEvent struct {
	index int // in the body
	end   int // in coalescer.touched
}

func newWorker() *worker {
	return &worker{decoder: newPlain(), coalescer: newCoalescer()}
}

// read gives the events of body their verdicts, but for the good ones, and
// coalesces those. It fails where the body as a whole cannot be read.
//
// Where the rules say what tells an event from all others, the body is read twice: the
// ids of all its events are reserved before any event counts.
func (w *worker) read(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, body []byte, contentType string, reserve func(ids [][16]byte) (increment.Reservation, error)) error {
	body = trimBody(body)
	if len(body) == 0 {
		return fmt.Errorf("%w: the body is empty", ErrBadRequest)
	}
	w.ids, w.idOf, w.reserved = w.ids[:0], w.idOf[:0], nil
	if rules.dedup != 0 {
		w.begin(rules, p, now)
		w.collecting = true
		err := w.pass(ctx, rules, p, now, body, contentType)
		w.collecting = false
		if err != nil {
			return err
		}
		if len(w.ids) > 0 {
			if w.reserved, err = reserve(w.ids); err != nil {
				return err
			}
		}
	}
	w.begin(rules, p, now)
	return w.pass(ctx, rules, p, now, body, contentType)
}

// pass goes over the events of a body.
func (w *worker) pass(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, body []byte, contentType string) error {
	var err error
	switch detect(body, contentType) {
	case formLines:
		err = lines(body, w.line(ctx))
	case formArray:
		err = elements(body, w.decoder.elementLen, func(raw []byte) error {
			if r := w.event(raw); r != nil && r.reason == reasonBadJSON {
				return errors.New(r.text)
			}
			return ctx.Err()
		})
	case formValue:
		err = w.value(ctx, rules, p, now, body)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: read the body: %w", ErrBadRequest, err)
	}
	return err
}

func (w *worker) begin(rules *ruleset, p tenant.Profile, now int64) {
	w.rules = rules
	w.decoder.begin(rules, p, now)
	w.coalescer.begin(rules, p.GridMillis())
	w.verdicts = verdicts{result: Result{Errors: []EventError{}}}
	w.events, w.counted = 0, w.counted[:0]
	if w.collecting {
		w.ids, w.idOf = w.ids[:0], w.idOf[:0]
	}
}

// value reads a body that looks like one value, or else is lines.
func (w *worker) value(ctx context.Context, rules *ruleset, p tenant.Profile, now int64, body []byte) error {
	r := w.event(body)
	if r == nil || r.reason != reasonBadJSON {
		return nil
	}
	n := 0
	err := lines(body, func([]byte) error { n++; return nil })
	if err != nil || n == 1 {
		return errors.New(r.text)
	}
	w.begin(rules, p, now)
	return lines(body, w.line(ctx))
}

// line returns what is done with each line: a bad one is a rejected event.
func (w *worker) line(ctx context.Context) func(raw []byte) error {
	return func(raw []byte) error {
		w.event(raw)
		if w.events%cancelCheckEvents == 0 {
			return ctx.Err()
		}
		return nil
	}
}

// event reads one event and returns why it was rejected, nil where it was not.
func (w *worker) event(raw []byte) *rejection {
	index := w.events
	w.events++
	r := w.decoder.decode(raw)
	if w.collecting {
		w.collect(r)
		return r
	}
	if r != nil {
		w.reject(index, r) // I2
		return r
	}
	e, rejected := &w.decoder.event, (*rejection)(nil)
	if w.hits, rejected = w.rules.match(e, w.hits[:0]); rejected != nil {
		w.reject(index, rejected) // I2
		return rejected
	}
	if len(w.hits) == 0 {
		w.result.Filtered++
		return nil
	}
	if w.reserved != nil && w.idOf[index] > 0 && w.reserved.Duplicate(int(w.idOf[index]-1)) {
		w.result.Duplicate++
		return nil
	}
	w.good++
	w.coalescer.add(e, w.hits)
	w.counted = append(w.counted, countedEvent{index, len(w.coalescer.touched)})
	return nil
}

// collect notes the id of an event that was read. One that cannot be counted has none:
// it does not use it up.
func (w *worker) collect(rejected *rejection) {
	at := int32(0)
	if rejected == nil {
		if w.hits, rejected = w.rules.match(&w.decoder.event, w.hits[:0]); rejected == nil && len(w.hits) > 0 {
			if id, ok := w.decoder.event.id(w.rules); ok {
				w.ids = append(w.ids, id)
				at = int32(len(w.ids))
			}
		}
	}
	w.idOf = append(w.idOf, at)
}

// giveUp settles the ids of a batch that comes to nothing.
func (w *worker) giveUp() {
	if w.reserved != nil {
		w.reserved.Settle(false)
		w.reserved = nil
	}
}
