package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// signer is an issuer of which only the keys are served.
type signer struct {
	url     string
	private ed25519.PrivateKey
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{private: private}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","use":"sig","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// config takes the signer's tokens.
func (s *signer) config() Config {
	return Config{Issuers: []IssuerConfig{{Issuer: s.url, JWKSURL: s.url + "/keys", Audiences: []string{"quipu"}}}}
}

func (s *signer) token(t testing.TB, subject string, now time.Time) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": s.url, "aud": "quipu", "sub": subject, "tenant_id": "a", "scope": "metrics:read", "exp": now.Add(time.Hour).Unix(),
		"groups": strings.Repeat("g", 600), // as long as tokens are
	})
	token.Header["kid"] = "k"
	text, err := token.SignedString(s.private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// withCredential is a request that carries text.
func withCredential(text string) *http.Request {
	return &http.Request{RemoteAddr: "192.0.2.1:9", Header: http.Header{"Authorization": {"Bearer " + text}}}
}

// benched is an authenticator that knows a key and the keys of a signer.
func benched(t testing.TB) (a *Authenticator, key string, s *signer) {
	t.Helper()
	s = newSigner(t)
	config := s.config()
	config.Plans = map[string]Plan{"p": {EventsPerDay: 1e15, RequestsPerDay: 1e15, RequestsPerSecond: 1e9}}
	a = newTest(t, t.TempDir(), newClock(), config)
	a.ReadIssuers(t.Context())
	_, key, err := a.Keys().Create(NewKey{Tenant: "a", Permissions: []string{"metrics:read"}, Plan: "p"})
	if err != nil {
		t.Fatal(err)
	}
	a.Refresh()
	return a, key, s
}

// BenchmarkAuthenticate is what a request costs for who makes it.
func BenchmarkAuthenticate(b *testing.B) {
	a, key, s := benched(b)
	token := s.token(b, "me", testStart)
	junk := token[:len(token)-8] + "AAAAAAAA"
	badKey := strings.Repeat("x", keyLen)
	for _, c := range []struct{ name, text string }{
		{"key", key}, {"token", token}, {"forged-token", junk}, {"no-credential-of-ours", badKey},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := withCredential(c.text)
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = a.Identify(r, Any(MetricsRead), "")
			}
		})
	}
}

// A credential that is known costs no memory.
func TestKnownCredentialsAllocateNothing(t *testing.T) {
	a, key, s := benched(t)
	for name, text := range map[string]string{"key": key, "token": s.token(t, "me", testStart)} {
		r := withCredential(text)
		if _, _, err := a.Identify(r, Any(MetricsRead), ""); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { _, _, _ = a.Identify(r, Any(MetricsRead), "") }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// What is kept of tokens is bounded, and those that are wrong have no part of it.
func TestTokenCacheIsBounded(t *testing.T) {
	a, _, s := benched(t)
	a.rules.Load().tokens.max = 10
	good := s.token(t, "good", testStart)
	ask := func(text string) bool {
		_, _, err := a.Identify(withCredential(text), Any(MetricsRead), "")
		return err == nil
	}
	if !ask(good) {
		t.Fatal("a good token was refused")
	}
	for i := range 1000 {
		if ask(fmt.Sprintf("%s%06dAA", good[:len(good)-8], i)) {
			t.Fatal("a forged token was taken")
		}
	}
	before := a.Verified()
	if !ask(good) || a.Verified() != before {
		t.Error("forged tokens had a good one forgotten")
	}
	for i := range 100 {
		if !ask(s.token(t, fmt.Sprint("user ", i), testStart)) {
			t.Fatal("a good token was refused")
		}
	}
	if n := len(a.rules.Load().tokens.by); n > 10 {
		t.Errorf("%d tokens are kept, at most 10 should be", n)
	}
}

// A kept token is good until it expires, with the leeway that clocks have.
func TestKeptTokensExpire(t *testing.T) {
	s, c := newSigner(t), newClock()
	a := newTest(t, t.TempDir(), c, s.config())
	a.ReadIssuers(t.Context())
	r := withCredential(s.token(t, "me", testStart))
	for _, at := range []struct {
		after time.Duration
		ok    bool
	}{{0, true}, {time.Hour, true}, {time.Hour + leeway - time.Second, true}, {time.Hour + leeway, false}, {time.Hour + 2*leeway, false}} {
		c.set(testStart.Add(at.after))
		if _, _, err := a.Identify(r, Any(MetricsRead), ""); (err == nil) != at.ok {
			t.Errorf("after %s: %v", at.after, err)
		}
	}
}
