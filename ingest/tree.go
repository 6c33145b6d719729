package ingest

import (
	"bytes"
	"math"

	"github.com/valyala/fastjson"

	"github.com/quipudb/quipu/internal/tenant"
)

// tree makes an event of a parsed JSON text. It is reused for any number of batches;
// begin sets what is particular to one. Not safe for concurrent use.
type tree struct {
	event
	clock

	rules    *ruleset
	depthMax int // of JSON
	parser   fastjson.Parser
	largest  int    // text since the parsers had no memory
	text     []byte // numbers as text, which fields point into
	visit    func(key []byte, v *fastjson.Value)
	visited  scopeKind
	further  *fastjson.Value // further_data that was come upon
	where    string          // whose numbers they are, for messages
	own      []string        // names of numbers that are none of the event's
	bad      *rejection      // of a number
}

// scopeKind says what the fields of an object that is being visited may be.
type scopeKind uint8

const (
	scopeOther   scopeKind = iota // what paths are looked up in
	scopeNumbers                  // such, and its numbers are those of further_data.*
	scopeTracker                  // such, but names that begin with $ are the tracker's own
	scopeData                     // of a plain event: it has the time and further_data too
)

func (t *tree) init() { t.visit = t.field } // once: a method value allocates

// begin sets the rules, the tenant and the present of the events that follow.
func (t *tree) begin(rules *ruleset, p tenant.Profile, now int64) {
	t.rules, t.clock, t.depthMax = rules, newClock(p, now), p.Limits.JSONDepth
	t.event.begin(rules, p)
}

// parse reads one JSON text.
func (t *tree) parse(raw []byte) (*fastjson.Value, *rejection) {
	if len(raw) > eventBytesMax {
		return nil, reject(reasonTooLarge, "the event is %d bytes long, at most %d are read", len(raw), eventBytesMax)
	}
	if rejected := checkDepth(raw, t.depthMax); rejected != nil {
		return nil, rejected
	}
	t.largest = max(t.largest, len(raw))
	v, err := t.parser.ParseBytes(raw)
	if err != nil {
		return nil, reject(reasonBadJSON, "%s: %q", shorten(err.Error()), shorten(string(raw)))
	}
	return v, nil
}

// treeKeptBytes is the longest text of whose tree the memory is kept for others.
const treeKeptBytes = 64 << 10

// shrink reports whether the memory of large trees is to be given up, and does so: a
// batch waits for the disk outside of slots, as many at once as there are requests.
// What was parsed must not be used any more.
func (t *tree) shrink() bool {
	large := t.largest > treeKeptBytes
	if large {
		t.parser, t.text, t.further, t.largest = fastjson.Parser{}, nil, nil, 0
	}
	return large
}

// reset forgets the event before.
func (t *tree) reset() {
	t.event.reset()
	t.text, t.bad, t.further = t.text[:0], nil, nil
}

// look takes from an object the fields that rules name and that no object before had.
func (t *tree) look(v *fastjson.Value, kind scopeKind) {
	if v == nil || v.Type() != fastjson.TypeObject {
		return
	}
	t.visited = kind
	v.GetObject().Visit(t.visit)
}

// lookDotted takes from the first of the objects that has it what each path with dots
// leads to.
func (t *tree) lookDotted(objects ...*fastjson.Value) {
	for _, p := range t.rules.dotted {
		for _, o := range objects {
			if v := o.Get(p.segments...); v != nil && v.Type() != fastjson.TypeNull {
				t.fields[p.slot] = t.fieldOf(v)
				break
			}
		}
	}
}

// finish checks what every event has, once its fields are found.
func (t *tree) finish() *rejection {
	if t.bad != nil {
		return t.bad
	}
	if rejected := t.readName(); rejected != nil {
		return rejected
	}
	if rejected := t.readUser(); rejected != nil {
		return rejected
	}
	t.findTrace()
	return t.clock.read(&t.event)
}

// field takes one field of the object that is visited. The first value of a name that
// is not null counts.
func (t *tree) field(key []byte, v *fastjson.Value) {
	if v.Type() == fastjson.TypeNull {
		return
	}
	slot, known := t.rules.find(key)
	if known && t.fields[slot].kind == fieldAbsent {
		switch {
		case t.visited != scopeData && (slot == slotTimestamp || slot == slotFurtherData):
		case slot == slotFurtherData:
			t.further, t.fields[slot].kind = v, fieldOther
		default:
			t.fields[slot] = t.fieldOf(v)
		}
	}
	numeric := t.visited == scopeNumbers || t.visited == scopeTracker && (len(key) == 0 || key[0] != '$') && !t.isOwn(key)
	if numeric && t.rules.numbers && v.Type() == fastjson.TypeNumber && t.bad == nil {
		t.bad = t.number(key, t.textOf(v))
	}
}

func (t *tree) isOwn(key []byte) bool {
	for _, name := range t.own {
		if string(key) == name {
			return true
		}
	}
	return false
}

// fieldOf is a value as a field; nil is none.
func (t *tree) fieldOf(v *fastjson.Value) field {
	if v == nil {
		return field{}
	}
	switch v.Type() {
	case fastjson.TypeNull:
		return field{}
	case fastjson.TypeString:
		return field{kind: fieldText, text: v.GetStringBytes()}
	case fastjson.TypeNumber:
		return field{kind: fieldNumber, text: t.textOf(v)}
	case fastjson.TypeTrue, fastjson.TypeFalse:
		return field{kind: fieldBool, text: t.textOf(v)}
	default:
		return field{kind: fieldOther, text: t.textOf(v)}
	}
}

// textOf is a value as it was written.
func (t *tree) textOf(v *fastjson.Value) []byte {
	start := len(t.text)
	t.text = v.MarshalTo(t.text)
	return t.text[start:len(t.text):len(t.text)]
}

// number takes one numeric field; of those of one name the first counts.
func (t *tree) number(key, text []byte) *rejection {
	f, ok := parseNumber(text)
	if !ok && !isNumber(string(text)) {
		return reject(reasonBadNumber, "%s.%s is %s, which is not a JSON number", t.where, shorten(string(key)), shorten(string(text)))
	}
	if !ok || math.Abs(f) > numberMax {
		return reject(reasonBadNumber, "%s.%s is %s: numbers are between -%g and %g", t.where, shorten(string(key)), shorten(string(text)), float64(numberMax), float64(numberMax))
	}
	for _, n := range t.numbers { // numbersMax at most
		if bytes.Equal(n.key, key) {
			return nil
		}
	}
	if len(t.numbers) == numbersMax {
		return reject(reasonTooManyNumbers, "%s has more than %d numeric fields, %q is one too many", t.where, numbersMax, shorten(string(key)))
	}
	t.numbers = append(t.numbers, number{key, labelValue(key, t.valueBytesMax), f})
	return nil
}
