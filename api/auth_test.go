package api

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
)

// guarded is a server that asks for credentials.
type guarded struct {
	*world
	srv   *httptest.Server
	auth  *auth.Authenticator
	dir   string
	audit string // its file
}

// newGuarded starts a server over a new directory, with the configuration given.
func newGuarded(t testing.TB, c auth.Config) *guarded {
	t.Helper()
	return newGuardedLog(t, c, slog.New(slog.DiscardHandler))
}

// newGuardedLog starts one with a log.
func newGuardedLog(t testing.TB, c auth.Config, logger *slog.Logger) *guarded {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	g := &guarded{dir: t.TempDir()}
	g.audit = filepath.Join(g.dir, "@audit", "audit.log")
	audit, err := auth.OpenAuditLog(g.audit, time.Now, logger)
	if err != nil {
		t.Fatal(err)
	}
	g.auth, err = auth.New(auth.Options{DataDir: g.dir, Config: c, Audit: audit, Logger: logger, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.auth.Close(); err != nil {
			t.Error(err)
		}
		if err := audit.Close(); err != nil {
			t.Error(err)
		}
	})
	g.world, g.srv = newWorld(t, func(o *Options) {
		o.Auth, o.Audit, o.TenantHeader, o.Now, o.Logger = g.auth, audit, "", time.Now, logger
	})
	return g
}

// key makes a key.
func (g *guarded) key(t testing.TB, of string, permissions ...string) string {
	t.Helper()
	_, text := g.keyOf(t, auth.NewKey{Tenant: of, Permissions: permissions})
	return text
}

func (g *guarded) keyOf(t testing.TB, n auth.NewKey) (auth.Key, string) {
	t.Helper()
	k, text, err := g.auth.Keys().Create(n)
	if err != nil {
		t.Fatal(err)
	}
	g.auth.Refresh()
	return k, text
}

// issuerOf is what is configured for a provider whose tokens are for "quipu".
func issuerOf(p *provider) auth.IssuerConfig {
	return auth.IssuerConfig{Issuer: p.url, Audiences: []string{"quipu"}, APIKeyClaim: "api_key"}
}

// await waits until a request is answered with a status.
func (g *guarded) await(t *testing.T, want int, method, path, body string, headers ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		code, text, _ := call(t, g.srv, method, path, body, headers...)
		if code == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %s is answered %d %s, want %d", method, path, code, text, want)
		}
	}
}

func bearer(text string) []string { return []string{"Authorization", "Bearer " + text} }

// Every route but health, readiness and the page needs a credential.
func TestRoutesNeedCredentials(t *testing.T) {
	g := newGuarded(t, auth.Config{})
	for _, path := range []string{"/-/healthy", "/-/ready", "/", "/index.html"} {
		if code, text, _ := call(t, g.srv, "GET", path, ""); code != 200 {
			t.Errorf("GET %s is answered %d %s", path, code, text)
		}
	}
	for _, path := range []string{
		"/metrics", "/debug/pprof/", "/debug/pprof/profile?seconds=1", "/debug/pprof/cmdline", "/-/reload", "/api/v1/query?query=1", "/api/v1/labels",
		"/api/v1/event-rules", "/api/v1/explain", "/api/v1/status/range", "/api/v1/status/runtimeinfo", "/api/v1/status/buildinfo",
		"/api/v1/metadata", "/api/v1/admin/keys", "/api/v1/admin/keys/abc", "/api/v1/rules",
	} {
		for _, prefix := range []string{"", "/prometheus"} {
			code, text, header := call(t, g.srv, "GET", prefix+path, "")
			if code != 401 || !strings.HasPrefix(text, `{"status":"error","errorType":"unauthorized","error":`) || header.Get("WWW-Authenticate") != `Bearer realm="quipu"` {
				t.Errorf("GET %s is answered %d %s %v", prefix+path, code, text, header)
			}
		}
	}
	for _, path := range []string{"/api/v1/events", "/v1/track", "/batch/", "/api/event"} {
		if code, text, _ := call(t, g.srv, "POST", path, `{"event":"a","type":"track","userId":"u","name":"pageview","url":"https://a/","domain":"a"}`, "Content-Type", "application/json"); code != 401 {
			t.Errorf("POST %s is answered %d %s", path, code, text)
		}
	}
	if code, _, _ := call(t, g.srv, "OPTIONS", "/api/v1/query", "", "Origin", "https://page.example"); code/100 != 2 {
		t.Errorf("a browser that asks whether it may ask is answered %d", code)
	}
}

// A credential does what its permissions say, to its own tenant.
func TestPermissionsOfKeys(t *testing.T) {
	g := newGuarded(t, auth.Config{})
	keys := map[string]string{
		"writer": g.key(t, "a", "events:write"), "reader": g.key(t, "a", "metrics:read"), "rules": g.key(t, "a", "rules:write"),
		"admin": g.key(t, "a", "admin"), "scraper": g.key(t, "*", "process:read"), "operator": g.key(t, "*", "admin"),
	}
	event := `{"event":"x"}`
	rules := `metrics: [{name: x_total, type: counter}]`
	for _, c := range []struct {
		method, path, body string
		may                string // the keys
		status             int    // for those
	}{
		{"POST", "/api/v1/events", event, "writer admin operator", 200},
		{"GET", "/api/v1/query?query=of_a", "", "reader admin operator", 200},
		{"PUT", "/api/v1/event-rules", rules, "rules admin operator", 503}, // nothing keeps rules here
		{"GET", "/api/v1/event-rules", "", "reader admin operator", 200},
		{"GET", "/api/v1/admin/keys", "", "admin operator", 200},
		{"POST", "/api/v1/admin/tsdb/delete_series", "", "admin operator", 400}, // it names no series
		{"POST", "/-/reload", "", "operator", 200},
		{"GET", "/metrics", "", "scraper operator", 200},
		{"GET", "/debug/pprof/cmdline", "", "scraper operator", 200},
		{"GET", "/api/v1/status/runtimeinfo", "", "scraper operator", 200},
	} {
		for name, key := range keys {
			code, text, _ := call(t, g.srv, c.method, c.path, c.body, bearer(key)...)
			switch may := strings.Contains(" "+c.may+" ", " "+name+" "); {
			case may && code != c.status:
				t.Errorf("%s: %s %s is answered %d %s, want %d", name, c.method, c.path, code, text, c.status)
			case !may && (code != 403 || !strings.Contains(text, `"errorType":"forbidden"`) || !strings.Contains(text, "it needs ")):
				t.Errorf("%s: %s %s is answered %d %s, want 403 with the permission", name, c.method, c.path, code, text)
			}
		}
	}
	if id := mustParse(t, "a"); g.appended[id] != 2 {
		t.Errorf("tenant a has %v events, want those of writer and admin", g.appended[id])
	}
}

