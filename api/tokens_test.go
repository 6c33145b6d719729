package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/quipudb/quipu/api/auth"
)

// issued starts a provider and a server that takes its tokens, and waits until it does.
func issued(t *testing.T, change func(*auth.Config)) (*provider, *guarded) {
	t.Helper()
	p := newProvider(t)
	p.client("probe", map[string]any{"tenant_id": "default"})
	c := auth.Config{Issuers: []auth.IssuerConfig{issuerOf(p)}}
	if change != nil {
		change(&c)
	}
	g := newGuarded(t, c)
	g.awaitKeys(t, p.token(t, "probe"))
	return p, g
}

// awaitKeys waits until the keys of a token's issuer are read: only then is anything but
// 503 said of it.
func (g *guarded) awaitKeys(t *testing.T, token string) {
	t.Helper()
	g.await(t, 403, "GET", "/metrics", "", bearer(token)...)
}

// A token is of the tenant that its claim names, and may do what its scopes say.
func TestTokens(t *testing.T) {
	p, g := issued(t, func(c *auth.Config) { c.Issuers[0].DefaultPermissions = []string{"rules:write"} })
	for _, c := range []struct {
		name   string
		claims map[string]any
		scopes []string // asked for
		may    string
	}{
		{"scope, a string", map[string]any{}, []string{"openid", "metrics:read"}, "read"},
		{"two scopes", map[string]any{}, []string{"metrics:read", "events:write"}, "read write"},
		{"none", map[string]any{}, []string{"openid"}, ""},
		{"scp, an array, as Okta has it", map[string]any{"scope": nil, "scp": []string{"metrics:read"}}, nil, "read"},
		{"scp, a string, as Entra has it", map[string]any{"scope": nil, "scp": "openid events:write"}, nil, "write"},
		{"an array that is none of strings", map[string]any{"scope": []any{1, nil, "metrics:read"}}, nil, "read"},
		{"no form of scopes", map[string]any{"scope": map[string]any{"metrics:read": true}}, nil, ""},
	} {
		c.claims["tenant_id"] = "a"
		p.client("c", c.claims)
		token := p.token(t, "c", c.scopes...)
		for what, path := range map[string]string{"read": "GET /api/v1/label/tenant/values", "write": "POST /api/v1/events"} {
			method, path, _ := strings.Cut(path, " ")
			code, text, _ := call(t, g.srv, method, path, `{"event":"x"}`, bearer(token)...)
			want := 403
			if strings.Contains(c.may, what) {
				want = 200
			}
			if code != want || what == "read" && code == 200 && !strings.Contains(text, `["a"]`) {
				t.Errorf("%s: to %s is answered %d %s, want %d", c.name, what, code, text, want)
			}
		}
		if code, _, _ := call(t, g.srv, "PUT", "/api/v1/event-rules", "metrics: []", bearer(token)...); code == 401 || code == 403 {
			t.Errorf("%s: what every token may do is answered %d", c.name, code)
		}
	}
	if n := g.appended[mustParse(t, "a")]; n != 2 {
		t.Errorf("tenant a has %v events, want 2", n)
	}
}

// What scopes give, where they are found and which claim names the tenant is configured
// for each issuer.
func TestIssuersAreConfigured(t *testing.T) {
	cognito := func(c *auth.IssuerConfig) { c.Audiences, c.ClientIDs = nil, []string{"other", "c"} }
	mapped := func(c *auth.IssuerConfig) {
		c.ScopeMap = map[string][]string{"quipu/read": {"metrics:read"}, "quipu/all": {"metrics:read", "admin"}}
	}
	for _, c := range []struct {
		name   string
		change func(*auth.IssuerConfig)
		claims map[string]any
		want   int // of reading
	}{
		{"a scope of the map", mapped, map[string]any{"scope": "quipu/read"}, 200},
		{"a permission that the map has not", mapped, map[string]any{"scope": "metrics:read"}, 403},
		{"roles of Entra", func(c *auth.IssuerConfig) { c.ScopeClaim = "roles" }, map[string]any{"roles": []string{"metrics:read"}}, 200},
		{"another claim for the tenant", func(c *auth.IssuerConfig) { c.TenantClaim = "https://quipu/tenant" }, map[string]any{"https://quipu/tenant": "a", "tenant_id": "b", "scope": "metrics:read"}, 200},
		{"it is missing", func(c *auth.IssuerConfig) { c.TenantClaim = "org" }, map[string]any{"scope": "metrics:read"}, 403},
		{"an access token of Cognito", cognito, map[string]any{"token_use": "access", "scope": "metrics:read"}, 200},
		{"an id token of Cognito", cognito, map[string]any{"token_use": "id", "scope": "metrics:read"}, 401},
		{"another client of Cognito", func(c *auth.IssuerConfig) { c.Audiences, c.ClientIDs = nil, []string{"other"} }, map[string]any{"token_use": "access", "scope": "metrics:read"}, 401},
		{"several audiences", nil, map[string]any{"aud": []string{"x", "quipu"}, "scope": "metrics:read"}, 200},
		{"an algorithm that is not taken", func(c *auth.IssuerConfig) { c.Algorithms = []string{"ES256"} }, map[string]any{"scope": "metrics:read"}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProvider(t)
			ic := issuerOf(p)
			if c.change != nil {
				c.change(&ic)
			}
			if c.claims["tenant_id"] == nil {
				c.claims["tenant_id"] = "a"
			}
			p.client("c", c.claims)
			g := newGuarded(t, auth.Config{Issuers: []auth.IssuerConfig{ic}})
			g.await(t, c.want, "GET", "/api/v1/labels", "", bearer(p.token(t, "c"))...)
		})
	}
}

