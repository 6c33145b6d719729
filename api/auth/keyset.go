package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// keysOfIssuerMax bounds the keys of one issuer; those in use have a handful.
	keysOfIssuerMax = 200
	// A key of fewer bits can be broken, and one of more takes too long.
	rsaBitsMin, rsaBitsMax = 2048, 8192
)

// keySet are the keys of an issuer at one time. It does not change.
type keySet struct {
	byID  map[string][]publicKey
	print [sha256.Size]byte // of what the issuer answered
}

type publicKey struct {
	key       crypto.PublicKey
	algorithm string // that it is for; "": any that fits
}

func (s *keySet) size() int {
	n := 0
	for _, keys := range s.byID {
		n += len(keys)
	}
	return n
}

// parseKeySet reads a JSON Web Key Set (RFC 7517). Keys that are of no use here are left
// out: symmetric ones, those for encryption, and weak ones.
func parseKeySet(text []byte) (*keySet, error) {
	var read struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read the issuer's keys: %w", err)
	}
	if len(read.Keys) > keysOfIssuerMax {
		return nil, fmt.Errorf("the issuer has %d keys, at most %d are read", len(read.Keys), keysOfIssuerMax)
	}
	s := &keySet{byID: map[string][]publicKey{}, print: sha256.Sum256(text)}
	for _, raw := range read.Keys {
		if id, key, ok := parsePublicKey(raw); ok {
			s.byID[id] = append(s.byID[id], key)
		}
	}
	if len(s.byID) == 0 {
		return nil, errors.New("the issuer has no key that tokens can be verified with")
	}
	return s, nil
}

func parsePublicKey(raw json.RawMessage) (id string, key publicKey, ok bool) {
	var m jwkset.JWKMarshal
	if json.Unmarshal(raw, &m) != nil || m.USE != "" && m.USE != jwkset.UseSig {
		return "", key, false
	}
	if len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) {
		return "", key, false
	}
	// The key is in its numbers. A certificate adds nothing that is trusted here, and an
	// address of one is not gone to.
	m.X5C, m.X5T, m.X5TS256, m.X5U = nil, "", "", ""
	parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return "", key, false
	}
	switch k := parsed.Key().(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < rsaBitsMin || bits > rsaBitsMax {
			return "", key, false
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return "", key, false
	}
	return m.KID, publicKey{key: parsed.Key(), algorithm: string(m.ALG)}, true
}

// find returns the key that a token is to be verified with; nil where there is none. A
// token that names none has that of an issuer with one key.
func (s *keySet) find(t *jwt.Token) crypto.PublicKey {
	named, there := t.Header["kid"]
	id, ok := named.(string)
	keys := s.byID[id]
	if !there && len(s.byID) == 1 {
		for _, only := range s.byID {
			keys = only
		}
	} else if !ok {
		return nil
	}
	for _, k := range keys {
		if k.fits(t.Method.Alg()) {
			return k.key
		}
	}
	return nil
}

// fits reports whether tokens of an algorithm may be verified with k. An HMAC with the
// text of a public key for its secret is how a verifier that asks the token is fooled.
func (k *publicKey) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		curves := map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}
		return curves[algorithm] == key.Curve.Params().BitSize
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
