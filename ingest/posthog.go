package ingest

import (
	"net/http"
	"strconv"

	"github.com/valyala/fastjson"
)

// postHogFormat is PostHog's capture API (https://posthog.com/docs/api/capture), single
// and batched, as its libraries for servers and browsers send it. An event's uuid counts
// once.
var postHogFormat = &Format{
	Name:  "posthog",
	Paths: []string{"/batch/", "/batch", "/capture/", "/capture", "/i/v0/e/", "/i/v0/e", "/e/", "/e"},
	open:  openPostHog,
	answer: func(r *Result) Answer {
		status := statusOf(r, http.StatusOK)
		done := 0
		if status == http.StatusOK {
			done = 1
		}
		return Answer{Status: status, JSON: struct {
			Status int `json:"status"`
			*plainResult
		}{done, (*plainResult)(r)}}
	},
}

func openPostHog(r *Request) (*Post, error) {
	body, err := dataOf(r)
	if err != nil {
		return nil, err
	}
	p := &Post{layout: postHogLayout, body: body, form: formArray}
	if body[0] == '[' {
		p.writeKey = firstKey(body)
		return p, nil
	}
	p.form = formValue
	var key postHogKey
	err = members(body, func(name, raw []byte) error {
		key.member(name, raw)
		switch string(name) {
		case "batch":
			return p.array(name, raw)
		case "sent_at":
			p.sentAt = raw
		}
		return nil
	})
	p.writeKey = key.text()
	return p, err
}

// postHogKey is where a body or an event may have its key. No tree is made to find it,
// which would take many times the body's size.
type postHogKey struct{ key, token, properties []byte }

// member looks at a member of the body or event.
func (k *postHogKey) member(name, raw []byte) {
	switch string(name) {
	case "api_key":
		k.key = raw
	case "token":
		k.token = raw
	case "properties":
		k.properties = raw
	}
}

// text is the key, "" where there is none.
func (k *postHogKey) text() string {
	var inside []byte
	if k.properties != nil {
		// What is wrong with them the event says.
		_ = members(k.properties, func(name, raw []byte) error {
			if string(name) == "token" {
				inside = raw
			}
			return nil
		})
	}
	for _, raw := range [][]byte{k.key, k.token, inside} {
		if raw == nil {
			continue
		}
		if text := textIn(raw); text != "" {
			return text
		}
	}
	return ""
}

// firstKey is the key of the first event of an array.
func firstKey(array []byte) string {
	var key postHogKey
	rest := trimBody(array[1:])
	if n := valueLen(rest); n > 0 {
		_ = members(rest[:n], func(name, raw []byte) error { key.member(name, raw); return nil }) // as above
	}
	return key.text()
}

var postHogLayout = &layout{
	name: "posthog",
	read: readPostHog,
	aliases: []alias{
		{name: "page", path: []string{"properties", "$pathname"}},
		{name: "page", path: []string{"properties", "$current_url"}, part: pathOf},
		{name: "page", path: []string{"properties", "$screen_name"}},
		{name: "url", path: []string{"properties", "$current_url"}},
		{name: "host", path: []string{"properties", "$host"}},
		{name: "referrer", path: []string{"properties", "$referring_domain"}},
		{name: "referrer", path: []string{"properties", "$referrer"}, part: hostOf, over: true},
		{name: "browser", path: []string{"properties", "$browser"}},
		{name: "os", path: []string{"properties", "$os"}},
		{name: "device", path: []string{"properties", "$device_type"}},
		{name: "country", path: []string{"properties", "$geoip_country_code"}},
		{name: "session_id", path: []string{"properties", "$session_id"}},
	},
}

func readPostHog(t *tracker, v *fastjson.Value) *rejection {
	name, properties := v.Get("event"), v.Get("properties")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "event is %s, an event has a text there", shown(name))
	}
	t.set(slotEvent, name)
	t.set(slotUser, v.Get("distinct_id"))
	t.set(slotUser, properties.Get("distinct_id"))
	t.set(slotTimestamp, v.Get("timestamp"))
	t.set(slotTimestamp, properties.Get("timestamp"))
	if offset := v.GetInt64("offset"); offset != 0 {
		// Of older trackers for browsers: how long ago it was, in milliseconds.
		t.setText(slotTimestamp, strconv.AppendInt(nil, t.now+t.ahead-offset, 10))
	}
	t.setID(v.Get("uuid"))
	t.objects(properties, v)
	return nil
}
