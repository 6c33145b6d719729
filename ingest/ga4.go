package ingest

import (
	"fmt"
	"net/http"
	"path"

	"github.com/valyala/fastjson"
)

// ga4Format is the Measurement Protocol of Google Analytics 4
// (https://developers.google.com/analytics/devguides/collection/protocol/ga4). Its events
// have no ids. What is posted below /debug is checked and not counted.
var ga4Format = &Format{
	Name:   "ga4",
	Paths:  []string{"/mp/collect", "/debug/mp/collect"},
	open:   openGA4,
	answer: answerGA4,
}

// answerGA4 has no body where an event is right: that is what Google's has in any case.
func answerGA4(r *Result) Answer {
	if status := statusOf(r, http.StatusNoContent); status != http.StatusNoContent {
		return Answer{Status: status, JSON: r}
	}
	return Answer{Status: http.StatusNoContent}
}

func openGA4(r *Request) (*Post, error) {
	p := &Post{layout: ga4Layout, writeKey: r.Query.Get("api_secret")}
	shared := []byte{'{'}
	err := members(r.Body, func(name, raw []byte) error {
		switch string(name) {
		case "events":
			return p.array(name, raw)
		case "client_id", "app_instance_id", "user_id", "timestamp_micros", "user_properties", "user_location", "device":
			if len(shared) > 1 {
				shared = append(shared, ',')
			}
			shared = append(append(appendQuoted(shared, name), ':'), raw...)
			return checkShared(shared)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case p.body == nil:
		p.body, p.form = r.Body, formValue // an event alone
	}
	p.shared = append(shared, '}')
	if path.Dir(r.Path) == "/debug/mp" {
		p.dry, p.answer = true, validatedGA4
	}
	return p, nil
}

// validation says what is wrong with an event, as Google's validation server does.
type validation struct {
	FieldPath   string `json:"fieldPath"`
	Description string `json:"description"`
	Code        string `json:"validationCode"`
}

func validatedGA4(r *Result) Answer {
	messages := make([]validation, len(r.Errors))
	for i, e := range r.Errors {
		code := "VALUE_INVALID"
		if e.kind == reasonBadEventName {
			code = "NAME_INVALID"
		}
		at := fmt.Sprintf("events[%d]", e.Index)
		if field := fieldAtFault(e.kind, "name", "timestamp_micros", "user_id", "params"); field != "" {
			at += "." + field
		}
		messages[i] = validation{at, e.Reason, code}
	}
	return Answer{Status: http.StatusOK, JSON: map[string][]validation{"validationMessages": messages}}
}

var ga4Layout = &layout{
	name: "ga4",
	read: readGA4,
	own:  []string{"session_id", "ga_session_id", "debug_mode"},
	aliases: append(pageAliases(false, "params", "page_location"), []alias{
		{name: "ip", path: []string{"ip_override"}},
		{name: "url", path: []string{"params", "page_location"}},
		{name: "page", path: []string{"params", "page_path"}},
		{name: "referrer", path: []string{"params", "page_referrer"}, part: hostOf},
		{name: "utm_source", path: []string{"params", "source"}},
		{name: "utm_medium", path: []string{"params", "medium"}},
		{name: "utm_campaign", path: []string{"params", "campaign"}},
		{name: "amount", path: []string{"params", "value"}, number: true},
		{name: "country", path: []string{"user_location", "country_id"}},
		{name: "device", path: []string{"device", "category"}},
		{name: "os", path: []string{"device", "operating_system"}},
		{name: "browser", path: []string{"device", "browser"}},
		{name: "locale", path: []string{"device", "language"}},
	}...),
}

func readGA4(t *tracker, v *fastjson.Value) *rejection {
	name := v.Get("name")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "name is %s, an event has a text there", shown(name))
	}
	t.set(slotEvent, name)
	for _, user := range []string{"user_id", "client_id", "app_instance_id"} {
		t.set(slotUser, t.shared.Get(user))
	}
	t.set(slotTimestamp, v.Get("timestamp_micros"))
	t.set(slotTimestamp, t.shared.Get("timestamp_micros"))
	params := v.Get("params")
	t.where = "params"
	t.objects(params, v, t.shared)
	t.userProperties(t.shared.Get("user_properties"))
	if items := params.GetArray("items"); len(items) > 0 {
		t.items(items, "quantity")
	}
	return nil
}

// userProperties are fields by their names: each is an object with a value.
func (t *tracker) userProperties(v *fastjson.Value) {
	if v == nil || v.Type() != fastjson.TypeObject {
		return
	}
	t.visited = scopeOther
	v.GetObject().Visit(func(name []byte, property *fastjson.Value) {
		if value := property.Get("value"); value != nil {
			t.field(name, value)
		}
	})
}

// items counts the lines of an order and what they order together, each one where it does
// not say a quantity.
func (t *tracker) items(items []*fastjson.Value, quantity ...string) {
	var ordered float64
	for _, item := range items {
		switch f := t.fieldOf(item.Get(quantity...)); {
		case f.kind == fieldAbsent:
			ordered++
		case isNumber(string(f.text)):
			n, _ := parseNumber(f.text)
			ordered += n
		}
	}
	t.setNumber("items", float64(len(items)))
	t.setNumber("items_quantity", ordered)
}
