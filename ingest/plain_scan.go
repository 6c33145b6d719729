package ingest

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// scan reads an event of the common form without making a tree of it: an object,
// be it in {"data": ...}, of texts without escapes, numbers, truths and nulls, and
// such an object as further_data. It takes a third of the time. ok is false for
// everything else, be it right or wrong, which is left to the parser to say. In what it
// takes no path with dots leads anywhere, unless it begins with these two objects.
func (d *plain) scan(raw []byte) (ok bool) {
	if d.ahead != nil && &raw[0] == d.ahead {
		d.ahead = nil
		return true
	}
	rest, ok := d.scanned(raw)
	return ok && len(skipSpace(rest)) == 0
}

// elementLen is valueLen of an element of an array, which src begins with. One of the
// common form is scanned at once, so that its brackets and quotes are looked at once:
// finding its end first took a tenth of the server's time.
func (d *plain) elementLen(src []byte) int {
	d.ahead = nil
	if rest, ok := d.scanned(src); ok {
		d.ahead = &src[0]
		return len(src) - len(rest)
	}
	return valueLen(src)
}

// scanned is scan of the event that src begins with, and what follows it.
func (d *plain) scanned(src []byte) (rest []byte, ok bool) {
	if d.rules.intoData {
		return nil, false
	}
	d.reset()
	d.inside = false
	rest = skipSpace(src)
	inner, wrapped := cutWrapper(rest)
	if wrapped {
		rest = inner
	}
	if rest, ok = d.scanObject(rest); !ok {
		return nil, false
	}
	if wrapped {
		if rest = skipSpace(rest); len(rest) == 0 || rest[0] != '}' {
			return nil, false
		}
		rest = rest[1:]
	}
	return rest, true
}

// cutWrapper returns what follows {"data": at the start of src.
func cutWrapper(src []byte) (rest []byte, ok bool) {
	if rest, ok = bytes.CutPrefix(src, []byte("{")); !ok {
		return src, false
	}
	if rest, ok = bytes.CutPrefix(skipSpace(rest), []byte(`"data"`)); !ok {
		return src, false
	}
	if rest, ok = bytes.CutPrefix(skipSpace(rest), []byte(":")); !ok {
		return src, false
	}
	return skipSpace(rest), true
}

func skipSpace(src []byte) []byte {
	if len(src) > 0 && src[0] > ' ' {
		return src // usually
	}
	return skipSpaces(src)
}

func skipSpaces(src []byte) []byte {
	for len(src) > 0 && (src[0] == ' ' || src[0] == '\t' || src[0] == '\r' || src[0] == '\n') {
		src = src[1:]
	}
	return src
}

// scanObject takes the fields of the object that src begins with.
func (d *plain) scanObject(src []byte) (rest []byte, ok bool) {
	if len(src) == 0 || src[0] != '{' {
		return nil, false
	}
	src = skipSpace(src[1:])
	if len(src) > 0 && src[0] == '}' {
		return src[1:], true
	}
	for {
		var key []byte
		if key, src, ok = scanText(src); !ok {
			return nil, false
		}
		if src = skipSpace(src); len(src) == 0 || src[0] != ':' {
			return nil, false
		}
		if src, ok = d.scanField(key, skipSpace(src[1:])); !ok {
			return nil, false
		}
		src = skipSpace(src)
		switch {
		case len(src) == 0:
			return nil, false
		case src[0] == '}':
			return src[1:], true
		case src[0] != ',':
			return nil, false
		}
		src = skipSpace(src[1:])
	}
}

// scanText cuts a text without escapes. It looks at eight bytes at a time for a quote
// or a backslash: texts are short, so that calls of bytes.IndexByte cost more than what
// they do. A byte of x that is zero sets its top bit in (x-ones) &^ x & tops, and so may
// bytes above it, so the lowest one is right.
func scanText(src []byte) (text, rest []byte, ok bool) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	if len(src) == 0 || src[0] != '"' {
		return nil, nil, false
	}
	i := 1
	for ; i+8 <= len(src); i += 8 {
		v := binary.LittleEndian.Uint64(src[i:])
		quote, slash := v^('"'*ones), v^('\\'*ones)
		if found := ((quote-ones)&^quote | (slash-ones)&^slash) & tops; found != 0 {
			i += bits.TrailingZeros64(found) / 8
			break
		}
	}
	for ; i < len(src); i++ {
		switch src[i] {
		case '"':
			return src[1:i:i], src[i+1:], true
		case '\\':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// scanField takes one field, whose value src begins with.
func (d *plain) scanField(key, src []byte) (rest []byte, ok bool) {
	slot, known := d.rules.find(key)
	if !d.inside && string(key) == "data" || len(src) == 0 {
		return nil, false
	}
	var f field
	switch c := src[0]; {
	case c == '"':
		f.kind = fieldText
		if f.text, rest, ok = scanText(src); !ok {
			return nil, false
		}
	case c == '-' || '0' <= c && c <= '9':
		n := 1
		for n < len(src) && src[n]-'0' < 10 {
			n++
		}
		whole := n
		for n < len(src) && (src[n]-'0' < 10 || src[n] == '.' || src[n] == '-' || src[n] == '+' || src[n]|0x20 == 'e') {
			n++
		}
		f.kind, f.text, rest = fieldNumber, src[:n:n], src[n:]
		if (n > whole || c == '-' || c == '0') && !isJSONNumber(f.text) {
			return nil, false
		}
		if d.inside && d.rules.numbers && d.number(key, f.text) != nil {
			return nil, false
		}
	case c == 't' && bytes.HasPrefix(src, []byte("true")):
		f.kind, f.text, rest = fieldBool, src[:4:4], src[4:]
	case c == 'f' && bytes.HasPrefix(src, []byte("false")):
		f.kind, f.text, rest = fieldBool, src[:5:5], src[5:]
	case c == 'n' && bytes.HasPrefix(src, []byte("null")):
		return src[4:], true
	case c == '{' && known && slot == slotFurtherData && !d.inside && d.fields[slot].kind == fieldAbsent:
		d.fields[slot].kind, d.inside = fieldOther, true
		rest, ok = d.scanObject(src)
		d.inside = false
		return rest, ok
	default:
		return nil, false
	}
	if !known || d.inside && (slot == slotTimestamp || slot == slotFurtherData) {
		return rest, true
	}
	if slot == slotFurtherData {
		return nil, false
	}
	// What data has comes before what further_data has, in whatever order.
	if have := &d.fields[slot]; have.kind == fieldAbsent || have.inner && !d.inside {
		f.inner = d.inside
		*have = f
	}
	return rest, true
}

// isJSONNumber is isNumber, most of the time by a shorter way.
func isJSONNumber(text []byte) bool {
	_, short := parseShort(text)
	return short || isNumber(string(text))
}
