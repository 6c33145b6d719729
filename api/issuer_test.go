package api

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// provider is a real OpenID provider, of clients that log in with their own secret.
type provider struct {
	op.Storage // what client credentials do not need panics
	url        string
	handler    http.Handler
	fetches    atomic.Int64 // of its keys

	mu      sync.Mutex
	signing signingKey
	public  []op.Key
	// clients are the claims of each client's tokens; "aud" and "lifetime" are taken out.
	clients map[string]map[string]any
}

type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k signingKey) Key() any                                    { return k.private }
func (k signingKey) ID() string                                  { return k.id }

type publishedKey struct{ signingKey }

func (k publishedKey) Algorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k publishedKey) Key() any                           { return k.private.Public() }
func (k publishedKey) Use() string                        { return "sig" }

func newRSAKey(t testing.TB, id string) signingKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, jose.RS256, k}
}

func newECKey(t testing.TB, id string) signingKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, jose.ES256, k}
}

// newProvider starts a provider that signs with one key.
func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{clients: map[string]map[string]any{}}
	p.rotate(newRSAKey(t, "first"))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/keys") {
			p.fetches.Add(1)
		}
		p.handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	var err error
	p.handler, err = op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte("x")), SupportedScopes: []string{"openid"}}, p,
		op.StaticIssuer(p.url), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rotate signs with another key from now on, and publishes it with those of keep.
func (p *provider) rotate(k signingKey, keep ...signingKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signing, p.public = k, []op.Key{publishedKey{k}}
	for _, old := range keep {
		p.public = append(p.public, publishedKey{old})
	}
}

// client makes a client whose tokens have these claims.
func (p *provider) client(id string, claims map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[id] = claims
}

// token logs a client in and returns its access token.
func (p *provider) token(t testing.TB, client string, scopes ...string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {strings.Join(scopes, " ")}}
	req, err := http.NewRequest(http.MethodPost, p.url+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(client, "s3cret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("the provider answered %d %s", resp.StatusCode, text)
	}
	return answer.AccessToken
}

// forge signs claims of one's own, with the header that method, key and id make.
func forge(t testing.TB, method jwt.SigningMethod, key any, kid any, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
	if kid != nil {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (p *provider) SigningKey(context.Context) (op.SigningKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signing, nil
}

func (p *provider) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256, jose.ES256}, nil
}

func (p *provider) KeySet(context.Context) ([]op.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.public, nil
}

func (p *provider) Health(context.Context) error { return nil }

func (p *provider) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[id] == nil || secret != "s3cret" {
		return nil, oidc.ErrInvalidClient()
	}
	return providerClient{id: id}, nil
}

func (p *provider) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	audience, ok := p.clients[id]["aud"].([]string)
	if !ok {
		audience = []string{"quipu"}
	}
	return &oidc.JWTTokenRequest{Subject: id, Audience: audience, Scopes: scopes}, nil
}

func (p *provider) CreateAccessToken(_ context.Context, r op.TokenRequest) (string, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lifetime, ok := p.clients[r.GetSubject()]["lifetime"].(time.Duration)
	if !ok {
		lifetime = time.Hour
	}
	return "id-" + r.GetSubject(), time.Now().Add(lifetime), nil
}

func (p *provider) GetPrivateClaimsFromScopes(_ context.Context, user, client string, scopes []string) (map[string]any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := user
	if id == "" {
		id = client
	}
	out := map[string]any{"scope": strings.Join(scopes, " ")}
	for name, value := range p.clients[id] {
		if name != "aud" && name != "lifetime" {
			out[name] = value
		}
	}
	return out, nil
}

type providerClient struct {
	op.Client
	id string
}

func (c providerClient) GetID() string                       { return c.id }
func (c providerClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c providerClient) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c providerClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}
func (c providerClient) IDTokenLifetime() time.Duration { return time.Hour }
func (c providerClient) ClockSkew() time.Duration       { return 0 }
func (c providerClient) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}
