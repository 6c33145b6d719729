package ingest

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/grafana/regexp"
)

// transform changes a label's value. Only one of its fields is set.
type transform struct {
	lower, upper bool
	host, path   bool
	templates    []template
	re           *regexp.Regexp // with with
	with         []byte
	bounds       []float64 // ascending, with names one longer
	names        [][]byte
}

// template is a path whose segments that begin with a colon stand for any.
type template struct {
	text     []byte
	segments []string
}

// String is the transform as rules have it.
func (t *transform) String() string {
	switch {
	case t.lower:
		return "lower"
	case t.upper:
		return "upper"
	case t.host:
		return "host"
	case t.path:
		return "path"
	case t.templates != nil:
		texts := make([]string, len(t.templates))
		for i := range t.templates {
			texts[i] = string(t.templates[i].text)
		}
		return "template " + strings.Join(texts, ", ")
	case t.re != nil:
		return fmt.Sprintf("replace %q with %q", t.re, t.with)
	}
	return fmt.Sprintf("bucket %s", t.names)
}

func newTemplate(text string) template {
	return template{[]byte(text), strings.Split(strings.Trim(text, "/"), "/")}
}

// apply returns v transformed, nil where there is no value any more. What it
// makes is appended to scratch, which is returned.
func (t *transform) apply(v, scratch []byte) (out, grown []byte) {
	switch {
	case t.lower:
		return cased(v, scratch, 'A', bytes.ToLower)
	case t.upper:
		return cased(v, scratch, 'a', bytes.ToUpper)
	case t.host:
		return cased(hostOf(v), scratch, 'A', bytes.ToLower)
	case t.path:
		return pathOf(v), scratch
	case t.templates != nil:
		for i := range t.templates {
			if t.templates[i].matches(v) {
				return t.templates[i].text, scratch
			}
		}
		return v, scratch
	case t.re != nil:
		return t.re.ReplaceAll(v, t.with), scratch
	}
	n, err := strconv.ParseFloat(string(v), 64)
	if err != nil || n != n {
		return nil, scratch
	}
	return t.names[sort.SearchFloat64s(t.bounds, n)], scratch
}

// cased changes the case of the letters from first on, 'a' or 'A'; v is left as it
// is. What is not ASCII takes the long way, which allocates.
func cased(v, scratch []byte, first byte, long func([]byte) []byte) (out, grown []byte) {
	i := 0
	for i < len(v) && v[i] < 0x80 && v[i]-first >= 26 {
		i++
	}
	if i == len(v) {
		return v, scratch
	}
	start := len(scratch)
	for _, c := range v {
		if c >= 0x80 {
			return long(v), scratch[:start]
		}
		if c-first < 26 {
			c ^= 'a' - 'A'
		}
		scratch = append(scratch, c)
	}
	return scratch[start:], scratch
}

// afterScheme is what follows :// or a // at the start; ok is false where there
// is neither.
func afterScheme(v []byte) (rest []byte, ok bool) {
	if bytes.HasPrefix(v, []byte("//")) {
		return v[2:], true
	}
	i := bytes.Index(v, []byte("://"))
	if i < 0 || bytes.ContainsAny(v[:i], "/?#") {
		return v, false
	}
	return v[i+3:], true
}

// hostOf is the host of a URL, without user and port; of what has no scheme, all
// up to the first slash.
func hostOf(v []byte) []byte {
	rest, _ := afterScheme(v)
	if i := bytes.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	rest = rest[bytes.LastIndexByte(rest, '@')+1:]
	if len(rest) > 0 && rest[0] == '[' { // IPv6
		if i := bytes.IndexByte(rest, ']'); i >= 0 {
			return rest[:i+1]
		}
	}
	if i := bytes.IndexByte(rest, ':'); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

// pathOf is the path of a URL or of a path, without query and fragment.
func pathOf(v []byte) []byte {
	if i := bytes.IndexAny(v, "?#"); i >= 0 {
		v = v[:i]
	}
	rest, ok := afterScheme(v)
	if !ok {
		return v
	}
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return []byte("/")
}

// matches reports whether v is a path of the template's form; a slash at the end
// makes no difference.
func (t *template) matches(v []byte) bool {
	v = bytes.Trim(v, "/")
	for i, want := range t.segments {
		segment, rest := v, []byte(nil)
		last := true
		if n := bytes.IndexByte(v, '/'); n >= 0 {
			segment, rest, last = v[:n], v[n+1:], false
		}
		if last != (i == len(t.segments)-1) {
			return false
		}
		if strings.HasPrefix(want, ":") {
			if len(segment) == 0 {
				return false
			}
		} else if string(segment) != want {
			return false
		}
		v = rest
	}
	return true
}
