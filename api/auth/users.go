package auth

import (
	"crypto/sha256"
	"fmt"
	"os"
	"sync"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
)

// usersMax bounds the passwords that are kept as right.
const usersMax = 1_000

// users are those of Basic authentication in --web.config.file, whose handler has refused
// everybody else before. They are asked again here: the file may have changed since, and
// a user that nobody checks any more must not be the operator. Safe for concurrent use.
type users struct {
	mu     sync.Mutex
	hashes map[string]string // bcrypt's, by name
	right  map[[sha256.Size]byte]bool
}

// loadUsers reads the users of a file of Prometheus's exporter toolkit, which has checked
// the rest of it.
func loadUsers(name string) (*users, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the users of --web.config.file: %w", err)
	}
	var read struct {
		Users map[string]string `yaml:"basic_auth_users"`
	}
	if err := yaml.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read the users of --web.config.file %s: %w", name, err)
	}
	return &users{hashes: read.Users, right: map[[sha256.Size]byte]bool{}}, nil
}

// are reports whether there is a user with this password. What bcrypt takes a twentieth of
// a second to say is kept where it is yes.
func (u *users) are(name, password string) bool {
	if u == nil {
		return false
	}
	hash, ok := u.hashes[name]
	if !ok {
		return false
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", name, password))
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.right[sum] {
		return true
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil {
		return false
	}
	if len(u.right) >= usersMax {
		clear(u.right)
	}
	u.right[sum] = true
	return true
}
