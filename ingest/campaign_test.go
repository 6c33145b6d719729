package ingest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

// Fields that rules name and an event does not have are made of its addresses.
func TestDerivedFields(t *testing.T) {
	const rules = `metrics:
  - {name: visits, type: counter, labels: {source: utm_source, medium: utm_medium, campaign: utm_campaign, term: utm_term, content: utm_content, from: referrer_host, channel: channel}}
`
	for _, tc := range []struct{ name, event, want string }{
		{"a campaign", `{"url":"https://shop.example/?utm_source=news&utm_medium=email&utm_campaign=spring+sale&utm_term=a%26b&utm_content=top#utm_source=no"}`,
			`{__name__="visits", campaign="spring sale", channel="email", content="top", medium="email", source="news", term="a&b"} @-5000 +1`},
		{"a campaign in a path", `{"page":"/?utm_source=news"}`, `{__name__="visits", channel="campaign", source="news"} @-5000 +1`},
		{"what the event says itself comes first", `{"utm_source":"own","channel":"shop","referrer_host":"r","url":"/?utm_source=news"}`,
			`{__name__="visits", channel="shop", from="r", source="own"} @-5000 +1`},
		{"a campaign of the event's own fields", `{"utm_medium":"CPC"}`, `{__name__="visits", channel="paid", medium="CPC"} @-5000 +1`},
		{"a search", `{"referrer":"https://www.google.co.uk/search?q=x"}`, `{__name__="visits", channel="search", from="www.google.co.uk"} @-5000 +1`},
		{"a page of the same site", `{"url":"https://www.shop.example/b","referrer":"https://shop.example/a"}`, `{__name__="visits", channel="internal", from="shop.example"} @-5000 +1`},
		{"nothing", `{}`, `{__name__="visits", channel="direct"} @-5000 +1`},
		{"what is no text", `{"url":7,"referrer":["a"]}`, `{__name__="visits", channel="direct"} @-5000 +1`},
	} {
		m := newMemory()
		g, _ := newTestIngesterWith(t, m, &memoryRules{text: rules})
		post(t, g, tc.event, "", "")
		if got := m.lines(); !slices.Equal(got, []string{tc.want}) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Trackers' events have the same, by what their aliases find.
func TestDerivedFieldsOfTrackers(t *testing.T) {
	const rules = `metrics: [{name: visits, type: counter, labels: {channel: channel, from: referrer_host}}]`
	for name, body := range map[string]string{
		"posthog":  `{"event":"a","properties":{"$host":"x.org","$referrer":"https://x.com/a"}}`,
		"umami":    `{"type":"event","payload":{"url":"/a","hostname":"x.org","referrer":"https://x.com/a"}}`,
		"snowplow": `{"e":"pv","url":"https://x.org/","refr":"https://x.com/a"}`,
		"segment":  `{"type":"page","properties":{"url":"https://x.org/","referrer":"https://x.com/a"}}`,
	} {
		m := newMemory()
		g, _ := newTestIngesterWith(t, m, &memoryRules{text: rules})
		format, err := FormatNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := format.Open(&Request{Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Events(t.Context(), tenant.Default, p, ""); err != nil {
			t.Fatal(err)
		}
		if got, want := m.lines(), []string{`{__name__="visits", channel="social", from="x.com"} @-5000 +1`}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestChannels(t *testing.T) {
	const rules = `metrics: [{name: visits, type: counter, labels: {channel: channel, name: source, how: medium}}]`
	for _, tc := range []struct{ source, medium, referrer, channel, name, how string }{
		{"", "", "", "direct", "(direct)", "(none)"},
		{"", "", "own.example", "internal", "(direct)", "(none)"},
		{"", "", "WWW.own.example", "internal", "(direct)", "(none)"},
		{"", "", "duckduckgo.com", "search", "duckduckgo", "organic"},
		{"", "", "news.google.com", "search", "google", "organic"},
		{"", "", "l.facebook.com", "social", "facebook", "social"},
		{"", "", "t.co", "social", "twitter", "social"},
		{"", "", "xt.co", "referral", "xt.co", "referral"},
		{"", "", "mail.google.com", "email", "mail.google.com", "email"},
		{"", "", "www.blog.example", "referral", "blog.example", "referral"},
		{"google", "cpc", "google.com", "paid", "google", "cpc"},
		{"", "paid_social", "", "paid", "", "paid_social"},
		{"", "Social", "", "social", "", "Social"},
		{"google", "organic", "", "search", "google", "organic"},
		{"", "affiliate", "", "affiliate", "", "affiliate"},
		{"partner", "", "google.com", "campaign", "partner", ""},
		{"", "banner", "", "campaign", "", "banner"},
	} {
		m := newMemory()
		g, _ := newTestIngesterWith(t, m, &memoryRules{text: rules})
		post(t, g, fmt.Sprintf(`{"host":"own.example","utm_source":%q,"utm_medium":%q,"referrer":%q}`, tc.source, tc.medium, tc.referrer), "", "")
		want := fmt.Sprintf(`{__name__="visits", channel=%q`, tc.channel)
		for _, l := range [][2]string{{"how", tc.how}, {"name", tc.name}} {
			if l[1] != "" {
				want += fmt.Sprintf(`, %s=%q`, l[0], l[1])
			}
		}
		if got := m.lines(); !slices.Equal(got, []string{want + "} @-5000 +1"}) {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}
