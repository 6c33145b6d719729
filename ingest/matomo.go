package ingest

import (
	"net/http"
	"strings"
	"time"

	"github.com/valyala/fastjson"
)

// matomoFormat is Matomo's tracking API
// (https://developer.matomo.org/api-reference/tracking-api), single and in bulk. A visitor
// is the id that a request has, else an address and a user agent, kept as a keyed hash as
// other users are. Events have no ids.
var matomoFormat = &Format{
	Name:    "matomo",
	Paths:   []string{"/matomo.php", "/piwik.php"},
	InQuery: true,
	open:    openMatomo,
	answer:  answerMatomoBulk,
}

func openMatomo(r *Request) (*Post, error) {
	p := &Post{layout: matomoLayout, form: formValue, user: visitor(r.Client, r.Header.Get("User-Agent"), "")}
	token := []byte(r.Query.Get("token_auth"))
	if len(r.Body) > 0 && r.Body[0] == '{' {
		err := members(r.Body, func(name, raw []byte) error {
			switch string(name) {
			case "requests":
				return p.array(name, raw)
			case "token_auth":
				token = []byte(textIn(raw))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if p.body == nil {
			p.body = r.Body // an event alone
			p.writeKey = firstText(member(r.Body, "idsite"))
		} else if first := firstText(member(p.body)); first != "" {
			// An idsite that begins the query has its question mark in its name.
			first := []byte(strings.TrimPrefix(first, "?"))
			site, _ := parameter(first, "idsite")
			p.writeKey = string(site)
			if its, ok := parameter(first, "token_auth"); ok {
				p.writeKey = string(its)
			}
		} else {
			p.writeKey = firstText(member(p.body, "idsite"))
		}
	} else {
		var err error
		if p.body, err = parameters(r); err != nil {
			return nil, err
		}
		of := func(name string) []byte { value, _ := parameter(p.body, name); return value }
		token = of("token_auth")
		p.writeKey = string(of("idsite"))
		p.answer = answerGIF
		if string(of("send_image")) == "0" {
			p.answer = answerGA4
		}
	}
	if len(token) > 0 {
		p.writeKey = string(token)
		p.shared = append(appendQuoted([]byte(`{"token_auth":`), token), '}')
	}
	return p, nil
}

func answerMatomoBulk(r *Result) Answer {
	status := statusOf(r, http.StatusOK)
	invalid := make([]int, len(r.Errors))
	for i, e := range r.Errors {
		invalid[i] = e.Index
	}
	out := struct {
		Status  string       `json:"status"`
		Tracked int          `json:"tracked"`
		Invalid int          `json:"invalid"`
		Indices []int        `json:"invalid_indices"`
		Errors  []EventError `json:"errors"`
	}{"success", r.Accepted + r.Duplicate + r.Filtered, r.Rejected, invalid, r.Errors}
	if status != http.StatusOK {
		out.Status = "error"
	}
	return Answer{Status: status, JSON: out}
}

var matomoLayout = &layout{
	name:    "matomo",
	read:    readMatomo,
	queries: true,
	aliases: append(pageAliases(false, "url"), []alias{
		{name: "user_agent", path: []string{"ua"}},
		{name: "ip", path: []string{"cip"}},
		{name: "title", path: []string{"action_name"}},
		{name: "referrer", path: []string{"urlref"}, part: hostOf},
		{name: "utm_campaign", path: []string{"_rcn"}},
		{name: "category", path: []string{"e_c"}},
		{name: "action", path: []string{"e_a"}},
		{name: "label", path: []string{"e_n"}},
		{name: "value", path: []string{"e_v"}, number: true, counted: true},
		{name: "goal", path: []string{"idgoal"}},
		{name: "amount", path: []string{"revenue"}, number: true, counted: true},
		{name: "subtotal", path: []string{"ec_st"}, number: true, counted: true},
		{name: "tax", path: []string{"ec_tx"}, number: true, counted: true},
		{name: "shipping", path: []string{"ec_sh"}, number: true, counted: true},
		{name: "discount", path: []string{"ec_dt"}, number: true, counted: true},
		{name: "search_count", path: []string{"search_count"}, number: true, counted: true},
		{name: "gt_ms", path: []string{"gt_ms"}, number: true, counted: true},
		{name: "locale", path: []string{"lang"}},
	}...),
}

func readMatomo(t *tracker, v *fastjson.Value) *rejection {
	of := func(name string) string { return string(t.fieldOf(v.Get(name)).text) }
	if of("idsite") == "" || of("rec") != "1" {
		return reject(reasonBadEnvelope, "idsite is %s and rec is %s, a request that is tracked names a site and has rec=1", shown(v.Get("idsite")), shown(v.Get("rec")))
	}
	t.setText(slotEvent, matomoName(of))
	for _, user := range []string{"uid", "cid", "_id"} {
		if f := t.fieldOf(v.Get(user)); len(f.text) > 0 {
			t.set(slotUser, v.Get(user))
		}
	}
	if address, agent := of("cip"), of("ua"); address+agent != "" {
		t.setText(slotUser, visitor(address, agent, ""))
	}
	t.setText(slotUser, t.post.user)
	t.set(slotTimestamp, v.Get("cdt"))
	if rejected := t.mayBePast(v); rejected != nil {
		return rejected
	}
	t.where = "properties"
	t.objects(nil, v)
	if text := v.GetStringBytes("ec_items"); len(text) > 0 {
		items := t.within(text)
		if items == nil {
			return reject(reasonBadEnvelope, "ec_items is not JSON that is read: %s", start(text))
		}
		if lines := items.GetArray(); len(lines) > 0 {
			t.items(lines, "4") // [sku, name, category, price, quantity]
		}
	}
	return nil
}

// matomoName is what an action is called; Matomo has no names but for the actions of
// events.
func matomoName(of func(name string) string) []byte {
	switch {
	case of("ping") == "1":
		return []byte("ping")
	case of("idgoal") == "0" && of("ec_id") != "":
		return []byte("order")
	case of("idgoal") == "0":
		return []byte("cart")
	case of("idgoal") != "":
		return []byte("goal")
	case of("e_a") != "":
		return []byte(of("e_a"))
	case of("search") != "":
		return []byte("search")
	case of("download") != "":
		return []byte("download")
	case of("link") != "":
		return []byte("link")
	case of("c_i") != "":
		return []byte("content_interaction")
	case of("c_n") != "":
		return []byte("content_impression")
	case of("ca") == "1":
		return []byte("action")
	}
	return []byte("pageview")
}

// matomoPast is how long ago an event without a token may have been.
const matomoPast = 24 * time.Hour

// mayBePast rejects a time that Matomo takes with a token only.
func (t *tracker) mayBePast(v *fastjson.Value) *rejection {
	f := &t.fields[slotTimestamp]
	ms, ok := parseTimestamp(string(f.text))
	if !ok || ms >= t.now-matomoPast.Milliseconds() || len(v.GetStringBytes("token_auth"))+len(t.shared.GetStringBytes("token_auth")) > 0 {
		return nil
	}
	return reject(reasonTooOld, "cdt is %s, more than %s ago: that takes a token_auth", f, matomoPast)
}
