package sketch

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

func randomIDs(seed uint64, n int) []uint64 {
	r := rand.New(rand.NewPCG(seed, 7))
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = r.Uint64()
	}
	return ids
}

func estimate(t *testing.T, s *Sketch) float64 {
	t.Helper()
	e, err := s.Estimate()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// I1: how a set was split, and in which order it came, does not show.
func TestSketchIsAFunctionOfItsSet(t *testing.T) {
	for _, n := range []int{0, 1, 2, 100, ExactMax, ExactMax + 1, 5000, 100_000} {
		ids := randomIDs(uint64(n), n)
		var whole Sketch
		if err := whole.Add(ids...); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(uint64(n), 9))
		parts := make([]Sketch, 4)
		for _, i := range r.Perm(n) {
			for _, p := range []int{r.IntN(4), r.IntN(4)} { // some ids in two parts
				if err := parts[p].Add(ids[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		var merged Sketch
		for _, p := range r.Perm(4) {
			if err := merged.Merge(&parts[p]); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := estimate(t, &whole), estimate(t, &merged); a != b {
			t.Errorf("%d ids: whole %v, merged %v", n, a, b)
		}
		if whole.Exact() != (n <= ExactMax) || merged.Exact() != whole.Exact() {
			t.Errorf("%d ids: exact %v and %v", n, whole.Exact(), merged.Exact())
		}
		if e := estimate(t, &whole); math.Abs(e-float64(n)) > 0.03*float64(n) {
			t.Errorf("%d ids: estimate %v", n, e)
		}
	}
}

// The documented standard error of 0.81% holds over many sets.
func TestSketchError(t *testing.T) {
	sum, sets := 0.0, 60
	for seed := range sets {
		n := 2000 * (1 + seed%20)
		var a, b Sketch
		ids := randomIDs(uint64(seed)+100, n)
		if err := a.Add(ids[:n/2]...); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(ids[n/2:]...); err != nil {
			t.Fatal(err)
		}
		if err := a.Merge(&b); err != nil {
			t.Fatal(err)
		}
		rel := estimate(t, &a)/float64(n) - 1
		sum += rel * rel
	}
	if rms := math.Sqrt(sum / float64(sets)); rms > 0.0081*1.25 {
		t.Errorf("root mean square error %.4f over %d sets", rms, sets)
	}
}

func TestSketchCodec(t *testing.T) {
	for _, n := range []int{0, 1, 17, ExactMax, ExactMax + 1, 20_000} {
		var s Sketch
		if err := s.Add(randomIDs(5, n)...); err != nil {
			t.Fatal(err)
		}
		enc, err := s.Append([]byte("head"))
		if err != nil {
			t.Fatal(err)
		}
		var back Sketch
		rest, err := back.Decode(append(enc[4:], "tail"...))
		if err != nil || !bytes.Equal(rest, []byte("tail")) {
			t.Fatalf("%d ids: rest %q, %v", n, rest, err)
		}
		if a, b := estimate(t, &s), estimate(t, &back); a != b {
			t.Errorf("%d ids: %v decoded as %v", n, a, b)
		}
		// What was decoded goes on as the original would.
		more := randomIDs(6, 3000)
		if err := s.Add(more...); err != nil {
			t.Fatal(err)
		}
		if err := back.Add(more...); err != nil {
			t.Fatal(err)
		}
		if a, b := estimate(t, &s), estimate(t, &back); a != b {
			t.Errorf("%d ids and 3000 more: %v, decoded %v", n, a, b)
		}
	}
}

func TestUnionIsExactWhileItsPartsAre(t *testing.T) {
	var u Union
	for i := range 50 {
		var s Sketch
		ids := randomIDs(uint64(i/2), 1000) // every set twice
		if err := s.Add(ids...); err != nil {
			t.Fatal(err)
		}
		if err := u.Add(&s); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := u.Estimate(); err != nil || e != 25_000 || !u.Exact() {
		t.Errorf("25 sets of 1000 ids, each twice: %v, %v, exact %v", e, err, u.Exact())
	}
	var big Sketch
	if err := big.Add(randomIDs(99, 30_000)...); err != nil {
		t.Fatal(err)
	}
	if err := u.Add(&big); err != nil {
		t.Fatal(err)
	}
	if e, err := u.Estimate(); err != nil || math.Abs(e-55_000) > 0.03*55_000 || u.Exact() {
		t.Errorf("55,000 ids: %v, %v, exact %v", e, err, u.Exact())
	}
}

func FuzzSketchDecode(f *testing.F) {
	for _, n := range []int{0, 3, 2000} {
		var s Sketch
		if err := s.Add(randomIDs(1, n)...); err != nil {
			f.Fatal(err)
		}
		enc, err := s.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var s Sketch
		if _, err := s.Decode(src); err != nil {
			return
		}
		if _, err := s.Append(nil); err != nil {
			t.Fatal(err)
		}
	})
}
