package accesslog

import "strings"

// EventName is the name of the event that every line becomes.
const EventName = "http_request"

// Event is the event of one line, in the shape in which it is posted.
type Event struct {
	Event string `json:"event"`
	// UserID is the client's address: the only visitor id that a log has.
	UserID string `json:"user_id"`
	// Timestamp is in milliseconds since 1970 UTC.
	Timestamp   int64       `json:"timestamp"`
	FurtherData FurtherData `json:"further_data"`
}

// FurtherData are the fields of an Event that a line may lack.
type FurtherData struct {
	Page   string `json:"page,omitempty"`
	Method string `json:"method,omitempty"`
	// Status is a string so that it becomes a label and not a distribution.
	Status string `json:"status,omitempty"`
	Bytes  *int64 `json:"bytes,omitempty"`
	// Referrer is the host alone: whole addresses would be a label without end.
	Referrer  string `json:"referrer,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// Event returns the event of the entry, its time moved by shiftMillis.
func (e *Entry) Event(shiftMillis int64) Event {
	v := Event{
		Event:     EventName,
		UserID:    e.Address,
		Timestamp: e.TimeMillis + shiftMillis,
		FurtherData: FurtherData{
			Page:      e.Target,
			Method:    e.Method,
			Status:    e.Status,
			Referrer:  referrerHost(e.Referrer),
			UserAgent: e.UserAgent,
		},
	}
	if e.Bytes >= 0 {
		v.FurtherData.Bytes = &e.Bytes
	}
	return v
}

// referrerHost returns the host of a URL, in lower case and without port, ""
// where there is none. Referrers are what clients like to send; a strict URL
// parser would drop hosts that a reader of the log sees at once.
func referrerHost(url string) string {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	if strings.HasPrefix(rest, "[") {
		if i := strings.IndexByte(rest, ']'); i >= 0 {
			return strings.ToLower(rest[1:i])
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		rest = rest[:i]
	}
	return strings.ToLower(rest)
}
