package ingest

import (
	"bytes"
	"strings"
)

// derived are the slots of fields that are made of others of the event: where rules name
// them, and the event has none itself. 0: no rule does.
type derived struct {
	any          bool
	utm          [len(utmNames)]int
	referrerHost int
	channel      int
	// What they are made of.
	url, page, host, referrer int
	source, medium            int // of utm
}

var utmNames = [...]string{"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"}

// The places of those that say what channel it is.
const (
	utmSource = iota
	utmMedium
)

// derive notes which of the derived fields the rules name, and has what they are made of
// looked for.
func (rs *ruleset) derive() {
	d := &rs.derived
	named := func(name string) int {
		slot, ok := rs.find([]byte(name))
		d.any = d.any || ok
		return slot
	}
	for i, name := range utmNames {
		d.utm[i] = named(name)
	}
	d.referrerHost, d.channel = named("referrer_host"), named("channel")
	if !d.any {
		return
	}
	input := func(name string) int { return rs.slot(name, []string{name}) }
	d.url, d.page = input("url"), input("page")
	if d.referrerHost > 0 || d.channel > 0 {
		d.referrer = input("referrer")
	}
	if d.channel > 0 {
		d.host, d.source, d.medium = input("host"), input(utmNames[utmSource]), input(utmNames[utmMedium])
		d.utm[utmSource], d.utm[utmMedium] = d.source, d.medium
	}
}

// enrich derives the fields that rules name from those of the event.
func (e *event) enrich(d *derived) {
	for _, from := range [...]int{d.url, d.page} {
		_, query, ok := bytes.Cut(e.textOf(from), []byte("?"))
		if !ok || !bytes.Contains(query, []byte("utm_")) {
			continue
		}
		query, _, _ = bytes.Cut(query, []byte("#"))
		for i, slot := range d.utm {
			if slot > 0 {
				value, _ := parameter(query, utmNames[i])
				e.derive(slot, value)
			}
		}
	}
	if d.referrer == 0 {
		return
	}
	referrer := hostOf(e.textOf(d.referrer))
	if string(referrer) == "$direct" { // as PostHog's trackers have it
		referrer = nil
	}
	if d.referrerHost > 0 {
		e.derive(d.referrerHost, referrer)
	}
	if d.channel > 0 {
		own := e.textOf(d.host)
		if len(own) == 0 {
			own = hostOf(e.textOf(d.url))
		}
		e.derive(d.channel, []byte(channelOf(e.textOf(d.source), e.textOf(d.medium), referrer, own)))
	}
}

// derive sets a field that the event does not have.
func (e *event) derive(slot int, text []byte) {
	if f := &e.fields[slot]; len(text) > 0 && !f.isScalar() {
		*f = field{kind: fieldText, text: text}
	}
}

// textOf is the text of a field, nil where it is none or no slot.
func (e *event) textOf(slot int) []byte {
	if f := &e.fields[slot]; slot > 0 && f.kind == fieldText {
		return f.text
	}
	return nil
}

// channelOf is how a visitor came: what a campaign says of itself, else by who referred.
func channelOf(source, medium, referrer, own []byte) string {
	switch m := strings.ToLower(string(medium)); {
	case m == "cpc" || m == "ppc" || m == "cpm" || m == "display" || strings.HasPrefix(m, "paid"):
		return "paid"
	case m == "email" || m == "e-mail":
		return "email"
	case strings.HasPrefix(m, "social"):
		return "social"
	case m == "organic":
		return "search"
	case m == "affiliate", m == "referral":
		return m
	case len(source)+len(medium) > 0:
		return "campaign"
	}
	host := strings.TrimPrefix(strings.ToLower(string(referrer)), "www.")
	switch {
	case host == "":
		return "direct"
	case strings.EqualFold(host, strings.TrimPrefix(string(own), "www.")):
		return "internal"
	case strings.HasPrefix(host, "mail.") || strings.HasPrefix(host, "outlook."):
		return "email"
	case socialHosts[host]:
		return "social"
	}
	for label := range strings.SplitSeq(host, ".") {
		switch {
		case searchNames[label]:
			return "search"
		case socialNames[label]:
			return "social"
		}
	}
	return "referral"
}

// Search engines and social networks by a part of the names of their hosts, as these have
// one in each country, or by the whole name where a part says too little.
var (
	searchNames = setOf("google", "bing", "duckduckgo", "yahoo", "baidu", "yandex", "ecosia", "qwant", "startpage", "naver", "seznam", "kagi")
	socialNames = setOf("facebook", "instagram", "twitter", "linkedin", "reddit", "youtube", "pinterest", "tiktok", "mastodon", "threads", "bsky", "vk", "weibo")
	socialHosts = setOf("x.com", "t.co", "lnkd.in", "youtu.be", "t.me", "news.ycombinator.com")
)

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}
