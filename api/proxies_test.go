package api

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/quipudb/quipu/api/auth"
)

// A client is who came to the first proxy that is trusted; what a client writes into the
// header itself says nothing.
func TestForwarded(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct {
		remote string
		header []string
		want   string
	}{
		{"192.0.2.1:5000", []string{"198.51.100.7"}, "192.0.2.1"}, // no proxy of ours
		{"10.0.0.1:5000", nil, "10.0.0.1"},
		{"10.0.0.1:5000", []string{"198.51.100.7"}, "198.51.100.7"},
		{"[::ffff:10.0.0.1]:5000", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7"}, // the first is what the client wrote
		{"10.0.0.1:5000", []string{"203.0.113.9", "198.51.100.7, 10.2.3.4"}, "198.51.100.7"},
		{"[fd00::1]:5000", []string{"[2001:db8::5]:443"}, "2001:db8::5"},
		{"10.0.0.1:5000", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"10.0.0.1:5000", []string{""}, "10.0.0.1"},
		{"10.0.0.1:5000", []string{"10.9.9.9"}, "10.9.9.9"},
	} {
		r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{}}
		for _, value := range tc.header {
			r.Header.Add("X-Forwarded-For", value)
		}
		if got := auth.ClientOf(forwarded(r, proxies)); got != tc.want {
			t.Errorf("%s with %q: %s, want %s", tc.remote, tc.header, got, tc.want)
		}
	}
}
