package ingest

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// sessionEventsMax bounds what one batch adds to sessions, 24 bytes each.
const sessionEventsMax = 4 << 20

// sessionEvents are those of a batch that rules of sessions count.
type sessionEvents struct {
	events  []session.Event
	labels  []session.Labels
	numbers map[string]int32 // of labels, by the key of a series
	encoder session.Encoder
}

// reset forgets the batch before.
func (s *sessionEvents) reset() {
	if cap(s.events) > 4*coalescedKept {
		*s = sessionEvents{}
	}
	clear(s.labels)
	clear(s.numbers)
	s.events, s.labels = s.events[:0], s.labels[:0]
}

// encode is what they change of the tenant's sessions, nil where there are none.
func (s *sessionEvents) encode() []byte { return s.encoder.Encode(s.labels, s.events) }

// addSession notes an event that a rule of sessions counts.
func (c *coalescer) addSession(h *hit, e *event) {
	s := &c.sessions
	c.setKey(h.rule, e, nil)
	number, ok := s.numbers[string(c.key)]
	if !ok {
		if s.numbers == nil {
			s.numbers = map[string]int32{}
		}
		number = int32(len(s.labels))
		key := string(c.key)
		_, n := binary.Uvarint(c.key)
		s.labels = append(s.labels, session.Labels{Rule: c.rules.rules[h.rule].session, Values: key[n:]})
		s.numbers[key] = number
	}
	s.events = append(s.events, session.Event{Visitor: h.id, Time: e.ms, Labels: number})
}

// isSession reports whether a rule's type is that of sessions.
func isSession(n *yaml.Node) bool {
	if n.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "type" {
			return n.Content[i+1].Value == sessionType
		}
	}
	return false
}

// sessionType is the type of rules of sessions.
const sessionType = "session"

// sessionField takes a field that a rule of sessions has instead of those of others, and
// reports whether it is one.
func (p *ruleParser) sessionField(r *rule, path, key string, v *yaml.Node) bool {
	at := join(path, key)
	switch key {
	case "type":
	case "key":
		if text := p.text(v, at); text == "timestamp" || text == modelPaths[slotFurtherData] {
			p.fail(v, at, "%q cannot be the key of sessions", text)
		} else if text != "" {
			r.value = p.path(v, at, text)
		}
	case "gap":
		gap, err := model.ParseDuration(v.Value)
		if r.session.Gap = time.Duration(gap); v.Kind != yaml.ScalarNode || err != nil || r.session.Gap < session.GapMin || r.session.Gap > session.GapMax {
			p.fail(v, at, "is %s, not a duration from %s to %s, such as 30m", describe(v), model.Duration(session.GapMin), model.Duration(session.GapMax))
		}
	case "value", "scale", "help", "unit":
		p.fail(v, at, "a rule of sessions has none: it has a key, and makes metrics of its own")
	default:
		return false
	}
	return true
}

// consistentSession checks what one field of a rule of sessions says against another.
func (p *ruleParser) consistentSession(r *rule, path string, n *yaml.Node, at map[string]*yaml.Node) {
	if at["key"] == nil {
		p.fail(n, join(path, "key"), "missing: sessions are of something, such as user_id")
	}
	if len(r.buckets) > increment.BoundsMax {
		p.fail(at["buckets"], join(path, "buckets"), "%d bounds, at most %d are allowed", len(r.buckets), increment.BoundsMax)
	}
	for _, l := range r.labels {
		switch {
		case l.source == sourceNumberName:
			p.failAt(l.line, join(path, "labels."+l.name), "path %q is for histograms", pathNumberName)
		case l.name == session.VisitorLabel:
			p.failAt(l.line, join(path, "labels."+l.name), "sessions have this label already: new or returning")
		}
	}
}

// becomeSession makes a rule that was read one of sessions.
func (r *rule) becomeSession() {
	s := r.session
	s.Name, s.Labels, s.Keep, s.Bounds = r.metric, r.shape.Names, slices.Compact(r.shape.Keep), r.buckets
	r.buckets = nil
	if r.metric != "" {
		r.metric = s.Metrics()[0].Name
	}
	r.kind = increment.Counter
	h := fnv.New64a()
	fmt.Fprintf(h, "%s of %s", sessionType, s.Name)
	r.visitors = h.Sum64()
}

// madeMetric is a metric that a rule makes.
type madeMetric struct {
	name string
	kind increment.Kind
}

// made are the metrics that the rule makes.
func (r *rule) made() []madeMetric {
	if r.session == nil {
		return []madeMetric{{r.metric, r.kind}}
	}
	var out []madeMetric
	for _, m := range r.session.Metrics() {
		out = append(out, madeMetric{m.Name, m.Kind})
	}
	return out
}

// settledSessions are the increments of the sessions that a change makes, once all have
// ended, for a table that had none.
func settledSessions(change []byte, now int64) (out []increment.Increment, err error) {
	if len(change) == 0 {
		return nil, nil
	}
	t := session.NewTable(session.Options{Now: func() time.Time { return time.UnixMilli(now) }})
	if err := t.Apply(change); err != nil {
		return nil, err
	}
	settings := tenant.DefaultSettings()
	for later := now + 3*session.GapMax.Milliseconds(); ; {
		b := t.Settle(later, settings.GridMillis())
		if b == nil {
			return out, nil
		}
		out = append(out, b.Increments...)
		if err := t.Apply(b.State); err != nil {
			return nil, err
		}
	}
}
