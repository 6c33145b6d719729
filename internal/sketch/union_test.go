package sketch

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

func sketchOf(t testing.TB, ids ...uint64) *Sketch {
	t.Helper()
	var s Sketch
	if err := s.Add(ids...); err != nil {
		t.Fatal(err)
	}
	return &s
}

func encode(t testing.TB, s *Sketch) []byte {
	t.Helper()
	enc, err := s.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

func count(t testing.TB, u *Union) float64 {
	t.Helper()
	n, err := u.Estimate()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// I1: by whatever way ids come to registers, one by one, from a sketch, from what it
// was encoded to, packed or through another union, they are the registers of
// datasketches, and so is the estimate, to the last bit. Half a million ids make every
// register larger than 0, and some larger than a nibble says.
func TestRegistersAreThoseOfDatasketches(t *testing.T) {
	for _, n := range []int{ExactMax + 1, 1500, 1600, 5000, 30_000, 100_000, 500_000} {
		ids := randomIDs(uint64(n), n)
		s := sketchOf(t, ids...)
		var one, whole, encoded, packed, joined Union
		one.ToRegisters()
		for _, id := range ids {
			one.addID(id)
		}
		if err := whole.Add(s); err != nil {
			t.Fatal(err)
		}
		if err := encoded.AddEncoded(encode(t, s)); err != nil {
			t.Fatal(err)
		}
		if err := packed.AddCell(one.AppendCell(nil)); err != nil {
			t.Fatal(err)
		}
		joined.ToRegisters()
		joined.AddUnion(&packed)
		for i, u := range []*Union{&whole, &encoded, &packed, &joined} {
			if *u.regs.array() != *one.regs.array() {
				t.Errorf("%d ids: the registers of way %d differ", n, i)
			}
		}
		// A sketch of less than 1,536 ids has their coupons yet, which say more.
		if want := estimate(t, s); n > 1536 && count(t, &one) != want {
			t.Errorf("%d ids: %v, datasketches says %v", n, count(t, &one), want)
		} else if math.Abs(count(t, &one)/float64(n)-1) > 5*0.0081 {
			t.Errorf("%d ids: %v", n, count(t, &one))
		}
	}
}

// Ranks past those that half a million ids lead to: exceptions of packed registers, and
// the sum of what is less than 2^-31.
func TestRegistersOfAnyRank(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, least := range []byte{0, 1, 20, registerMax - nibbleMax} {
		a := newRegisters()
		for i := range a.array() {
			a.array()[i] = least + byte(r.IntN(registerMax+1-int(least)))
		}
		a.array()[7] = least
		packed := a.appendPacked(nil)
		b := newRegisters()
		if err := b.mergePacked(packed); err != nil || *a.array() != *b.array() {
			t.Errorf("least %d: packed registers differ, %v", least, err)
		}
		sum, zeros := 0.0, 0
		for _, v := range a.array() {
			sum += math.Ldexp(1, -int(v))
			if v == 0 {
				zeros++
			}
		}
		if n, err := a.estimate(); err != nil || n <= 0 {
			t.Errorf("least %d: %v, %v", least, n, err)
		}
		head := a[:imageHead]
		have := math.Float64frombits(leUint64(head[16:])) + math.Float64frombits(leUint64(head[24:]))
		if math.Abs(have-sum) > 1e-12*sum || int(leUint64(head[32:])&0xffffffff) != zeros {
			t.Errorf("least %d: sum %v of %v, zeros of %d", least, have, sum, zeros)
		}
	}
}

func leUint64(b []byte) (v uint64) {
	for i := 7; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func TestMaxBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 3))
	for range 10_000 {
		a, b := r.Uint64()&^highBits, r.Uint64()&^highBits
		if r.IntN(2) == 0 {
			b = a ^ 1<<(8*r.IntN(8)) // alike but for one byte
		}
		got := maxBytes(a, b)
		for i := 0; i < 64; i += 8 {
			if want := max(byte(a>>i), byte(b>>i)); byte(got>>i) != want {
				t.Fatalf("of %x and %x: %x", a, b, got)
			}
		}
	}
}

