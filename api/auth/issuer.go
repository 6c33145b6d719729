package auth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	discoveryPath = "/.well-known/openid-configuration"

	// fetchTimeMax bounds one request to an issuer, answer included, and answerBytesMax
	// that answer.
	fetchTimeMax   = 10 * time.Second
	answerBytesMax = 512 << 10

	// refreshEvery is how often keys are read again: one that its issuer has withdrawn is
	// good for that long. keysAgeMax is how long keys are good that cannot be read again.
	refreshEvery = 5 * time.Minute
	keysAgeMax   = 24 * time.Hour

	// retryFirst and retryLast are the time between attempts while an issuer fails.
	retryFirst = time.Second
	retryLast  = time.Minute

	// An unknown kid has keys read again, this often at most; those who wait for it do so
	// this long, and no more than this many.
	unknownEvery  = 10 * time.Second
	unknownWait   = 3 * time.Second
	unknownWaiter = 100
)

// issuer is an OpenID provider and the keys that it signs with now. Safe for concurrent
// use.
type issuer struct {
	config     IssuerConfig
	algorithms []string
	client     *http.Client
	logger     *slog.Logger
	now        func() time.Time

	keys    atomic.Pointer[keySet] // nil: none were read yet
	waiting atomic.Int64

	mu      sync.Mutex
	fetched chan struct{} // closed when the attempt under way is over; nil: there is none
	tried   time.Time     // when the last attempt began
	good    time.Time     // when keys were read last
	failure string        // of the last attempt; "": none
}

func newIssuer(c IssuerConfig, logger *slog.Logger, now func() time.Time) (*issuer, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("auth.issuers: %s: ca_file: %w", c.Issuer, err)
	}
	allowed := c.Algorithms
	if len(allowed) == 0 {
		allowed = algorithms
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: fetchTimeMax / 2}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    fetchTimeMax / 2,
		ResponseHeaderTimeout:  fetchTimeMax / 2,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true, // a request every few minutes
		ForceAttemptHTTP2:      true,
	}
	return &issuer{
		config: c, algorithms: allowed, logger: logger, now: now,
		client: &http.Client{
			Transport: transport, Timeout: fetchTimeMax,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// run reads the issuer's keys now and again until ctx ends.
func (is *issuer) run(ctx context.Context) {
	wait := retryFirst
	for {
		next := refreshEvery
		if err := is.refresh(ctx); err != nil {
			next, wait = wait, min(2*wait, retryLast)
		} else {
			wait = retryFirst
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// refresh reads the keys, or waits for whoever does.
func (is *issuer) refresh(ctx context.Context) error {
	is.mu.Lock()
	if under := is.fetched; under != nil {
		is.mu.Unlock()
		select {
		case <-under:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done := make(chan struct{})
	is.fetched, is.tried = done, is.now()
	is.mu.Unlock()

	set, err := is.fetch(ctx)
	is.mu.Lock()
	defer is.mu.Unlock()
	is.fetched = nil
	close(done)
	if err != nil {
		if said := err.Error(); said != is.failure && ctx.Err() == nil {
			is.failure = said
			is.logger.Warn("the keys of an issuer cannot be read, which is tried again", "issuer", is.config.Issuer, "err", err)
		}
		if old := is.keys.Load(); old != nil && is.now().Sub(is.good) > keysAgeMax {
			is.keys.Store(nil)
		}
		return err
	}
	if old := is.keys.Load(); old == nil || old.print != set.print {
		is.keys.Store(set) // tokens that were verified with the old ones are verified again
		is.logger.Info("the keys of an issuer are read", "issuer", is.config.Issuer, "keys", set.size())
	}
	is.good, is.failure = is.now(), ""
	return nil
}

// fetch asks the issuer for its keys.
func (is *issuer) fetch(ctx context.Context) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*fetchTimeMax)
	defer cancel()
	address := is.config.JWKSURL
	if address == "" {
		text, err := is.get(ctx, strings.TrimSuffix(is.config.Issuer, "/")+discoveryPath)
		if err != nil {
			return nil, err
		}
		var said struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(text, &said); err != nil {
			return nil, fmt.Errorf("read the issuer's configuration: %w", err)
		}
		if said.Issuer != is.config.Issuer {
			return nil, fmt.Errorf("the configuration at %s is of the issuer %q", is.config.Issuer, said.Issuer)
		}
		if err := checkAddress(said.JWKSURI); err != nil {
			return nil, fmt.Errorf("jwks_uri of the issuer's configuration: %w", err)
		}
		address = said.JWKSURI
	}
	text, err := is.get(ctx, address)
	if err != nil {
		return nil, err
	}
	return parseKeySet(text)
}

func (is *issuer) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := is.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s answered %d", address, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", address, err)
	}
	if len(text) > answerBytesMax {
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", address, answerBytesMax)
	}
	return text, nil
}

// key finds the key that a token says it is signed with, which may have come since keys
// were read last.
func (is *issuer) key(t *jwt.Token) (any, *keySet, *Refusal) {
	set := is.keys.Load()
	if set == nil {
		return nil, nil, &Refusal{
			Status: http.StatusServiceUnavailable, reason: reasonIssuer, RetryAfter: retryFirst,
			Message: "the keys of the token's issuer could not be read yet, which is tried again",
		}
	}
	if key := set.find(t); key != nil {
		return key, set, nil
	}
	if is.readAgain() {
		if set = is.keys.Load(); set != nil {
			if key := set.find(t); key != nil {
				return key, set, nil
			}
		}
	}
	return nil, nil, unauthorized(reasonToken, "the token is not valid: its issuer has no key of this kid for its algorithm")
}

// readAgain has keys read again for a kid that is not known, unless that was done just
// now, and waits for it; false where it did not.
func (is *issuer) readAgain() bool {
	if is.waiting.Add(1) > unknownWaiter {
		is.waiting.Add(-1)
		return false
	}
	defer is.waiting.Add(-1)
	is.mu.Lock()
	under := is.fetched
	soon := is.now().Sub(is.tried) < unknownEvery
	is.mu.Unlock()
	if under == nil && soon {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), unknownWait)
	defer cancel()
	return is.refresh(ctx) == nil
}
