package ingest

import (
	"bytes"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/tenant"
)

// filter is why an event is not counted, whatever the rules say.
type filter uint8

const (
	notFiltered filter = iota
	filterDoNotTrack
	filterBot
	filters // how many there are
)

// String returns the value of the metric's label.
func (f filter) String() string {
	return [filters]string{filterDoNotTrack: "do_not_track", filterBot: "bot"}[f]
}

// sender is what the headers of a request say of who caused its events. Those of a
// request that no page sent are of a library on some server, and say nothing.
type sender struct {
	agent, address []byte
	declined       bool // asks not to be tracked
}

// senderOf reads the headers. A browser says where a page is from that posts to another
// site, or what kind of request it is.
func senderOf(f *Format, r *Request) sender {
	h := r.Header
	if !f.fromPages && h.Get("Origin") == "" && h.Get("Sec-Fetch-Site") == "" {
		return sender{}
	}
	return sender{agent: []byte(h.Get("User-Agent")), address: []byte(r.Client), declined: declines(h)}
}

// declines reports Do Not Track or Global Privacy Control.
func declines(h http.Header) bool { return h.Get("DNT") == "1" || h.Get("Sec-GPC") == "1" }

// offlineEnricher is one without a server: no places are known.
func offlineEnricher() (*enrich.Enricher, error) {
	return enrich.New(enrich.Options{Registerer: prometheus.NewRegistry()})
}

// derived are the slots of fields that rules name and enriching finds; 0 where no rule
// does. Those of what it reads are there where it does.
type derived struct {
	browser, os, device, bot int
	country, city            int
	source, medium           int
	referrer, host           int
	utmSource, utmMedium     int
}

// derive finds which fields the rules need to be found.
func (rs *ruleset) derive() {
	find := func(name string) int {
		slot, _ := rs.find([]byte(name))
		return slot
	}
	d := &rs.derived
	d.browser, d.os, d.device, d.bot = find("browser"), find("os"), find("device"), find("bot")
	d.country, d.city = find("country"), find("city")
	d.source, d.medium = find("source"), find("medium")
	if d.source > 0 || d.medium > 0 {
		for name, slot := range map[string]*int{"referrer": &d.referrer, "host": &d.host, "utm_source": &d.utmSource, "utm_medium": &d.utmMedium} {
			*slot = rs.slot(name, []string{name})
		}
	}
}

// enriching gives events what they do not say themselves, step by step.
type enriching struct {
	cache   *enrich.Cache
	derived *derived
	sender  sender
	bots    bool // are filtered
	decline bool // the batch's sender asks not to be tracked, and the tenant heeds that
	agent   enrich.Agent
	events  int
}

// timedEvery is of how many events one is timed. Two looks at the clock for each step
// of every event would take longer than the steps.
const timedEvery = 64

// begin sets what is particular to a batch.
func (n *enriching) begin(rules *ruleset, s *tenant.Settings, post *Post) {
	n.derived, n.sender, n.bots = &rules.derived, post.sender, s.FilterBots
	n.decline = s.HonourDoNotTrack && post.sender.declined
	n.cache.Begin()
}

// step is one part of enriching, which may end with the event being filtered.
type step struct {
	name string
	// wanted reports whether the batch needs it.
	wanted func(*enriching) bool
	run    func(*enriching, *event) filter
}

// enrichSteps are in the order in which they are made.
var enrichSteps = []step{
	{"privacy", func(n *enriching) bool { return n.decline }, func(*enriching, *event) filter { return filterDoNotTrack }},
	{"agent", (*enriching).wantsAgent, (*enriching).readAgent},
	{"bots", (*enriching).wantsAgent, (*enriching).filterBot},
	{"place", func(n *enriching) bool { return n.derived.country > 0 || n.derived.city > 0 }, (*enriching).readPlace},
	{"source", func(n *enriching) bool { return n.derived.source > 0 || n.derived.medium > 0 }, (*enriching).readSource},
}

// enrich makes the steps. What the event has itself stays.
func (n *enriching) enrich(e *event) filter {
	n.events++
	timed := n.events%timedEvery == 0
	for i := range enrichSteps {
		s := &enrichSteps[i]
		if !s.wanted(n) {
			continue
		}
		var began time.Time
		if timed {
			began = time.Now()
		}
		by := s.run(n, e)
		if timed {
			n.cache.Took(s.name, timedEvery*time.Since(began))
		}
		if by != notFiltered {
			return by
		}
	}
	return notFiltered
}

func (n *enriching) wantsAgent() bool {
	d := n.derived
	return n.bots || d.browser > 0 || d.os > 0 || d.device > 0 || d.bot > 0
}

// readAgent takes the event's own user agent, else that of the page that sent it.
func (n *enriching) readAgent(e *event) filter {
	n.agent = enrich.Agent{}
	text := ownOr(e, slotAgent, n.sender.agent)
	if len(text) == 0 {
		return notFiltered
	}
	n.agent = n.cache.Agent(text)
	d := n.derived
	e.give(d.browser, n.agent.Browser)
	e.give(d.os, n.agent.OS)
	e.give(d.device, n.agent.Device)
	if n.agent.Bot {
		e.give(d.bot, textTrue)
	} else {
		e.give(d.bot, textFalse)
	}
	return notFiltered
}

// Never written to.
var (
	textTrue       = []byte("true")
	textFalse      = []byte("false")
	textMediumNone = []byte("(not set)")
)

func (n *enriching) filterBot(*event) filter {
	if n.bots && n.agent.Bot {
		return filterBot
	}
	return notFiltered
}

// readPlace takes the event's own address, else that of the page that sent it.
func (n *enriching) readPlace(e *event) filter {
	if text := ownOr(e, slotAddress, n.sender.address); len(text) > 0 {
		p := n.cache.Place(text)
		e.give(n.derived.country, p.Country)
		e.give(n.derived.city, p.City)
	}
	return notFiltered
}

// readSource takes the UTM parameters, else the referrer. One that is the page's own
// host says nothing.
func (n *enriching) readSource(e *event) filter {
	d := n.derived
	if source := e.text(d.utmSource); len(source) > 0 {
		e.give(d.source, source)
		if medium := e.text(d.utmMedium); len(medium) > 0 {
			e.give(d.medium, medium)
		}
		e.give(d.medium, textMediumNone)
		return notFiltered
	}
	referrer := e.text(d.referrer)
	if bytes.Contains(referrer, []byte("://")) {
		referrer = hostOf(referrer)
	}
	if bytes.EqualFold(referrer, e.text(d.host)) {
		referrer = nil
	}
	s := n.cache.Source(referrer)
	e.give(d.source, s.Name)
	e.give(d.medium, s.Medium)
	return notFiltered
}

// ownOr is the text of a field, or what is to be taken where the event has none.
func ownOr(e *event, slot int, otherwise []byte) []byte {
	if text := e.text(slot); len(text) > 0 {
		return text
	}
	return otherwise
}

// text is that of a field, nil where it is none.
func (e *event) text(slot int) []byte {
	if f := &e.fields[slot]; f.kind == fieldText {
		return f.text
	}
	return nil
}

// give sets a field that the event does not have itself and a rule names.
func (e *event) give(slot int, text []byte) {
	if slot > 0 && len(text) > 0 && e.fields[slot].kind == fieldAbsent {
		e.fields[slot] = field{kind: fieldText, text: text}
	}
}
