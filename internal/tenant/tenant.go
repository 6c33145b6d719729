// Package tenant names who owns data. A tenant is a directory and an index of
// its own, never a label; its ID is parsed once, where a request enters, and is
// a typed value from there on.
package tenant

import "fmt"

// lenMax bounds an ID so that it is a file name on every file system.
const lenMax = 64

// ID is a valid tenant id: 1 to 64 of [a-zA-Z0-9_.-], neither "." nor "..".
// The zero ID is not valid and names no tenant. IDs compare with ==.
type ID struct{ name string }

// Default is the tenant of requests that name none.
var Default = ID{"default"}

// Parse returns the ID that s spells, or an error that says what is wrong.
func Parse(s string) (ID, error) {
	switch {
	case s == "":
		return ID{}, fmt.Errorf("tenant id is empty")
	case len(s) > lenMax:
		return ID{}, fmt.Errorf("tenant id has %d characters, at most %d are allowed", len(s), lenMax)
	case s == "." || s == "..":
		return ID{}, fmt.Errorf("tenant id %q is not allowed", s)
	}
	for i := range len(s) {
		if !isIDByte(s[i]) {
			return ID{}, fmt.Errorf("tenant id %q has the character %q, only a-z A-Z 0-9 _ . - are allowed", s, s[i])
		}
	}
	return ID{s}, nil
}

func isIDByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-'
}

// String returns the id as it was parsed; "" for the zero ID.
func (id ID) String() string { return id.name }

// IsZero reports whether id names no tenant.
func (id ID) IsZero() bool { return id.name == "" }
