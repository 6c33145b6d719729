package enrich

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const places = "../../testdata/GeoLite2-City-Test.mmdb"

// What user agents tell, and which are of programs.
func TestAgents(t *testing.T) {
	for _, tc := range []struct {
		text, browser, os, device string
		bot                       bool
	}{
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox", "Windows", "desktop", false},
		{"Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1", "Safari", "iOS", "tablet", false},
		// A make of phones, whose name has that of programs in it.
		{"Mozilla/5.0 (Linux; Android 11; CUBOT X30) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36", "Chrome", "Android", "mobile", false},
		{"Mozilla/5.0 (Linux; U; Android 4.1.2; en-us; GT-I8262) AppleWebKit/534.30 (KHTML, like Gecko) Version/4.0 Mobile Safari/534.30", "Android Browser", "Android", "mobile", false},
		{"MyApp/3 CFNetwork/672.0.8 Darwin/14.0.0", "MyApp", "iOS", "mobile", false},
		{"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot", "", "", true},
		{"curl/8.5.0", "curl", "", "", true},
		{"Mozilla/5.0", "", "", "", true},
	} {
		a := newAgent(tc.text)
		if string(a.Browser) != tc.browser && tc.browser != "" || string(a.OS) != tc.os || string(a.Device) != tc.device || a.Bot != tc.bot {
			t.Errorf("%s: %s, %s, %s, bot %t", tc.text, a.Browser, a.OS, a.Device, a.Bot)
		}
	}
}

// A database that is replaced is read again, without a batch that waits for it; one that
// is wrong leaves that before in use.
func TestPlacesAreReadAgain(t *testing.T) {
	src, err := os.ReadFile(places)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "places.mmdb")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(src)
	now := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	e, err := New(Options{Places: name, Registerer: prometheus.NewRegistry(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	c := e.NewCache()
	// look returns what is in use once the file has been looked at.
	look := func() *database {
		t.Helper()
		now = now.Add(lookEvery)
		c.Begin()
		e.loading.Lock()
		defer e.loading.Unlock()
		c.Begin()
		if p := c.Place([]byte("81.2.69.142")); string(p.Country) != "GB" || string(p.City) != "London" {
			t.Errorf("the address is in %s, %s", p.City, p.Country)
		}
		return e.database.Load()
	}
	first := look()
	write([]byte("no database"))
	if look() != first {
		t.Error("a file that is no database is in use")
	}
	write(src)
	if err := os.Chtimes(name, now, now); err != nil {
		t.Fatal(err)
	}
	if look() == first {
		t.Error("a file that was replaced is not read again")
	}
}
