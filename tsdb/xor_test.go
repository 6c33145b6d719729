package tsdb

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/column"
)

// upstreamSamples are what upstream's iterator yields of an XOR chunk.
func upstreamSamples(chunk []byte) (t []int64, bits []uint64, err error) {
	c, err := chunkenc.FromData(chunkenc.EncXOR, chunk)
	if err != nil {
		return nil, nil, err
	}
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		at, v := it.At()
		t, bits = append(t, at), append(bits, math.Float64bits(v))
	}
	return t, bits, it.Err()
}

func bitsOf(v []float64) []uint64 {
	out := make([]uint64, len(v))
	for i, x := range v {
		out[i] = math.Float64bits(x)
	}
	return out
}

// Our loop over an XOR chunk gives, bit for bit, what upstream's iterator does: of
// every width of a difference of times and of values.
func TestXORChunksAgainstUpstream(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		c := chunkenc.NewXORChunk()
		app, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		at, step, v := r.Int64N(1<<41)-1<<40, 15_000+r.Int64N(3), r.Float64()
		for range 1 + r.IntN(130) {
			switch r.IntN(8) {
			case 0:
				step = 1 + r.Int64N(1<<(1+r.IntN(40)))
			case 1, 2:
				step = max(step+r.Int64N(200)-100, 1)
			}
			at += step
			switch r.IntN(6) {
			case 0:
				v = math.Float64frombits(r.Uint64())
			case 1:
				v = math.Float64frombits(value.StaleNaN)
			case 2:
				v = float64(r.IntN(1000))
			case 3, 4:
				v += float64(r.IntN(100))
			}
			app.Append(0, at, v)
		}
		wantT, wantV, err := upstreamSamples(c.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		var got column.Column
		if err := appendXORChunk(c.Bytes(), &got); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !slices.Equal(got.T, wantT) || !slices.Equal(bitsOf(got.V), wantV) {
			t.Fatalf("seed %d:\n got %v %v\nwant %v %v", seed, got.T, bitsOf(got.V), wantT, wantV)
		}
		if stale := slices.Contains(wantV, value.StaleNaN); got.Stale != stale {
			t.Fatalf("seed %d: stale is %t", seed, got.Stale)
		}
		for n := range len(c.Bytes()) {
			var cut column.Column
			if err := appendXORChunk(c.Bytes()[:n], &cut); err == nil && n < len(c.Bytes())-1 {
				t.Fatalf("seed %d: the first %d bytes of %d are taken for a chunk", seed, n, len(c.Bytes()))
			}
		}
	}
}

// What is no chunk is an error or what upstream reads, and never more.
func FuzzXORChunk(f *testing.F) {
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		f.Fatal(err)
	}
	for i := range int64(10) {
		app.Append(0, 1_700_000_000_000+i*15_000, float64(i*i))
	}
	f.Add(c.Bytes())
	f.Add([]byte{0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, src []byte) {
		var got column.Column
		if appendXORChunk(src, &got) != nil {
			return
		}
		wantT, wantV, err := upstreamSamples(src)
		if err != nil || !slices.Equal(got.T, wantT) || !slices.Equal(bitsOf(got.V), wantV) {
			t.Fatalf("%x: got %v %v\nwant %v %v, %v", src, got.T, bitsOf(got.V), wantT, wantV, err)
		}
	})
}
