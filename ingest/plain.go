package ingest

import (
	"bytes"
	"math"

	"github.com/valyala/fastjson"

	"github.com/quipudb/quipu/internal/tenant"
)

// plain decodes plain events, one JSON text at a time. It is reused for any
// number of batches; begin sets what is particular to one. Not safe for
// concurrent use.
type plain struct {
	event
	clock

	rules   *ruleset
	parser  fastjson.Parser
	ahead   *byte // where the event that fields are of begins; nil: they are of none ahead
	inside  bool  // fields of further_data are being visited
	further *fastjson.Value
	badData *rejection
	text    []byte // numbers as text, which fields point into
	visit   func(key []byte, v *fastjson.Value)
}

func newPlain() *plain {
	d := &plain{}
	d.visit = d.field // once: a method value allocates
	return d
}

// begin sets the rules, the tenant and the present of the events that follow.
func (d *plain) begin(rules *ruleset, p tenant.Profile, now int64) {
	d.rules, d.clock, d.ahead = rules, newClock(p, now), nil
	d.event.begin(rules, p)
}

// decode reads one event into d.event, or says why it is none.
func (d *plain) decode(raw []byte) *rejection {
	if len(raw) > eventBytesMax {
		return reject(reasonTooLarge, "the event is %d bytes long, at most %d are read", len(raw), eventBytesMax)
	}
	if !d.scan(raw) {
		if rejected := d.parse(raw); rejected != nil {
			return rejected
		}
	}
	if rejected := d.readName(); rejected != nil {
		return rejected
	}
	if rejected := d.readUser(); rejected != nil {
		return rejected
	}
	return d.clock.read(&d.event)
}

// parse reads any JSON.
func (d *plain) parse(raw []byte) *rejection {
	v, err := d.parser.ParseBytes(raw)
	if err != nil {
		return reject(reasonBadJSON, "%s: %q", shorten(err.Error()), shorten(string(raw)))
	}
	data, rejected := object(v)
	if rejected != nil {
		return rejected
	}
	return d.collect(data)
}

// object returns the event's own object: v, or the data that v wraps.
func object(v *fastjson.Value) (*fastjson.Value, *rejection) {
	if v.Type() != fastjson.TypeObject {
		return nil, reject(reasonNotAnObject, "%s is not an object", show(v))
	}
	if data := v.Get("data"); data != nil {
		if data.Type() != fastjson.TypeObject {
			return nil, reject(reasonNotAnObject, "data is %s, not an object", show(data))
		}
		v = data
	}
	return v, nil
}

// collect finds, in one pass over data and one over further_data, the fields
// that rules look for and the numbers of further_data.
func (d *plain) collect(data *fastjson.Value) *rejection {
	d.reset()
	d.text, d.badData, d.inside, d.further = d.text[:0], nil, false, nil
	data.GetObject().Visit(d.visit)
	if d.further != nil {
		if d.further.Type() != fastjson.TypeObject {
			return reject(reasonBadFurtherData, "further_data is %s, not an object", show(d.further))
		}
		d.inside = true
		d.further.GetObject().Visit(d.visit)
		if d.badData != nil {
			return d.badData
		}
	}
	for _, p := range d.rules.dotted {
		v := data.Get(p.segments...)
		if (v == nil || v.Type() == fastjson.TypeNull) && d.further != nil {
			v = d.further.Get(p.segments...)
		}
		if v != nil {
			d.fields[p.slot] = d.fieldOf(v)
		}
	}
	d.findTrace()
	return nil
}

// field takes one field of data or further_data; data is visited first and the
// first value of a name that is not null counts.
func (d *plain) field(key []byte, v *fastjson.Value) {
	if v.Type() == fastjson.TypeNull {
		return
	}
	slot, known := d.rules.find(key)
	if known && d.fields[slot].kind == fieldAbsent {
		switch {
		case d.inside && (slot == slotTimestamp || slot == slotFurtherData):
		case slot == slotFurtherData:
			d.further, d.fields[slot].kind = v, fieldOther
		default:
			d.fields[slot] = d.fieldOf(v)
		}
	}
	if d.inside && d.rules.numbers && v.Type() == fastjson.TypeNumber && d.badData == nil {
		d.badData = d.number(key, d.textOf(v))
	}
}

func (d *plain) fieldOf(v *fastjson.Value) field {
	switch v.Type() {
	case fastjson.TypeNull:
		return field{}
	case fastjson.TypeString:
		return field{kind: fieldText, text: v.GetStringBytes()}
	case fastjson.TypeNumber:
		return field{kind: fieldNumber, text: d.textOf(v)}
	case fastjson.TypeTrue, fastjson.TypeFalse:
		return field{kind: fieldBool, text: d.textOf(v)}
	default:
		return field{kind: fieldOther, text: d.textOf(v)}
	}
}

// textOf is a value as it was written.
func (d *plain) textOf(v *fastjson.Value) []byte {
	start := len(d.text)
	d.text = v.MarshalTo(d.text)
	return d.text[start:len(d.text):len(d.text)]
}

// number takes one numeric field; of those of one name the first counts.
func (d *plain) number(key, text []byte) *rejection {
	f, ok := parseNumber(text)
	if !ok && !isNumber(string(text)) {
		return reject(reasonBadNumber, "further_data.%s is %s, which is not a JSON number", shorten(string(key)), shorten(string(text)))
	}
	if !ok || math.Abs(f) > numberMax {
		return reject(reasonBadNumber, "further_data.%s is %s: numbers are between -%g and %g", shorten(string(key)), shorten(string(text)), float64(numberMax), float64(numberMax))
	}
	for _, n := range d.numbers { // numbersMax at most
		if bytes.Equal(n.key, key) {
			return nil
		}
	}
	if len(d.numbers) == numbersMax {
		return reject(reasonTooManyNumbers, "further_data has more than %d numeric fields, %q is one too many", numbersMax, shorten(string(key)))
	}
	d.numbers = append(d.numbers, number{key, labelValue(key), f})
	return nil
}
