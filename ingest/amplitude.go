package ingest

import (
	"errors"
	"net/http"

	"github.com/valyala/fastjson"
)

// amplitudeFormat is Amplitude's HTTP V2 API and its batch API
// (https://amplitude.com/docs/apis/analytics/http-v2, .../batch-event-upload). An
// insert_id counts once. At /batch there is PostHog too, whose events have another name.
var amplitudeFormat = &Format{
	Name:   "amplitude",
	Paths:  []string{"/2/httpapi", "/batch"},
	claims: func(r *Request) bool { return r.Path != "/batch" || hasEvents(r.Body) },
	open:   openAmplitude,
}

// errEnough ends a walk over the members of an object.
var errEnough = errors.New("enough")

// hasEvents reports whether an object has events, where PostHog's has a batch.
func hasEvents(body []byte) (has bool) {
	// What is wrong with it the format says.
	_ = members(trimBody(body), func(name, _ []byte) error {
		switch string(name) {
		case "events":
			has = true
			return errEnough
		case "batch":
			return errEnough
		}
		return nil
	})
	return has
}

func openAmplitude(r *Request) (*Post, error) {
	p := &Post{layout: amplitudeLayout}
	err := members(r.Body, func(name, raw []byte) error {
		switch string(name) {
		case "events":
			return p.array(name, raw)
		case "api_key":
			p.writeKey = textIn(raw)
		case "client_upload_time":
			p.sentAt = raw
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case p.body == nil:
		p.body, p.form = r.Body, formValue // an event alone
	}
	p.answer = func(result *Result) Answer { return amplitudeAnswer(result, p.size) }
	return p, nil
}

// amplitudeAnswer names the events that were rejected by the field that is wrong, which
// the client drops. Where some are right it is a success all the same: Amplitude's own
// takes none of such a batch, and would be sent the others again.
func amplitudeAnswer(r *Result, bytes int) Answer {
	status := statusOf(r, http.StatusOK)
	invalid := map[string][]int{}
	for _, e := range r.Errors {
		field := fieldAtFault(e.kind, "event_type", "time", "user_id", "event_properties")
		invalid[field] = append(invalid[field], e.Index)
	}
	if status != http.StatusOK {
		return Answer{Status: status, JSON: struct {
			Code    int              `json:"code"`
			Error   string           `json:"error"`
			Invalid map[string][]int `json:"events_with_invalid_fields"`
			*plainResult
		}{status, "Invalid field values on some events", invalid, (*plainResult)(r)}}
	}
	return Answer{Status: status, JSON: struct {
		Code     int              `json:"code"`
		Ingested int              `json:"events_ingested"`
		Bytes    int              `json:"payload_size_bytes"`
		Uploaded int64            `json:"server_upload_time"`
		Invalid  map[string][]int `json:"events_with_invalid_fields,omitempty"`
		*plainResult
	}{status, r.Accepted + r.Duplicate + r.Filtered, bytes, r.at, invalid, (*plainResult)(r)}}
}

// fieldAtFault is the field of a format that an event was rejected for, of those that have
// its name, its time, its user and its properties; "" where it is none of them.
func fieldAtFault(kind reason, event, time, user, properties string) string {
	switch kind {
	case reasonBadEventName:
		return event
	case reasonBadTimestamp, reasonTooOld, reasonInTheFuture:
		return time
	case reasonBadUserID:
		return user
	case reasonBadNumber, reasonTooManyNumbers, reasonBadValue:
		return properties
	}
	return ""
}

var amplitudeLayout = &layout{
	name: "amplitude",
	read: readAmplitude,
	aliases: []alias{
		{name: "user_agent", path: []string{"user_agent"}},
		{name: "ip", path: []string{"ip"}},
		{name: "page", path: []string{"event_properties", "[Amplitude] Page Path"}},
		{name: "page", path: []string{"event_properties", "[Amplitude] Page Location"}, part: pathOf},
		{name: "page", path: []string{"event_properties", "[Amplitude] Page URL"}, part: pathOf},
		{name: "host", path: []string{"event_properties", "[Amplitude] Page Domain"}},
		{name: "referrer", path: []string{"event_properties", "referring_domain"}},
		{name: "referrer", path: []string{"user_properties", "referring_domain"}},
		{name: "referrer", path: []string{"event_properties", "referrer"}, part: hostOf, over: true},
		{name: "os", path: []string{"os_name"}},
		{name: "device", path: []string{"platform"}},
		{name: "locale", path: []string{"language"}},
		{name: "amount", path: []string{"revenue"}},
		{name: "amount", path: []string{"event_properties", "$revenue"}},
		{name: "revenue", path: []string{"revenue"}, counted: true},
		{name: "revenue", path: []string{"event_properties", "$revenue"}, counted: true},
		{name: "price", path: []string{"price"}, counted: true},
		{name: "price", path: []string{"event_properties", "$price"}, counted: true},
		{name: "quantity", path: []string{"quantity"}, counted: true},
		{name: "quantity", path: []string{"event_properties", "$quantity"}, counted: true},
	},
}

func readAmplitude(t *tracker, v *fastjson.Value) *rejection {
	name := v.Get("event_type")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "event_type is %s, an event has a text there", shown(name))
	}
	t.set(slotEvent, name)
	t.set(slotUser, v.Get("user_id"))
	t.set(slotUser, v.Get("device_id"))
	t.set(slotTimestamp, v.Get("time"))
	t.setID(v.Get("insert_id"))
	t.where = "event_properties"
	users := v.Get("user_properties")
	t.objects(v.Get("event_properties"), v, users, users.Get("$set"))
	return nil
}
