package tsdb

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// coarseKinds are those whose windows merge to coarse ones.
var coarseKinds = []increment.Kind{increment.Counter, increment.Histogram, increment.Distinct, increment.Buckets}

// asRaw is p as a reader of raw points has it.
func asRaw(p points) points {
	p = clonePoints(p)
	p.raw, p.last = true, slices.Clone(p.win)
	return p
}

// clonePoints is a copy of p that shares nothing with it.
func clonePoints(p points) points {
	out := p
	out.win, out.value, out.last = slices.Clone(p.win), slices.Clone(p.value), slices.Clone(p.last)
	out.hist, out.ids = nil, nil
	for _, h := range p.hist {
		out.hist = append(out.hist, h.Clone())
	}
	for _, s := range p.ids {
		c, err := s.Clone()
		if err != nil {
			panic(err)
		}
		out.ids = append(out.ids, &c)
	}
	return out
}

func mustCoarsen(t testing.TB, step int64, parts ...points) points {
	t.Helper()
	p, err := coarsePoints(parts[0].kind, parts, step)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dayOfPoints are random points of one day.
func dayOfPoints(r *rand.Rand, kind increment.Kind, n int, shape string) points {
	p := randomPoints(r, kind, n, shape)
	p.between(dayStart(p.win[0]), dayStart(p.win[0])+dayMillis)
	return p
}

func TestCoarseChunkRoundTrip(t *testing.T) {
	for _, kind := range coarseKinds {
		for _, shape := range []string{"ones", "zeros", "floats", "outliers"} {
			for seed := range uint64(10) {
				r := rand.New(rand.NewPCG(seed, 1))
				step := []int64{minute, 5 * minute, hour, dayMillis}[r.IntN(4)]
				want := mustCoarsen(t, step, asRaw(dayOfPoints(r, kind, 1+r.IntN(500), shape)))
				if kind == increment.Buckets { // a chunk has one set of bounds, two windows of a step
					want.last[0] = want.win[0]
				}
				enc, err := encodeCoarse(&want, testStep, step, 0, want.len())
				if err != nil {
					t.Fatal(err)
				}
				got := points{raw: true}
				width, err := decodeChunk(coarseBase+chunkenc.Encoding(kind), enc, &got)
				if err != nil || width != testStep || got.step != step {
					t.Fatalf("%s %s seed %d: windows of %d in steps of %d, %v", kind, shape, seed, width, got.step, err)
				}
				if err := equalPoints(got, want); err != nil {
					t.Fatalf("%s %s seed %d: %v", kind, shape, seed, err)
				}
				if !slices.Equal(got.last, want.last) {
					t.Fatalf("%s %s seed %d: ends %v, want %v", kind, shape, seed, got.last, want.last)
				}
				for cut := 0; cut < len(enc); cut += 1 + r.IntN(10+len(enc)/10) {
					if _, err := decodeChunk(coarseBase+chunkenc.Encoding(kind), enc[:cut], &points{}); err == nil {
						t.Fatalf("%s %s seed %d: a chunk of %d bytes cut to %d decodes", kind, shape, seed, len(enc), cut)
					}
				}
			}
		}
	}
}

func TestCoarseChunkGolden(t *testing.T) {
	var b strings.Builder
	for _, kind := range coarseKinds {
		for _, shape := range []string{"ones", "zeros", "floats", "outliers"} {
			for _, step := range []int64{minute, 5 * minute} {
				p := mustCoarsen(t, step, asRaw(randomPoints(rand.New(rand.NewPCG(42, 42)), kind, 6, shape)))
				enc, err := encodeCoarse(&p, testStep, step, 0, p.len())
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "%s %s %d %s\n", kind, shape, step, hex.EncodeToString(enc[:min(len(enc), 400)]))
			}
		}
	}
	golden(t, "coarse.golden", b.String())
}

// expanded is what readers see of p after it was written in coarse windows.
func expanded(t testing.TB, p *points, step int64) points {
	t.Helper()
	out := points{kind: p.kind}
	metas, err := encodeChunks(p, testStep)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metas {
		n := out.len()
		if _, err := appendChunk(m.Chunk.Encoding(), m.Chunk.Bytes(), nil, &out); err != nil {
			t.Fatal(err)
		}
		if out.len() > n && (out.win[n] != m.MinTime || out.win[out.len()-1]+testStep-1 != m.MaxTime) {
			t.Fatalf("a chunk of %d to %d has windows from %d to %d", m.MinTime, m.MaxTime, out.win[n], out.win[out.len()-1])
		}
	}
	return out
}

