package ingest

import (
	"bytes"

	"github.com/valyala/fastjson"
)

// gtagFormat is what Google's tag for web pages sends to Google Analytics 4: parameters in
// the query, and of several events those of each in a line of the body. Google does not
// describe it; this is what its tag and others that speak it are seen to send. Events have
// neither times nor ids.
var gtagFormat = &Format{
	Name:    "gtag",
	Paths:   []string{"/g/collect"},
	InQuery: true,
	open:    openGtag,
	answer:  answerGA4,
}

func openGtag(r *Request) (*Post, error) {
	query := []byte(r.Query.Encode())
	p := &Post{layout: gtagLayout, body: query, form: formValue}
	key := query
	if len(r.Body) > 0 {
		p.body, p.form = r.Body, formLines
		if len(query) == 0 {
			key, _, _ = bytes.Cut(r.Body, []byte("\n"))
		} else {
			p.shared = appendParameters(nil, query)
		}
	}
	text, _ := parameter(key, "tid")
	p.writeKey = string(text)
	return p, checkShared(p.shared)
}

var gtagLayout = &layout{
	name:    "gtag",
	read:    readGtag,
	queries: true,
	aliases: append(pageAliases(false, "dl"), []alias{
		{name: "url", path: []string{"dl"}},
		{name: "title", path: []string{"dt"}},
		{name: "referrer", path: []string{"dr"}, part: hostOf},
		{name: "locale", path: []string{"ul"}},
		{name: "amount", path: []string{"epn.value"}, number: true},
		{name: "currency", path: []string{"cu"}},
		{name: "session_id", path: []string{"sid"}},
		{name: "engagement_time_msec", path: []string{"_et"}, number: true, counted: true},
	}...),
}

func readGtag(t *tracker, v *fastjson.Value) *rejection {
	of := func(name string) *fastjson.Value {
		if at := v.Get(name); at != nil {
			return at
		}
		return t.shared.Get(name)
	}
	name := of("en")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "en is %s, an event has a name there", shown(name))
	}
	t.set(slotEvent, name)
	t.set(slotUser, of("uid"))
	t.set(slotUser, of("cid"))
	t.where = "epn"
	t.gtagParameters(v)
	t.gtagParameters(t.shared)
	t.look(v, scopeOther)
	t.look(t.shared, scopeOther)
	return nil
}

// gtagParameters are fields by their names without the prefix that says whether they are
// the event's or the user's, and numbers or texts. Numbers of the event are counted.
func (t *tracker) gtagParameters(v *fastjson.Value) {
	if v == nil {
		return
	}
	t.visited = scopeOther
	v.GetObject().Visit(func(key []byte, v *fastjson.Value) {
		prefix, name, ok := bytes.Cut(key, []byte("."))
		if !ok {
			return
		}
		switch string(prefix) {
		case "ep", "up":
			t.field(name, v)
		case "epn", "upn":
			text := v.GetStringBytes()
			if !isNumber(string(text)) {
				return
			}
			if slot, known := t.rules.find(name); known && t.fields[slot].kind == fieldAbsent {
				t.fields[slot] = field{kind: fieldNumber, text: text}
			}
			if string(prefix) == "epn" && t.rules.numbers && t.bad == nil {
				t.bad = t.number(name, text)
			}
		}
	})
}
