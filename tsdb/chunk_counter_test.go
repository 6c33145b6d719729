package tsdb

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
)

// counterPoints are n windows from midnight on, each as many steps after the one
// before as gap says.
func counterPoints(n int, gap func(i int) int64, count func(i int) float64) points {
	p := points{kind: increment.Counter}
	at := int64(1_767_571_200_000)
	for i := range n {
		if i > 0 {
			at += gap(i) * testStep
		}
		p.win = append(p.win, at)
		p.value = append(p.value, count(i))
	}
	return p
}

// counterShapes are counters by what is special about them.
func counterShapes(r *rand.Rand) map[string]points {
	const n = 200
	always := func(v int64) func(int) int64 { return func(int) int64 { return v } }
	same := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	someGaps := func(int) int64 { return 1 + int64(r.IntN(5))/4 }
	small := func(int) float64 { return float64(1 + r.IntN(5)) }
	out := map[string]points{
		"one window":               counterPoints(1, nil, same(1)),
		"one window of zero":       counterPoints(1, nil, same(0)),
		"one window of a float":    counterPoints(1, nil, same(math.Pi)),
		"one window of the most":   counterPoints(1, nil, same(wholeMax-1)),
		"past whole numbers":       counterPoints(3, someGaps, same(wholeMax)),
		"all windows of a day":     counterPoints(86_400_000/testStep, always(1), small),
		"ones":                     counterPoints(n, always(1), same(1)),
		"ones and gaps":            counterPoints(n, someGaps, same(1)),
		"small":                    counterPoints(n, always(1), small),
		"small and gaps":           counterPoints(n, someGaps, small),
		"a block":                  counterPoints(packBlock, always(1), small),
		"a block and gaps":         counterPoints(packBlock+1, someGaps, small),
		"once an hour":             counterPoints(24, func(int) int64 { return 1 + int64(r.IntN(479)) }, same(1)),
		"far apart":                counterPoints(n, func(int) int64 { return 1 + r.Int64N(1<<25) }, small),
		"zeros":                    counterPoints(n, always(1), func(int) float64 { return float64(r.IntN(3)) }),
		"zeros and gaps":           counterPoints(n, someGaps, func(int) float64 { return float64(r.IntN(3)) }),
		"only zeros":               counterPoints(n, someGaps, same(0)),
		"large":                    counterPoints(n, someGaps, func(int) float64 { return float64(wholeMax - 1 - r.Int64N(1000)) }),
		"any whole number":         counterPoints(n, someGaps, func(int) float64 { return float64(r.Int64N(wholeMax) >> r.IntN(54)) }),
		"floats":                   counterPoints(n, always(1), func(int) float64 { return r.ExpFloat64() }),
		"floats and gaps":          counterPoints(n, someGaps, func(int) float64 { return float64(r.IntN(100)) / 4 }),
		"one float among integers": counterPoints(n, someGaps, func(i int) float64 { return float64(i) + float64(i/(n-1))/2 }),
	}
	for name, p := range out {
		if p.len() == n {
			p = counterPoints(n, func(i int) int64 { return (p.win[i] - p.win[i-1]) / testStep }, func(i int) float64 { return p.value[i] })
			p.value[n/2] = wholeMax - 1
			out[name+", an outlier"] = p
		}
	}
	return out
}

func TestCounterShapes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		for name, want := range counterShapes(rand.New(rand.NewPCG(seed, 2))) {
			enc, err := encodeChunk(&want, testStep, 0, want.len())
			if err != nil {
				t.Fatal(err)
			}
			got := points{kind: increment.Counter}
			if _, err := decodeChunk(encodingOf(increment.Counter), enc, &got); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			if err := equalPoints(got, want); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			for cut := range len(enc) {
				if _, err := decodeChunk(encodingOf(increment.Counter), enc[:cut], &got); err == nil {
					t.Fatalf("%s, seed %d: chunk of %d bytes cut to %d decodes", name, seed, len(enc), cut)
				}
			}
		}
	}
}

// The two forms, with and without zeros, as bytes.
func TestCounterGolden(t *testing.T) {
	always := func(int) int64 { return 1 }
	skips := func(i int) int64 { return 1 + int64(i%7/6) }
	hourly := func(i int) int64 { return 200 + int64(i*i) }
	small := func(i int) float64 { return float64(1 + i*i%5) }
	one := func(int) float64 { return 1 }
	var b strings.Builder
	for _, c := range []struct {
		name string
		p    points
	}{
		{"dense", counterPoints(70, always, small)},
		{"dense with windows left out", counterPoints(70, skips, small)},
		{"dense with an outlier", counterPoints(20, always, func(i int) float64 { return 1 + float64(i/19)*1e15 })},
		{"sparse", counterPoints(24, hourly, one)},
		{"zeros", counterPoints(10, skips, func(i int) float64 { return float64(i % 3) })},
		{"floats", counterPoints(10, skips, func(i int) float64 { return float64(i) / 4 })},
	} {
		enc, err := encodeChunk(&c.p, testStep, 0, c.p.len())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %s\n", c.name, hex.EncodeToString(enc))
	}
	golden(t, "counters.golden", b.String())
}

