package session

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// OpenMax is how many sessions of a tenant are open; past it those that were touched
	// least recently are counted early.
	OpenMax = 1_000_000
	// QuietDefault is for how long no event may have come for a session that is counted.
	QuietDefault = time.Minute
)

// Options of tables. The zero value of a field means its default.
type Options struct {
	Now     func() time.Time // default: the system's clock
	Quiet   time.Duration    // default: QuietDefault
	OpenMax int              // default: OpenMax
	// VisitorsMax is how many visitors of a tenant are remembered; default: VisitorsMax.
	VisitorsMax int
	Metrics     *Metrics // nil: nothing is counted
}

// Table is the open sessions of a tenant, and who had one before. Safe for concurrent
// use.
type Table struct {
	o       Options
	crowded atomic.Bool // open > o.OpenMax

	mu       sync.Mutex
	rules    map[string]*tableRule // by what they are as bytes
	ruleIDs  uint32
	labels   []tableLabels
	freed    []uint32 // of labels
	labelIDs map[labelsKey]uint32
	nodes    []node
	free     int32 // a chain of nodes; none: no node is free
	open     int
	heads    map[nodeKey]int32
	visitors visitors
	cursor   int // in nodes: where the next look for what is due begins
}

// none ends a chain.
const none = -1

// node is an open session of 40 bytes, a million of which may be there. One that is free
// has no events.
type node struct {
	visitor     uint64
	first, last int64 // milliseconds since 1970
	events      uint32
	labels      uint32
	touched     uint32 // seconds since 1970
	next        int32  // the one before it in time
}

// nodeKey is what the sessions of a chain have in common.
type nodeKey struct {
	visitor uint64
	rule    uint32
}

// tableRule is a rule that open sessions are of.
type tableRule struct {
	*Rule
	id   uint32
	key  string
	gap  int64 // milliseconds
	used int   // by labels
}

// tableLabels are those of some sessions.
type tableLabels struct {
	rule   *tableRule
	values string
	used   int // by sessions
}

type labelsKey struct {
	rule   uint32
	values string
}

// NewTable returns an empty table.
func NewTable(o Options) *Table {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Quiet == 0 {
		o.Quiet = QuietDefault
	}
	if o.OpenMax == 0 {
		o.OpenMax = OpenMax
	}
	if o.VisitorsMax == 0 {
		o.VisitorsMax = VisitorsMax
	}
	t := &Table{o: o}
	t.reset()
	return t
}

// reset empties the table.
//
// REQUIRES: t.mu
func (t *Table) reset() {
	t.o.Metrics.opened(-t.open)
	t.rules, t.labelIDs, t.heads = map[string]*tableRule{}, map[labelsKey]uint32{}, map[nodeKey]int32{}
	t.labels, t.freed, t.nodes, t.free, t.open, t.cursor = nil, nil, nil, none, 0, 0
	t.visitors = visitors{max: t.o.VisitorsMax}
	t.crowded.Store(false)
}

// Open is how many sessions are open.
func (t *Table) Open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open
}

// Crowded reports whether more sessions are open than may be, so that Settle is to be
// called before there are more.
func (t *Table) Crowded() bool { return t.crowded.Load() }

