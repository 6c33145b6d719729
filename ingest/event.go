package ingest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dchest/siphash"
	"github.com/valyala/fastjson"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// eventBytesMax bounds one event's JSON, and with it the tree parsed from
	// it, which may take 40 times as much.
	eventBytesMax = 1 << 20
	// valueBytesMax is the longest event name or label value.
	valueBytesMax = 1024
	// numbersMax is the most numeric fields of one event.
	numbersMax = 64
	// numberMax is the largest magnitude of a number that is counted: the sum
	// of 10^20 of them is still finite.
	numberMax = 1e288
	// futureMax is how far ahead of the present a client's clock may be.
	futureMax = time.Hour
)

// event is what a decoder found in one JSON text. Its bytes belong to the
// decoder and are good until the next decode.
type event struct {
	ms      int64    // milliseconds since 1970
	fields  [][]byte // by slot: the value as a label, nil where there is none
	hasUser bool
	user    uint64 // keyed hash
	numbers []number
}

// number is a numeric field of further_data.
type number struct {
	key   []byte // as it was written
	name  []byte // key as a label
	value float64
}

// decoder turns JSON texts into events, one at a time. A decoder is reused for
// any number of batches; begin sets what is particular to one. Not safe for
// concurrent use.
type decoder struct {
	event

	rules       *ruleset
	defaultName []byte

	now       int64 // milliseconds since 1970
	oldest    int64 // milliseconds since 1970: events before are too old
	retention time.Duration
	idKey     [2]uint64

	parser  fastjson.Parser
	values  []*fastjson.Value // by slot, nil where absent or null
	inside  bool              // fields of further_data are being visited
	badData *rejection
	text    []byte // numbers as text, which labels point into
	visit   func(key []byte, v *fastjson.Value)
}

func newDecoder(rules *ruleset) *decoder {
	d := &decoder{rules: rules, defaultName: []byte("event"), values: make([]*fastjson.Value, len(rules.slots))}
	d.fields = make([][]byte, len(rules.slots))
	d.visit = d.field // once: a method value allocates
	return d
}

// begin sets the tenant and the present of the events that follow.
func (d *decoder) begin(p tenant.Profile, now int64) {
	d.now, d.oldest, d.retention = now, math.MinInt64, time.Duration(p.Retention)
	if d.retention > 0 {
		d.oldest = now - d.retention.Milliseconds()
	}
	d.idKey = [2]uint64{binary.LittleEndian.Uint64(p.IDKey[:8]), binary.LittleEndian.Uint64(p.IDKey[8:])}
}

// decode reads one event into d.event, or says why it is none.
func (d *decoder) decode(raw []byte) *rejection {
	if len(raw) > eventBytesMax {
		return reject(reasonTooLarge, "the event is %d bytes long, at most %d are read", len(raw), eventBytesMax)
	}
	v, err := d.parser.ParseBytes(raw)
	if err != nil {
		return reject(reasonBadJSON, "%s: %q", shorten(err.Error()), shorten(string(raw)))
	}
	data, rejected := object(v)
	if rejected != nil {
		return rejected
	}
	if rejected := d.collect(data); rejected != nil {
		return rejected
	}
	if rejected := d.readName(); rejected != nil {
		return rejected
	}
	if rejected := d.readUser(); rejected != nil {
		return rejected
	}
	if rejected := d.readTime(); rejected != nil {
		return rejected
	}
	d.readLabels()
	return nil
}

// object returns the event's own object: v, or the data that v wraps.
func object(v *fastjson.Value) (*fastjson.Object, *rejection) {
	if v.Type() != fastjson.TypeObject {
		return nil, reject(reasonNotAnObject, "%s is not an object", show(v))
	}
	if data := v.Get("data"); data != nil {
		if data.Type() != fastjson.TypeObject {
			return nil, reject(reasonNotAnObject, "data is %s, not an object", show(data))
		}
		v = data
	}
	return v.GetObject(), nil
}

// collect finds, in one pass over data and one over further_data, the fields
// that rules look for and the numbers of further_data.
func (d *decoder) collect(data *fastjson.Object) *rejection {
	clear(d.values)
	d.numbers, d.text, d.badData, d.inside = d.numbers[:0], d.text[:0], nil, false
	data.Visit(d.visit)
	further := d.values[slotFurtherData]
	if further == nil {
		return nil
	}
	if further.Type() != fastjson.TypeObject {
		return reject(reasonBadFurtherData, "further_data is %s, not an object", show(further))
	}
	d.inside = true
	further.GetObject().Visit(d.visit)
	return d.badData
}