// viewLines are the samples of a view at multiples of step, and the first zeros and the
// markers wherever they are.
func viewLines(it chunkenc.Iterator, step int64) []string {
	var out []string
	zero := false
	for {
		switch it.Next() {
		case chunkenc.ValNone:
			return out
		case chunkenc.ValFloat:
			if ts, v := it.At(); ts%step == 0 || v == 0 && !zero || math.IsNaN(v) {
				out = append(out, fmt.Sprintf("%d %x", ts, math.Float64bits(v)))
				zero = v == 0
			} else {
				zero = zero && v == 0
			}
		default:
			ts, h := it.AtFloatHistogram(nil)
			if ts%step == 0 || h.Count == 0 || math.IsNaN(h.Sum) {
				out = append(out, fmt.Sprintf("%d %s %x %v", ts, h, math.Float64bits(h.Sum), h.CustomValues))
			}
		}
	}
}

// sparsePoints are those of several days, in runs; sums that every order of adding has the
// same of.
func sparsePoints(r *rand.Rand, kind increment.Kind, whole, bounds bool) points {
	p := points{kind: kind}
	mean := math.Exp(r.Float64()*9 - 1)
	t := floorTo(1_700_000_000_000, testStep)
	for range 1 + r.IntN(300) {
		t += testStep * int64(1+r.ExpFloat64()*mean)
		v := float64(1 + r.IntN(1+r.IntN(2000)))
		if !whole {
			v /= 8
		}
		p.win = append(p.win, t)
		if kind == increment.Counter {
			p.value = append(p.value, v*float64(min(1, r.IntN(10))))
			continue
		}
		h := &increment.Hist{}
		if kind == increment.Buckets {
			h.Bounds = []float64{0.125, 1, 2.5, 100}
			if bounds && r.IntN(3) == 0 {
				h.Bounds = []float64{1, 50}
			}
		}
		for range 1 + r.IntN(5) {
			h.Observe(v * float64(r.IntN(3)))
		}
		p.hist = append(p.hist, h)
	}
	return p
}

// What a view shows at the multiples of the step, and where its runs begin and end, is the
// same before and after, to the bit, as long as the step is at most the idle timeout.
func TestCoarseWindowsKeepTheView(t *testing.T) {
	t.Parallel()
	for _, kind := range []increment.Kind{increment.Counter, increment.Histogram, increment.Buckets} {
		for seed := range uint64(100) {
			r := rand.New(rand.NewPCG(seed, 11))
			fine := sparsePoints(r, kind, r.IntN(2) == 0, true)
			step := []int64{minute, 5 * minute, hour, 6 * hour}[r.IntN(4)]
			v := viewParams{grid: testStep, idle: step * int64(1+r.IntN(2)), now: never, evalEnd: never}
			want := viewLines(newView(&fine, v, math.MinInt64/2, never), step)
			coarse := mustCoarsen(t, step, asRaw(fine))
			after := expanded(t, &coarse, step)
			got := viewLines(newView(&after, v, math.MinInt64/2, never), step)
			if !slices.Equal(got, want) {
				t.Fatalf("%s seed %d, step %d: %s", kind, seed, step, firstDifference(strings.Join(got, "\n"), strings.Join(want, "\n")))
			}
		}
	}
}

// In whatever order parts are merged, on whatever steps they are before, the same comes of
// it.
func TestCoarseWindowsMergeInAnyOrder(t *testing.T) {
	for _, kind := range coarseKinds {
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 12))
			var all points
			if kind == increment.Distinct {
				all = randomPoints(r, kind, 200, "ones")
			} else {
				all = sparsePoints(r, kind, true, false)
			}
			want := mustCoarsen(t, hour, asRaw(all))
			parts := make([]points, 1+r.IntN(4))
			for i := range parts {
				parts[i] = points{kind: kind}
			}
			from := clonePoints(all)
			for i := range from.win {
				parts[r.IntN(len(parts))].take(&from, i)
			}
			for i := range parts {
				if parts[i] = asRaw(parts[i]); r.IntN(2) == 0 {
					parts[i] = mustCoarsen(t, []int64{minute, 5 * minute, hour}[r.IntN(3)], parts[i])
				}
			}
			r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			got := mustCoarsen(t, hour, mustCoarsen(t, 5*minute, parts[0]))
			if len(parts) > 1 {
				got = mustCoarsen(t, hour, append(parts[1:], got)...)
			}
			if err := equalPoints(got, want); err != nil || !slices.Equal(got.last, want.last) {
				t.Fatalf("%s seed %d: %v; ends %v, want %v", kind, seed, err, got.last, want.last)
			}
		}
	}
}

