package accesslog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// The ways in which a line may be no access log line. An error of Parse wraps
// one of them.
var (
	ErrNoAddress = errors.New("no client address")
	ErrNoTime    = errors.New("no time in [dd/Mon/yyyy:hh:mm:ss zone]")
	ErrNoRequest = errors.New("no quoted request after the time")
	ErrBadStatus = errors.New("status is not three digits")
	ErrBadBytes  = errors.New("bytes is not a number")
)

// Entry is one line of an access log.
type Entry struct {
	// Address is the client's, as logged: IPv4, IPv6 or a host name.
	Address string
	// TimeMillis is the time of the request in milliseconds since 1970 UTC.
	TimeMillis int64
	// Method and Target are those of the request line, both "" when it is none.
	// Target is as logged, with its query string.
	Method, Target string
	// Status is the three digits of the status code, "" when absent.
	Status string
	// Bytes is the size of the response, -1 when absent.
	Bytes int64
	// Referrer and UserAgent are the headers' values, "" when absent.
	Referrer, UserAgent string
}

// Parse reads one line, without its line end. The Entry shares no memory with
// the line.
func Parse(line []byte) (Entry, error) {
	address, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || len(address) == 0 {
		return Entry{}, ErrNoAddress
	}
	e := Entry{Address: string(address)}
	e.TimeMillis, rest, ok = cutTime(rest)
	if !ok {
		return Entry{}, ErrNoTime
	}
	request, rest, ok := cutQuoted(rest)
	if !ok {
		return Entry{}, ErrNoRequest
	}
	e.Method, e.Target = splitRequest(request)

	status, rest := cutWord(rest)
	if e.Status, ok = parseStatus(status); !ok {
		return Entry{}, fmt.Errorf("%w: %q", ErrBadStatus, status)
	}
	size, rest := cutWord(rest)
	if e.Bytes, ok = parseBytes(size); !ok {
		return Entry{}, fmt.Errorf("%w: %q", ErrBadBytes, size)
	}
	// The common format ends here; whatever follows the user agent is a
	// server's own extension.
	if referrer, after, ok := cutQuoted(rest); ok {
		e.Referrer, rest = orAbsent(referrer), after
	}
	if agent, _, ok := cutQuoted(rest); ok {
		e.UserAgent = orAbsent(agent)
	}
	return e, nil
}

// cutTime finds the bracketed time. It does not count fields before it, because
// a user name may have spaces and brackets.
func cutTime(s []byte) (millis int64, rest []byte, ok bool) {
	for {
		i := bytes.IndexByte(s, '[')
		if i < 0 {
			return 0, nil, false
		}
		s = s[i+1:]
		end := bytes.IndexByte(s, ']')
		if end < 0 {
			return 0, nil, false
		}
		if millis, ok := parseTime(s[:end]); ok {
			return millis, s[end+1:], true
		}
	}
}

// cutQuoted reads a quoted field after optional spaces. A field that the end of
// the line cuts off ends there.
func cutQuoted(s []byte) (field string, rest []byte, ok bool) {
	s = bytes.TrimLeft(s, " ")
	if len(s) == 0 || s[0] != '"' {
		return "", s, false
	}
	s = s[1:]
	escaped := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			escaped = true
			i++ // whatever it escapes does not end the field
		case '"':
			return unescape(s[:i], escaped), s[i+1:], true
		}
	}
	return unescape(s, escaped), nil, true
}

// unescape undoes \" and \\. The other escapes, such as \xe4, stay as they are
// logged: the bytes they stand for are in no known encoding.
func unescape(s []byte, escaped bool) string {
	if !escaped {
		return string(s)
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
			i++
		}
		out = append(out, s[i])
	}
	return string(out)
}

// cutWord reads up to the next space, after optional spaces.
func cutWord(s []byte) (word string, rest []byte) {
	before, rest, _ := bytes.Cut(bytes.TrimLeft(s, " "), []byte{' '})
	return string(before), rest
}

// splitRequest takes a request line apart. A line that is not one, such as the
// bytes of a TLS handshake, has neither method nor target.
func splitRequest(request string) (method, target string) {
	i := 0
	for i < len(request) && isMethodByte(request[i]) {
		i++
	}
	if i == 0 || i+1 >= len(request) || request[i] != ' ' {
		return "", ""
	}
	method, target = request[:i], request[i+1:]
	for j := len(target) - 1; j >= 0; j-- {
		if target[j] != ' ' {
			continue
		}
		if !isProtocol(target[j+1:]) {
			return "", ""
		}
		target = target[:j]
		break
	}
	if target == "" || target == " " {
		return "", ""
	}
	return method, target
}

func isMethodByte(c byte) bool { return 'A' <= c && c <= 'Z' || c == '-' || c == '_' }

// isProtocol accepts HTTP/1.1 and what a cut-off line leaves of it.
func isProtocol(s string) bool {
	const name = "HTTP/"
	if len(s) <= len(name) {
		return name[:len(s)] == s
	}
	for _, c := range []byte(s[len(name):]) {
		if c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return s[:len(name)] == name
}

func parseStatus(s string) (status string, ok bool) {
	if s == "-" {
		return "", true
	}
	if len(s) != 3 {
		return "", false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return "", false
		}
	}
	return s, true
}

func parseBytes(s string) (n int64, ok bool) {
	if s == "-" {
		return -1, true
	}
	u, err := strconv.ParseUint(s, 10, 63)
	return int64(u), err == nil
}

func orAbsent(field string) string {
	if field == "-" {
		return ""
	}
	return field
}
