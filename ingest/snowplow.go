package ingest

import (
	"bytes"
	"net/http"

	"github.com/valyala/fastjson"
)

// snowplowFormat is Snowplow's tracker protocol
// (https://docs.snowplow.io/docs/events/tracker-protocol/): batches posted to tp2 and one
// event in the query of the pixel. An eid counts once. There is no registry of schemas:
// JSON that describes itself is taken as it is.
var snowplowFormat = &Format{
	Name:    "snowplow",
	Paths:   []string{"/com.snowplowanalytics.snowplow/tp2", "/i"},
	InQuery: true,
	open:    openSnowplow,
	answer: func(r *Result) Answer {
		if status := statusOf(r, http.StatusOK); status != http.StatusOK {
			return Answer{Status: status, JSON: r}
		}
		return Answer{Status: http.StatusOK, Text: "ok"}
	},
}

func openSnowplow(r *Request) (*Post, error) {
	p := &Post{layout: snowplowLayout}
	if r.Path == "/i" {
		p.answer = answerGIF
	}
	if len(r.Body) == 0 || r.Body[0] != '{' {
		var err error
		p.body, err = parameters(r)
		app, _ := parameter(p.body, "aid")
		p.writeKey, p.form = string(app), formValue
		return p, err
	}
	err := members(r.Body, func(name, raw []byte) error {
		if string(name) == "data" {
			return p.array(name, raw)
		}
		return nil
	})
	if p.body == nil {
		p.body, p.form = r.Body, formValue // an event alone
	}
	p.writeKey = firstText(member(p.body, "aid"))
	return p, err
}

var snowplowLayout = &layout{
	name:    "snowplow",
	read:    readSnowplow,
	queries: true,
	// page is a title in this format.
	aliases: append(pageAliases(true, "url"), []alias{
		{name: "user_agent", path: []string{"ua"}},
		{name: "ip", path: []string{"ip"}},
		{name: "title", path: []string{"page"}},
		{name: "referrer", path: []string{"refr"}, part: hostOf},
		{name: "app_id", path: []string{"aid"}},
		{name: "platform", path: []string{"p"}},
		{name: "locale", path: []string{"lang"}},
		{name: "session_id", path: []string{"sid"}},
		{name: "category", path: []string{"se_ca"}},
		{name: "action", path: []string{"se_ac"}},
		{name: "label", path: []string{"se_la"}},
		{name: "property", path: []string{"se_pr"}},
		{name: "value", path: []string{"se_va"}, number: true, counted: true},
		{name: "amount", path: []string{"tr_tt"}, number: true, counted: true},
		{name: "tax", path: []string{"tr_tx"}, number: true, counted: true},
		{name: "shipping", path: []string{"tr_sh"}, number: true, counted: true},
		{name: "price", path: []string{"ti_pr"}, number: true, counted: true},
		{name: "quantity", path: []string{"ti_qu"}, number: true, counted: true},
		{name: "currency", path: []string{"tr_cu"}},
		{name: "currency", path: []string{"ti_cu"}},
		{name: "country", path: []string{"tr_co"}},
	}...),
}

// contextsMax is how many contexts of an event are read.
const contextsMax = 64

func readSnowplow(t *tracker, v *fastjson.Value) *rejection {
	var data *fastjson.Value
	switch kind := string(v.GetStringBytes("e")); kind {
	case "pv":
		t.setText(slotEvent, []byte("page_view"))
	case "pp":
		t.setText(slotEvent, []byte("page_ping"))
	case "tr":
		t.setText(slotEvent, []byte("transaction"))
	case "ti":
		t.setText(slotEvent, []byte("transaction_item"))
	case "se":
		action := v.Get("se_ac")
		if len(action.GetStringBytes()) == 0 {
			return reject(reasonBadEventName, "se_ac is %s, a structured event has its action there", shown(action))
		}
		t.set(slotEvent, action)
	case "ue":
		described, rejected := t.described(v, "ue_pr", "ue_px")
		if rejected != nil {
			return rejected
		}
		name := schemaName(described.GetStringBytes("data", "schema"))
		if len(name) == 0 {
			return reject(reasonBadEventName, "ue_pr and ue_px have no data of a schema as iglu:vendor/name/jsonschema/1-0-0")
		}
		t.setText(slotEvent, name)
		data = described.Get("data", "data")
	default:
		return reject(reasonBadEnvelope, "e is %s, it is one of pv, pp, se, tr, ti and ue", shown(v.Get("e")))
	}
	contexts, rejected := t.described(v, "co", "cx")
	if rejected != nil {
		return rejected
	}
	for _, user := range []string{"uid", "duid", "nuid", "tnuid"} {
		t.set(slotUser, v.Get(user))
	}
	t.sent(v.Get("stm"))
	t.set(slotTimestamp, v.Get("ttm"))
	t.set(slotTimestamp, v.Get("dtm"))
	t.setID(v.Get("eid"))
	t.where = "data"
	t.objects(data, v)
	for i, c := range contexts.GetArray("data") {
		if i == contextsMax {
			break
		}
		t.lookNamed(schemaName(c.GetStringBytes("schema")), c.Get("data"))
	}
	return nil
}

// described is JSON that describes itself, in a parameter or, as base64, in another one;
// nil where there is none.
func (t *tracker) described(v *fastjson.Value, plain, encoded string) (*fastjson.Value, *rejection) {
	name, text := plain, v.GetStringBytes(plain)
	if len(text) == 0 {
		name = encoded
		var err error
		if text, err = fromBase64(v.GetStringBytes(encoded)); err != nil {
			return nil, reject(reasonBadEnvelope, "%s is no base64: %s", name, err)
		}
	}
	if len(text) == 0 {
		return nil, nil
	}
	described := t.within(text)
	if described == nil {
		return nil, reject(reasonBadEnvelope, "%s is not JSON that is read: %s", name, start(text))
	}
	return described, nil
}

// schemaName is the name in the address of a schema, iglu:vendor/name/format/version.
func schemaName(schema []byte) []byte {
	_, rest, _ := bytes.Cut(schema, []byte("/"))
	name, _, ok := bytes.Cut(rest, []byte("/"))
	if !ok {
		return nil
	}
	return name
}

// lookNamed takes from an object what the paths that begin with a name lead to, where
// the event has nothing there.
func (t *tracker) lookNamed(name []byte, v *fastjson.Value) {
	for _, p := range t.rules.dotted {
		if p.segments[0] != string(name) {
			continue
		}
		t.set(p.slot, v.Get(p.segments[1:]...))
	}
}