// Apply applies a change that was logged. After an error nothing has changed.
func (t *Table) Apply(src []byte) error {
	c, err := decodeChange(src)
	if err != nil {
		return fmt.Errorf("change of sessions %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.open
	switch c.form {
	case formEvents:
		t.add(c)
	case formSettled:
		t.remove(c)
	default:
		return fmt.Errorf("change of sessions has the form %d", c.form)
	}
	t.o.Metrics.opened(t.open - before)
	t.crowded.Store(t.open > t.o.OpenMax)
	return nil
}

// Load replaces all that the table has by a state that was saved; an empty one is that of
// an empty table. After an error nothing has changed.
func (t *Table) Load(saved []byte) error {
	c := &change{}
	if len(saved) > 0 {
		var err error
		if c, err = decodeChange(saved); err == nil && c.form != formState {
			err = fmt.Errorf("has the form %d", c.form)
		}
		if err != nil {
			return fmt.Errorf("state of sessions %w", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
	t.add(c)
	t.visitors.load(c.visitors)
	t.o.Metrics.opened(t.open)
	t.crowded.Store(t.open > t.o.OpenMax)
	return nil
}

// Save returns all that the table has; nil where that is nothing.
func (t *Table) Save() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == 0 && t.visitors.len() == 0 {
		return nil
	}
	rules, numbers := []*Rule(nil), map[uint32]int{}
	size := 0
	for i := range t.labels {
		l := &t.labels[i]
		if l.used == 0 {
			continue
		}
		size += len(l.values) + 2
		if _, ok := numbers[l.rule.id]; !ok {
			numbers[l.rule.id] = len(rules)
			rules = append(rules, l.rule.Rule)
			size += len(l.rule.key)
		}
	}
	dst := appendRules(make([]byte, 0, 64+size+22*t.open+18*t.visitors.len()), formState, rules)
	number := make([]int, len(t.labels))
	dst = binary.AppendUvarint(dst, uint64(len(t.labelIDs)))
	n := 0
	for i := range t.labels {
		if l := &t.labels[i]; l.used > 0 {
			dst = binary.AppendUvarint(dst, uint64(numbers[l.rule.id]))
			dst = append(dst, l.values...)
			number[i] = n
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(t.open))
	before := int64(0)
	for i := range t.nodes {
		if s := &t.nodes[i]; s.events > 0 {
			p := part{visitor: s.visitor, first: s.first, last: s.last}
			dst = appendPart(dst, number[s.labels], &p, before)
			dst = binary.AppendUvarint(dst, uint64(s.events))
			before = s.first
		}
	}
	return t.visitors.append(dst)
}

// seconds is the present as sessions note it.
func (t *Table) seconds() uint32 { return uint32(min(max(t.o.Now().Unix(), 0), math.MaxUint32)) }

// add merges the parts of a change into the open sessions.
//
// REQUIRES: t.mu
func (t *Table) add(c *change) {
	now := t.seconds()
	rules := make([]*tableRule, len(c.rules))
	for i, r := range c.rules {
		rules[i] = t.rule(r)
	}
	for i := range c.parts {
		p := &c.parts[i]
		l := &c.labels[p.of]
		t.merge(rules[l.rule], l.values, p, now)
	}
	for _, r := range rules {
		t.forgetRule(r)
	}
}

// rule finds or makes the table's of a rule.
//
// REQUIRES: t.mu
func (t *Table) rule(r *Rule) *tableRule {
	key := string(r.append(nil))
	if have := t.rules[key]; have != nil {
		return have
	}
	t.ruleIDs++
	out := &tableRule{Rule: r, id: t.ruleIDs, key: key, gap: r.Gap.Milliseconds()}
	t.rules[key] = out
	return out
}

// forgetRule drops a rule that no session is of.
//
// REQUIRES: t.mu
func (t *Table) forgetRule(r *tableRule) {
	if r.used == 0 {
		delete(t.rules, r.key)
	}
}

// merge adds a part to the session that it belongs to, or makes one of it; where it comes
// between sessions they become one.
//
// REQUIRES: t.mu
func (t *Table) merge(r *tableRule, values string, p *part, now uint32) {
	key := nodeKey{p.visitor, r.id}
	head, ok := t.heads[key]
	if !ok {
		head = none
	}
	before, at := int32(none), head // in the chain: before is later in time
	for at != none && t.nodes[at].first > p.last+r.gap {
		before, at = at, t.nodes[at].next
	}
	if at == none || t.nodes[at].last < p.first-r.gap {
		made := t.newNode(node{p.visitor, p.first, p.last, p.events, t.use(r, values), now, at})
		t.link(key, before, made)
		return
	}
	s := &t.nodes[at]
	s.events = addCounts(s.events, p.events)
	s.last, s.touched = max(s.last, p.last), now
	if p.first < s.first || p.first == s.first && values < t.labels[s.labels].values {
		l := t.use(r, values)
		t.leave(s.labels)
		s.first, s.labels = p.first, l
	}
	// What is within the gap of the part's first event.
	for next := s.next; next != none && t.nodes[next].last >= p.first-r.gap; next = s.next {
		o := &t.nodes[next]
		s.events = addCounts(s.events, o.events)
		if o.first < s.first || o.first == s.first && t.labels[o.labels].values < t.labels[s.labels].values {
			s.first, s.labels, o.labels = o.first, o.labels, s.labels
		}
		s.next = o.next
		t.freeNode(next)
	}
}

func addCounts(a, b uint32) uint32 { return uint32(min(uint64(a)+uint64(b), math.MaxUint32)) }

// link puts a node after before, or at the head of its chain. none as the node empties
// the chain.
//
// REQUIRES: t.mu
func (t *Table) link(key nodeKey, before, at int32) {
	switch {
	case before != none:
		t.nodes[before].next = at
	case at != none:
		t.heads[key] = at
	default:
		delete(t.heads, key)
	}
}

// REQUIRES: t.mu
func (t *Table) newNode(n node) int32 {
	t.open++
	if at := t.free; at != none {
		t.free = t.nodes[at].next
		t.nodes[at] = n
		return at
	}
	t.nodes = append(t.nodes, n)
	return int32(len(t.nodes) - 1)
}

// REQUIRES: t.mu
func (t *Table) freeNode(at int32) {
	t.open--
	t.leave(t.nodes[at].labels)
	t.nodes[at] = node{next: t.free}
	t.free = at
}

// use returns the number of labels, which one session more has.
//
// REQUIRES: t.mu
func (t *Table) use(r *tableRule, values string) uint32 {
	key := labelsKey{r.id, values}
	at, ok := t.labelIDs[key]
	switch n := len(t.freed); {
	case ok:
		t.labels[at].used++
		return at
	case n > 0:
		at = t.freed[n-1]
		t.freed = t.freed[:n-1]
		t.labels[at] = tableLabels{r, values, 1}
	default:
		at = uint32(len(t.labels))
		t.labels = append(t.labels, tableLabels{r, values, 1})
	}
	t.labelIDs[key] = at
	r.used++
	return at
}

// leave says that a session less has these labels.
//
// REQUIRES: t.mu
func (t *Table) leave(at uint32) {
	l := &t.labels[at]
	if l.used--; l.used > 0 {
		return
	}
	delete(t.labelIDs, labelsKey{l.rule.id, l.values})
	if l.rule.used--; l.rule.used == 0 {
		t.forgetRule(l.rule)
	}
	*l = tableLabels{}
	t.freed = append(t.freed, at)
}

// remove takes out the sessions that a change says were counted: what lies where they
// were, so that a replay of a log that is damaged before does not count it again.
//
// REQUIRES: t.mu
func (t *Table) remove(c *change) {
	rules := make([]*tableRule, len(c.rules))
	for i, r := range c.rules {
		rules[i] = t.rules[string(r.append(nil))]
	}
	for i := range c.parts {
		p := &c.parts[i]
		t.visitors.saw(p.visitor, p.last, c.at)
		r := rules[p.of]
		if r == nil {
			continue
		}
		key := nodeKey{p.visitor, r.id}
		at, ok := t.heads[key]
		if !ok {
			continue
		}
		for before := int32(none); at != none; {
			s := &t.nodes[at]
			next := s.next
			if s.first <= p.last && s.last >= p.first {
				t.link(key, before, next)
				t.freeNode(at)
			} else {
				before = at
			}
			at = next
		}
	}
	t.visitors.expire(c.at)
	if t.open == 0 { // give back what many took
		t.nodes, t.free, t.cursor, t.labels, t.freed = nil, none, 0, nil, nil
		t.heads, t.labelIDs = map[nodeKey]int32{}, map[labelsKey]uint32{}
	}
}
