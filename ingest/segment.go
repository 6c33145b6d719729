package ingest

import (
	"net/http"
	"path"

	"github.com/valyala/fastjson"
)

// segmentFormat is Segment's HTTP tracking API
// (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/),
// which RudderStack's clients speak too. The name of a track is its event; other
// messages have their type as name. A messageId counts once.
var segmentFormat = &Format{
	Name: "segment",
	Paths: []string{
		"/v1/batch", "/v1/track", "/v1/page", "/v1/screen", "/v1/identify", "/v1/group", "/v1/alias",
		"/v1/b", "/v1/t", "/v1/p", "/v1/s", "/v1/i", "/v1/g", "/v1/a", "/v1/import",
	},
	open: openSegment,
	answer: func(r *Result) Answer {
		status := statusOf(r, http.StatusOK)
		return Answer{Status: status, JSON: struct {
			Success bool `json:"success"`
			*plainResult
		}{status == http.StatusOK, (*plainResult)(r)}}
	},
}

// segmentKinds are the types of messages by the end of the path that one is posted to.
var segmentKinds = map[string]string{
	"track": "track", "page": "page", "screen": "screen", "identify": "identify", "group": "group", "alias": "alias",
	"t": "track", "p": "page", "s": "screen", "i": "identify", "g": "group", "a": "alias",
}

func openSegment(r *Request) (*Post, error) {
	p := &Post{layout: segmentLayout, writeKey: basicUser(r.Header)}
	var context []byte
	err := members(r.Body, func(name, raw []byte) error {
		switch string(name) {
		case "batch":
			return p.array(name, raw)
		case "writeKey":
			if p.writeKey == "" {
				p.writeKey = textIn(raw)
			}
		case "context":
			context = raw
		case "sentAt":
			p.sentAt = raw
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case p.body == nil:
		p.body, p.form, p.kind = r.Body, formValue, segmentKinds[path.Base(r.Path)]
	case context != nil && len(context) <= eventBytesMax: // as its events are counted where it is too deep
		p.shared = append(append([]byte(`{"context":`), context...), '}')
	}
	return p, nil
}

var segmentLayout = &layout{
	name: "segment",
	read: readSegment,
	aliases: []alias{
		{name: "page", path: []string{"context", "page", "path"}},
		{name: "page", path: []string{"properties", "path"}},
		{name: "page", path: []string{"properties", "url"}, part: pathOf},
		{name: "page", path: []string{"context", "page", "url"}, part: pathOf},
		{name: "referrer", path: []string{"properties", "referrer"}, part: hostOf, over: true},
		{name: "referrer", path: []string{"context", "page", "referrer"}, part: hostOf, over: true},
		{name: "utm_source", path: []string{"context", "campaign", "source"}},
		{name: "utm_medium", path: []string{"context", "campaign", "medium"}},
		{name: "utm_campaign", path: []string{"context", "campaign", "name"}},
		{name: "os", path: []string{"context", "os", "name"}},
		{name: "device", path: []string{"context", "device", "type"}},
		{name: "country", path: []string{"context", "location", "country"}},
		{name: "locale", path: []string{"context", "locale"}},
	},
}

func readSegment(t *tracker, v *fastjson.Value) *rejection {
	kind := string(v.Get("type").GetStringBytes())
	if kind == "" {
		kind = t.post.kind
	}
	properties := v.Get("properties")
	switch kind {
	case "track":
		name := v.Get("event")
		if len(name.GetStringBytes()) == 0 {
			return reject(reasonBadEventName, "event is %s, a track has a text there", shown(name))
		}
		t.set(slotEvent, name)
	case "page", "screen":
		t.setText(slotEvent, []byte(kind))
	case "identify", "group":
		t.setText(slotEvent, []byte(kind))
		properties = v.Get("traits")
	case "alias":
		t.setText(slotEvent, []byte(kind))
	default:
		return reject(reasonBadEnvelope, "type is %s, it is one of track, page, screen, identify, group and alias", shown(v.Get("type")))
	}
	t.set(slotUser, v.Get("userId"))
	t.set(slotUser, v.Get("anonymousId"))
	for _, name := range []string{"timestamp", "originalTimestamp", "sentAt"} {
		t.set(slotTimestamp, v.Get(name))
	}
	t.setID(v.Get("messageId"))
	t.objects(properties, v)
	return nil
}
