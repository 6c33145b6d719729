package tsdb

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

var update = flag.Bool("update", false, "rewrite golden files")

const testStep = 15_000

// gridKinds are those whose chunks are ours.
var gridKinds = []increment.Kind{increment.Counter, increment.Histogram, increment.Distinct, increment.Gauge, increment.Buckets}

// randomPoints makes n points; shape picks what the increments look like.
func randomPoints(r *rand.Rand, kind increment.Kind, n int, shape string) points {
	p := points{kind: kind}
	t := int64(1_700_000_000_000) / testStep * testStep
	for range n {
		t += testStep * int64(1+r.IntN(4)*r.IntN(2))
		inc := increment.Increment{Series: &increment.Series{Kind: kind}, Time: t}
		switch kind {
		case increment.Counter:
			switch shape {
			case "ones":
				inc.Value = 1
			case "zeros":
				inc.Value = float64(r.IntN(3))
			case "floats":
				inc.Value = r.ExpFloat64() * 12.5
			case "outliers":
				inc.Value = float64(1 + r.IntN(4))
				if r.IntN(20) == 0 {
					inc.Value = math.Trunc(r.Float64() * (1 << 52))
				}
			}
		case increment.Histogram, increment.Buckets:
			inc.Hist = &increment.Hist{}
			if kind == increment.Buckets {
				inc.Hist.Bounds = []float64{0.1, 1, 2.5, 100}
			}
			for range 1 + r.IntN(20) {
				v := math.Exp(r.NormFloat64() * 5)
				if shape == "ones" {
					v = float64(r.IntN(100) - 20)
				}
				inc.Hist.Observe(v)
			}
		case increment.Gauge:
			inc.At = t + r.Int64N(testStep)
			switch shape {
			case "zeros":
				inc.Value = float64(r.IntN(3) - 1)
			case "floats":
				inc.Value = r.NormFloat64()
			case "outliers":
				inc.Value = []float64{1, math.NaN(), math.Inf(-1), math.MaxFloat64, 1e-300}[r.IntN(5)]
			default:
				inc.Value = 1
			}
		case increment.Distinct:
			for range 1 + r.IntN(5) {
				inc.IDs = append(inc.IDs, r.Uint64())
			}
			if shape == "outliers" && r.IntN(10) == 0 {
				for range sketch.ExactMax {
					inc.IDs = append(inc.IDs, r.Uint64())
				}
			}
		}
		if err := p.add(&inc); err != nil {
			panic(err)
		}
	}
	return p
}

// equalPoints compares values, sketches by their encoding.
func equalPoints(a, b points) error {
	if a.kind != b.kind || !reflect.DeepEqual(a.win, b.win) {
		return fmt.Errorf("%s windows %v, want %s %v", a.kind, a.win, b.kind, b.win)
	}
	for i := range a.win {
		switch a.kind {
		case increment.Counter:
			if a.value[i] != b.value[i] {
				return fmt.Errorf("window %d: count %v, want %v", a.win[i], a.value[i], b.value[i])
			}
		case increment.Histogram, increment.Buckets:
			if !a.hist[i].Float(nil).Equals(b.hist[i].Float(nil)) {
				return fmt.Errorf("window %d: %v, want %v", a.win[i], a.hist[i], b.hist[i])
			}
		case increment.Gauge:
			if math.Float64bits(a.value[i]) != math.Float64bits(b.value[i]) || a.at[i] != b.at[i] {
				return fmt.Errorf("window %d: %v at %d, want %v at %d", a.win[i], a.value[i], a.at[i], b.value[i], b.at[i])
			}
		case increment.Distinct:
			x, err1 := a.ids[i].Estimate()
			y, err2 := b.ids[i].Estimate()
			if err1 != nil || err2 != nil || x != y || a.ids[i].Exact() != b.ids[i].Exact() {
				return fmt.Errorf("window %d: %v ids, want %v (%v, %v)", a.win[i], x, y, err1, err2)
			}
		}
	}
	return nil
}

