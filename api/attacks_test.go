package api

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/quipudb/quipu/api/auth"
)

// refusalTimeMax is how long a token may take to be refused, on a machine that does other
// work; the longest that one waits is for keys to be read again.
const refusalTimeMax = 15 * time.Second

// mustRefuse fails the test unless a token is refused, soon.
func (g *guarded) mustRefuse(t *testing.T, name, token string, want ...int) {
	t.Helper()
	began := time.Now()
	code, text, header := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(token)...)
	if took := time.Since(began); took > refusalTimeMax {
		t.Errorf("%s: it took %s", name, took)
	}
	if len(want) == 0 {
		want = []int{401, 403}
	}
	for _, w := range want {
		if code == w && strings.Contains(text, `"status":"error"`) && (code != 401 || header.Get("WWW-Authenticate") != "") {
			return
		}
	}
	t.Errorf("%s: it is answered %d %s, want %v", name, code, text, want)
}

// Every way to come by another's data with a token that is not right is refused.
func TestTokenAttacks(t *testing.T) {
	p, g := issued(t, nil)
	p.client("good", map[string]any{"tenant_id": "a"})
	good := p.token(t, "good", "metrics:read")
	if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(good)...); code != 200 {
		t.Fatalf("a good token is answered %d %s", code, text)
	}
	t.Run("claims", func(t *testing.T) { attackClaims(t, p, g) })
	t.Run("signatures", func(t *testing.T) { attackSignatures(t, p, g) })
	t.Run("forms", func(t *testing.T) { attackForms(t, p, g, good) })
	if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(good)...); code != 200 {
		t.Errorf("after all that a good token is answered %d %s", code, text)
	}
}

// attackClaims has the real provider issue tokens that are right but for a claim.
func attackClaims(t *testing.T, p *provider, g *guarded) {
	for name, claims := range map[string]map[string]any{
		"another audience":        {"aud": []string{"someone-else"}},
		"an audience that begins": {"aud": []string{"quipu-staging"}},
		"no audience":             {"aud": []string{}},
		"expired":                 {"lifetime": -time.Minute},
		"no tenant":               {"tenant_id": nil},
		"an empty tenant":         {"tenant_id": ""},
		"tenants":                 {"tenant_id": []string{"a", "b"}},
		"one tenant in an array":  {"tenant_id": []string{"a"}},
		"a number":                {"tenant_id": 7},
		"an object":               {"tenant_id": map[string]any{"a": true}},
		"a path":                  {"tenant_id": "../a"},
		"the directory above":     {"tenant_id": ".."},
		"a path below":            {"tenant_id": "a/b"},
		"all tenants":             {"tenant_id": "*"},
		"the keys' directory":     {"tenant_id": "@auth"},
		"with a NUL":              {"tenant_id": "a\x00"},
		"with a line break":       {"tenant_id": "a\nb"},
		"longer than a name":      {"tenant_id": strings.Repeat("a", 65)},
		"letters of elsewhere":    {"tenant_id": "а"}, // Cyrillic
	} {
		if _, ok := claims["tenant_id"]; !ok {
			claims["tenant_id"] = "a"
		}
		p.client("bad", claims)
		g.mustRefuse(t, name, p.token(t, "bad", "metrics:read"))
	}
}

// rightClaims are those of a token that is right.
func rightClaims(issuer string) map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": issuer, "aud": "quipu", "sub": "me", "tenant_id": "a", "scope": "metrics:read",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

