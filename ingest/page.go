package ingest

import (
	"net/http"

	"github.com/valyala/fastjson"
)

// pageFormat is what our own tracker for pages sends (web/static/q.js): an object with
// the site's key k, the site d, the clock s, and events e, whose members are named by
// one letter as well. A visitor is known as Plausible's are. An event's id i counts once.
var pageFormat = &Format{
	Name:  "page",
	Paths: []string{"/q"},
	open:  openPage,
	answer: func(r *Result) Answer {
		return Answer{Status: statusOf(r, http.StatusOK), JSON: (*plainResult)(r)}
	},
}

func openPage(r *Request) (*Post, error) {
	p := &Post{layout: pageLayout, body: []byte("[]"), form: formArray}
	var site []byte
	err := members(r.Body, func(name, raw []byte) error {
		switch string(name) {
		case "e":
			return p.array(name, raw)
		case "k":
			p.writeKey = textIn(raw)
		case "d":
			site = raw
		case "s":
			p.sentAt = raw
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.user = visitor(r.Client, r.Header.Get("User-Agent"), textOf(site))
	if len(site) > 0 && len(site) <= eventBytesMax {
		p.shared = append(append([]byte(`{"d":`), site...), '}')
	}
	return p, nil
}

// textOf is textIn where there may be nothing.
func textOf(raw []byte) string {
	if raw == nil {
		return ""
	}
	return textIn(raw)
}

var pageLayout = &layout{
	name: "page",
	read: readPage,
	aliases: []alias{
		{name: "page", path: []string{"u"}, part: pathOf},
		{name: "url", path: []string{"u"}},
		{name: "host", path: []string{"u"}, part: hostOf},
		{name: "domain", path: []string{"d"}},
		{name: "referrer", path: []string{"r"}, part: hostOf},
		{name: "utm_source", path: []string{"u"}, part: parameterOf("utm_source")},
		{name: "utm_medium", path: []string{"u"}, part: parameterOf("utm_medium")},
		{name: "utm_campaign", path: []string{"u"}, part: parameterOf("utm_campaign")},
		{name: "device", path: []string{"w"}, part: deviceOfWidth},
	},
}

func readPage(t *tracker, v *fastjson.Value) *rejection {
	name := v.Get("n")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "n is %s, an event has its name there, a text", shown(name))
	}
	t.set(slotEvent, name)
	t.setText(slotUser, t.post.user)
	t.set(slotTimestamp, v.Get("t"))
	t.setID(v.Get("i"))
	t.where = "p"
	t.objects(v.Get("p"), v)
	return nil
}