func TestChunkRoundTrip(t *testing.T) {
	for _, kind := range gridKinds {
		for _, shape := range []string{"ones", "zeros", "floats", "outliers"} {
			for seed := range uint64(30) {
				r := rand.New(rand.NewPCG(seed, 1))
				want := randomPoints(r, kind, 1+r.IntN(500), shape)
				enc, err := encodeChunk(&want, testStep, 0, want.len())
				if err != nil {
					t.Fatal(err)
				}
				var got points
				step, err := decodeChunk(encodingOf(kind), enc, &got)
				if err != nil || step != testStep {
					t.Fatalf("%s %s seed %d: step %d, %v", kind, shape, seed, step, err)
				}
				if err := equalPoints(got, want); err != nil {
					t.Fatalf("%s %s seed %d: %v", kind, shape, seed, err)
				}
			}
		}
	}
}

// A cut anywhere is an error or fewer bits than the padding holds, never a panic
// and never a wrong prefix.
func TestChunkCutShort(t *testing.T) {
	for _, kind := range gridKinds {
		p := randomPoints(rand.New(rand.NewPCG(1, 1)), kind, 40, "floats")
		enc, err := encodeChunk(&p, testStep, 0, p.len())
		if err != nil {
			t.Fatal(err)
		}
		for cut := range len(enc) {
			var got points
			if _, err := decodeChunk(encodingOf(kind), enc[:cut], &got); err == nil {
				t.Errorf("%s chunk of %d bytes cut to %d decodes", kind, len(enc), cut)
			}
		}
	}
}

// Formats on disk do not change under a version: the bytes are compared with a
// file that is only rewritten on purpose (-update).
func TestChunkGolden(t *testing.T) {
	var b strings.Builder
	for _, kind := range gridKinds {
		for _, shape := range []string{"ones", "zeros", "floats", "outliers"} {
			p := randomPoints(rand.New(rand.NewPCG(42, 42)), kind, 6, shape)
			enc, err := encodeChunk(&p, testStep, 0, p.len())
			if err != nil {
				t.Fatal(err)
			}
			if len(enc) > 400 {
				enc = enc[:400]
			}
			fmt.Fprintf(&b, "%s %s %s\n", kind, shape, hex.EncodeToString(enc))
		}
	}
	golden(t, "chunks.golden", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: the format changed.\ngot:\n%swant:\n%s", path, got, want)
	}
}

// Poisson increments on a dense grid take a fourth of what XOR of totals does.
func TestDenseCounterIsSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	bytes, windows := 0, 0
	for range 500 {
		rate := math.Exp(r.NormFloat64() * 1.5)
		p := points{kind: increment.Counter}
		for i := range 480 {
			n := poisson(r, rate)
			windows++
			if n > 0 {
				p.win = append(p.win, int64(i)*testStep)
				p.value = append(p.value, float64(n))
			}
		}
		if p.len() == 0 {
			continue
		}
		enc, err := encodeChunk(&p, testStep, 0, p.len())
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(enc)
	}
	per := float64(bytes) / float64(windows)
	t.Logf("%.3f bytes a window", per)
	if per > 0.31 {
		t.Errorf("%.3f bytes a window, want at most 0.31", per)
	}
}

func poisson(r *rand.Rand, rate float64) int {
	n := 0
	for t := r.ExpFloat64(); t < rate; t += r.ExpFloat64() {
		n++
	}
	return n
}

func FuzzChunkDecode(f *testing.F) {
	add := func(kind increment.Kind, p points) {
		enc, err := encodeChunk(&p, testStep, 0, p.len())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(kind), enc)
	}
	for _, kind := range gridKinds {
		for _, shape := range []string{"ones", "floats"} {
			add(kind, randomPoints(rand.New(rand.NewPCG(1, 1)), kind, 20, shape))
		}
	}
	for _, p := range counterShapes(rand.New(rand.NewPCG(1, 1))) {
		add(increment.Counter, p)
	}
	f.Fuzz(func(t *testing.T, kind byte, src []byte) {
		var p points
		if _, err := decodeChunk(encodingOf(increment.Kind(kind)), src, &p); err != nil {
			return
		}
		if p.len() == 0 {
			t.Fatal("a chunk without windows decodes")
		}
		for i := 1; i < p.len(); i++ {
			if p.win[i-1] >= p.win[i] {
				t.Fatalf("window %d follows %d", p.win[i], p.win[i-1])
			}
		}
	})
}
