package ingest

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/tenant"
)

// newEnricher is one without a database of places.
func newEnricher(t testing.TB) *enrich.Enricher {
	t.Helper()
	e, err := offlineEnricher()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Addresses that MaxMind's test database knows, and user agents.
const (
	addressInLondon = "81.2.69.142"
	firefox         = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
	phone           = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
	crawler         = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
)

// enriched posts a request whose events' labels are all that enriching finds, and
// returns what was counted.
func enriched(t *testing.T, settings func(*tenant.Settings), format string, r *Request) ([]string, Result) {
	t.Helper()
	const rules = `metrics: [{name: hits, type: counter, labels: {browser: browser, os: os, device: device, bot: bot, country: country, city: city}}]`
	m := newMemory()
	if settings != nil {
		settings(&m.profile.Settings)
	}
	e, err := enrich.New(enrich.Options{Places: "../testdata/GeoLite2-City-Test.mmdb", Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(Options{Store: m, Rules: &memoryRules{text: rules}, Registerer: prometheus.NewRegistry(), Enricher: e, Now: func() time.Time { return time.UnixMilli(present) }})
	if err != nil {
		t.Fatal(err)
	}
	f, err := FormatNamed(format)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	result, err := g.Events(t.Context(), tenant.Default, p, "")
	if err != nil {
		t.Fatal(err)
	}
	return m.lines(), result
}

// What an event says itself comes first, then what its own user agent and address tell,
// then those of the page that sent it. A library on a server says nothing by its own.
func TestEnrichment(t *testing.T) {
	page := http.Header{"Origin": {"https://shop.example"}, "User-Agent": {phone}}
	for _, tc := range []struct {
		name, format, body string
		header             http.Header
		want               string
	}{
		{"the event's own", "plain", `{"user_agent":"` + firefox + `","ip":"` + addressInLondon + `"}`, page,
			`bot="false", browser="Firefox", city="London", country="GB", device="desktop", os="Windows"`},
		{"the page's", "plain", `{}`, page, `bot="false", browser="Safari", city="London", country="GB", device="mobile", os="iOS"`},
		{"a library's", "plain", `{}`, http.Header{"User-Agent": {"Go-http-client/1.1"}}, ``},
		{"what the event says", "plain", `{"browser":"Lynx","country":"NZ"}`, page, `bot="false", browser="Lynx", city="London", country="NZ", device="mobile", os="iOS"`},
		{"a program", "plain", `{"user_agent":"` + crawler + `"}`, nil, `bot="true", browser="Googlebot"`},
		{"a format of pages", "plausible", `{"n":"a"}`, http.Header{"User-Agent": {firefox}}, `bot="false", browser="Firefox", city="London", country="GB", device="desktop", os="Windows"`},
		{"a context", "segment", `{"type":"page","context":{"userAgent":"` + firefox + `","ip":"` + addressInLondon + `"}}`, http.Header{"User-Agent": {"analytics-node/3"}},
			`bot="false", browser="Firefox", city="London", country="GB", device="desktop", os="Windows"`},
		{"no address", "plain", `{"ip":"here"}`, nil, ``},
		{"an address with a port", "plain", `{"ip":"` + addressInLondon + `:443"}`, nil, `city="London", country="GB"`},
	} {
		got, _ := enriched(t, nil, tc.format, &Request{Body: []byte(tc.body), Header: tc.header, Client: addressInLondon})
		want := `{__name__="hits", ` + tc.want + `} @-5000 +1`
		if tc.want == "" {
			want = `{__name__="hits"} @-5000 +1`
		}
		if !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q", tc.name, got, want)
		}
	}
}

// A tenant may leave out programs, and visitors who ask not to be tracked.
func TestFilters(t *testing.T) {
	bots := func(s *tenant.Settings) { s.FilterBots = true }
	privacy := func(s *tenant.Settings) { s.HonourDoNotTrack = true }
	page := func(more ...string) http.Header {
		h := http.Header{"Origin": {"https://shop.example"}, "User-Agent": {firefox}}
		for _, name := range more {
			h.Set(name, "1")
		}
		return h
	}
	for _, tc := range []struct {
		name     string
		settings func(*tenant.Settings)
		body     string
		header   http.Header
		filtered int
	}{
		{"programs", bots, `{"user_agent":"` + crawler + `"}`, nil, 1},
		{"a person", bots, `{"user_agent":"` + firefox + `"}`, nil, 0},
		{"nobody's user agent", bots, `{}`, http.Header{"User-Agent": {"curl/8"}}, 0},
		{"programs where nobody minds", nil, `{"user_agent":"` + crawler + `"}`, nil, 0},
		{"Do Not Track", privacy, `{}`, page("DNT"), 1},
		{"Global Privacy Control", privacy, `{}`, page("Sec-GPC"), 1},
		{"no wish", privacy, `{}`, page(), 0},
		{"Do Not Track where it is not honoured", nil, `{}`, page("DNT"), 0},
	} {
		lines, result := enriched(t, tc.settings, "plain", &Request{Body: []byte(tc.body), Header: tc.header})
		if result.Filtered != tc.filtered || result.Accepted != 1-tc.filtered || len(lines) != 1-tc.filtered {
			t.Errorf("%s: %+v %q", tc.name, result, lines)
		}
	}
}

// Addresses are in no label, whatever a rule says.
func TestAddressesAreNoLabels(t *testing.T) {
	for _, path := range []string{"ip", "further_data.client_ip", "context.ip", "$ip"} {
		_, err := parseRules("events.yaml", []byte("metrics: [{name: hits, type: counter, labels: {a: "+path+"}}]"))
		if err == nil || !strings.Contains(err.Error(), "addresses are not stored") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