// A union is a set: whatever is added, in whatever form, again or after a reset.
func TestUnionIsASet(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 3))
	var u Union
	for round := range 200 {
		u.Reset()
		if !u.Empty() || count(t, &u) != 0 {
			t.Fatalf("round %d: not empty after a reset", round)
		}
		set := map[uint64]bool{}
		near := r.Uint64() // ids that begin alike, at the end of the table too
		for range r.IntN(12) {
			var ids []uint64
			for range r.IntN(1 + ExactMax) {
				id := []uint64{0, 1, math.MaxUint64, near + r.Uint64N(50), math.MaxUint64 - r.Uint64N(50), r.Uint64(), r.Uint64N(100)}[r.IntN(7)]
				ids = append(ids, id)
				set[id] = true
			}
			s := sketchOf(t, ids...)
			var cell, other Union
			var err error
			switch r.IntN(4) {
			case 0:
				err = u.Add(s)
			case 1:
				err = u.AddEncoded(encode(t, s))
			case 2:
				if err = cell.Add(s); err == nil {
					err = u.AddCell(cell.AppendCell(nil))
				}
			case 3:
				if err = other.Add(s); err == nil {
					u.AddUnion(&other)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !u.Exact() || count(t, &u) != float64(len(set)) || u.Empty() != (len(set) == 0) {
			t.Fatalf("round %d: %v ids, exact %v, want %d", round, count(t, &u), u.Exact(), len(set))
		}
		u.each(func(id uint64) { delete(set, id) })
		if len(set) > 0 {
			t.Fatalf("round %d: %d ids are lost", round, len(set))
		}
	}
}

// A union of exact sketches is exact up to 2^20 ids and an estimate past them.
func TestUnionGivesExactnessUp(t *testing.T) {
	var u Union
	ids := randomIDs(77, unionExactMax+1)
	for i := 0; i < unionExactMax; i += ExactMax {
		if err := u.Add(sketchOf(t, ids[i:i+ExactMax]...)); err != nil {
			t.Fatal(err)
		}
	}
	if !u.Exact() || count(t, &u) != unionExactMax {
		t.Errorf("%v ids, exact %v", count(t, &u), u.Exact())
	}
	if err := u.Add(sketchOf(t, ids[unionExactMax])); err != nil {
		t.Fatal(err)
	}
	if u.Exact() || math.Abs(count(t, &u)/(unionExactMax+1)-1) > 5*0.0081 {
		t.Errorf("%v ids, exact %v", count(t, &u), u.Exact())
	}
}

// A cell is exact up to CellExactMax ids, and says of a set the same however it came
// about.
func TestCells(t *testing.T) {
	for _, n := range []int{0, 1, ExactMax, CellExactMax, CellExactMax + 1, 10_000} {
		ids := randomIDs(uint64(n)+3, n)
		var want []byte
		for range 2 {
			var u, back Union
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			for _, id := range ids {
				u.addID(id)
			}
			u.Settle()
			enc := u.AppendCell(nil)
			if err := back.AddCell(enc); err != nil || back.Exact() != (n <= CellExactMax) || count(t, &back) != count(t, &u) {
				t.Fatalf("%d ids: %v, exact %v, %v", n, count(t, &back), back.Exact(), err)
			}
			exceptions := len(enc) - u.CellBytes()
			if exceptions < 0 || exceptions > 300 || u.Exact() && exceptions > 0 {
				t.Errorf("%d ids: %d bytes, said to be %d", n, len(enc), u.CellBytes())
			}
			if want != nil && !bytes.Equal(enc, want) {
				t.Errorf("%d ids: two encodings", n)
			}
			want = enc
		}
	}
}

// The documented error: over many sets of sizes from a cell's to far past the largest
// range of the estimator, each put together of sets that overlap, the root mean square
// is at most 0.81%, within what so many trials can tell, and none is past five times that.
func TestErrorOfUnions(t *testing.T) {
	const sigma = 0.0081
	for _, n := range []int{2049, 4000, 8000, 12_000, 20_000, 40_000, 80_000, 300_000} {
		trials := min(200, 4_000_000/n)
		sum := 0.0
		for trial := range trials {
			r := rand.New(rand.NewPCG(uint64(trial), uint64(n)))
			var parts [3]Union
			for range n {
				id := r.Uint64()
				for _, p := range []int{r.IntN(3), r.IntN(3)} {
					parts[p].addID(id)
				}
			}
			var u Union
			for i := range parts {
				parts[i].ToRegisters()
				if err := u.AddCell(parts[i].AppendCell(nil)); err != nil {
					t.Fatal(err)
				}
			}
			rel := count(t, &u)/float64(n) - 1
			if math.Abs(rel) > 5*sigma {
				t.Errorf("%d ids, trial %d: %v", n, trial, count(t, &u))
			}
			sum += rel * rel
		}
		rms := math.Sqrt(sum / float64(trials))
		t.Logf("%d ids: root mean square error %.2f%% over %d sets", n, 100*rms, trials)
		// The root of a mean of so many squares is off by 1/sqrt(2 trials) itself.
		if rms > sigma*(1+3/math.Sqrt(2*float64(trials))) {
			t.Errorf("%d ids: root mean square error %.4f over %d sets", n, rms, trials)
		}
	}
}

// A slide counts what a union of the whole run does.
func TestSlideCountsEveryRun(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	var s Slide
	for round := range 60 {
		unions := make([]Union, 1+r.IntN(60))
		if round == 0 {
			unions = make([]Union, slideDepth+500)
		}
		some := []int{0, 3, 30}[r.IntN(3)] // of 100: registers
		for i := range unions {
			for range r.IntN(4) * r.IntN(20) {
				unions[i].addID(r.Uint64N(400) * 0x9e3779b97f4a7c15)
			}
			if r.IntN(100) < some {
				unions[i].ToRegisters()
				for range r.IntN(3000) {
					unions[i].addID(r.Uint64())
				}
			}
		}
		s.Reset(unions)
		first, last := 0, 0
		for first < len(unions) {
			last = min(len(unions), max(last, first+1)+r.IntN(6))
			if round == 0 {
				last = min(len(unions), first+slideDepth+200)
			}
			var want Union
			for i := first; i < last; i++ {
				want.AddUnion(&unions[i])
			}
			n, ok, err := s.Count(first, last)
			if err != nil || n != count(t, &want) || ok == want.Empty() {
				t.Fatalf("round %d: %d to %d of %d: %v, %v, %v; want %v, exact %v", round, first, last, len(unions), n, ok, err, count(t, &want), want.Exact())
			}
			first += r.IntN(4)
			if round == 0 {
				first += 40
			}
		}
	}
}

// What decodes as a sketch adds to a union what the sketch would; damage is an error of
// both.
func FuzzUnionAddEncoded(f *testing.F) {
	for _, n := range []int{0, 3, 1030, 2000} {
		f.Add(encode(f, sketchOf(f, randomIDs(1, n)...)))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		enc, rest, err := Encoded(src)
		if err != nil {
			return
		}
		if !bytes.Equal(append(bytes.Clone(enc), rest...), src) {
			t.Fatal("bytes are lost")
		}
		var u Union
		err = u.AddEncoded(enc)
		if n, _ := u.Estimate(); err == nil && u.Exact() {
			var s Sketch
			if _, err := s.Decode(src); err != nil || estimate(t, &s) != n {
				t.Fatalf("%v ids, %v; the sketch has %v", n, err, estimate(t, &s))
			}
		}
	})
}

func FuzzUnionAddCell(f *testing.F) {
	for _, n := range []int{0, 3, 3000} {
		var u Union
		for _, id := range randomIDs(2, n) {
			u.addID(id)
		}
		u.Settle()
		f.Add(u.AppendCell(nil))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var u, again Union
		if u.AddCell(src) != nil {
			return
		}
		if err := again.AddCell(u.AppendCell(nil)); err != nil || count(t, &again) != count(t, &u) {
			t.Fatalf("%v ids become %v, %v", count(t, &u), count(t, &again), err)
		}
	})
}

