package ingest

import (
	"net/http"

	"github.com/valyala/fastjson"

	"github.com/quipudb/quipu/internal/tenant"
)

// plainFormat is Quipu's own: the event model, one object, an array or lines.
var plainFormat = &Format{
	Name:  "plain",
	Paths: []string{eventsPath},
	open: func(r *Request) (*Post, error) {
		return &Post{body: r.Body, form: detect(r.Body, r.Header.Get("Content-Type"))}, nil
	},
	answer: func(r *Result) Answer { return Answer{Status: statusOf(r, http.StatusOK), JSON: r} },
}

// plain decodes plain events, one JSON text at a time.
type plain struct {
	tree
	inside bool  // fields of further_data are being scanned
	ahead  *byte // where the event that fields are of begins; nil: they are of none ahead
}

func newPlain() *plain {
	d := &plain{}
	d.init()
	d.where = "further_data"
	return d
}

// begin is tree's.
func (d *plain) begin(rules *ruleset, p tenant.Profile, now int64) {
	d.ahead = nil
	d.tree.begin(rules, p, now)
}

// decode reads one event, or says why it is none. The event is good until the next one.
func (d *plain) decode(raw []byte) (*event, *rejection) {
	if len(raw) > eventBytesMax || !d.scan(raw) {
		if rejected := d.parsePlain(raw); rejected != nil {
			return nil, rejected
		}
	}
	return &d.event, d.finish()
}

// parsePlain reads any JSON.
func (d *plain) parsePlain(raw []byte) *rejection {
	v, rejected := d.parse(raw)
	if rejected != nil {
		return rejected
	}
	data, rejected := object(v)
	if rejected != nil {
		return rejected
	}
	d.reset()
	d.look(data, scopeData)
	if d.further != nil && d.further.Type() != fastjson.TypeObject {
		return reject(reasonBadFurtherData, "further_data is %s, not an object", show(d.further))
	}
	d.look(d.further, scopeNumbers)
	d.lookDotted(data, d.further)
	return nil
}

// object returns the event's own object: v, or the data that v wraps.
func object(v *fastjson.Value) (*fastjson.Value, *rejection) {
	if v.Type() != fastjson.TypeObject {
		return nil, reject(reasonNotAnObject, "%s is not an object", show(v))
	}
	if data := v.Get("data"); data != nil {
		if data.Type() != fastjson.TypeObject {
			return nil, reject(reasonNotAnObject, "data is %s, not an object", show(data))
		}
		v = data
	}
	return v, nil
}
