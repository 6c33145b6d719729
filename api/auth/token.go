package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// tokenBytesMax is the longest token that is looked at.
	tokenBytesMax = 16 << 10
	// leeway is how far the issuer's clock may be from ours.
	leeway = 30 * time.Second
)

// looksLikeToken reports whether text has the three parts of a signed token.
func looksLikeToken(text string) bool { return strings.Count(text, ".") == 2 }

// token returns who a token says it is.
func (a *Authenticator) token(rules *rules, text string, now time.Time) (*Subject, *Refusal) {
	if len(text) > tokenBytesMax {
		return nil, unauthorized(reasonToken, fmt.Sprintf("the token is longer than %d bytes", tokenBytesMax))
	}
	hash := sha256.Sum256([]byte(text))
	v := rules.tokens.get(&hash)
	if v != nil && v.keys != v.issuer.keys.Load() {
		rules.tokens.drop(&hash) // the issuer's keys are others now
		v = nil
	}
	if v == nil {
		var refusal *Refusal
		if v, refusal = a.verify(rules, text, now); refusal != nil {
			return nil, refusal
		}
		rules.tokens.put(hash, v, now.UnixMilli())
	}
	if now.UnixMilli() >= v.expires {
		rules.tokens.drop(&hash)
		return nil, unauthorized(reasonExpired, "the token has expired")
	}
	return a.charged(rules, v, now)
}

// charged finds the API key that a token's requests are charged to.
func (a *Authenticator) charged(rules *rules, v *verified, now time.Time) (*Subject, *Refusal) {
	if v.keyID == "" {
		if p := rules.plans[a.planOf(v.subject)]; p != nil && p.RequireAPIKey {
			return nil, forbidden(reasonNeedsKey, "the plan of the tenant requires an API key, and the token names none")
		}
		return v.subject, nil
	}
	k := (*a.keys.Load())[v.keyID]
	if k == nil || k.expired(now.UnixMilli()) || k.subject.Tenant != v.subject.Tenant {
		return nil, forbidden(reasonNeedsKey, "the API key that the token names is no live key of its tenant")
	}
	if s := v.charged.Load(); s != nil && s.usage == k.usage && s.plan == k.Plan {
		return s, nil
	}
	s := *v.subject
	s.usage, s.plan = k.usage, k.Plan
	v.charged.Store(&s)
	return &s, nil
}

// verify checks everything of a token that does not change while it is kept.
func (a *Authenticator) verify(rules *rules, text string, now time.Time) (*verified, *Refusal) {
	is := rules.issuers[unverifiedIssuer(text)]
	if is == nil {
		return nil, unauthorized(reasonToken, "the token's issuer is none of auth.issuers")
	}
	a.metrics.verified.Inc()
	var used *keySet
	var unavailable *Refusal
	claims := jwt.MapClaims{}
	_, err := is.parser(func() time.Time { return now }).ParseWithClaims(text, claims, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("it has a header that has to be understood, and is not")
		}
		var key any
		key, used, unavailable = is.key(t)
		if unavailable != nil {
			return nil, unavailable
		}
		return key, nil
	})
	switch {
	case unavailable != nil:
		return nil, unavailable
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, unauthorized(reasonExpired, "the token has expired")
	case err != nil:
		return nil, unauthorized(reasonToken, "the token is not valid: "+tokenError(err))
	}
	return is.subject(claims, used)
}

// tokenError says what is wrong with a token in words of ours: errors of the parser may
// repeat what is in it.
func tokenError(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "it was issued in the future"},
		{jwt.ErrTokenInvalidAudience, "its audience is another"},
		{jwt.ErrTokenInvalidIssuer, "its issuer is another"},
		{jwt.ErrTokenRequiredClaimMissing, "a claim is missing: exp, and aud unless clients are named, are needed"},
		{jwt.ErrTokenSignatureInvalid, "its signature is wrong, or made by an algorithm that is not taken"},
		{jwt.ErrTokenMalformed, "it is malformed"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "its header or a claim has no form that is taken"
}

