package ingest

import "bytes"

// scan reads an event of the common form without making a tree of it: an object,
// be it in {"data": ...}, of texts without escapes, numbers, truths and nulls, and
// such an object as further_data. It takes a third of the time. ok is false for
// everything else, be it right or wrong, which is left to the parser to say.
func (d *plain) scan(raw []byte) (ok bool) {
	if len(d.rules.dotted) > 0 {
		return false
	}
	d.reset()
	d.inside, d.further = false, nil
	rest := bytes.TrimLeft(raw, space)
	inner, wrapped := cutWrapper(rest)
	if wrapped {
		rest = inner
	}
	if rest, ok = d.scanObject(rest); !ok {
		return false
	}
	if wrapped {
		if rest = bytes.TrimLeft(rest, space); len(rest) == 0 || rest[0] != '}' {
			return false
		}
		rest = rest[1:]
	}
	if len(bytes.TrimLeft(rest, space)) > 0 {
		return false
	}
	d.findTrace()
	return true
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

// scanText cuts a text without escapes.
func scanText(src []byte) (text, rest []byte, ok bool) {
	if len(src) == 0 || src[0] != '"' {
		return nil, nil, false
	}
	n := bytes.IndexByte(src[1:], '"')
	if n < 0 || bytes.IndexByte(src[1:1+n], '\\') >= 0 {
		return nil, nil, false
	}
	return src[1 : 1+n : 1+n], src[n+2:], true
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
		for n < len(src) && (src[n] >= '0' && src[n] <= '9' || src[n] == '.' || src[n] == '-' || src[n] == '+' || src[n]|0x20 == 'e') {
			n++
		}
		f.kind, f.text, rest = fieldNumber, src[:n:n], src[n:]
		if !isNumber(string(f.text)) {
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