// What no encoder writes is refused.
func TestCounterRefused(t *testing.T) {
	header := chunkHeader{step: testStep, n: 2, first: 10}
	for name, body := range map[string][]byte{
		"empty":                             {},
		"span less than its windows":        {1, 1, 0, 0},
		"span of more than its bytes":       {255, 255, 255, 15, 1, 1, 0b1001},
		"dense, no base":                    {3, 0, 2, 0b101},
		"dense, first window is zero":       {3, 1, 1, 0b110},
		"dense, last window is zero":        {3, 1, 1, 0b011},
		"dense, a window too many":          {4, 1, 1, 0b1011},
		"dense, a window too few":           {3, 1, 1, 0b100},
		"sparse, gap past the end of time":  {0, 64*3 + 0, 1, 63},
		"sparse, gap too large":             {0, 53, 255, 255, 255, 255, 255, 255, 31, 1, 0},
		"numbers of 54 bits":                {0, 0, 1, 54, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"patch past the block":              {2, 1, 1<<6 | 1, 0, 2},
		"patch past 53 bits":                {2, 1, 1 << 6, 0b11 << 6, 255, 255, 255, 255, 255, 255, 255, 255, 1},
		"base past 53 bits":                 {2, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0},
		"floats past the end":               {2, 0, 0xff},
		"floats of more than 64 bits":       {2, 0, 0b11111111, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"floats in bits that were not said": {2, 0, 0b10000000, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		p := points{kind: increment.Counter}
		if _, err := decodeChunk(encodingOf(increment.Counter), append(header.append(nil), body...), &p); err == nil {
			t.Errorf("%s: decodes to %v %v", name, p.win, p.value)
		} else if p.len() > 0 {
			t.Errorf("%s: %d windows and an error", name, p.len())
		}
	}
	// A few bytes that ask for the most windows there may be do not get the memory.
	header.n = 1 << 24
	short := append(header.append(nil), 0, 1, 0, 0)
	if n := testing.AllocsPerRun(10, func() {
		p := points{kind: increment.Counter}
		if _, err := decodeChunk(encodingOf(increment.Counter), short, &p); err == nil || cap(p.win) > 0 {
			t.Errorf("%d windows in %d bytes: %v", cap(p.win), len(short), err)
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

// One huge increment costs its own bits.
func TestOutlierIsCheap(t *testing.T) {
	p := counterPoints(480, func(int) int64 { return 1 }, func(i int) float64 { return float64(1 + i%4) })
	before, err := encodeChunk(&p, testStep, 0, p.len())
	if err != nil {
		t.Fatal(err)
	}
	p.value[100] = wholeMax - 1
	after, err := encodeChunk(&p, testStep, 0, p.len())
	if err != nil {
		t.Fatal(err)
	}
	if grown := len(after) - len(before); grown > 9 {
		t.Errorf("an outlier of 53 bits costs %d bytes, want at most 9", grown)
	}
}

// A counter with one increment an hour takes little a day.
func TestSparseCounterIsSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	const days = 1000
	bytes := 0
	for range days {
		p := points{kind: increment.Counter}
		for hour := range int64(24) {
			p.win = append(p.win, (hour*240+r.Int64N(240))*testStep+1_767_571_200_000)
			p.value = append(p.value, 1)
		}
		enc, err := encodeChunk(&p, testStep, 0, p.len())
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(enc)
	}
	per := float64(bytes) / days
	t.Logf("%.1f bytes a day", per)
	if per > 38 {
		t.Errorf("%.1f bytes a day, want at most 38", per)
	}
}

// denseDay are the chunks of a day of many counters with Poisson increments, rates
// lognormal with median 1 and mean 3 a window; stored is how many windows they have.
func denseDay(b *testing.B, series int) (chunks [][]byte, stored, grid int) {
	b.Helper()
	const day = 86_400_000 / testStep
	r := rand.New(rand.NewPCG(3, 14))
	for i := range series {
		quantile := (float64(i) + 0.5) / float64(series)
		rate := math.Exp(math.Sqrt(2*math.Log(3)) * math.Sqrt2 * math.Erfinv(2*quantile-1))
		p := points{kind: increment.Counter}
		for w := range int64(day) {
			if n := poisson(r, rate); n > 0 {
				p.win = append(p.win, 1_767_571_200_000+w*testStep)
				p.value = append(p.value, float64(n))
			}
		}
		metas, err := encodeChunks(&p, testStep)
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range metas {
			chunks = append(chunks, m.Chunk.Bytes())
		}
		stored += p.len()
	}
	return chunks, stored, series * day
}

func BenchmarkDecodeCounts(b *testing.B) {
	chunks, stored, grid := denseDay(b, 300)
	var win []int64
	var counts []float64
	b.ReportAllocs()
	for b.Loop() {
		for _, c := range chunks {
			var err error
			if win, counts, err = DecodeCounter(c, win[:0], counts[:0]); err != nil {
				b.Fatal(err)
			}
		}
	}
	ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	b.ReportMetric(ns/float64(stored), "ns/window")
	b.ReportMetric(ns/float64(grid), "ns/grid-window")
}

func TestDecodeCounterAllocatesNothing(t *testing.T) {
	p := counterPoints(480, func(i int) int64 { return 1 + int64(i%3/2) }, func(i int) float64 { return float64(1 + i%7) })
	enc, err := encodeChunk(&p, testStep, 0, p.len())
	if err != nil {
		t.Fatal(err)
	}
	win, counts := make([]int64, 0, 480), make([]float64, 0, 480)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := DecodeCounter(enc, win, counts); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