// attackSignatures forges tokens.
func attackSignatures(t *testing.T, p *provider, g *guarded) {
	p.mu.Lock()
	real := p.signing
	p.mu.Unlock()
	private := real.private.(*rsa.PrivateKey)
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	other, ec := newRSAKey(t, "first"), newECKey(t, "first")
	right := rightClaims(p.url)
	none, unsafe := jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType
	for name, token := range map[string]string{
		"none":                             forge(t, none, unsafe, real.id, right),
		"none and no kid":                  forge(t, none, unsafe, nil, right),
		"HMAC by the public key":           forge(t, jwt.SigningMethodHS256, public, real.id, right),
		"HMAC by the key's DER":            forge(t, jwt.SigningMethodHS512, der, real.id, right),
		"HMAC by its modulus":              forge(t, jwt.SigningMethodHS256, private.N.Bytes(), real.id, right),
		"HMAC by nothing":                  forge(t, jwt.SigningMethodHS256, []byte{}, real.id, right),
		"another key of the same kid":      forge(t, jwt.SigningMethodRS256, other.private, real.id, right),
		"another kind of key":              forge(t, jwt.SigningMethodES256, ec.private, real.id, right),
		"another algorithm than the key's": forge(t, jwt.SigningMethodPS256, private, real.id, right),
		"an unknown kid":                   forge(t, jwt.SigningMethodRS256, private, "never-seen", right),
		"a kid that is a path":             forge(t, jwt.SigningMethodRS256, private, "../../keys", right),
		"a kid that is no string":          forge(t, jwt.SigningMethodRS256, private, 7, right),
		"a kid that is an array":           forge(t, jwt.SigningMethodRS256, private, []string{real.id}, right),
	} {
		g.mustRefuse(t, name, token, 401)
	}
	// Right signatures, of what no provider would sign.
	for name, change := range map[string]map[string]any{
		"another issuer":               {"iss": "https://issuer.example"},
		"an issuer with a slash":       {"iss": p.url + "/"},
		"no issuer":                    {"iss": nil},
		"issuers":                      {"iss": []string{p.url}},
		"not valid yet":                {"nbf": time.Now().Add(time.Hour).Unix()},
		"issued in the future":         {"iat": time.Now().Add(time.Hour).Unix()},
		"never expires":                {"exp": nil},
		"expires at no time":           {"exp": "tomorrow"},
		"expired a minute ago":         {"exp": time.Now().Add(-time.Minute).Unix()},
		"an audience that is a number": {"aud": 7},
	} {
		claims := maps.Clone(right)
		for k, v := range change {
			if claims[k] = v; v == nil {
				delete(claims, k)
			}
		}
		g.mustRefuse(t, name, forge(t, jwt.SigningMethodRS256, private, real.id, claims), 401)
	}
	critical := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims(right))
	critical.Header["kid"], critical.Header["crit"] = real.id, []string{"exp"}
	text, err := critical.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	g.mustRefuse(t, "a critical header", text, 401)
	embedded := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims(right))
	embedded.Header["kid"], embedded.Header["jku"] = "mine", "http://127.0.0.1:1/keys"
	embedded.Header["jwk"] = map[string]any{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(other.private.(*rsa.PrivateKey).N.Bytes()), "e": "AQAB"}
	if text, err = embedded.SignedString(other.private); err != nil {
		t.Fatal(err)
	}
	g.mustRefuse(t, "a key of its own in the header", text, 401)
}

// attackForms changes the text of a good token.
func attackForms(t *testing.T, p *provider, g *guarded, good string) {
	parts := strings.Split(good, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(claims), `"tenant_id":"a"`, `"tenant_id":"b"`, 1)))
	twice := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(claims), `"tenant_id":"a"`, `"tenant_id":"a","tenant_id":"b"`, 1)))
	deep := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + p.url + `","x":` + strings.Repeat("[", 5000)))
	for name, token := range map[string]string{
		"another tenant":         parts[0] + "." + changed + "." + parts[2],
		"a tenant twice":         parts[0] + "." + twice + "." + parts[2],
		"no signature":           parts[0] + "." + parts[1] + ".",
		"two parts":              parts[0] + "." + parts[1],
		"five parts":             good + "." + parts[0] + "." + parts[1],
		"dots":                   "..",
		"nothing":                "",
		"no base64":              "%%%.%%%.%%%",
		"no JSON":                "e30.eA.eA",
		"padded":                 parts[0] + "=." + parts[1] + "." + parts[2],
		"17 KiB":                 parts[0] + "." + parts[1] + "." + strings.Repeat("A", 17<<10),
		"deep JSON":              parts[0] + "." + deep + "." + parts[2],
		"a bit of the signature": good[:len(good)-10] + string(good[len(good)-10]^1) + good[len(good)-9:],
	} {
		g.mustRefuse(t, name, token, 401)
	}
}

// Keys come and go while requests are made: a token of a new key is taken at once, one of
// a key that is withdrawn no more once the keys are read again.
func TestKeysRotateUnderLoad(t *testing.T) {
	p, g := issued(t, nil)
	p.client("c", map[string]any{"tenant_id": "a"})
	p.mu.Lock()
	first := p.signing
	p.mu.Unlock()
	old := p.token(t, "c", "metrics:read")
	if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(old)...); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	var failed atomic.Int64
	stop, load := make(chan struct{}), sync.WaitGroup{}
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if code, _, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(old)...); code != 200 {
					failed.Add(1)
				}
			}
		})
	}
	second := newECKey(t, "second")
	p.rotate(second, first)
	fresh := p.token(t, "c", "metrics:read")
	// Keys are read again for a kid that is not known, but not more often than that.
	g.await(t, 200, "GET", "/api/v1/labels", "", bearer(fresh)...)
	close(stop)
	load.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d requests of the key that stayed were refused", n)
	}
	fetches := p.fetches.Load()
	for i := range 50 {
		g.mustRefuse(t, "an unknown kid", forge(t, jwt.SigningMethodES256, second.private, fmt.Sprint("kid-", i), rightClaims(p.url)), 401)
	}
	if n := p.fetches.Load() - fetches; n > 1 {
		t.Errorf("50 unknown kids had the keys read %d times", n)
	}
	p.rotate(second)
	g.auth.ReadIssuers(t.Context())
	g.mustRefuse(t, "a token of a key that is withdrawn", old, 401)
	if code, _, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(fresh)...); code != 200 {
		t.Errorf("a token of the key that stayed: %d", code)
	}
}

