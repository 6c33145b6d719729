package ingest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/valyala/fastjson"
)

// eventsPath is where events in Quipu's own form are posted, and CloudEvents.
const eventsPath = "/api/v1/events"

// Format is how a client posts events. There is one file for each.
type Format struct {
	// Name is what people call it, "segment".
	Name string
	// Paths that it is posted to. Of several formats at one path the first that claims
	// a request has it.
	Paths []string
	// InQuery: an event may be in the query of a request that has no body, also of a GET.
	InQuery bool

	claims func(r *Request) bool           // nil: every request
	open   func(r *Request) (*Post, error) // given a trimmed body that is not empty, unless bodyless says so
	answer func(result *Result) Answer
}

// Formats are all that there are, in the order in which they claim requests.
func Formats() []*Format {
	return []*Format{
		cloudEventsFormat, plainFormat, segmentFormat, amplitudeFormat, postHogFormat, plausibleFormat,
		ga4Format, gtagFormat, snowplowFormat, umamiFormat, matomoFormat, mixpanelFormat, pageFormat,
	}
}

// FormatNamed returns the format of that name.
func FormatNamed(name string) (*Format, error) {
	var names []string
	for _, f := range Formats() {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return nil, fmt.Errorf("%w: there is no format %q, there are %q", ErrBadRequest, name, names)
}

// Request is what a format reads of an HTTP request.
type Request struct {
	Path   string // one of the format's, without a prefix; "": its first
	Header http.Header
	Query  url.Values
	Client string // the address of who sent it, without port
	Body   []byte // decompressed; a Post keeps pointing into it
}

// Answer is what a format's clients expect: a JSON value or, where that is nil, a text,
// to the byte.
type Answer struct {
	Status int
	JSON   any
	Text   string
	Type   string // the text's media type; "": plain text
}

// Post is the events of one request, opened but not decoded.
type Post struct {
	format   *Format
	size     int // of the request's body
	writeKey string
	body     []byte
	form     form

	layout *layout // nil: plain events
	kind   string  // of events that do not say it, where a path does
	shared []byte  // an object of what all events of the body have; nil: nothing
	sentAt []byte  // a JSON value: the client's clock when it sent the body; nil: unknown
	user   []byte  // of events that have none, for trackers that know users by their address

	dry    bool                        // its events are checked and not counted
	answer func(result *Result) Answer // to this request; nil: the format's
}

// WriteKey is the credential that the body or, for the format alone, a header had; ""
// where there is none.
func (p *Post) WriteKey() string { return p.writeKey }

// Bytes is the size of the request's body, decompressed.
func (p *Post) Bytes() int { return p.size }

// KeyInBody reports whether the key of who sends a request may be known only once it is
// open (Post.WriteKey), as it is with trackers.
func (f *Format) KeyInBody() bool { return f != plainFormat && f != cloudEventsFormat }

// Answer is the answer to the request whose events ended as result says.
func (p *Post) Answer(result *Result) Answer {
	if p.answer != nil {
		return p.answer(result)
	}
	return p.format.answer(result)
}

// Claims reports whether a request to one of the format's paths, with its body, is of the
// format.
func (f *Format) Claims(r *Request) bool { return f.claims == nil || f.claims(r) }

// Open reads what surrounds the events of a request. Its errors are ErrBadRequests.
func (f *Format) Open(r *Request) (*Post, error) {
	size := len(r.Body)
	if r.Body = trimBody(r.Body); len(r.Body) == 0 && !f.bodyless(r) {
		return nil, fmt.Errorf("%w: the body is empty", ErrBadRequest)
	}
	if r.Path == "" {
		r.Path = f.Paths[0]
	}
	p, err := f.open(r)
	if err != nil {
		return nil, fmt.Errorf("%w: read the body: %w", ErrBadRequest, err)
	}
	p.format, p.size = f, size
	return p, nil
}

// bodyless reports whether headers or a query alone are an event.
func (f *Format) bodyless(r *Request) bool {
	return f == cloudEventsFormat && isBinary(r) || f.InQuery && len(r.Query) > 0
}

// statusOf is ok, or says that a client need not send the body again because all of
// it is wrong.
func statusOf(r *Result, ok int) int {
	if r.Rejected > 0 && r.Accepted+r.Duplicate+r.Filtered == 0 {
		return http.StatusBadRequest
	}
	return ok
}

// basicUser is the user name of Basic authentication, where some trackers put their
// key; "" where there is none.
func basicUser(h http.Header) string {
	user, _, ok := (&http.Request{Header: h}).BasicAuth()
	if !ok {
		return ""
	}
	return user
}

// textIn is the string that raw is; "" where it is another value, of which no tree is
// made, or longer than an event may be.
func textIn(raw []byte) string {
	if raw[0] != '"' || len(raw) > eventBytesMax {
		return ""
	}
	v, err := fastjson.ParseBytes(raw)
	if err != nil {
		return ""
	}
	return string(v.GetStringBytes())
}

// array opens the array of events that is a member of an object.
func (p *Post) array(name, raw []byte) error {
	if raw[0] != '[' {
		return fmt.Errorf("%s is not an array: %s", name, start(raw))
	}
	p.body, p.form = slices.Clip(raw), formArray
	return nil
}
