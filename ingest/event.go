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

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// eventBytesMax bounds one event's text, and with it the tree parsed from it,
	// which may take 200 times as much.
	eventBytesMax = 1 << 20
	// nameBytesMax is the longest name of an event.
	nameBytesMax = 1024
	// exemplarValueBytesMax is the longest id that an exemplar has.
	exemplarValueBytesMax = 128
	// numbersMax is the most numeric fields of one event that are counted together.
	numbersMax = 64
	// numberMax is the largest magnitude of a number that is counted: the sum
	// of 10^20 of them is still finite.
	numberMax = 1e288
)

// event is what a decoder made of one text, whatever its format. Its bytes belong
// to the decoder and are good until the next one.
type event struct {
	ms       int64   // milliseconds since 1970
	fields   []field // by slot of the rules
	numbers  []number
	hasTrace bool // one of the slots of exemplars has a value
	ignored  bool // it is none that is counted, whatever the rules say
	// idText tells the event from all others of its format; empty where the format has
	// no ids of its own, or the event has none.
	idText []byte

	idKey         [2]uint64 // of the tenant, for users
	eventKey      [2]uint64 // and for events
	idTag         [4]byte   // and what its events' ids begin with
	valueBytesMax int       // of a label, the tenant's
	scratch       []byte    // what transforms make
}

// fieldKind is what a field holds.
type fieldKind uint8

const (
	fieldAbsent fieldKind = iota // or null
	fieldText
	fieldNumber
	fieldBool
	fieldOther // an object or an array
)

// field is what an event has at a path: its text, a number's as it was written.
type field struct {
	kind  fieldKind
	inner bool // it is of further_data; only the scan of plain events looks at it
	text  []byte
}

func (f *field) isScalar() bool { return f.kind != fieldAbsent && f.kind != fieldOther }

// number is the field's number; ok is false where it is none.
func (f *field) number() (n float64, ok bool) {
	if f.kind != fieldNumber {
		return 0, false
	}
	return parseNumber(f.text)
}

// String is the field as a message shows it.
func (f *field) String() string {
	switch f.kind {
	case fieldAbsent:
		return "missing"
	case fieldText:
		return strconv.Quote(shorten(string(f.text)))
	}
	return shorten(string(f.text))
}

// number is a numeric field of further_data.
type number struct {
	key   []byte // as it was written
	name  []byte // key as a label
	value float64
}

// findTrace notes whether the event has ids for exemplars.
func (e *event) findTrace() {
	e.hasTrace = e.fields[slotCorrelation].isScalar() || e.fields[slotTrace].isScalar() || e.fields[slotSpan].isScalar()
}

// clock is what the time of an event is judged by.
type clock struct {
	now    int64         // milliseconds since 1970
	oldest int64         // milliseconds since 1970: events before are too old
	age    time.Duration // of oldest
	by     string        // what of the tenant's settings says so
	skew   time.Duration // how far ahead of now an event may be
	ahead  int64         // milliseconds by which the client's clock is ahead
}

func newClock(p tenant.Profile, now int64) clock {
	c := clock{now: now, oldest: math.MinInt64, age: time.Duration(p.Retention), by: "the retention", skew: time.Duration(p.Limits.ClockSkew)}
	if age := time.Duration(p.Limits.EventAge); age > 0 && (c.age == 0 || age < c.age) {
		c.age, c.by = age, "limits.event_age"
	}
	if c.age > 0 {
		c.oldest = now - c.age.Milliseconds()
	}
	return c
}

