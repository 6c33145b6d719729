package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// DirName is where keys are kept in the directory of the data: no tenant has that name.
const DirName = "@auth"

const (
	keysFile = "keys.json"
	keysLock = "keys.lock"

	// keysMax bounds the keys of all tenants, keysPerTenantMax those of one that can be
	// used: each takes a few hundred bytes of memory.
	keysMax          = 100_000
	keysPerTenantMax = 1_000

	// lockWaitMax is how long a change waits for that of another process.
	lockWaitMax = 5 * time.Second
)

// ErrNoKey is in the chain where a key is named that there is not.
var ErrNoKey = errors.New("there is no such key")

// ErrBadKey is in the chain where a key cannot be made as it is asked for.
var ErrBadKey = errors.New("this key cannot be made")

// Keys are the API keys of a data directory. Every change is read from the file, made and
// written while a lock is held, so that several processes can make them. Safe for
// concurrent use.
type Keys struct {
	fs     vfs.FS
	dir    string // DirName of the directory of the data
	now    func() time.Time
	random io.Reader

	mu    sync.Mutex
	keys  []Key       // as read last, by creation
	stamp os.FileInfo // of the file when it was; nil: there was none
}

// keysText is what the file holds.
type keysText struct {
	Version int   `json:"version"`
	Keys    []Key `json:"keys"`
}

// OpenKeys reads the keys of a data directory; where there are none it makes nothing.
func OpenKeys(fsys vfs.FS, dataDir string, now func() time.Time, random io.Reader) (*Keys, error) {
	k := &Keys{fs: fsys, dir: filepath.Join(dataDir, DirName), now: now, random: random}
	if _, err := k.Refresh(); err != nil {
		return nil, err
	}
	return k, nil
}

// Refresh reads the file again where it has changed, and reports whether it did.
func (k *Keys) Refresh() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refresh()
}

// REQUIRES: k.mu
func (k *Keys) refresh() (bool, error) {
	name := filepath.Join(k.dir, keysFile)
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		changed := k.stamp != nil
		k.keys, k.stamp = nil, nil
		return changed, nil
	case err != nil:
		return false, fmt.Errorf("read the keys: %w", err)
	case k.stamp != nil && os.SameFile(info, k.stamp) && info.Size() == k.stamp.Size() && info.ModTime().Equal(k.stamp.ModTime()):
		return false, nil
	}
	text, err := k.fs.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("read the keys: %w", err)
	}
	var read keysText
	if err := json.Unmarshal(text, &read); err != nil {
		return false, fmt.Errorf("read the keys in %s: %w", name, err)
	}
	if read.Version != 1 {
		return false, fmt.Errorf("read the keys in %s: they are of version %d, this is a program for version 1", name, read.Version)
	}
	k.keys, k.stamp = read.Keys, info
	return true, nil
}

// List returns all keys, also those that are revoked or expired, by creation.
func (k *Keys) List() []Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.keys)
}

// Create makes a key and returns its text, which nobody can read again. What is wrong
// with it is an ErrBadKey.
func (k *Keys) Create(n NewKey) (Key, string, error) {
	now := k.now()
	if err := n.validate(now); err != nil {
		return Key{}, "", fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	key, text, err := n.generate(k.random, now)
	if err != nil {
		return Key{}, "", err
	}
	err = k.change(func(keys []Key) ([]Key, error) {
		used := 0
		for _, other := range keys {
			if other.ID == key.ID {
				return nil, fmt.Errorf("the random id %s is taken", key.ID)
			}
			if other.Tenant == key.Tenant && other.Revoked.IsZero() {
				used++
			}
		}
		if len(keys) >= keysMax || used >= keysPerTenantMax {
			return nil, fmt.Errorf("%w: there are %d keys of tenant %s that are not revoked, and %d in all: at most %d and %d are allowed", ErrBadKey, used, key.Tenant, len(keys), keysPerTenantMax, keysMax)
		}
		return append(keys, key), nil
	})
	if err != nil {
		return Key{}, "", err
	}
	return key, text, nil
}

// Revoke ends a key. One that is revoked already stays so.
func (k *Keys) Revoke(id string) (Key, error) {
	var out Key
	err := k.change(func(keys []Key) ([]Key, error) {
		i := slices.IndexFunc(keys, func(key Key) bool { return key.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%w: %q", ErrNoKey, id)
		}
		if keys[i].Revoked.IsZero() {
			keys[i].Revoked = k.now().UTC().Truncate(time.Second)
		}
		out = keys[i]
		return keys, nil
	})
	return out, err
}

// DropTenant forgets all keys of a tenant, and returns how many there were.
func (k *Keys) DropTenant(id tenant.ID) (int, error) {
	dropped := 0
	err := k.change(func(keys []Key) ([]Key, error) {
		before := len(keys)
		keys = slices.DeleteFunc(keys, func(key Key) bool { return key.Tenant == id.String() })
		dropped = before - len(keys)
		return keys, nil
	})
	return dropped, err
}

// change replaces the keys in the file by what f makes of them.
func (k *Keys) change(f func([]Key) ([]Key, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fs.MkdirAll(k.dir); err != nil {
		return fmt.Errorf("make the directory of the keys: %w", err)
	}
	unlock, err := lockFile(filepath.Join(k.dir, keysLock))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := k.refresh(); err != nil {
		return err
	}
	keys, err := f(slices.Clone(k.keys))
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(keysText{Version: 1, Keys: keys}, "", " ")
	if err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	err = vfs.WriteFile(k.fs, filepath.Join(k.dir, keysFile), append(text, '\n'))
	k.stamp = nil // read what is there, whether it was written or not
	if _, again := k.refresh(); err == nil {
		err = again
	}
	return err
}

// lockFile waits for the lock of a file.
func lockFile(name string) (unlock func(), err error) {
	for deadline := time.Now().Add(lockWaitMax); ; time.Sleep(10 * time.Millisecond) {
		lock, _, err := fileutil.Flock(name)
		if err == nil {
			return func() { lock.Release() }, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("lock %s: another process changes the keys: %w", name, err)
		}
	}
}
