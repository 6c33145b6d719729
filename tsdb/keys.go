package tsdb

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/vfs"
)

// A key file is "QUIPUKEY", version (1 byte), then 24 bytes a key, sorted: hash
// and big-endian time; then the CRC-32C of all before it (4 bytes).
const (
	keyMagic   = "QUIPUKEY"
	keyVersion = 1
	keySize    = 24
	keySuffix  = ".keys"
)

// keySet is the batch keys of one tenant that were seen inside the
// de-duplication window. A key is reserved before its batch is logged, and then
// either kept or given back. Safe for concurrent use.
type keySet struct {
	mu      sync.Mutex
	applied map[[16]byte]int64         // first seen, milliseconds since 1970
	pending map[[16]byte]chan struct{} // closed when the batch's outcome is known
	fresh   []batchKey                 // applied and in no key file yet
	swept   int64                      // oldest of the last expire
}

func newKeySet() *keySet {
	return &keySet{applied: map[[16]byte]int64{}, pending: map[[16]byte]chan struct{}{}}
}

// reserve returns false where a batch with this key was applied since oldest. It
// waits for the outcome of a batch with the same key that is under way, and
// reserves the key where that failed.
func (k *keySet) reserve(key [16]byte, oldest int64) bool {
	for {
		k.mu.Lock()
		if t, ok := k.applied[key]; ok && t >= oldest {
			k.mu.Unlock()
			return false
		}
		wait, ok := k.pending[key]
		if !ok {
			k.pending[key] = make(chan struct{})
			k.mu.Unlock()
			return true
		}
		k.mu.Unlock()
		<-wait
	}
}

// settle ends a reservation: the key counts as seen where the batch was applied.
func (k *keySet) settle(key batchKey, applied bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.pending[key.hash])
	delete(k.pending, key.hash)
	if applied {
		k.applied[key.hash] = key.time
		k.fresh = append(k.fresh, key)
	}
}

// restore puts back a key found on disk; fresh says that no key file has it. A key
// that is there already, as after a tenant's record that repeats it, stays as it is.
func (k *keySet) restore(key batchKey, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, ok := k.applied[key.hash]; ok && t >= key.time {
		return
	}
	k.applied[key.hash] = key.time
	if fresh {
		k.fresh = append(k.fresh, key)
	}
}

// takeFresh returns the keys that no file has; they are the caller's to write.
func (k *keySet) takeFresh() []batchKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.fresh
	k.fresh = nil
	return out
}

// peekFresh returns a copy of the keys that no file has.
func (k *keySet) peekFresh() []batchKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.fresh)
}

// giveBack undoes takeFresh after the file could not be written.
func (k *keySet) giveBack(keys []batchKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fresh = append(keys, k.fresh...)
}

// expire forgets keys first seen before oldest; it looks at all of them at most
// once in ten minutes.
func (k *keySet) expire(oldest int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if oldest < k.swept+10*60*1000 {
		return
	}
	k.swept = oldest
	for key, t := range k.applied {
		if t < oldest {
			delete(k.applied, key)
		}
	}
	k.fresh = slices.DeleteFunc(k.fresh, func(key batchKey) bool { return key.time < oldest })
}

// writeKeys writes a key file into dir and returns what the manifest names it.
func writeKeys(fsys vfs.FS, dir string, id ulid.ULID, keys []batchKey) (keyFile, error) {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b batchKey) int {
		return cmp.Or(bytes.Compare(a.hash[:], b.hash[:]), cmp.Compare(b.time, a.time))
	})
	// A key that was used again after it had expired is there twice: the newer stays.
	keys = slices.CompactFunc(keys, func(a, b batchKey) bool { return a.hash == b.hash })
	kf := keyFile{Name: id.String() + keySuffix}
	dst := append([]byte(keyMagic), keyVersion)
	for _, k := range keys {
		dst = append(dst, k.hash[:]...)
		dst = binary.BigEndian.AppendUint64(dst, uint64(k.time))
		kf.MaxTime = max(kf.MaxTime, k.time)
	}
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
	return kf, vfs.WriteFile(fsys, filepath.Join(dir, kf.Name), dst)
}

func readKeys(fsys vfs.FS, path string) ([]batchKey, error) {
	src, err := fsys.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read batch keys: %w", err)
	}
	keys, err := decodeKeys(src)
	if err != nil {
		return nil, fmt.Errorf("read batch keys %s: %w", path, err)
	}
	return keys, nil
}

func decodeKeys(src []byte) ([]batchKey, error) {
	body := len(src) - 4
	head := len(keyMagic) + 1
	switch {
	case body < head || !bytes.HasPrefix(src, []byte(keyMagic)):
		return nil, errors.New("not a key file")
	case crc32.Checksum(src[:body], castagnoli) != binary.BigEndian.Uint32(src[body:]):
		return nil, errors.New("checksum is wrong")
	case src[head-1] != keyVersion:
		return nil, fmt.Errorf("version %d, only %d is known", src[head-1], keyVersion)
	case (body-head)%keySize != 0:
		return nil, errCutShort
	}
	keys := make([]batchKey, 0, (body-head)/keySize)
	for src = src[head:body]; len(src) > 0; src = src[keySize:] {
		var k batchKey
		copy(k.hash[:], src)
		k.time = int64(binary.BigEndian.Uint64(src[16:]))
		keys = append(keys, k)
	}
	return keys, nil
}
