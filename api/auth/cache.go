package auth

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
)

// tokensMax bounds the verified tokens that are kept: some 10 MB.
const tokensMax = 20_000

// verified is a token that was verified, until it expires or its issuer's keys change.
type verified struct {
	subject *Subject
	issuer  *issuer
	keys    *keySet // which it was verified with
	expires int64   // milliseconds since 1970, leeway included
	keyID   string  // of the API key that it names; "": none
	// charged is subject with that key's plan, once it was asked for.
	charged atomic.Pointer[Subject]
}

// tokenCache keeps tokens by their hash, and only ones that are valid: whoever sends
// others cannot fill it. Safe for concurrent use.
type tokenCache struct {
	max int
	mu  sync.RWMutex
	by  map[[sha256.Size]byte]*verified
}

func newTokenCache(max int) *tokenCache {
	return &tokenCache{max: max, by: map[[sha256.Size]byte]*verified{}}
}

func (c *tokenCache) get(hash *[sha256.Size]byte) *verified {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.by[*hash]
}

// evictTries is how many tokens are looked at for one that has expired.
const evictTries = 8

// put keeps a token. Where there is no room one that has expired makes it, of a few
// random ones, or else the last of them.
func (c *tokenCache) put(hash [sha256.Size]byte, v *verified, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.by[hash]; !there && len(c.by) >= c.max {
		tries := 0
		for other, o := range c.by { // in random order
			if tries++; o.expires <= now || tries == evictTries {
				delete(c.by, other)
				break
			}
		}
	}
	c.by[hash] = v
}

func (c *tokenCache) drop(hash *[sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, *hash)
}
