package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strconv"
)

// form is how a body holds its events.
type form uint8

const (
	formValue form = iota // one JSON value, over any number of lines
	formArray             // a JSON array, an element an event; nothing after it
	formLines             // a JSON value a line, blank lines skipped
)

const space = " \t\r\n"

// trimBody drops a byte order mark and the white space around a body.
func trimBody(body []byte) []byte {
	return bytes.Trim(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), space)
}

// detect tells the form of a trimmed body. Where the content type does not say
// lines, a body that is one value by its brackets and quotes is one value.
func detect(body []byte, contentType string) form {
	switch mediaType(contentType) {
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return formLines
	}
	if len(body) > 0 && body[0] == '[' {
		// An array that is closed in a first line, with more lines below, is a
		// line among lines.
		if first, _, more := bytes.Cut(body, []byte{'\n'}); more && valueLen(first) > 0 {
			return formLines
		}
		return formArray
	}
	if n := valueLen(body); n < len(body) && bytes.IndexByte(body, '\n') >= 0 {
		return formLines
	}
	return formValue
}

// mediaType is that of a Content-Type, in lower case, whatever its parameters are; ""
// where it is none.
func mediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return t
}

// lines calls f with each line of body that is not blank.
func lines(body []byte, f func(raw []byte) error) error {
	for len(body) > 0 {
		line := body
		if i := bytes.IndexByte(body, '\n'); i >= 0 {
			line, body = body[:i], body[i+1:]
		} else {
			body = nil
		}
		if line = bytes.Trim(line, space); len(line) == 0 {
			continue
		}
		if err := f(line); err != nil {
			return err
		}
	}
	return nil
}

// elements calls f with the text of each element of the array that body is. The
// elements are found by their brackets and quotes alone and one is parsed at a
// time, so that a body of millions of small values does not become a tree of
// them, many times its size. length is valueLen, or does the same.
func elements(body []byte, length func(src []byte) int, f func(raw []byte) error) error {
	rest := bytes.TrimLeft(body[1:], space)
	if len(rest) > 0 && rest[0] == ']' {
		return trailing(rest[1:], "array")
	}
	for i := 0; ; i++ {
		n := length(rest)
		if n <= 0 {
			return fmt.Errorf("array element %d is missing or not closed: %s", i, start(rest))
		}
		if err := f(rest[:n]); err != nil {
			return fmt.Errorf("array element %d: %w", i, err)
		}
		rest = skipSpace(rest[n:])
		switch {
		case len(rest) > 0 && rest[0] == ',':
			rest = skipSpace(rest[1:])
		case len(rest) > 0 && rest[0] == ']':
			return trailing(rest[1:], "array")
		default:
			return fmt.Errorf("the array is not closed after element %d", i)
		}
	}
}

// trailing fails where something follows the array or object.
func trailing(rest []byte, what string) error {
	if rest = bytes.TrimLeft(rest, space); len(rest) > 0 {
		return fmt.Errorf("%d bytes follow the %s: %s", len(rest), what, start(rest))
	}
	return nil
}

// start is how src begins, for messages.
func start(src []byte) string {
	return strconv.Quote(shorten(string(src[:min(len(src), 2*shownBytesMax)])))
}

// members calls f with the name and the text of each member of the object that body
// is, found as elements are: a body has as many members as its client likes, so that
// nothing is made of those that nobody asks for.
func members(body []byte, f func(name, raw []byte) error) error {
	if len(body) == 0 || body[0] != '{' {
		return fmt.Errorf("the body is not a JSON object: %s", start(body))
	}
	rest := bytes.TrimLeft(body[1:], space)
	if len(rest) > 0 && rest[0] == '}' {
		return trailing(rest[1:], "object")
	}
	for {
		n := -1
		if len(rest) > 0 && rest[0] == '"' {
			n = stringLen(rest)
		}
		if n < 0 {
			return fmt.Errorf("a name is missing or not closed in the object: %s", start(rest))
		}
		quoted := rest[:n]
		name := quoted[1 : n-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(textIn(quoted))
		}
		if rest = bytes.TrimLeft(rest[n:], space); len(rest) == 0 || rest[0] != ':' {
			return fmt.Errorf("no colon follows the name %s", shorten(string(quoted)))
		}
		rest = bytes.TrimLeft(rest[1:], space)
		if n = valueLen(rest); n <= 0 {
			return fmt.Errorf("%s is missing or not closed: %s", shorten(string(quoted)), start(rest))
		}
		if err := f(name, rest[:n]); err != nil {
			return err
		}
		rest = bytes.TrimLeft(rest[n:], space)
		switch {
		case len(rest) > 0 && rest[0] == ',':
			rest = bytes.TrimLeft(rest[1:], space)
		case len(rest) > 0 && rest[0] == '}':
			return trailing(rest[1:], "object")
		default:
			return fmt.Errorf("the object is not closed after %s", shorten(string(quoted)))
		}
	}
}

// valueLen is the length of the JSON value that src begins with, as far as
// brackets and quotes tell; -1 where it is not closed, 0 where there is none.
func valueLen(src []byte) int {
	depth := 0
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '"':
			n := stringLen(src[i:])
			if n < 0 {
				return -1
			}
			i += n - 1
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		default:
			if depth > 0 || i+1 < len(src) && !endsScalar(src[i+1]) {
				continue
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return -1
}

func endsScalar(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// stringLen is the length of the quoted string that src begins with; -1 where
// it is not closed.
func stringLen(src []byte) int {
	for i := 1; ; i++ {
		n := bytes.IndexByte(src[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := 0
		for src[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}
