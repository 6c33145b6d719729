package ingest

import (
	"math"

	"github.com/dchest/siphash"

	"github.com/quipudb/quipu/internal/increment"
)

// hit is what one rule counts of an event.
type hit struct {
	rule  int
	value float64 // of a Distinct nothing
	id    uint64  // of a Distinct; of sessions the visitor's
	name  []byte  // of the number, where the rule counts all of them
}

// match appends what the rules count of e, or says why it is rejected (I2).
func (rs *ruleset) match(e *event, hits []hit) ([]hit, *rejection) {
	var rejected *rejection
	for i := range rs.rules {
		if hits, rejected = rs.matchRule(i, e, hits); rejected != nil {
			return hits, rejected
		}
	}
	return hits, nil
}

// matchRule appends what rule i counts of e.
func (rs *ruleset) matchRule(i int, e *event, hits []hit) ([]hit, *rejection) {
	r := &rs.rules[i]
	if r.when != nil && !r.when.holds(e) {
		return hits, nil
	}
	if r.value == valueNumbers {
		for _, n := range e.numbers {
			h := hit{rule: i, value: n.value * r.scale, name: n.name}
			if !r.allows(h.value) {
				return hits, r.refuse(h.value, string(n.key))
			}
			hits = append(hits, h)
		}
		return hits, nil
	}
	h, ok, rejected := r.count(i, e, rs.paths)
	if ok {
		hits = append(hits, h)
	}
	return hits, rejected
}

// count is what the rule counts of e; ok is false where e has not its value.
func (r *rule) count(i int, e *event, paths []string) (h hit, ok bool, rejected *rejection) {
	h.rule = i
	if r.value == valueNone {
		h.value = r.scale
		return h, true, nil
	}
	f := &e.fields[r.value]
	if f.kind == fieldAbsent {
		return h, false, nil
	}
	if r.kind == increment.Distinct || r.session != nil {
		if !f.isScalar() || len(f.text) == 0 {
			return h, false, nil
		}
		if r.session != nil {
			h.id = siphash.Hash(e.idKey[0]^r.visitors, e.idKey[1], f.text) // I4
			return h, true, nil
		}
		h.id = siphash.Hash(e.idKey[0], e.idKey[1], f.text) // I4
		return h, true, nil
	}
	n, isNumber := f.number()
	if !isNumber {
		return h, false, reject(reasonBadValue, "%s is %s, %s counts numbers", paths[r.value], f, r.metric)
	}
	h.value = n * r.scale
	if !r.allows(h.value) {
		return h, false, r.refuse(h.value, paths[r.value])
	}
	return h, true, nil
}

// allows reports whether the rule can count v.
func (r *rule) allows(v float64) bool {
	return math.Abs(v) <= numberMax && (v >= 0 || r.kind != increment.Counter)
}

func (r *rule) refuse(v float64, path string) *rejection {
	if math.Abs(v) <= numberMax {
		return reject(reasonBadValue, "%s is %g, the counter %s cannot go down", shorten(path), v, r.metric)
	}
	return reject(reasonBadValue, "%s is too large for %s: %g", shorten(path), r.metric, v)
}

// value is the label's for e; empty where e has none. A dry one leaves no trace.
func (l *label) value(e *event, numberName []byte, dry bool) []byte {
	v := l.found(e, numberName)
	if v != nil {
		for i := range l.transforms {
			v, e.scratch = l.transforms[i].apply(v, e.scratch)
		}
	}
	if len(v) == 0 {
		return l.fallback(e)
	}
	v, _ = l.allowed.admit(v, e.valueBytesMax, dry)
	return v
}

// fallback is the label's where e has none.
func (l *label) fallback(e *event) []byte {
	if len(l.otherwise) > e.valueBytesMax {
		return other
	}
	return l.otherwise
}

// found is what e has at the label's path; nil where that is no value of a label.
func (l *label) found(e *event, numberName []byte) []byte {
	if l.source < 0 {
		return numberName
	}
	if f := &e.fields[l.source]; f.kind == fieldText || f.kind == fieldNumber {
		return f.text
	}
	return nil
}
