package auth

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// Config is the section "auth" of the configuration file.
type Config struct {
	// Issuers are the OpenID providers whose tokens are taken.
	Issuers []IssuerConfig `yaml:"issuers"`
	// Plans bound what API keys may use, by the name of a key's plan or of its tenant's.
	Plans map[string]Plan `yaml:"plans"`
}

// IssuerConfig is one OpenID provider, and what its tokens say.
type IssuerConfig struct {
	// Issuer is its address, as tokens have it in "iss".
	Issuer string `yaml:"issuer"`
	// Audiences are those of which a token has to have one in "aud".
	Audiences []string `yaml:"audiences"`
	// ClientIDs are the clients whose access tokens are taken, of issuers that put no
	// audience in them (Cognito): "client_id" is one of them and "token_use" is "access".
	ClientIDs []string `yaml:"client_ids"`
	// Algorithms are the signatures that are taken; none: all that there are.
	Algorithms []string `yaml:"algorithms"`
	// TenantClaim is the claim that names the tenant; "": tenant_id.
	TenantClaim string `yaml:"tenant_claim"`
	// ScopeClaim is the claim that has the scopes; "": scope, and where there is none scp.
	ScopeClaim string `yaml:"scope_claim"`
	// ScopeMap says which permissions a scope gives. Without one, scopes are permissions.
	ScopeMap map[string][]string `yaml:"scope_map"`
	// DefaultPermissions are those of every token.
	DefaultPermissions []string `yaml:"default_permissions"`
	// APIKeyClaim is the claim that names the API key, by its id, which the token's
	// requests are charged to; "": none does.
	APIKeyClaim string `yaml:"api_key_claim"`
	// JWKSURL is where the issuer's keys are; "": where its discovery says.
	JWKSURL string `yaml:"jwks_url"`
	// CAFile has the certificates, in PEM, that the issuer's own is checked by; "": the
	// system's.
	CAFile string `yaml:"ca_file"`
}

// Plan bounds what one API key may use; 0 is no bound.
type Plan struct {
	EventsPerDay      int64   `yaml:"events_per_day"`
	RequestsPerDay    int64   `yaml:"requests_per_day"`
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	// RequireAPIKey: a token of a tenant of this plan has to name an API key.
	RequireAPIKey bool `yaml:"require_api_key"`
}

// algorithms are the signatures that are taken: by keys of which there is a public half.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Validate says which field is wrong, and how.
func (c Config) Validate() error {
	for i := range c.Issuers {
		if err := c.Issuers[i].validate(); err != nil {
			return fmt.Errorf("issuers[%d].%w", i, err)
		}
		for j := range i {
			if c.Issuers[j].Issuer == c.Issuers[i].Issuer {
				return fmt.Errorf("issuers[%d].issuer: %s is issuers[%d] already", i, c.Issuers[i].Issuer, j)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		p := c.Plans[name]
		switch {
		case name == "":
			return fmt.Errorf("plans: a plan needs a name")
		case p.EventsPerDay < 0:
			return fmt.Errorf("plans.%s.events_per_day is %d, it must not be negative", name, p.EventsPerDay)
		case p.RequestsPerDay < 0:
			return fmt.Errorf("plans.%s.requests_per_day is %d, it must not be negative", name, p.RequestsPerDay)
		case !(p.RequestsPerSecond >= 0 && p.RequestsPerSecond <= 1e9):
			return fmt.Errorf("plans.%s.requests_per_second is %v, it must be from 0 to 1e9", name, p.RequestsPerSecond)
		}
	}
	return nil
}

func (c *IssuerConfig) validate() error {
	if err := checkAddress(c.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if c.JWKSURL != "" {
		if err := checkAddress(c.JWKSURL); err != nil {
			return fmt.Errorf("jwks_url: %w", err)
		}
	}
	if len(c.Audiences) == 0 && len(c.ClientIDs) == 0 {
		return fmt.Errorf("audiences: a token says for whom it is made: name audiences, or client_ids where the issuer puts none in its tokens")
	}
	if len(c.Audiences) > 0 && len(c.ClientIDs) > 0 {
		return fmt.Errorf("client_ids: a token is known by its audience or by its client: there are audiences already")
	}
	if slices.Contains(c.Audiences, "") || slices.Contains(c.ClientIDs, "") {
		return fmt.Errorf("audiences: an empty name would be that of tokens which have none")
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(algorithms, a) {
			return fmt.Errorf("algorithms: %q is not taken, only %s", a, strings.Join(algorithms, ", "))
		}
	}
	for _, scope := range slices.Sorted(maps.Keys(c.ScopeMap)) {
		if _, err := ParsePermissions(c.ScopeMap[scope]); err != nil {
			return fmt.Errorf("scope_map.%s: %w", scope, err)
		}
	}
	if _, err := ParsePermissions(c.DefaultPermissions); err != nil {
		return fmt.Errorf("default_permissions: %w", err)
	}
	if _, err := c.roots(); err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	return nil
}

// roots are the certificates that the issuer's is checked by; nil: the system's.
func (c *IssuerConfig) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("there is no certificate in %s", c.CAFile)
	}
	return pool, nil
}

// checkAddress refuses what could be read or changed on the way: an address has to be
// https, unless it is of this machine.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return fmt.Errorf("it is no address: %w", err)
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is not of the form https://host/path", address)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && IsLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is not https, which is needed unless it is a loopback address", address)
}

// IsLoopback reports whether a host, a name or an address, is this machine.
func IsLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
