package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fastjson"
)

// cloudEventsFormat is CloudEvents 1.0 over HTTP, in its three modes
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
// and .../formats/json-format.md): binary, where headers have the attributes and the
// body is the data; structured, one JSON object; and batched, an array of them. An
// event's name is its type. Its id is source and id together.
var cloudEventsFormat = &Format{
	Name:  "cloudevents",
	Paths: []string{eventsPath},
	claims: func(r *Request) bool {
		return isBinary(r) || strings.HasPrefix(mediaType(r.Header.Get("Content-Type")), "application/cloudevents")
	},
	open:   openCloudEvents,
	answer: func(r *Result) Answer { return Answer{Status: statusOf(r, http.StatusOK), JSON: r} },
}

const cloudEventsHeader = "Ce-"

func isBinary(r *Request) bool { return r.Header.Get(cloudEventsHeader+"Specversion") != "" }

// isJSON reports whether data of a media type is JSON; "" says nothing, and then it is.
func isJSON(mediaType string) bool {
	return mediaType == "" || mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}

func openCloudEvents(r *Request) (*Post, error) {
	p := &Post{layout: cloudEventsLayout, body: r.Body, form: formValue}
	if isBinary(r) {
		var err error
		p.body, err = structured(r)
		return p, err
	}
	if r.Body[0] == '[' {
		p.form = formArray
	}
	return p, nil
}

// structured is an event of binary mode in the form of structured mode.
func structured(r *Request) ([]byte, error) {
	attributes := map[string]string{}
	for name, values := range r.Header {
		if attribute, ok := strings.CutPrefix(name, cloudEventsHeader); ok {
			// The binding encodes values as in URLs; one that is not encoded stays.
			value, err := url.PathUnescape(values[0])
			if err != nil {
				value = values[0]
			}
			attributes[strings.ToLower(attribute)] = value
		}
	}
	delete(attributes, "data")
	delete(attributes, "data_base64")
	contentType := mediaType(r.Header.Get("Content-Type"))
	attributes["datacontenttype"] = contentType
	out, err := json.Marshal(attributes)
	if err != nil || len(r.Body) == 0 {
		return out, err
	}
	data := r.Body
	switch {
	case len(data) > eventBytesMax: // before more is made of it
		return nil, fmt.Errorf("the data is %d bytes long, at most %d are read", len(data), eventBytesMax)
	case isJSON(contentType):
		if valueLen(data) != len(data) { // what follows it would be beside it
			return nil, fmt.Errorf("the data is not a JSON value: %s", start(data))
		}
	default:
		if data, err = json.Marshal(string(r.Body)); err != nil {
			return nil, err
		}
	}
	return slices.Concat(out[:len(out)-1], []byte(`,"data":`), data, []byte("}")), nil
}

var cloudEventsLayout = &layout{
	name: "cloudevents",
	read: readCloudEvent,
	aliases: []alias{
		{name: "correlation_id", path: []string{"correlationid"}},
		{name: "trace_id", path: []string{"traceparent"}, part: func(text []byte) []byte { return traceparent(text, 1) }},
		{name: "span_id", path: []string{"traceparent"}, part: func(text []byte) []byte { return traceparent(text, 2) }},
	},
}

func readCloudEvent(t *tracker, v *fastjson.Value) *rejection {
	if version := v.Get("specversion"); version == nil || string(version.GetStringBytes()) != "1.0" {
		return reject(reasonBadEnvelope, `specversion is %s, only "1.0" is known`, shown(version))
	}
	for _, name := range []string{"id", "source", "type"} {
		if a := v.Get(name); len(a.GetStringBytes()) == 0 {
			return reject(reasonBadEnvelope, "%s is %s, a CloudEvent has a text there", name, shown(a))
		}
	}
	t.set(slotEvent, v.Get("type"))
	t.set(slotTimestamp, v.Get("time"))
	t.setID(v.Get("source"), v.Get("id"))
	data := t.data(v)
	further := data.Get("further_data")
	t.set(slotFurtherData, further)
	t.where = "data"
	if further != nil && further.Type() == fastjson.TypeObject {
		t.look(data, scopeOther) // before further_data, as in a plain event
		t.look(further, scopeTracker)
		t.look(v, scopeOther)
		t.lookDotted(data, further, v)
		return nil
	}
	t.objects(data, v)
	return nil
}

// data is the event's, which may be JSON in base64; nil where it has none.
func (t *tracker) data(v *fastjson.Value) *fastjson.Value {
	if data := v.Get("data"); data != nil {
		return data
	}
	encoded := v.Get("data_base64").GetStringBytes()
	if len(encoded) == 0 || !isJSON(mediaType(string(v.Get("datacontenttype").GetStringBytes()))) {
		return nil
	}
	text, err := base64.StdEncoding.DecodeString(string(encoded))
	if err != nil {
		return nil
	}
	return t.within(text)
}

// traceparent is a part of a W3C trace context, 00-<trace>-<span>-<flags>.
func traceparent(text []byte, part int) []byte {
	parts := bytes.Split(text, []byte("-"))
	if len(parts) < 4 {
		return nil
	}
	return parts[part]
}

// shown is v for a message, also where there is none.
func shown(v *fastjson.Value) string {
	if v == nil {
		return "missing"
	}
	return show(v)
}
