package ingest

import (
	_ "embed"
	"hash/maphash"

	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/internal/increment"
)

// DefaultRules are those of a tenant that has none.
//
//go:embed default_rules.yaml
var DefaultRules []byte

// Slots number the fields that a decoder looks for. The first ones are the event
// model's own; the rest are the paths that rules name.
const (
	slotEvent = iota
	slotUser
	slotTimestamp
	slotFurtherData
	slotCorrelation
	slotTrace
	slotSpan
	slotAgent
	slotAddress
	slotsOfModel
)

var modelPaths = [slotsOfModel]string{"event", "user_id", "timestamp", "further_data", "correlation_id", "trace_id", "span_id", "user_agent", "ip"}

// Paths that mean more than the field of that name.
const (
	// pathNumbers is every numeric field of further_data, one after the other.
	pathNumbers = "further_data.*"
	// pathNumberName is the name of the field whose number is being counted.
	pathNumberName = "*"
)

// Values of a rule other than a slot of the event.
const (
	valueNone    = -1 - iota // the event itself counts one
	valueNumbers             // each number of further_data
)

// sourceNumberName is a label's source other than a slot: the name of the number
// being counted.
const sourceNumberName = -1

// ruleset is a tenant's rules, compiled once. Nothing of it changes after but the
// handles of the series that it made.
type ruleset struct {
	version string        // hash of the text
	names   [][]namedSlot // by the name's length, of paths without dots
	dotted  []dottedPath
	// intoData: one of them begins with data or further_data.
	intoData bool
	paths    []string // by slot
	numbers  bool     // a rule counts further_data.*
	derived  derived
	dedup    int // slot of what tells an event from all others; 0: nothing does
	rules    []rule
	handles  handles
}

// dottedPath is a path into objects within the event.
type dottedPath struct {
	slot     int
	segments []string
}

// rule is one metric, or those of sessions.
type rule struct {
	metric     string
	kind       increment.Kind
	help, unit string
	when       *condition // nil: every event
	value      int        // a slot, or one of the values above
	scale      float64
	buckets    []float64 // of a histogram; nil: exponential
	labels     []label   // sorted by name
	shape      *increment.Shape
	// session is what a rule of sessions says, whose key value is; nil: the rule makes one
	// metric. visitors sets the hashes of its visitors apart from all others.
	session  *session.Rule
	visitors uint64
	line     int
}

// label is where the value of a label comes from.
type label struct {
	name       string
	source     int // a slot or sourceNumberName
	transforms []transform
	otherwise  []byte // where the event has no value
	allowed    valuesAllowed
	line       int
}

type namedSlot struct {
	name string
	slot int
}

// find returns the slot of a field of data. Names of one length are few, so that
// comparing them takes a fraction of what a map does.
func (rs *ruleset) find(name []byte) (slot int, ok bool) {
	if len(name) >= len(rs.names) {
		return 0, false
	}
	for i := range rs.names[len(name)] {
		if n := &rs.names[len(name)][i]; n.name == string(name) {
			return n.slot, true
		}
	}
	return 0, false
}

// slot returns the number of a path, which is new where no rule named it yet.
func (rs *ruleset) slot(path string, segments []string) int {
	for i, p := range rs.paths {
		if p == path {
			return i
		}
	}
	n := len(rs.paths)
	rs.paths = append(rs.paths, path)
	if len(segments) == 1 {
		for len(rs.names) <= len(path) {
			rs.names = append(rs.names, nil)
		}
		rs.names[len(path)] = append(rs.names[len(path)], namedSlot{path, n})
	} else {
		rs.dotted = append(rs.dotted, dottedPath{n, segments})
		rs.intoData = rs.intoData || segments[0] == "data" || segments[0] == modelPaths[slotFurtherData]
	}
	return n
}

func newRuleset(version string) *ruleset {
	rs := &ruleset{version: version, handles: handles{seed: maphash.MakeSeed()}}
	for _, p := range modelPaths {
		rs.slot(p, []string{p})
	}
	return rs
}