// field takes one field of data or further_data; data is visited first and the
// first value of a name that is not null counts.
func (d *decoder) field(key []byte, v *fastjson.Value) {
	slot, known := d.rules.slots[string(key)]
	if known && d.values[slot] == nil && v.Type() != fastjson.TypeNull {
		if !d.inside || slot != slotTimestamp && slot != slotFurtherData {
			d.values[slot] = v
		}
	}
	if d.inside && v.Type() == fastjson.TypeNumber && d.badData == nil {
		d.badData = d.number(key, v)
	}
}

// number takes one numeric field; of those of one name the first counts.
func (d *decoder) number(key []byte, v *fastjson.Value) *rejection {
	text, _ := d.textOf(v)
	if !isNumber(string(text)) {
		return reject(reasonBadNumber, "further_data.%s is %s, which is not a JSON number", shorten(string(key)), show(v))
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.Abs(f) > numberMax {
		return reject(reasonBadNumber, "further_data.%s is %s: numbers are between -%g and %g", shorten(string(key)), show(v), float64(numberMax), float64(numberMax))
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

// textOf is a string's text, or a number as it was written; ok is false for
// anything else.
func (d *decoder) textOf(v *fastjson.Value) (text []byte, ok bool) {
	switch v.Type() {
	case fastjson.TypeString:
		return v.GetStringBytes(), true
	case fastjson.TypeNumber:
		start := len(d.text)
		d.text = v.MarshalTo(d.text)
		return d.text[start:], true
	}
	return nil, false
}

func (d *decoder) readName() *rejection {
	v := d.values[slotEvent]
	if v == nil {
		d.fields[slotEvent] = d.defaultName
		return nil
	}
	name, err := v.StringBytes()
	if err != nil {
		return reject(reasonBadEventName, "event is %s, not a string", show(v))
	}
	name = validUTF8(name)
	if len(name) == 0 || len(name) > valueBytesMax {
		return reject(reasonBadEventName, "event is a string of %d bytes, not of 1 to %d: %s", len(name), valueBytesMax, show(v))
	}
	d.fields[slotEvent] = name
	return nil
}

func (d *decoder) readUser() *rejection {
	d.hasUser = false
	v := d.values[slotUser]
	if v == nil {
		return nil
	}
	id, ok := d.textOf(v)
	if !ok {
		return reject(reasonBadUserID, "user_id is %s, neither a string nor a number", show(v))
	}
	if len(id) > 0 {
		// I4: from here on there is only the hash.
		d.hasUser, d.user = true, siphash.Hash(d.idKey[0], d.idKey[1], id)
	}
	return nil
}

func (d *decoder) readTime() *rejection {
	v := d.values[slotTimestamp]
	if v == nil {
		d.ms = d.now
		return nil
	}
	text, ok := d.textOf(v)
	if !ok {
		return reject(reasonBadTimestamp, "timestamp is %s, neither a number nor a string", show(v))
	}
	ms, ok := parseTimestamp(string(text))
	switch {
	case !ok:
		return reject(reasonBadTimestamp, "timestamp is %s: neither a number of seconds, milliseconds, microseconds or nanoseconds since 1970 nor a time as in RFC 3339", show(v))
	case ms < 0:
		return reject(reasonBadTimestamp, "timestamp is %s, before 1970", show(v))
	case ms > d.now+futureMax.Milliseconds():
		return reject(reasonInTheFuture, "timestamp is %s%s, more than %s after the present", show(v), meaning(ms), futureMax)
	case ms < d.oldest:
		return reject(reasonTooOld, "timestamp is %s%s, older than the retention of %s", show(v), meaning(ms), d.retention)
	}
	d.ms = ms
	return nil
}

// meaning is what a timestamp was understood as, where a date can say it.
func meaning(ms int64) string {
	const year10000 = 253402300800000
	if ms >= year10000 {
		return ""
	}
	return fmt.Sprintf(" (%s)", time.UnixMilli(ms).UTC().Format(time.RFC3339))
}

// readLabels fills the slots of the rules' labels.
func (d *decoder) readLabels() {
	for slot := slotsOfModel; slot < len(d.values); slot++ {
		d.fields[slot] = nil
		v := d.values[slot]
		if v == nil {
			continue
		}
		if text, ok := d.textOf(v); ok {
			d.fields[slot] = labelValue(text)
		}
	}
}

// labelValue is b as a label may have it: valid UTF-8 of at most valueBytesMax
// bytes.
func labelValue(b []byte) []byte {
	if b = validUTF8(b); len(b) > valueBytesMax {
		return []byte(increment.Other)
	}
	return b
}

func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}
