package auth

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

var testStart = time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC)

// clock is one that tests move, while others read it.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	c.set(testStart)
	return c
}

func (c *clock) time() time.Time         { return *c.now.Load() }
func (c *clock) set(t time.Time)         { c.now.Store(&t) }
func (c *clock) forward(d time.Duration) { c.set(c.time().Add(d)) }

func openTestKeys(t testing.TB, dir string, c *clock) *Keys {
	t.Helper()
	k, err := OpenKeys(vfs.OS{}, dir, c.time, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newTest makes an authenticator over dir, by a clock that stands still.
func newTest(t testing.TB, dir string, c *clock, config Config) *Authenticator {
	t.Helper()
	a, err := New(Options{DataDir: dir, Now: c.time, Registerer: prometheus.NewRegistry(), Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// Of a key's text nothing is stored that it could be told from.
func TestKeysAreStoredAsHashes(t *testing.T) {
	dir := t.TempDir()
	keys := openTestKeys(t, dir, newClock())
	k, text, err := keys.Create(NewKey{Tenant: "acme", Name: "tracker", Permissions: []string{"events:write"}})
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := keyIDOf(text); !ok || id != k.ID || len(text) != 65 {
		t.Errorf("the key %s has the id %s, %v, want %s", text, id, ok, k.ID)
	}
	name := filepath.Join(dir, DirName, keysFile)
	stored, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	secret := text[len(keyPrefix)+keyIDLen+1:]
	if strings.Contains(string(stored), secret) || strings.Contains(string(stored), secret[:keySecretLen]) || !strings.Contains(string(stored), k.Hash) {
		t.Errorf("the file holds the secret:\n%s", stored)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file may be read by others: %v, %v", info.Mode(), err)
	}
	if again := openTestKeys(t, dir, newClock()).List(); len(again) != 1 || again[0].ID != k.ID {
		t.Errorf("opened again there are %v", again)
	}
}

func TestKeysThatCannotBeMade(t *testing.T) {
	keys := openTestKeys(t, t.TempDir(), newClock())
	for want, n := range map[string]NewKey{
		"tenant: tenant id":        {Tenant: "../x", Permissions: []string{"admin"}},
		"tenant id is empty":       {Permissions: []string{"admin"}},
		"a key needs one at least": {Tenant: "a"},
		`no permission "write"`:    {Tenant: "a", Permissions: []string{"write"}},
		"it must be in the future": {Tenant: "a", Permissions: []string{"admin"}, Expires: testStart},
		"name has 201 bytes":       {Tenant: "a", Permissions: []string{"admin"}, Name: strings.Repeat("n", 201)},
	} {
		if _, _, err := keys.Create(n); !errors.Is(err, ErrBadKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", n, err, want)
		}
	}
	if _, err := keys.Revoke("nobody"); !errors.Is(err, ErrNoKey) {
		t.Errorf("a key that there is not was revoked: %v", err)
	}
}

// Two processes that make keys at the same time lose none.
func TestKeysOfTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	one, two := openTestKeys(t, dir, newClock()), openTestKeys(t, dir, newClock())
	const each = 20
	failed := make(chan error, 2)
	for _, keys := range []*Keys{one, two} {
		go func() {
			for range each {
				if _, _, err := keys.Create(NewKey{Tenant: "a", Permissions: []string{"admin"}}); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range 2 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(openTestKeys(t, dir, newClock()).List()); n != 2*each {
		t.Errorf("there are %d keys, want %d", n, 2*each)
	}
}

// awaitKey waits until a key is known or refused.
func awaitKey(t *testing.T, a *Authenticator, text string, known bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		_, refusal := a.key(text, a.now())
		took := time.Since(began)
		if (refusal == nil) == known {
			return took
		}
		if took > 30*time.Second {
			t.Fatalf("after %s the key is not what it should be: %v", took, refusal)
		}
		time.Sleep(time.Millisecond)
	}
}

// What another process changes is in force without a restart.
func TestKeysOfAnotherProcessAreSeen(t *testing.T) {
	dir := t.TempDir()
	a := newTest(t, dir, newClock(), Config{})
	other := openTestKeys(t, dir, newClock())
	k, text, err := other.Create(NewKey{Tenant: "a", Permissions: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	made := awaitKey(t, a, text, true)
	if _, err := other.Revoke(k.ID); err != nil {
		t.Fatal(err)
	}
	t.Logf("made: seen after %s; revoked: refused after %s", made, awaitKey(t, a, text, false))
	// A file that cannot be read leaves the keys as they were.
	_, second, err := other.Create(NewKey{Tenant: "a", Permissions: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	awaitKey(t, a, second, true)
	if err := os.WriteFile(filepath.Join(dir, DirName, keysFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.look()
	if _, refusal := a.key(second, testStart); refusal != nil {
		t.Errorf("with a file that is cut: %v", refusal)
	}
}

func TestKeysExpire(t *testing.T) {
	c := newClock()
	a := newTest(t, t.TempDir(), c, Config{})
	_, text, err := a.Keys().Create(NewKey{Tenant: "a", Permissions: []string{"admin"}, Expires: testStart.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	a.Refresh()
	if _, refusal := a.key(text, testStart.Add(time.Hour-time.Second)); refusal != nil {
		t.Errorf("a second before: %v", refusal)
	}
	if _, refusal := a.key(text, testStart.Add(time.Hour)); refusal == nil || refusal.Status != 401 {
		t.Errorf("then: %v", refusal)
	}
}

// The keys of a tenant that is deleted are no keys of one that is made again.
func TestDroppedTenantHasNoKeys(t *testing.T) {
	a := newTest(t, t.TempDir(), newClock(), Config{})
	texts := map[string]string{}
	for _, of := range []string{"a", "b"} {
		_, text, err := a.Keys().Create(NewKey{Tenant: of, Permissions: []string{"admin"}})
		if err != nil {
			t.Fatal(err)
		}
		texts[of] = text
	}
	id, err := tenant.Parse("a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := a.DropTenant(id); n != 1 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	for of, text := range texts {
		if _, refusal := a.key(text, testStart); (refusal == nil) != (of == "b") {
			t.Errorf("the key of %s: %v", of, refusal)
		}
	}
}

// A failed write of the file leaves the keys as they were.
func TestKeysSurviveAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	keys := openTestKeys(t, dir, newClock())
	first, _, err := keys.Create(NewKey{Tenant: "a", Permissions: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	keys.fs = failingFS{}
	if _, _, err := keys.Create(NewKey{Tenant: "a", Permissions: []string{"admin"}}); err == nil {
		t.Error("a key was made without a file")
	}
	if _, err := keys.Revoke(first.ID); err == nil {
		t.Error("a key was revoked without a file")
	}
	if list := keys.List(); len(list) != 1 || !list[0].Revoked.IsZero() {
		t.Errorf("there are %+v", list)
	}
}

// failingFS is a disk that is full.
type failingFS struct{ vfs.OS }

func (failingFS) Create(string) (vfs.File, error) { return nil, errors.New("the disk is full") }

func mustTenant(t testing.TB, name string) tenant.ID {
	t.Helper()
	id, err := tenant.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}
