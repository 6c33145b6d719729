package ingest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"

	"github.com/valyala/fastjson"
)

// formBytesMax is the longest form: it becomes several copies of itself.
const formBytesMax = 4 << 20

// sharedBytesMax is the most that all events of a body have together, where each event
// goes through it.
const sharedBytesMax = 16 << 10

func checkShared(shared []byte) error {
	if len(shared) > sharedBytesMax {
		return fmt.Errorf("what its events have together is %d bytes long, at most %d are read", len(shared), sharedBytesMax)
	}
	return nil
}

// gif is the picture of one transparent point that a page gets for an event in a query.
const gif = "GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;"

// answerGIF is the picture where an event is right, and else why it is not.
func answerGIF(r *Result) Answer {
	if status := statusOf(r, http.StatusOK); status != http.StatusOK {
		return Answer{Status: status, JSON: r}
	}
	return Answer{Status: http.StatusOK, Text: gif, Type: "image/gif"}
}

// parameters are those of a request whose events are parameters: those of its query, then
// those of its body.
func parameters(r *Request) ([]byte, error) {
	if len(r.Body) > formBytesMax {
		return nil, fmt.Errorf("it is a form of %d bytes, at most %d are read", len(r.Body), formBytesMax)
	}
	out := []byte(r.Query.Encode())
	if len(out) > 0 && len(r.Body) > 0 {
		out = append(out, '&')
	}
	return append(out, r.Body...), nil
}

// parameter is the first of a name in a query, and whether there is one.
func parameter(query []byte, name string) (value []byte, ok bool) {
	for pair := range bytes.SplitSeq(query, []byte("&")) {
		if n, v, _ := bytes.Cut(pair, []byte("=")); string(unescaped(n)) == name {
			return unescaped(v), true
		}
	}
	return nil, false
}

// dataOf is the JSON of a request: its body, or data of the form that this is or of the
// query.
func dataOf(r *Request) ([]byte, error) {
	body := r.Body
	if len(body) == 0 || body[0] != '{' && body[0] != '[' {
		form, err := parameters(r)
		if err != nil {
			return nil, fmt.Errorf("%w: send JSON", err)
		}
		data, ok := parameter(form, "data")
		if !ok {
			return nil, fmt.Errorf("it is neither JSON nor a form with data: %s", start(body))
		}
		compression, _ := parameter(form, "compression")
		switch {
		case string(compression) == "base64" || len(compression) == 0 && len(data) > 0 && data[0] != '{' && data[0] != '[':
			// A form's + is a space where the client did not escape it.
			if data, err = fromBase64(bytes.ReplaceAll(data, []byte(" "), []byte("+"))); err != nil {
				return nil, fmt.Errorf("data is no base64: %w", err)
			}
		case len(compression) > 0:
			return nil, fmt.Errorf("compression %q of a form is not supported: send base64, or gzip-js as the body", shorten(string(compression)))
		}
		body = data
	}
	if body = trimBody(body); len(body) == 0 || body[0] != '{' && body[0] != '[' {
		return nil, fmt.Errorf("it has neither an object nor an array: %s", start(body))
	}
	return body, nil
}

// fromBase64 decodes base64 of either alphabet, with or without its padding.
func fromBase64(text []byte) ([]byte, error) {
	encoding := base64.RawStdEncoding
	if bytes.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	text = bytes.TrimRight(text, "=")
	out := make([]byte, encoding.DecodedLen(len(text)))
	n, err := encoding.Decode(out, text)
	return out[:n], err
}

// appendParameters appends a JSON object of the parameters of a query, each a text, in
// their order. What is no escape stands for itself.
func appendParameters(dst, query []byte) []byte {
	dst = append(dst, '{')
	first := true
	for pair := range bytes.SplitSeq(query, []byte("&")) {
		name, value, _ := bytes.Cut(pair, []byte("="))
		if len(name) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendQuoted(append(appendQuoted(dst, unescaped(name)), ':'), unescaped(value))
	}
	return append(dst, '}')
}

func unescaped(text []byte) []byte {
	if bytes.IndexByte(text, '%') < 0 && bytes.IndexByte(text, '+') < 0 {
		return text
	}
	out, err := url.QueryUnescape(string(text))
	if err != nil {
		return text
	}
	return []byte(out)
}

// appendQuoted appends text as a JSON string, whatever bytes it has.
func appendQuoted(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// parameters is the event that a query is, or a text of JSON that has one: of a URL the
// query counts.
func (t *tracker) parameters(raw []byte) (*fastjson.Value, *rejection) {
	if raw[0] == '"' {
		v, rejected := t.parse(raw)
		if rejected != nil {
			return nil, rejected
		}
		raw = v.GetStringBytes()
	}
	if before, query, ok := bytes.Cut(raw, []byte("?")); ok && bytes.IndexByte(before, '=') < 0 {
		raw = query
	}
	if len(raw) > eventBytesMax {
		return nil, reject(reasonTooLarge, "the event is %d bytes long, at most %d are read", len(raw), eventBytesMax)
	}
	t.query = appendParameters(t.query[:0], raw)
	return t.parse(t.query)
}

// member is the JSON text at a path of names in an object, or in the first element of an
// array; nil where there is none. No tree is made to find it, which would take many times
// the text's size.
func member(raw []byte, path ...string) []byte {
	if len(raw) > 0 && raw[0] == '[' {
		rest := trimBody(raw[1:])
		raw = rest[:max(0, valueLen(rest))]
	}
	if len(path) == 0 {
		return raw
	}
	var found []byte
	// What is wrong with it its event says.
	_ = members(raw, func(name, value []byte) error {
		if string(name) == path[0] {
			found = value
		}
		return nil
	})
	if len(path) == 1 || found == nil {
		return found
	}
	return member(found, path[1:]...)
}

// firstText is the first of the JSON texts that is a string and not empty, or a number.
func firstText(raws ...[]byte) string {
	for _, raw := range raws {
		if len(raw) == 0 {
			continue
		}
		if c := raw[0]; (c == '-' || c >= '0' && c <= '9') && isNumber(string(raw)) {
			return string(raw)
		}
		if text := textIn(raw); text != "" {
			return text
		}
	}
	return ""
}
