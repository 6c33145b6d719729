package auth

import (
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Whatever a request carries, nobody gets in who has no credential.
func FuzzCredential(f *testing.F) {
	a, err := New(Options{DataDir: f.TempDir(), Registerer: prometheus.NewRegistry(), Config: Config{
		Issuers: []IssuerConfig{{Issuer: "https://127.0.0.1:1", Audiences: []string{"quipu"}}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { a.Close() })
	key := "qp_abcdefghijkl_0123456789012345678901234567890123456789012"
	f.Add("Bearer "+key+checksum(key), "", "")
	f.Add("Basic Og==", "x", "..")
	f.Add("Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovLzEyNy4wLjAuMToxIn0.", "", "a.b.c")
	f.Fuzz(func(t *testing.T, authorization, apiKey, token string) {
		h := http.Header{}
		for name, value := range map[string]string{"Authorization": authorization, keyHeader: apiKey, tokenHeader: token} {
			if value != "" {
				h.Set(name, value)
			}
		}
		s, _, err := a.Identify(&http.Request{Header: h, RemoteAddr: "192.0.2.1:1"}, Any(MetricsRead), apiKey)
		if _, ok := AsRefusal(err); !ok || s != nil {
			t.Errorf("%v: %v, %v", h, s, err)
		}
	})
}

// Keys that an issuer publishes are read or refused, and those that are read are of a kind
// that can verify.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AQ"},{"kty":"oct","k":"AAAA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseKeySet(text)
		if err != nil {
			return
		}
		for id, keys := range s.byID {
			for _, k := range keys {
				fits := 0
				for _, alg := range algorithms {
					if k.fits(alg) {
						fits++
					}
				}
				if k.algorithm == "" && fits == 0 || k.fits("HS256") || k.fits("none") {
					t.Errorf("key %q: %+v", id, k)
				}
			}
		}
	})
}