// Hours and days are united with no memory of their own.
func TestUnionsOfRegistersAllocateNothing(t *testing.T) {
	var u, o Union
	for _, id := range randomIDs(3, 3000) {
		o.addID(id)
	}
	o.Settle()
	cell := o.AppendCell(nil)
	u.ToRegisters()
	if n := testing.AllocsPerRun(100, func() {
		u.Reset()
		if err := u.AddCell(cell); err != nil {
			t.Fatal(err)
		}
		u.AddUnion(&o)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAddCellOfRegisters(b *testing.B) {
	var u, o Union
	for _, id := range randomIDs(3, 7000) {
		o.addID(id)
	}
	o.Settle()
	cell := o.AppendCell(nil)
	b.SetBytes(int64(len(cell)))
	for b.Loop() {
		if err := u.AddCell(cell); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEstimateOfRegisters(b *testing.B) {
	var u Union
	for _, id := range randomIDs(3, 7000) {
		u.addID(id)
	}
	u.Settle()
	for b.Loop() {
		if _, err := u.Estimate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMergeRegisters(b *testing.B) {
	r, o := newRegisters(), newRegisters()
	for _, id := range randomIDs(3, 7000) {
		o.addID(id)
	}
	for b.Loop() {
		r.merge(o[imageHead:])
	}
}

// BenchmarkSlide counts a month by ranges of a day, each an hour after the other: of 300
// ids an hour, and of registers.
func BenchmarkSlide(b *testing.B) {
	const hours, width = 744, 24
	for _, exact := range []bool{true, false} {
		b.Run(map[bool]string{true: "ids", false: "registers"}[exact], func(b *testing.B) {
			unions := make([]Union, hours)
			r := rand.New(rand.NewPCG(2, 2))
			for i := range unions {
				for range 300 {
					unions[i].addID((1 + r.Uint64N(20_000)) * 0x9e3779b97f4a7c15)
				}
				if !exact {
					unions[i].ToRegisters()
				}
			}
			var s Slide
			for b.Loop() {
				s.Reset(unions)
				for last := width; last <= hours; last++ {
					if _, _, err := s.Count(last-width, last); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
