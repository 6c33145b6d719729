package ingest

import (
	"bytes"
	"fmt"
	"net/http"

	"github.com/valyala/fastjson"
)

// umamiFormat is Umami's sending API (https://umami.is/docs/api/sending-stats): one event a
// request, or at /api/batch an array of them. A visitor is the id that the event has, else
// an address, a user agent and a website together, kept as a keyed hash as other users
// are. Events have no ids.
var umamiFormat = &Format{
	Name:  "umami",
	Paths: []string{"/api/send", "/api/batch"},
	open:  openUmami,
	answer: func(r *Result) Answer {
		status := statusOf(r, http.StatusOK)
		return Answer{Status: status, JSON: struct {
			OK bool `json:"ok"`
			*plainResult
		}{status == http.StatusOK, (*plainResult)(r)}}
	},
}

func openUmami(r *Request) (*Post, error) {
	p := &Post{layout: umamiLayout, body: r.Body, form: formValue}
	switch r.Body[0] {
	case '[':
		p.form = formArray
	case '{':
	default:
		return nil, fmt.Errorf("it is neither an object nor an array: %s", start(r.Body))
	}
	p.writeKey = firstText(member(r.Body, "payload", "website"))
	p.user = visitor(r.Client, r.Header.Get("User-Agent"), p.writeKey)
	return p, nil
}

var umamiLayout = &layout{
	name: "umami",
	read: readUmami,
	aliases: append(pageAliases(false, "payload", "url"), []alias{
		{name: "user_agent", path: []string{"payload", "userAgent"}},
		{name: "ip", path: []string{"payload", "ip"}},
		{name: "url", path: []string{"payload", "url"}},
		{name: "host", path: []string{"payload", "hostname"}},
		{name: "referrer", path: []string{"payload", "referrer"}, part: hostOf, over: true},
		{name: "locale", path: []string{"payload", "language"}},
		{name: "device", path: []string{"payload", "screen"}, part: deviceOfScreen},
		{name: "amount", path: []string{"payload", "data", "revenue"}, number: true},
	}...),
}

func readUmami(t *tracker, v *fastjson.Value) *rejection {
	payload := v.Get("payload")
	if payload == nil || payload.Type() != fastjson.TypeObject {
		return reject(reasonBadEnvelope, "payload is %s, not an object", shown(payload))
	}
	switch kind := string(v.GetStringBytes("type")); kind {
	case "event":
		if t.set(slotEvent, payload.Get("name")); len(t.fields[slotEvent].text) == 0 {
			t.fields[slotEvent] = field{kind: fieldText, text: []byte("pageview")}
		}
	case "identify":
		t.setText(slotEvent, []byte("identify"))
	default:
		return reject(reasonBadEnvelope, "type is %s, it is event or identify", shown(v.Get("type")))
	}
	t.set(slotUser, payload.Get("id"))
	if address, agent := payload.GetStringBytes("ip"), payload.GetStringBytes("userAgent"); len(address)+len(agent) > 0 {
		t.setText(slotUser, visitor(string(address), string(agent), string(payload.GetStringBytes("website"))))
	}
	t.setText(slotUser, t.post.user)
	t.set(slotTimestamp, payload.Get("timestamp"))
	t.where = "data"
	t.objects(payload.Get("data"), payload, v)
	return nil
}

// deviceOfScreen is deviceOfWidth of a screen, as 1920x1080.
func deviceOfScreen(text []byte) []byte {
	width, _, _ := bytes.Cut(text, []byte("x"))
	return deviceOfWidth(width)
}
