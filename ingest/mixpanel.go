package ingest

import (
	"net/http"
	"strings"

	"github.com/valyala/fastjson"
)

// mixpanelFormat is Mixpanel's ingestion API (https://developer.mixpanel.com/reference/overview):
// /track of its trackers, which send JSON in a form or a query, and /import of its
// servers' libraries, which take JSON. A $insert_id counts once for each name of an event.
// Updates of profiles are taken and count nothing.
var mixpanelFormat = &Format{
	Name:    "mixpanel",
	Paths:   []string{"/track", "/track/", "/import", "/import/", "/engage", "/engage/", "/groups", "/groups/"},
	InQuery: true,
	open:    openMixpanel,
}

func openMixpanel(r *Request) (*Post, error) {
	body, err := dataOf(r)
	if err != nil {
		return nil, err
	}
	p := &Post{layout: mixpanelLayout, body: body, form: detect(body, r.Header.Get("Content-Type")), answer: mixpanelAnswer}
	p.writeKey = firstText(member(body, "properties", "token"), member(body, "$token"))
	for _, key := range []string{r.Query.Get("api_key"), basicUser(r.Header)} {
		if p.writeKey == "" {
			p.writeKey = key
		}
	}
	isForm := len(r.Body) == 0 || r.Body[0] != '{' && r.Body[0] != '['
	form := []byte(r.Query.Encode())
	if isForm {
		form, _ = parameters(r) // read before
	}
	isSet := func(name string) bool {
		value, _ := parameter(form, name)
		return string(value) == "1"
	}
	switch path := strings.TrimSuffix(r.Path, "/"); {
	case path == "/engage" || path == "/groups":
		p.layout, p.dry = mixpanelProfileLayout, true
	case path == "/import" && !isForm:
		p.answer = mixpanelImported
	}
	switch {
	case isSet("img"):
		p.answer = answerGIF
	case isSet("verbose"):
		p.answer = mixpanelVerbose
	}
	return p, nil
}

// mixpanelAnswer is 1 or 0: the clients compare the whole text.
func mixpanelAnswer(r *Result) Answer {
	if status := statusOf(r, http.StatusOK); status != http.StatusOK {
		return Answer{Status: status, Text: "0"}
	}
	return Answer{Status: http.StatusOK, Text: "1"}
}

func mixpanelVerbose(r *Result) Answer {
	a := mixpanelAnswer(r)
	out := struct {
		Status int     `json:"status"`
		Error  *string `json:"error"`
		*plainResult
	}{plainResult: (*plainResult)(r)}
	if a.Status == http.StatusOK {
		out.Status = 1
	} else if len(r.Errors) > 0 {
		out.Error = &r.Errors[0].Reason
	}
	return Answer{Status: a.Status, JSON: out}
}

// mixpanelFailure says what was wrong with an event that was imported.
type mixpanelFailure struct {
	Index   int    `json:"index"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

func mixpanelImported(r *Result) Answer {
	status := statusOf(r, http.StatusOK)
	failed := make([]mixpanelFailure, len(r.Errors))
	for i, e := range r.Errors {
		failed[i] = mixpanelFailure{e.Index, fieldAtFault(e.kind, "event", "properties.time", "properties.distinct_id", "properties"), e.Reason}
	}
	out := struct {
		Code     int               `json:"code"`
		Status   string            `json:"status"`
		Error    string            `json:"error,omitempty"`
		Imported int               `json:"num_records_imported"`
		Failed   []mixpanelFailure `json:"failed_records"`
	}{status, http.StatusText(status), "", r.Accepted + r.Duplicate + r.Filtered, failed}
	if r.Rejected > 0 {
		out.Error = "some data points in the request failed validation"
	}
	return Answer{Status: status, JSON: out}
}

var mixpanelLayout = &layout{
	name: "mixpanel",
	read: readMixpanel,
	own:  []string{"time"},
	aliases: append(pageAliases(false, "properties", "$current_url"), []alias{
		{name: "ip", path: []string{"properties", "ip"}},
		{name: "url", path: []string{"properties", "$current_url"}},
		{name: "referrer", path: []string{"properties", "$referring_domain"}},
		{name: "referrer", path: []string{"properties", "$referrer"}, part: hostOf, over: true},
		{name: "browser", path: []string{"properties", "$browser"}},
		{name: "os", path: []string{"properties", "$os"}},
		{name: "device", path: []string{"properties", "$device"}},
		{name: "country", path: []string{"properties", "mp_country_code"}},
	}...),
}

func readMixpanel(t *tracker, v *fastjson.Value) *rejection {
	name, properties := v.Get("event"), v.Get("properties")
	if len(name.GetStringBytes()) == 0 {
		return reject(reasonBadEventName, "event is %s, an event has a text there", shown(name))
	}
	t.set(slotEvent, name)
	for _, user := range []string{"distinct_id", "$user_id", "$device_id"} {
		t.set(slotUser, properties.Get(user))
	}
	t.set(slotTimestamp, properties.Get("time"))
	t.setID(name, properties.Get("$insert_id"))
	t.objects(properties, v)
	return nil
}

// mixpanelProfileLayout is of updates of profiles.
var mixpanelProfileLayout = &layout{
	name: "mixpanel",
	read: func(*tracker, *fastjson.Value) *rejection { return nil },
}