// unverifiedIssuer is what a token says of its issuer, before anything is known of it; ""
// where it says nothing. It only chooses whose keys the token is to be verified with.
func unverifiedIssuer(text string) string {
	_, rest, _ := strings.Cut(text, ".")
	middle, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(middle)
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer json.RawMessage `json:"iss"`
	}
	var issuer string
	if json.Unmarshal(raw, &claims) != nil || json.Unmarshal(claims.Issuer, &issuer) != nil {
		return ""
	}
	return issuer
}

// parser is one of the issuer's tokens, that tells the time by now.
func (is *issuer) parser(now func() time.Time) *jwt.Parser {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(is.algorithms), jwt.WithIssuer(is.config.Issuer), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	}
	if len(is.config.Audiences) > 0 {
		options = append(options, jwt.WithAudience(is.config.Audiences...))
	}
	return jwt.NewParser(options...)
}

// subject is who verified claims are about.
func (is *issuer) subject(claims jwt.MapClaims, keys *keySet) (*verified, *Refusal) {
	if len(is.config.ClientIDs) > 0 {
		client, _ := claims["client_id"].(string)
		if use, _ := claims["token_use"].(string); use != "access" || !slices.Contains(is.config.ClientIDs, client) {
			return nil, unauthorized(reasonToken, "the token is not valid: it is no access token of a client in client_ids")
		}
	}
	name, ok := claims[is.tenantClaim()].(string)
	id, err := tenant.Parse(name)
	if !ok || err != nil {
		return nil, forbidden(reasonToken, fmt.Sprintf("the claim %s of the token does not name a tenant: it has to be one string of 1 to 64 of a-z A-Z 0-9 _ . -", is.tenantClaim()))
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil {
		return nil, unauthorized(reasonToken, "the token is not valid: it has no exp")
	}
	subject, _ := claims["sub"].(string)
	v := &verified{
		subject: &Subject{ID: subject, Issuer: is.config.Issuer, Tenant: id, Permissions: is.permissions(claims)},
		issuer:  is, keys: keys, expires: expires.Add(leeway).UnixMilli(),
	}
	if is.config.APIKeyClaim == "" {
		return v, nil
	}
	switch key := claims[is.config.APIKeyClaim].(type) {
	case nil:
	case string:
		v.keyID = key
	default:
		return nil, &Refusal{Status: http.StatusForbidden, reason: reasonNeedsKey, Message: fmt.Sprintf("the claim %s of the token is not the id of an API key", is.config.APIKeyClaim)}
	}
	return v, nil
}

func (is *issuer) tenantClaim() string {
	if is.config.TenantClaim == "" {
		return "tenant_id"
	}
	return is.config.TenantClaim
}

// permissions are those that the claims give: scopes are a string with spaces between
// them, or an array of strings.
func (is *issuer) permissions(claims jwt.MapClaims) Permissions {
	set, _ := ParsePermissions(is.config.DefaultPermissions) // validated
	names := []string{"scope", "scp"}
	if is.config.ScopeClaim != "" {
		names = []string{is.config.ScopeClaim}
	}
	for _, name := range names {
		scopes, ok := scopesOf(claims[name])
		if !ok {
			continue
		}
		for _, scope := range scopes {
			set |= is.ofScope(scope)
		}
		break
	}
	return set
}

func scopesOf(claim any) (scopes []string, ok bool) {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim), true
	case []any:
		for _, one := range claim {
			if s, ok := one.(string); ok {
				scopes = append(scopes, s)
			}
		}
		return scopes, true
	}
	return nil, false
}

// ofScope are the permissions of one scope.
func (is *issuer) ofScope(scope string) Permissions {
	if is.config.ScopeMap != nil {
		set, _ := ParsePermissions(is.config.ScopeMap[scope]) // validated
		return set
	}
	p, err := ParsePermission(scope)
	if err != nil {
		return 0 // openid, profile and the like give nothing
	}
	return p
}
