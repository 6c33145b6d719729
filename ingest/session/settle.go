package session

import (
	"encoding/binary"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

// settleMax is about how many sessions one batch counts: appends wait for it.
const settleMax = 8192

// Due reports whether Settle would count anything at now, milliseconds since 1970.
func (t *Table) Due(now int64) bool {
	if t.Crowded() {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.nodes {
		if s := &t.nodes[i]; s.events > 0 && s.next == none && t.ended(s, now) {
			return true
		}
	}
	return false
}

// ended reports whether no event can belong to a session any more at now: the gap has
// passed twice, so that one may be late by as much, and none has come for a while.
//
// REQUIRES: t.mu
func (t *Table) ended(s *node, now int64) bool {
	return s.last+2*t.labels[s.labels].rule.gap < now && int64(s.touched)*1000+t.o.Quiet.Milliseconds() <= now
}

// Settle returns what sessions that have ended at now, milliseconds since 1970, add to
// windows of grid milliseconds, and as the batch's State their removal; nil where there
// are none. It changes nothing: the batch is to be logged and its State applied before
// anything else is. There may be more of them: call it until it returns nil.
func (t *Table) Settle(now, grid int64) *increment.Batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	picked, why := []int32(nil), reasonEnded
	if t.Crowded() {
		picked, why = t.leastRecent(), reasonLimit
	} else {
		picked = t.allEnded(now)
	}
	if len(picked) == 0 {
		return nil
	}
	t.o.Metrics.counted(why, len(picked))
	c := counting{table: t, grid: grid, at: map[countedIn]int{}, series: map[countedFor]*increment.Series{}, seen: map[uint64]visit{}}
	for _, at := range picked {
		c.count(&t.nodes[at])
	}
	return &increment.Batch{Increments: c.increments, State: t.settled(picked, now), SkipRefused: true}
}

// allEnded returns some sessions that have ended (I3), beginning where the last look
// stopped.
//
// REQUIRES: t.mu
func (t *Table) allEnded(now int64) (picked []int32) {
	n := len(t.nodes)
	for range n {
		if t.cursor >= n {
			t.cursor = 0
		}
		at := t.cursor
		t.cursor++
		if s := &t.nodes[at]; s.events > 0 && s.next == none && t.ended(s, now) {
			picked = t.pick(picked, at, func(s *node) bool { return t.ended(s, now) })
		}
		if len(picked) >= settleMax {
			break
		}
	}
	return picked
}

// leastRecent returns sessions that were touched least recently (I3): as many as are too
// many and a sixteenth of what may be open, or some of them.
//
// REQUIRES: t.mu
func (t *Table) leastRecent() (picked []int32) {
	var touched []uint32
	for i := range t.nodes {
		if s := &t.nodes[i]; s.events > 0 && s.next == none {
			touched = append(touched, s.touched)
		}
	}
	most := t.open - t.o.OpenMax + t.o.OpenMax/16
	slices.Sort(touched)
	cut := touched[min(most, len(touched)-1)]
	for i := range t.nodes {
		if s := &t.nodes[i]; s.events > 0 && s.next == none && s.touched <= cut {
			picked = t.pick(picked, i, func(s *node) bool { return s.touched <= cut })
		}
		if len(picked) >= min(most, settleMax) {
			break
		}
	}
	return picked
}

// pick appends the session at a place, the earliest of its chain, and those that follow
// it in time up to the first that is not to be counted.
//
// REQUIRES: t.mu
func (t *Table) pick(picked []int32, at int, counts func(s *node) bool) []int32 {
	s := &t.nodes[at]
	from := len(picked)
	for next := t.heads[nodeKey{s.visitor, t.labels[s.labels].rule.id}]; next != none; next = t.nodes[next].next {
		picked = append(picked, next)
	}
	chain := picked[from:]
	slices.Reverse(chain)
	n := 1
	for n < len(chain) && counts(&t.nodes[chain[n]]) {
		n++
	}
	return picked[:from+n]
}

// settled is the change that removes sessions.
//
// REQUIRES: t.mu
func (t *Table) settled(picked []int32, now int64) []byte {
	rules, numbers := []*Rule(nil), map[uint32]int{}
	for _, at := range picked {
		r := t.labels[t.nodes[at].labels].rule
		if _, ok := numbers[r.id]; !ok {
			numbers[r.id] = len(rules)
			rules = append(rules, r.Rule)
		}
	}
	dst := appendRules(nil, formSettled, rules)
	dst = binary.AppendVarint(dst, now)
	dst = binary.AppendUvarint(dst, uint64(len(picked)))
	before := int64(0)
	for _, at := range picked {
		s := &t.nodes[at]
		p := part{visitor: s.visitor, first: s.first, last: s.last}
		dst = appendPart(dst, numbers[t.labels[s.labels].rule.id], &p, before)
		before = s.first
	}
	return dst
}

// counting is sessions on their way to increments, one for each series and window.
type counting struct {
	table      *Table
	grid       int64
	increments []increment.Increment
	at         map[countedIn]int // in increments
	series     map[countedFor]*increment.Series
	seen       map[uint64]visit // by what is being counted
	builder    labels.ScratchBuilder
}

// countedFor is what series are made for: labels, and of the first metric the visitor.
type countedFor struct {
	labels    uint32
	metric    int
	returning bool
}

type countedIn struct {
	countedFor
	window int64
}

func (c *counting) count(s *node) {
	v := &c.table.visitors
	returning := v.known(s.visitor, s.first)
	if was, ok := c.seen[s.visitor]; ok {
		returning = returning || was.before(s.first)
	}
	c.seen[s.visitor] = visit{last: max(c.seen[s.visitor].last, toSeconds(s.last))}
	window := s.first - s.first%c.grid
	c.increment(countedIn{countedFor{s.labels, metricSessions, returning}, window}).Value++
	c.increment(countedIn{countedFor{s.labels, metricSeconds, false}, window}).Hist.Observe(float64(s.last-s.first) / 1000)
	c.increment(countedIn{countedFor{s.labels, metricEvents, false}, window}).Hist.Observe(float64(s.events))
	if s.events == 1 {
		c.increment(countedIn{countedFor{s.labels, metricBounces, false}, window}).Value++
	}
}

func (c *counting) increment(in countedIn) *increment.Increment {
	at, ok := c.at[in]
	if !ok {
		at = len(c.increments)
		c.at[in] = at
		inc := increment.Increment{Series: c.seriesOf(in.countedFor), Time: in.window}
		switch rule := c.table.labels[in.labels].rule; {
		case in.metric == metricEvents:
			inc.Hist = &increment.Hist{Bounds: eventsBounds}
		case in.metric == metricSeconds && rule.Bounds != nil:
			inc.Hist = &increment.Hist{Bounds: rule.Bounds}
		case in.metric == metricSeconds:
			inc.Hist = &increment.Hist{Bounds: secondsBounds}
		}
		c.increments = append(c.increments, inc)
	}
	return &c.increments[at]
}

func (c *counting) seriesOf(of countedFor) *increment.Series {
	if s := c.series[of]; s != nil {
		return s
	}
	l := &c.table.labels[of.labels]
	sessions, shape := l.rule.shapes()
	metric := l.rule.Metrics()[of.metric]
	c.builder.Reset()
	c.builder.Add(model.MetricNameLabel, metric.Name)
	d := decoder{src: []byte(l.values)}
	for _, name := range l.rule.Labels {
		if value := d.bytes(d.uvarint()); len(value) > 0 {
			c.builder.Add(name, string(value))
		}
	}
	if of.metric == metricSessions {
		shape = sessions
		value := "new"
		if of.returning {
			value = "returning"
		}
		c.builder.Add(VisitorLabel, value)
	}
	c.builder.Sort()
	s := increment.NewSeries(c.builder.Labels(), metric.Kind, shape)
	c.series[of] = s
	return s
}
