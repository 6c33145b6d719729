package ingest

import (
	"strconv"

	"github.com/valyala/fastjson"
)

// layout says where the parts of an event are in a tracker's JSON.
type layout struct {
	name string // of the format; sets its ids apart from other formats'
	// read finds the parts of the event that v, an object, is.
	read func(t *tracker, v *fastjson.Value) *rejection
	// queries: an event may also be the text of a query, whose parameters are its fields.
	queries bool
	// own are numbers among the properties that are the tracker's, and not counted.
	own []string
	// aliases are names by which rules find what the tracker calls otherwise. The
	// first of a name that the event has is used, where no field has the name itself.
	aliases []alias
}

// alias is a name for what is at a path within an event, or within what all events of
// the body share.
type alias struct {
	name string
	path []string
	part func(text []byte) []byte // of the text there; nil: all of it
	// over: it comes before a field of that name, which in this format is something that
	// no label should have.
	over bool
	// number: a text that is a number is one.
	number bool
	// counted: it is one of the numbers of further_data.*, for formats that have numbers
	// elsewhere than among the properties, or as texts.
	counted bool
}

// sentAtBytesMax is longer than any time is written.
const sentAtBytesMax = 128

// tracker decodes events of the format that its layout is of.
type tracker struct {
	tree
	post   *Post
	outer  fastjson.Parser    // of what the events of a body share
	inner  []*fastjson.Parser // of JSON within texts
	inside int                // how many texts of the event they have parsed
	shared *fastjson.Value
	query  []byte            // the event's parameters as JSON
	id     []byte            // which idText points into
	scopes []*fastjson.Value // for objects
}

func newTracker() *tracker {
	t := &tracker{}
	t.init()
	return t
}

// open sets the post that the events come from. REQUIRES: begin was called.
func (t *tracker) open(p *Post) {
	t.post, t.shared, t.where, t.own = p, nil, "properties", p.layout.own
	if p.shared != nil && checkDepth(p.shared, t.depthMax) == nil {
		// What is wrong with it is wrong with the body, and its events say so less well
		// than they are counted without it.
		t.largest = max(t.largest, len(p.shared))
		t.shared, _ = t.outer.ParseBytes(p.shared)
	}
	t.ahead = 0
	if len(p.sentAt) == 0 || len(p.sentAt) > sentAtBytesMax {
		return
	}
	if v, err := fastjson.ParseBytes(p.sentAt); err == nil {
		t.sent(v)
	}
}

// sent takes the client's clock when it sent what follows. Nothing is sent after it has
// arrived: such a clock is wrong, and by that much. One that is behind cannot be told from
// a body that was long on its way.
func (t *tracker) sent(v *fastjson.Value) {
	t.ahead = 0
	f := t.fieldOf(v)
	if ms, ok := parseTimestamp(string(f.text)); ok && (f.kind == fieldText || f.kind == fieldNumber) && ms > t.now {
		t.ahead = ms - t.now
	}
}

// decode reads one event, or says why it is none. The event is good until the next one.
func (t *tracker) decode(raw []byte) (*event, *rejection) {
	parse := t.parse
	if t.post.layout.queries && raw[0] != '{' {
		parse = t.parameters
	}
	v, rejected := parse(raw)
	if rejected != nil {
		return nil, rejected
	}
	if v.Type() != fastjson.TypeObject {
		return nil, reject(reasonNotAnObject, "%s is not an object", show(v))
	}
	t.reset()
	t.inside, t.ignored = 0, t.post.dry
	if rejected = t.post.layout.read(t, v); rejected != nil {
		return nil, rejected
	}
	found := ""
	for i := range t.post.layout.aliases {
		a := &t.post.layout.aliases[i]
		if a.name != found && t.alias(a, v) {
			found = a.name
		}
		if a.counted && t.rules.numbers {
			t.count(a, v)
		}
	}
	return &t.event, t.finish()
}

// shrink is tree's. The texts that the other parsers read are parts of the events, or
// noted when they are read.
func (t *tracker) shrink() {
	if t.tree.shrink() {
		t.outer, t.inner, t.shared, t.query, t.scopes = fastjson.Parser{}, nil, nil, nil, nil
	}
}

func (t *tracker) elementLen(src []byte) int { return valueLen(src) }

