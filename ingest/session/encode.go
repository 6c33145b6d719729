package session

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Event is one that a rule counts.
type Event struct {
	Visitor uint64 // keyed hash of who it is of, apart for each rule's name
	Time    int64  // milliseconds since 1970
	Labels  int32  // position in the batch's labels
}

// Labels are those that some events of a batch have.
type Labels struct {
	Rule *Rule
	// Values of the rule's labels, in their order, each after its length as a uvarint.
	Values string
}

// Encoder makes changes of batches. It is reused; not safe for concurrent use.
type Encoder struct {
	parts  []part
	rules  []*Rule
	number []int // of the labels of the batch in those of the change, plus one
	used   []int32
}

// Encode returns what the events of a batch change, nil where there are none. It sorts
// events.
func (e *Encoder) Encode(labels []Labels, events []Event) []byte {
	if len(events) == 0 {
		return nil
	}
	e.rules = e.rules[:0]
	of := func(r *Rule) int {
		for i := range e.rules {
			if e.rules[i] == r {
				return i
			}
		}
		e.rules = append(e.rules, r)
		return len(e.rules) - 1
	}
	e.number = slices.Grow(e.number[:0], len(labels))[:len(labels)]
	for i := range labels {
		e.number[i] = of(labels[i].Rule)
	}
	slices.SortFunc(events, func(a, b Event) int {
		switch {
		case a.Visitor != b.Visitor:
			return cmp.Compare(a.Visitor, b.Visitor)
		case a.Labels == b.Labels || e.number[a.Labels] == e.number[b.Labels]:
			return cmp.Compare(a.Time, b.Time)
		}
		return cmp.Compare(e.number[a.Labels], e.number[b.Labels])
	})
	e.merge(labels, events)
	clear(e.number)
	e.used = e.used[:0]
	size := 0
	for i := range e.parts {
		if p := &e.parts[i]; e.number[p.of] == 0 {
			e.used = append(e.used, int32(p.of))
			e.number[p.of] = len(e.used)
			size += len(labels[p.of].Values)
		}
	}
	dst := appendRules(make([]byte, 0, 64+256*len(e.rules)+size+2*len(e.used)+18*len(e.parts)), formEvents, e.rules)
	dst = binary.AppendUvarint(dst, uint64(len(e.used)))
	for _, l := range e.used {
		dst = binary.AppendUvarint(dst, uint64(of(labels[l].Rule)))
		dst = append(dst, labels[l].Values...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(e.parts)))
	before := int64(0)
	for i := range e.parts {
		p := &e.parts[i]
		dst = appendPart(dst, e.number[p.of]-1, p, before)
		dst = binary.AppendUvarint(dst, uint64(p.events))
		before = p.first
	}
	return dst
}

// merge sets parts to those that the sorted events are of.
func (e *Encoder) merge(labels []Labels, events []Event) {
	if cap(e.parts) > 1<<16 {
		e.parts = nil
	}
	e.parts = e.parts[:0]
	for i := range events {
		ev := &events[i]
		if n := len(e.parts); n > 0 {
			p := &e.parts[n-1]
			if p.visitor == ev.Visitor && e.number[p.of] == e.number[ev.Labels] && ev.Time-p.last <= labels[ev.Labels].Rule.Gap.Milliseconds() {
				if ev.Time == p.first && labels[ev.Labels].Values < labels[p.of].Values {
					p.of = int(ev.Labels)
				}
				p.last = ev.Time
				p.events++
				continue
			}
		}
		e.parts = append(e.parts, part{int(ev.Labels), ev.Visitor, ev.Time, ev.Time, 1})
	}
}
