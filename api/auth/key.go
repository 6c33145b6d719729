package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// A key is "qp_", its id, "_", a secret of 43 letters and digits, which are 256 bits, and
// the CRC-32 of all that in 6 more: what was cut or mistyped is refused without a look
// at the keys, and those who search files for secrets know one by its form.
const (
	keyPrefix      = "qp_"
	keyIDLen       = 12
	keySecretLen   = 43
	keyChecksumLen = 6
	keyLen         = len(keyPrefix) + keyIDLen + 1 + keySecretLen + keyChecksumLen

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	base36 = "0123456789abcdefghijklmnopqrstuvwxyz"
)

// Everywhere is the tenant of an operator's key: all of them.
const Everywhere = "*"

// Key is an API key as it is stored: of its text there is the hash alone. A random text
// of 256 bits cannot be guessed from it, so the hash need not be slow.
type Key struct {
	ID string `json:"id"`
	// Tenant is the key's, Everywhere an operator's.
	Tenant      string   `json:"tenant"`
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"`
	// Plan bounds what the key may use; "": that of its tenant.
	Plan    string    `json:"plan,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Revoked time.Time `json:"revoked,omitzero"`
	Hash    string    `json:"sha256"`
}

// NewKey is what a key is made of.
type NewKey struct {
	Tenant      string
	Name        string
	Permissions []string
	Plan        string
	Expires     time.Time // zero: never
}

const (
	keyNameBytesMax = 200
	planBytesMax    = 100
)

// validate says what is wrong with a key that is to be made at now.
func (n *NewKey) validate(now time.Time) error {
	set, err := ParsePermissions(n.Permissions)
	switch {
	case err != nil:
		return fmt.Errorf("permissions: %w", err)
	case set == 0:
		return fmt.Errorf("permissions: a key needs one at least: %s", strings.Join(permissionNames, ", "))
	case len(n.Name) > keyNameBytesMax:
		return fmt.Errorf("name has %d bytes, at most %d are allowed", len(n.Name), keyNameBytesMax)
	case len(n.Plan) > planBytesMax:
		return fmt.Errorf("plan has %d bytes, at most %d are allowed", len(n.Plan), planBytesMax)
	case !n.Expires.IsZero() && !n.Expires.After(now):
		return fmt.Errorf("expires is %s, it must be in the future", n.Expires.UTC().Format(time.RFC3339))
	}
	if n.Tenant == Everywhere {
		return nil
	}
	if _, err := tenant.Parse(n.Tenant); err != nil {
		return fmt.Errorf("tenant: %w", err)
	}
	return nil
}

// generate makes a key and its text, which is shown once.
func (n *NewKey) generate(random io.Reader, now time.Time) (Key, string, error) {
	id, err := randomText(random, base36, keyIDLen)
	if err != nil {
		return Key{}, "", err
	}
	secret, err := randomText(random, base62, keySecretLen)
	if err != nil {
		return Key{}, "", err
	}
	text := keyPrefix + id + "_" + secret
	text += checksum(text)
	set, _ := ParsePermissions(n.Permissions) // validated
	sum := sha256.Sum256([]byte(text))
	return Key{
		ID: id, Tenant: n.Tenant, Name: n.Name, Permissions: set.Names(), Plan: n.Plan,
		Created: now.UTC().Truncate(time.Second), Expires: n.Expires.UTC(), Hash: hex.EncodeToString(sum[:]),
	}, text, nil
}

// randomText is n random characters, each of alphabet and as likely as the others.
func randomText(random io.Reader, alphabet string, n int) (string, error) {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	limit := 256 / len(alphabet) * len(alphabet)
	for {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		for _, b := range buf {
			if int(b) >= limit {
				continue // or the first characters would come more often
			}
			if out = append(out, alphabet[int(b)%len(alphabet)]); len(out) == n {
				return string(out), nil
			}
		}
	}
}

func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	out := make([]byte, keyChecksumLen)
	for i := range out {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out)
}

// keyIDOf is the id in the text of a key; ok is false where it has not a key's form.
func keyIDOf(text string) (id string, ok bool) {
	if len(text) != keyLen || !strings.HasPrefix(text, keyPrefix) || text[len(keyPrefix)+keyIDLen] != '_' {
		return "", false
	}
	body := text[:keyLen-keyChecksumLen]
	sum := crc32.ChecksumIEEE([]byte(body))
	for i := len(body); i < keyLen; i++ {
		if text[i] != base62[sum%62] {
			return "", false
		}
		sum /= 62
	}
	return text[len(keyPrefix) : len(keyPrefix)+keyIDLen], true
}

// liveKey is a key that can be used, ready to be asked.
type liveKey struct {
	Key
	hash    [sha256.Size]byte
	expires int64 // milliseconds since 1970; 0: never
	subject *Subject
	usage   *usage
}

// newLiveKey is what k is while it is used; ok is false where it is revoked or no key
// that this version could have written.
func newLiveKey(k Key, u *usage) (live *liveKey, ok bool) {
	sum, err := hex.DecodeString(k.Hash)
	if err != nil || len(sum) != sha256.Size || !k.Revoked.IsZero() {
		return nil, false
	}
	// A permission that a later version knows gives nothing here.
	permissions, err := ParsePermissions(slices.DeleteFunc(slices.Clone(k.Permissions), func(name string) bool {
		return !slices.Contains(permissionNames, name)
	}))
	if err != nil {
		return nil, false
	}
	s := &Subject{ID: k.ID, Issuer: issuerKey, Permissions: permissions, plan: k.Plan, usage: u}
	if k.Tenant == Everywhere {
		s.Operator = true
	} else if s.Tenant, err = tenant.Parse(k.Tenant); err != nil {
		return nil, false
	}
	live = &liveKey{Key: k, subject: s, usage: u}
	copy(live.hash[:], sum)
	if !k.Expires.IsZero() {
		live.expires = k.Expires.UnixMilli()
	}
	return live, true
}

// is reports whether text is the key's, in a time that does not depend on it.
func (k *liveKey) is(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], k.hash[:]) == 1
}

// expired reports whether the key's time was over at now, in milliseconds since 1970.
func (k *liveKey) expired(now int64) bool { return k.expires != 0 && now >= k.expires }