// read sets the event's time to what its field says.
func (c *clock) read(e *event) *rejection {
	f := &e.fields[slotTimestamp]
	switch f.kind {
	case fieldAbsent:
		e.ms = c.now
		return nil
	case fieldText, fieldNumber:
	default:
		return reject(reasonBadTimestamp, "timestamp is %s, neither a number nor a string", f)
	}
	ms, ok := parseMillis(f.text)
	if !ok {
		ms, ok = parseTimestamp(string(f.text))
	}
	ms -= c.ahead
	switch {
	case !ok:
		return reject(reasonBadTimestamp, "timestamp is %s: neither a number of seconds, milliseconds, microseconds or nanoseconds since 1970 nor a time as in RFC 3339", f)
	case ms < 0:
		return reject(reasonBadTimestamp, "timestamp is %s, before 1970", f)
	case ms > c.now+c.skew.Milliseconds():
		return reject(reasonInTheFuture, "timestamp is %s%s, more than %s after the present (limits.clock_skew)", f, meaning(ms), c.skew)
	case ms < c.oldest:
		return reject(reasonTooOld, "timestamp is %s%s, older than %s of %s", f, meaning(ms), c.by, c.age)
	}
	e.ms = ms
	return nil
}

// readName checks the event's name, "event" where it has none.
func (e *event) readName() *rejection {
	f := &e.fields[slotEvent]
	if f.kind == fieldAbsent {
		*f = field{kind: fieldText, text: nameless}
		return nil
	}
	if f.kind != fieldText {
		return reject(reasonBadEventName, "event is %s, not a string", f)
	}
	if f.text = validUTF8(f.text); len(f.text) == 0 || len(f.text) > nameBytesMax {
		return reject(reasonBadEventName, "event is a string of %d bytes, not of 1 to %d: %s", len(f.text), nameBytesMax, f)
	}
	return nil
}

var nameless = []byte("event") // never written to

// readUser checks the event's user.
func (e *event) readUser() *rejection {
	switch f := &e.fields[slotUser]; f.kind {
	case fieldAbsent, fieldText, fieldNumber:
		return nil
	default:
		return reject(reasonBadUserID, "user_id is %s, neither a string nor a number", f)
	}
}

// begin sets the rules whose paths are looked up, and the tenant's key.
func (e *event) begin(rules *ruleset, p tenant.Profile) {
	if n := len(rules.paths); cap(e.fields) < n {
		e.fields = make([]field, n)
	} else {
		e.fields = e.fields[:n]
	}
	e.idTag = p.EventTag
	e.idKey, e.eventKey = halves(p.IDKey), halves(p.EventKey)
	e.valueBytesMax = p.Limits.LabelValueBytes
}

func halves(key [16]byte) [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}
}

// reset forgets the event before.
func (e *event) reset() {
	clear(e.fields)
	e.numbers, e.scratch, e.hasTrace, e.ignored, e.idText = e.numbers[:0], e.scratch[:0], false, false, nil
}

// id is the hash of what tells the event from all others, keyed by the tenant's secret
// (I4): the id that its format defines, else the field that the rules name. ok is
// false where the event has neither.
func (e *event) id(rules *ruleset) (id [16]byte, ok bool) {
	apart, text := uint64(formatIDs), e.idText
	if len(text) == 0 && rules.dedup != 0 {
		if f := &e.fields[rules.dedup]; f.isScalar() {
			apart, text = eventIDs, f.text
		}
	}
	if len(text) == 0 {
		return id, false
	}
	lo, hi := siphash.Hash128(e.eventKey[0]^apart, e.eventKey[1], text)
	binary.BigEndian.PutUint64(id[:], lo)
	binary.BigEndian.PutUint64(id[8:], hi)
	if e.idTag != [4]byte{} {
		copy(id[:], e.idTag[:]) // 96 bits of the hash are left
	}
	return id, true
}

// These set ids that formats define apart from those that rules name.
const (
	eventIDs  = 0x6576656e74206964 // "event id"
	formatIDs = 0x666f726d61742069 // "format i"
)

// meaning is what a timestamp was understood as, where a date can say it.
func meaning(ms int64) string {
	const year10000 = 253402300800000
	if ms >= year10000 {
		return ""
	}
	return fmt.Sprintf(" (%s)", time.UnixMilli(ms).UTC().Format(time.RFC3339))
}

// labelValue is b as a label may have it: valid UTF-8 of at most bytesMax bytes.
func labelValue(b []byte, bytesMax int) []byte {
	if b = validUTF8(b); len(b) > bytesMax {
		return other
	}
	return b
}

func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}