// Grafana forwards an access token, which may be for somebody else, and an id token.
func TestGrafanaForwardsWhoIsLoggedIn(t *testing.T) {
	p, g := issued(t, nil)
	p.client("viewer", map[string]any{"tenant_id": "a"})
	p.client("graph", map[string]any{"tenant_id": "b", "aud": []string{"another-api"}})
	id := p.token(t, "viewer", "metrics:read")
	for name, headers := range map[string][]string{
		"the id token alone":                          {"X-ID-Token", id},
		"the access token is good":                    append(bearer(id), "X-ID-Token", p.token(t, "graph", "metrics:read")),
		"the access token is for another service":     append(bearer(p.token(t, "graph", "metrics:read")), "X-ID-Token", id),
		"the access token is opaque, as Google's are": append(bearer("ya29.opaque"), "X-ID-Token", id),
	} {
		if code, text, _ := call(t, g.srv, "GET", "/api/v1/label/tenant/values", "", headers...); code != 200 || !strings.Contains(text, `["a"]`) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if code, _, _ := call(t, g.srv, "GET", "/api/v1/labels", "", append(bearer("opaque"), "X-ID-Token", p.token(t, "graph", "metrics:read"))...); code != 401 {
		t.Errorf("two wrong ones: %d", code)
	}
}

// Where the tenant's plan requires it a token names a live key of its tenant, which its
// requests are charged to.
func TestTokensThatNameAKey(t *testing.T) {
	p, g := issued(t, func(c *auth.Config) {
		c.Plans = map[string]auth.Plan{"strict": {RequireAPIKey: true}, "small": {EventsPerDay: 2}}
	})
	mine, _ := g.keyOf(t, auth.NewKey{Tenant: "a", Permissions: []string{"events:write"}, Plan: "small"})
	others, _ := g.keyOf(t, auth.NewKey{Tenant: "b", Permissions: []string{"events:write"}})
	for name, c := range map[string]struct {
		key  any
		want int
	}{
		"none is required of this tenant": {nil, 200},
		"another tenant's":                {others.ID, 403},
		"none that there is":              {"abcdefghijkl", 403},
		"no id":                           {[]string{mine.ID}, 403},
	} {
		claims := map[string]any{"tenant_id": "a", "name": name}
		if c.key != nil {
			claims["api_key"] = c.key
		}
		p.client("c", claims)
		if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(p.token(t, "c", "metrics:read"))...); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, text, c.want)
		}
	}
	p.client("c", map[string]any{"tenant_id": "a", "api_key": mine.ID})
	token := p.token(t, "c", "events:write")
	for i, want := range []int{200, 200, 429} {
		if code, text, header := call(t, g.srv, "POST", "/api/v1/events", `{"event":"x"}`, bearer(token)...); code != want || (code == 429) != (header.Get("Retry-After") != "") {
			t.Errorf("event %d: %d %s, want %d", i, code, text, want)
		}
	}
	if _, err := g.auth.Keys().Revoke(mine.ID); err != nil {
		t.Fatal(err)
	}
	g.await(t, 403, "POST", "/api/v1/events", `{"event":"x"}`, bearer(token)...)
}

// A token that is verified is so once, until its issuer's keys change.
func TestTokensAreVerifiedOnce(t *testing.T) {
	p, g := issued(t, nil)
	p.client("c", map[string]any{"tenant_id": "a"})
	token := p.token(t, "c", "metrics:read")
	read := func() {
		t.Helper()
		if code, text, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(token)...); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
	}
	read()
	before := g.auth.Verified()
	for i := range 500 { // none of these makes it forget the good one
		junk := fmt.Sprintf("%s%d", token[:len(token)-4], 1000+i)
		if code, _, _ := call(t, g.srv, "GET", "/api/v1/labels", "", bearer(junk)...); code != 401 {
			t.Fatalf("a wrong signature is answered %d", code)
		}
	}
	wrong := g.auth.Verified() - before
	read()
	if n := g.auth.Verified() - before; n != wrong {
		t.Errorf("the good token was verified again")
	}
}
