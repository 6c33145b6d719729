package ingest

import (
	"bytes"
	"net/http"
	"net/url"

	"github.com/valyala/fastjson"
)

// plausibleFormat is Plausible's events API (https://plausible.io/docs/events-api): one
// event a request, JSON in a body that calls itself text, with names that are long or,
// from its trackers, of one letter. A visitor is an address, a user agent and a site
// together, and is kept as a keyed hash as other users are. Events have no ids.
var plausibleFormat = &Format{
	Name:  "plausible",
	Paths: []string{"/api/event"},
	open:  openPlausible,
	answer: func(r *Result) Answer {
		if r.Rejected > 0 {
			return Answer{Status: http.StatusBadRequest, JSON: r}
		}
		return Answer{Status: http.StatusAccepted, Text: "ok"}
	},
}

func openPlausible(r *Request) (*Post, error) {
	p := &Post{layout: plausibleLayout, body: r.Body, form: formValue}
	var site string
	err := members(r.Body, func(name, raw []byte) error {
		if string(name) == "d" || string(name) == "domain" {
			site = textIn(raw)
		}
		return nil
	})
	p.writeKey = site
	p.user = visitor(r.Client, r.Header.Get("User-Agent"), site)
	return p, err
}

var plausibleLayout = &layout{
	name: "plausible",
	read: readPlausible,
	aliases: []alias{
		{name: "page", path: []string{"u"}, part: pathOf},
		{name: "page", path: []string{"url"}, part: pathOf},
		{name: "url", path: []string{"u"}},
		{name: "host", path: []string{"u"}, part: hostOf},
		{name: "host", path: []string{"url"}, part: hostOf},
		{name: "domain", path: []string{"d"}},
		{name: "referrer", path: []string{"r"}, part: hostOf, over: true},
		{name: "referrer", path: []string{"referrer"}, part: hostOf, over: true},
		{name: "utm_source", path: []string{"u"}, part: parameterOf("utm_source")},
		{name: "utm_source", path: []string{"url"}, part: parameterOf("utm_source")},
		{name: "utm_medium", path: []string{"u"}, part: parameterOf("utm_medium")},
		{name: "utm_medium", path: []string{"url"}, part: parameterOf("utm_medium")},
		{name: "utm_campaign", path: []string{"u"}, part: parameterOf("utm_campaign")},
		{name: "utm_campaign", path: []string{"url"}, part: parameterOf("utm_campaign")},
		{name: "device", path: []string{"w"}, part: deviceOfWidth},
		{name: "device", path: []string{"screen_width"}, part: deviceOfWidth},
		{name: "amount", path: []string{"revenue", "amount"}, number: true},
		{name: "currency", path: []string{"revenue", "currency"}},
	},
}

func readPlausible(t *tracker, v *fastjson.Value) *rejection {
	name := either(v, "n", "name")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "name is %s, an event has a text there", shown(name))
	}
	t.set(slotEvent, name)
	t.setText(slotUser, t.post.user)
	props := either(v, "p", "props")
	if props == nil {
		props = either(v, "m", "meta")
	}
	if props != nil && props.Type() == fastjson.TypeString {
		if props = t.within(props.GetStringBytes()); props == nil {
			return reject(reasonBadEnvelope, "p is a text that is not JSON")
		}
	}
	t.where = "props"
	t.objects(props, v)
	return nil
}

// visitor is who comes from an address with a browser to a site; nil where neither the
// address nor the browser is known.
func visitor(address, agent, site string) []byte {
	if address == "" && agent == "" {
		return nil
	}
	return []byte(address + "\x00" + agent + "\x00" + site)
}

// either is what v has under one of two names; nil where it has neither.
func either(v *fastjson.Value, short, long string) *fastjson.Value {
	if at := v.Get(short); at != nil && at.Type() != fastjson.TypeNull {
		return at
	}
	if at := v.Get(long); at != nil && at.Type() != fastjson.TypeNull {
		return at
	}
	return nil
}

// parameterOf finds a parameter in the query of a URL.
func parameterOf(name string) func(text []byte) []byte {
	return func(text []byte) []byte {
		text, _, _ = bytes.Cut(text, []byte("#"))
		_, query, _ := bytes.Cut(text, []byte("?"))
		if !bytes.Contains(query, []byte(name)) {
			return nil // as most have none
		}
		values, _ := url.ParseQuery(string(query)) // without what it cannot read
		return []byte(values.Get(name))
	}
}

// Kinds of devices, made once.
var (
	deviceMobile  = []byte("mobile")
	deviceTablet  = []byte("tablet")
	deviceLaptop  = []byte("laptop")
	deviceDesktop = []byte("desktop")
)

// deviceOfWidth is the kind of device that a screen of so many pixels has, by the
// bounds that Plausible uses; nil where it is no number.
func deviceOfWidth(text []byte) []byte {
	whole, _, _ := bytes.Cut(text, []byte("."))
	width := 0
	for _, c := range whole {
		if c < '0' || c > '9' || width > 1e6 {
			return nil
		}
		width = 10*width + int(c-'0')
	}
	switch {
	case len(whole) == 0:
		return nil
	case width < 576:
		return deviceMobile
	case width < 992:
		return deviceTablet
	case width < 1440:
		return deviceLaptop
	}
	return deviceDesktop
}
