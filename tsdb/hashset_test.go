package tsdb

import (
	"math/rand/v2"
	"testing"
)

// A set has what was added to it and nothing else, hashes that collide among them.
func TestHashSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s hashSet
	want := map[uint64]bool{}
	if s.has(0) || s.has(1) || s.len() != 0 {
		t.Error("an empty set has something")
	}
	for range 5000 {
		h := r.Uint64()
		switch r.IntN(4) {
		case 0:
			h &^= 0xfff // many in one place of a small table
		case 1:
			h = uint64(r.IntN(500))
		}
		s.add(h)
		want[h] = true
		if probe := uint64(r.IntN(1000)); s.has(probe) != want[probe] {
			t.Fatalf("has %d: %v", probe, s.has(probe))
		}
	}
	for h := range want {
		if !s.has(h) {
			t.Fatalf("%d is missing", h)
		}
	}
	if s.len() != len(want) {
		t.Errorf("%d hashes, want %d", s.len(), len(want))
	}
}
