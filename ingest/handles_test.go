package ingest

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

// TestHandlesAreOneAKey: whoever asks for a key gets the one handle that was made for it,
// also while others make handles and where many keys have one hash, 0 among them.
func TestHandlesAreOneAKey(t *testing.T) {
	const workers, keys, asked = 4, 3000, 20_000
	for name, hash := range map[string]func(key []byte, seed maphash.Seed) uint64{
		"hashes of keys": func(key []byte, seed maphash.Seed) uint64 { return maphash.Bytes(seed, key) },
		"few hashes":     func(key []byte, _ maphash.Seed) uint64 { return binary.BigEndian.Uint64(key) % 50 },
	} {
		hs := &handles{seed: maphash.MakeSeed()}
		var got [workers][keys]*handle
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(w)))
				for range asked {
					n := random.IntN(keys)
					key := binary.BigEndian.AppendUint64(nil, uint64(n))
					h := hs.get(key, hash(key, hs.seed), func(h *handle) {
						h.key = string(key)
						h.Name(labels.FromStrings("n", h.key), increment.Counter, nil)
					})
					if h.key != string(key) || h.Labels.Get("n") != h.key || got[w][n] != nil && got[w][n] != h {
						t.Errorf("%s: another handle for key %d", name, n)
						return
					}
					if first := hs.table.Load().first(hash(key, hs.seed)); first == nil || hash([]byte(first.key), hs.seed) != hash(key, hs.seed) {
						t.Errorf("%s: first of key %d has another hash", name, n)
						return
					}
					got[w][n] = h
				}
			})
		}
		wg.Wait()
		made := map[*handle]bool{}
		for n := range keys {
			var one *handle
			for w := range workers {
				if h := got[w][n]; h != nil && one != nil && h != one {
					t.Fatalf("%s: two handles of key %d", name, n)
				} else if h != nil {
					one = h
				}
			}
			made[one] = true
		}
		delete(made, nil)
		if hs.len() != len(made) {
			t.Errorf("%s: %d handles for %d keys", name, hs.len(), len(made))
		}
		hs.drop()
		if hs.len() != 0 || hs.table.Load().find([]byte("a"), 1) != nil {
			t.Errorf("%s: handles after all were dropped", name)
		}
	}
}
