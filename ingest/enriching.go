package ingest

import (
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

// derived are the slots of fields that rules name and that are found where the event has
// none itself, 0 where no rule does, and of what they are found from.
type derived struct {
	browser, os, device, bot int
	country, city            int

	utm                     [len(utmNames)]int
	referrerHost, channel   int
	source, medium          int
	url, page               int // what campaigns are found from
	host, referrer          int // what sources are
	campaign, wantsReferrer bool
}

// derive notes which of these fields the rules name, and has what they are found from
// looked for.
func (rs *ruleset) derive() {
	d := &rs.derived
	named := func(name string) int {
		slot, _ := rs.find([]byte(name))
		return slot
	}
	d.browser, d.os, d.device, d.bot = named("browser"), named("os"), named("device"), named("bot")
	d.country, d.city = named("country"), named("city")
	d.referrerHost, d.channel, d.source, d.medium = named("referrer_host"), named("channel"), named("source"), named("medium")
	needed := func(name string) int { return rs.slot(name, []string{name}) }
	if d.channel > 0 || d.source > 0 || d.medium > 0 {
		needed(utmNames[utmSource])
		needed(utmNames[utmMedium])
	}
	for i, name := range utmNames {
		d.utm[i] = named(name)
		d.campaign = d.campaign || d.utm[i] > 0
	}
	d.wantsReferrer = d.referrerHost > 0 || d.channel > 0 || d.source > 0 || d.medium > 0
	if d.campaign || d.wantsReferrer {
		d.url, d.page = needed("url"), needed("page")
	}
	if d.wantsReferrer {
		d.referrer, d.host = needed("referrer"), needed("host")
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
	{"campaign", func(n *enriching) bool { return n.derived.campaign }, (*enriching).readCampaign},
	{"source", func(n *enriching) bool { return n.derived.wantsReferrer }, (*enriching).readSource},
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
	d := n.derived
	text := ownOr(e, slotAgent, n.sender.agent)
	if len(text) == 0 || !n.bots && !e.lacks(d.browser) && !e.lacks(d.os) && !e.lacks(d.device) && !e.lacks(d.bot) {
		return notFiltered
	}
	n.agent = n.cache.Agent(text)
	e.derive(d.browser, n.agent.Browser)
	e.derive(d.os, n.agent.OS)
	e.derive(d.device, n.agent.Device)
	if n.agent.Bot {
		e.derive(d.bot, textTrue)
	} else {
		e.derive(d.bot, textFalse)
	}
	return notFiltered
}

// Never written to.
var (
	textTrue  = []byte("true")
	textFalse = []byte("false")
)

func (n *enriching) filterBot(*event) filter {
	if n.bots && n.agent.Bot {
		return filterBot
	}
	return notFiltered
}

// readPlace takes the event's own address, else that of the page that sent it.
func (n *enriching) readPlace(e *event) filter {
	d := n.derived
	if text := ownOr(e, slotAddress, n.sender.address); len(text) > 0 && (e.lacks(d.country) || e.lacks(d.city)) {
		p := n.cache.Place(text)
		e.derive(d.country, p.Country)
		e.derive(d.city, p.City)
	}
	return notFiltered
}

// ownOr is the text of a field, or what is to be taken where the event has none.
func ownOr(e *event, slot int, otherwise []byte) []byte {
	if text := e.textOf(slot); len(text) > 0 {
		return text
	}
	return otherwise
}

// lacks reports whether a rule names a field that the event does not have.
func (e *event) lacks(slot int) bool { return slot > 0 && !e.fields[slot].isScalar() }