// set makes v, if it is there, the value of a slot that has none.
func (t *tracker) set(slot int, v *fastjson.Value) {
	if t.fields[slot].kind == fieldAbsent {
		t.fields[slot] = t.fieldOf(v)
	}
}

// setText is set for a text that is in no JSON.
func (t *tracker) setText(slot int, text []byte) {
	if len(text) > 0 && t.fields[slot].kind == fieldAbsent {
		t.fields[slot] = field{kind: fieldText, text: text}
	}
}

// setNumber makes n the value of a field that the event does not have, and one of its
// numbers.
func (t *tracker) setNumber(name string, n float64) {
	start := len(t.text)
	t.text = append(t.text, name...)
	middle := len(t.text)
	t.text = strconv.AppendFloat(t.text, n, 'f', -1, 64)
	key, text := t.text[start:middle:middle], t.text[middle:len(t.text):len(t.text)]
	if slot, ok := t.rules.find(key); ok && t.fields[slot].kind == fieldAbsent {
		t.fields[slot] = field{kind: fieldNumber, text: text}
	}
	if t.rules.numbers && t.bad == nil {
		t.bad = t.number(key, text)
	}
}

// setID says what tells the event from all others of its format.
func (t *tracker) setID(parts ...*fastjson.Value) {
	t.id = append(t.id[:0], t.post.layout.name...)
	for _, v := range parts {
		if v == nil {
			return // an event without an id
		}
		f := t.fieldOf(v)
		if !f.isScalar() || len(f.text) == 0 {
			return
		}
		t.id = append(append(t.id, 0), f.text...)
	}
	t.idText = t.id
}

// objects are what paths are looked up in, in this order; the numbers of the first are
// those of further_data.*. The first one may be missing.
func (t *tracker) objects(properties *fastjson.Value, others ...*fastjson.Value) {
	t.look(properties, scopeTracker)
	for _, o := range others {
		t.look(o, scopeOther)
	}
	t.scopes = append(append(t.scopes[:0], properties), others...)
	t.lookDotted(t.scopes...)
}

// alias gives the event the field of that name, where rules look for it and the event
// has none.
func (t *tracker) alias(a *alias, v *fastjson.Value) (found bool) {
	slot, ok := t.rules.find([]byte(a.name))
	if !ok || t.fields[slot].isScalar() && !a.over {
		return false
	}
	at := v.Get(a.path...)
	if at == nil {
		at = t.shared.Get(a.path...)
	}
	f := t.fieldOf(at)
	if !f.isScalar() {
		return false
	}
	if a.part != nil {
		f.text = a.part(f.text)
	}
	if len(f.text) == 0 {
		return false
	}
	if a.number && isNumber(string(f.text)) {
		f.kind = fieldNumber
	}
	t.fields[slot] = f
	return true
}

// count counts the number that an alias is of, a text or not, under the alias's name.
func (t *tracker) count(a *alias, v *fastjson.Value) {
	f := t.fieldOf(v.Get(a.path...))
	if t.bad != nil || f.kind != fieldNumber && (f.kind != fieldText || !isNumber(string(f.text))) {
		return
	}
	start := len(t.text)
	t.text = append(t.text, a.name...)
	t.bad = t.number(t.text[start:len(t.text):len(t.text)], f.text)
}

// within parses the JSON that is in a text; nil where it is none that is read. The value is
// good until the next event.
func (t *tracker) within(text []byte) *fastjson.Value {
	if checkDepth(text, t.depthMax) != nil {
		return nil
	}
	if t.inside++; t.inside > len(t.inner) {
		t.inner = append(t.inner, new(fastjson.Parser))
	}
	v, err := t.inner[t.inside-1].ParseBytes(text)
	if err != nil {
		return nil
	}
	return v
}

// pageAliases are those of the address of a page: what page it is, of which host, and by
// which campaign it was come to. over is that of page.
func pageAliases(over bool, path ...string) []alias {
	return []alias{
		{name: "page", path: path, part: pathOf, over: over},
		{name: "host", path: path, part: hostOf},
		{name: "utm_source", path: path, part: parameterOf("utm_source")},
		{name: "utm_medium", path: path, part: parameterOf("utm_medium")},
		{name: "utm_campaign", path: path, part: parameterOf("utm_campaign")},
	}
}
