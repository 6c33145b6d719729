package ingest

import (
	"bytes"
	"strings"

	"github.com/quipudb/quipu/ingest/enrich"
)

// utmNames are the parameters of campaigns that are looked for in addresses.
var utmNames = [...]string{"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"}

// The places of those that say where a visit came from.
const (
	utmSource = iota
	utmMedium
)

// readCampaign takes UTM parameters from the addresses of the event.
func (n *enriching) readCampaign(e *event) filter {
	d := n.derived
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
	return notFiltered
}

// readSource finds where a visit came from: by the UTM parameters, else by the referrer.
// One that is the page's own host says nothing.
func (n *enriching) readSource(e *event) filter {
	d := n.derived
	referrer := hostOf(e.textOf(d.referrer))
	if string(referrer) == "$direct" { // as PostHog's trackers have it
		referrer = nil
	}
	e.derive(d.referrerHost, referrer)
	own := e.textOf(d.host)
	if len(own) == 0 {
		own = hostOf(e.textOf(d.url))
	}
	s := n.cache.Source(referrer)
	if len(referrer) > 0 && bytes.EqualFold(withoutWWW(referrer), withoutWWW(own)) {
		s = n.cache.Source(nil)
		s.Channel = channelInternal
	}
	source, medium := e.textOf(d.utm[utmSource]), e.textOf(d.utm[utmMedium])
	if len(source)+len(medium) > 0 {
		s = enrich.Source{Name: source, Medium: medium, Channel: channelOf(medium)}
	}
	e.derive(d.source, s.Name)
	e.derive(d.medium, s.Medium)
	e.derive(d.channel, s.Channel)
	return notFiltered
}

func withoutWWW(host []byte) []byte {
	if www := []byte("www."); len(host) > len(www) && bytes.EqualFold(host[:len(www)], www) {
		return host[len(www):]
	}
	return host
}

// derive sets a field that a rule names and the event does not have.
func (e *event) derive(slot int, text []byte) {
	if f := &e.fields[slot]; slot > 0 && len(text) > 0 && !f.isScalar() {
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

// Channels of campaigns, made once.
var (
	channelInternal  = []byte("internal")
	channelPaid      = []byte("paid")
	channelEmail     = []byte("email")
	channelSocial    = []byte("social")
	channelSearch    = []byte("search")
	channelAffiliate = []byte("affiliate")
	channelReferral  = []byte("referral")
	channelCampaign  = []byte("campaign")
)

// channelOf is what a campaign says of itself.
func channelOf(medium []byte) []byte {
	switch m := strings.ToLower(string(medium)); {
	case m == "cpc" || m == "ppc" || m == "cpm" || m == "display" || strings.HasPrefix(m, "paid"):
		return channelPaid
	case m == "email" || m == "e-mail":
		return channelEmail
	case strings.HasPrefix(m, "social"):
		return channelSocial
	case m == "organic":
		return channelSearch
	case m == "affiliate":
		return channelAffiliate
	case m == "referral":
		return channelReferral
	}
	return channelCampaign
}