// The header that names a tenant gives no more than the credential does.
func TestTenantHeaderGrantsNothing(t *testing.T) {
	g := newGuarded(t, auth.Config{})
	mine, operator := g.key(t, "a", "admin"), g.key(t, "*", "admin")
	for _, c := range []struct {
		name, key, header string
		status            int
		want              string
	}{
		{"its own", mine, "a", 200, `"tenant":"a"`},
		{"none", mine, "", 200, `"tenant":"a"`},
		{"another", mine, "b", 403, "not of the tenant"},
		{"several", mine, "a|b", 403, "not of the tenant"},
		{"no name", mine, "../b", 403, "not of the tenant"},
		{"the operator's", operator, "b", 200, `"tenant":"b"`},
		{"the operator's, none", operator, "", 200, `"tenant":"default"`},
		{"the operator's, no name", operator, "../b", 400, "tenant id"},
	} {
		headers := bearer(c.key)
		if c.header != "" {
			headers = append(headers, "X-Scope-OrgID", c.header)
		}
		code, text, _ := call(t, g.srv, "GET", "/api/v1/series?match[]={__name__=~%22of_.*%22}", "", headers...)
		if code != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, code, text, c.status, c.want)
		}
	}
	for _, path := range []string{"/api/v1/admin/keys", "/metrics"} {
		if code, text, _ := call(t, g.srv, "GET", path, "", append(bearer(mine), "X-Scope-OrgID", "b")...); code != 403 || !strings.Contains(text, "that the header X-Scope-OrgID names") {
			t.Errorf("%s of another tenant: %d %s", path, code, text)
		}
	}
	if code, _, _ := call(t, g.srv, "GET", "/api/v1/labels", "", append(bearer(operator), "X-Scope-OrgID", "a", "X-Scope-OrgID", "b")...); code != 400 {
		t.Errorf("two headers: %d", code)
	}
}

// Keys are taken from wherever clients can put one, and the first of several decides.
func TestWhereKeysAreTakenFrom(t *testing.T) {
	g := newGuarded(t, auth.Config{})
	key, other := g.key(t, "a", "admin"), g.key(t, "b", "admin")
	basic := func(user, password string) []string {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return []string{"Authorization", r.Header.Get("Authorization")}
	}
	for name, headers := range map[string][]string{
		"bearer":                       bearer(key),
		"lower case":                   {"Authorization", "bearer " + key},
		"X-API-Key":                    {"X-API-Key", key},
		"password":                     basic("grafana", key),
		"user, as Segment does it":     basic(key, ""),
		"X-API-Key before another one": append(bearer(other), "X-API-Key", key),
	} {
		if code, text, _ := call(t, g.srv, "GET", "/api/v1/label/tenant/values", "", headers...); code != 200 || !strings.Contains(text, `["a"]`) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	for name, headers := range map[string][]string{
		"cookie":                                {"Cookie", "key=" + key},
		"two":                                   {"Authorization", "Bearer " + key, "Authorization", "Bearer " + key},
		"another way":                           {"Authorization", "Digest " + key},
		"cut":                                   bearer(key[:len(key)-1]),
		"with a typo":                           bearer(strings.Replace(key, key[20:21], string(key[20]^1), 1)),
		"of other id":                           bearer(key[:3] + other[3:15] + key[15:]),
		"wrong X-API-Key beside a right bearer": append(bearer(key), "X-API-Key", "x"),
	} {
		code, text, header := call(t, g.srv, "GET", "/api/v1/labels", "", headers...)
		if code != 401 || header.Get("WWW-Authenticate") == "" || strings.Contains(text, key) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	// In the body, of trackers' formats alone.
	for path, body := range map[string]string{
		"/v1/track":  `{"type":"track","event":"x","userId":"u","writeKey":"KEY"}`,
		"/capture/":  `{"event":"x","distinct_id":"u","api_key":"KEY"}`,
		"/api/event": `{"name":"pageview","url":"https://a/","domain":"KEY"}`,
	} {
		for key, want := range map[string]int{key: 200, "qp_no": 401, "": 401} {
			code, text, _ := call(t, g.srv, "POST", path, strings.ReplaceAll(body, "KEY", key), "Content-Type", "application/json")
			if code != want && !(want == 200 && code/100 == 2) && !(key == "" && code == 400) {
				t.Errorf("POST %s with the key %q: %d %s, want %d", path, key, code, text, want)
			}
		}
	}
	if id := mustParse(t, "a"); g.appended[id] != 3 {
		t.Errorf("tenant a has %v events, want 3", g.appended[id])
	}
}

func mustParse(t testing.TB, name string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