// A window is spread over those of the grid from its first to its last: whole counts by
// whole numbers, the total rising evenly, and all of it comes to exactly what it was.
func TestExpandIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 3000 {
		n := 1 + r.Int64N(400)
		v := math.Trunc(math.Exp(r.Float64() * 30))
		switch r.IntN(4) {
		case 0:
			v = math.Exp(r.NormFloat64() * 20)
		case 1:
			v = float64(r.IntN(5))
		}
		var p points
		p.expandCount(0, 1, n, v)
		if p.win[0] != 0 || p.win[len(p.win)-1] != n-1 {
			t.Fatalf("%v over %d windows begins at %d and ends at %d", v, n, p.win[0], p.win[len(p.win)-1])
		}
		sum := 0.0
		for i, part := range p.value {
			if i > 0 && p.win[i] <= p.win[i-1] || part < 0 || v == math.Trunc(v) && v < wholeMax && part != math.Trunc(part) {
				t.Fatalf("%v over %d windows has %v at %d", v, n, part, p.win[i])
			}
			sum += part
			if even := v * float64(p.win[i]+1) / float64(n); n > 1 && math.Abs(sum-even) > 1+v/float64(n)+v*1e-6 {
				t.Fatalf("%v over %d windows is %v at %d, evenly it is %v", v, n, sum, p.win[i], even)
			}
		}
		if sum != v {
			t.Fatalf("%v over %d windows comes to %v", v, n, sum)
		}
	}
	for range 2000 {
		h := &increment.Hist{}
		for range r.IntN(1 + r.IntN(300)) {
			h.Observe(r.NormFloat64() * float64(r.IntN(2)))
		}
		var p points
		p.kind = increment.Histogram
		n := 1 + r.Int64N(300)
		p.expandHist(0, 1, n, h)
		all := &increment.Hist{}
		for _, part := range p.hist {
			if err := part.Validate(); err != nil {
				t.Fatal(err)
			}
			if n > 1 && part.Count() > h.Count()/uint64(len(p.hist))+1 {
				t.Fatalf("%d of %d observations are in one of %d windows", part.Count(), h.Count(), len(p.hist))
			}
			all.Merge(part)
		}
		if !all.Float(nil).Equals(h.Float(nil)) || p.win[0] != 0 || p.win[len(p.win)-1] != n-1 {
			t.Fatalf("%v over %d windows comes to %v", h, n, all)
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, 5e-324, 0} {
		c, sum := newCut(v, 7), 0.0
		for j := range int64(7) {
			sum += c.next(j)
		}
		if math.Float64bits(sum) != math.Float64bits(v) {
			t.Errorf("the parts of %v come to %v", v, sum)
		}
	}
}

// A distinct window shows at its first and last window of the grid; of a step that is
// longer than what a selector looks back nothing does.
func TestExpandDistinct(t *testing.T) {
	s := &sketch.Sketch{}
	if err := s.Add(1, 2, 3); err != nil {
		t.Fatal(err)
	}
	coarse := points{kind: increment.Distinct, raw: true, step: 5 * minute, win: []int64{minute}, last: []int64{3 * minute}, ids: []*sketch.Sketch{s}}
	got := expanded(t, &coarse, 5*minute)
	if !slices.Equal(got.win, []int64{minute, 3 * minute}) || got.ids[0] == got.ids[1] {
		t.Errorf("it shows at %v, by the same sketch: %v", got.win, got.ids[0] == got.ids[1])
	}
	coarse.step = 10 * minute
	if got := expanded(t, &coarse, 10*minute); got.len() > 0 {
		t.Errorf("of a step of 10m it shows at %v", got.win)
	}
}

func FuzzCoarseChunkDecode(f *testing.F) {
	for _, kind := range coarseKinds {
		for _, shape := range []string{"ones", "floats"} {
			p := mustCoarsen(f, 5*minute, asRaw(randomPoints(rand.New(rand.NewPCG(1, 1)), kind, 20, shape)))
			enc, err := encodeCoarse(&p, testStep, 5*minute, 0, p.len())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(kind), enc)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, src []byte) {
		e := coarseBase + chunkenc.Encoding(kind)
		if !isCoarse(e) {
			return
		}
		raw := points{raw: true}
		var p points
		_, err := decodeChunk(e, src, &raw)
		if _, other := decodeChunk(e, src, &p); (err == nil) != (other == nil) {
			t.Fatalf("raw it decodes with %v, expanded with %v", err, other)
		}
		if err != nil {
			return
		}
		if raw.len() == 0 {
			t.Fatal("a chunk without windows decodes")
		}
		for i := 1; i < p.len(); i++ {
			if p.win[i-1] >= p.win[i] {
				t.Fatalf("window %d follows %d", p.win[i], p.win[i-1])
			}
		}
		if kind == byte(increment.Distinct) {
			if _, err := appendEncodedWindows(nil, e, src); err != nil {
				t.Fatalf("encoded windows: %v", err)
			}
		}
	})
}