// An issuer that lies or does not answer has its tokens refused in bounded time, and those
// of the others taken.
func TestIssuersThatMisbehave(t *testing.T) {
	key := newRSAKey(t, "k")
	n := base64.RawURLEncoding.EncodeToString(key.private.(*rsa.PrivateKey).N.Bytes())
	jwks := `{"keys":[{"kty":"RSA","use":"sig","kid":"k","n":"` + n + `","e":"AQAB"}]}`
	released := make(chan struct{})
	defer close(released)
	discovery := func(issuer, keys string) string {
		text, err := json.Marshal(map[string]string{"issuer": issuer, "jwks_uri": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := newProvider(t)
	good.client("c", map[string]any{"tenant_id": "a"})
	issuers := []auth.IssuerConfig{issuerOf(good)}
	urls := map[string]string{}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, url string){
		"hangs": func(_ http.ResponseWriter, r *http.Request, _ string) {
			select {
			case <-released:
			case <-r.Context().Done():
			}
		},
		"answers a byte at a time": func(w http.ResponseWriter, r *http.Request, _ string) {
			for tick := time.NewTicker(50 * time.Millisecond); ; {
				fmt.Fprint(w, " ")
				http.NewResponseController(w).Flush()
				select {
				case <-tick.C:
				case <-released:
					return
				case <-r.Context().Done():
					return
				}
			}
		},
		"says that it is another": func(w http.ResponseWriter, r *http.Request, url string) {
			fmt.Fprint(w, discovery("https://issuer.example", url+"/keys"))
		},
		"has its keys over http": func(w http.ResponseWriter, r *http.Request, url string) {
			fmt.Fprint(w, discovery(url, "http://192.0.2.1/keys"))
		},
		"has its keys in a file": func(w http.ResponseWriter, r *http.Request, url string) {
			fmt.Fprint(w, discovery(url, "file:///etc/passwd"))
		},
		"goes on for ever": func(w http.ResponseWriter, r *http.Request, url string) {
			fmt.Fprint(w, strings.Repeat(" ", 2<<20), discovery(url, url+"/keys"))
		},
		"fails":           func(w http.ResponseWriter, r *http.Request, _ string) { http.Error(w, "no", 500) },
		"says nothing":    func(w http.ResponseWriter, r *http.Request, _ string) {},
		"sends elsewhere": func(w http.ResponseWriter, r *http.Request, _ string) { http.Redirect(w, r, good.url+r.URL.Path, 302) },
		"has huge keys": func(w http.ResponseWriter, r *http.Request, url string) {
			if !strings.HasSuffix(r.URL.Path, "/keys") {
				fmt.Fprint(w, discovery(url, url+"/keys"))
				return
			}
			fmt.Fprint(w, strings.Replace(jwks, `{"keys":[`, `{"keys":[`+strings.Repeat(`{"kty":"oct","k":"AAAA"},`, 100_000), 1))
		},
		"has weak keys": func(w http.ResponseWriter, r *http.Request, url string) {
			if !strings.HasSuffix(r.URL.Path, "/keys") {
				fmt.Fprint(w, discovery(url, url+"/keys"))
				return
			}
			fmt.Fprint(w, strings.Replace(jwks, n, n[:100], 1))
		},
	} {
		var url string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, url) }))
		t.Cleanup(srv.CloseClientConnections)
		url = srv.URL
		urls[name] = url
		issuers = append(issuers, auth.IssuerConfig{Issuer: url, Audiences: []string{"quipu"}})
	}
	g := newGuarded(t, auth.Config{Issuers: issuers})
	g.await(t, 200, "GET", "/api/v1/labels", "", bearer(good.token(t, "c", "metrics:read"))...)
	for name, url := range urls {
		g.mustRefuse(t, name, forge(t, jwt.SigningMethodRS256, key.private, "k", rightClaims(url)), 401, 503)
	}
	if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(good.token(t, "c", "metrics:read"))...); code != 200 {
		t.Errorf("an issuer that is right: %d %s", code, text)
	}
}

// An issuer that is down when the server starts is tried again.
func TestIssuerThatComesUpLate(t *testing.T) {
	p := newProvider(t)
	p.client("c", map[string]any{"tenant_id": "a"})
	var up atomic.Bool
	handler := p.handler
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			http.Error(w, "not yet", http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	})
	g := newGuarded(t, auth.Config{Issuers: []auth.IssuerConfig{issuerOf(p)}})
	p.mu.Lock()
	token := forge(t, jwt.SigningMethodRS256, p.signing.private, p.signing.id, rightClaims(p.url))
	p.mu.Unlock()
	code, text, header := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(token)...)
	if code != 503 || !strings.Contains(text, "issuer could not be read yet") || header.Get("Retry-After") == "" {
		t.Errorf("while it is down: %d %s", code, text)
	}
	up.Store(true)
	g.await(t, 200, "GET", "/api/v1/labels", "", bearer(token)...)
}
