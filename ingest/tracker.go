package ingest

import "github.com/valyala/fastjson"

// layout says where the parts of an event are in a tracker's JSON.
type layout struct {
	name string // of the format; sets its ids apart from other formats'
	// read finds the parts of the event that v, an object, is.
	read func(t *tracker, v *fastjson.Value) *rejection
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
}

// sentAtBytesMax is longer than any time is written.
const sentAtBytesMax = 128

// tracker decodes events of the format that its layout is of.
type tracker struct {
	tree
	post   *Post
	outer  fastjson.Parser // of what the events of a body share
	inner  fastjson.Parser // of JSON within a text
	shared *fastjson.Value
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
	t.post, t.shared, t.where = p, nil, "properties"
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
	v, err := fastjson.ParseBytes(p.sentAt)
	if err != nil {
		return
	}
	f := t.fieldOf(v)
	// Nothing is sent after it has arrived: such a clock is wrong, and by that much. One
	// that is behind cannot be told from a body that was long on its way.
	if ms, ok := parseTimestamp(string(f.text)); ok && (f.kind == fieldText || f.kind == fieldNumber) && ms > t.now {
		t.ahead = ms - t.now
	}
}

// decode reads one event, or says why it is none. The event is good until the next one.
func (t *tracker) decode(raw []byte) (*event, *rejection) {
	v, rejected := t.parse(raw)
	if rejected != nil {
		return nil, rejected
	}
	if v.Type() != fastjson.TypeObject {
		return nil, reject(reasonNotAnObject, "%s is not an object", show(v))
	}
	t.reset()
	if rejected = t.post.layout.read(t, v); rejected != nil {
		return nil, rejected
	}
	found := ""
	for i := range t.post.layout.aliases {
		if a := &t.post.layout.aliases[i]; a.name != found && t.alias(a, v) {
			found = a.name
		}
	}
	return &t.event, t.finish()
}

// shrink is tree's. The texts that the other parsers read are parts of the events, or
// noted when they are read.
func (t *tracker) shrink() {
	if t.tree.shrink() {
		t.outer, t.inner, t.shared, t.scopes = fastjson.Parser{}, fastjson.Parser{}, nil, nil
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

// within parses the JSON that is in a text; nil where it is none that is read. The value is good
// until the next one.
func (t *tracker) within(text []byte) *fastjson.Value {
	if checkDepth(text, t.depthMax) != nil {
		return nil
	}
	v, err := t.inner.ParseBytes(text)
	if err != nil {
		return nil
	}
	return v
}
