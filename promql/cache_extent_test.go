package promql

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	upstream "github.com/prometheus/prometheus/promql"
)

func randomExtent(r *rand.Rand) *extent {
	n := 1 + r.IntN(40)
	e := &extent{seq: r.Uint64(), steps: steps{start: r.Int64N(1 << 41), interval: 1 + r.Int64N(100_000)}, samples: make([]int64, n)}
	e.steps.end = e.steps.at(n - 1)
	for i := range e.samples {
		e.samples[i] = r.Int64N(1000)
	}
	e.series = make(upstream.Matrix, 0, 5)
	for i := range r.IntN(5) {
		s := upstream.Series{Metric: labels.FromStrings("n", fmt.Sprint(i)), Floats: []upstream.FPoint{}}
		if i == 0 {
			s.Metric = labels.EmptyLabels()
		}
		for k := range n {
			switch {
			case i > 2 && r.IntN(2) == 0:
				s.Histograms = append(s.Histograms, upstream.HPoint{T: e.steps.at(k), H: randomHistogram(r)})
			case r.IntN(4) > 0:
				v := pick(r, 0, 1, -1, float64(k), r.NormFloat64(), math.Inf(1), math.Float64frombits(r.Uint64()))
				s.Floats = append(s.Floats, upstream.FPoint{T: e.steps.at(k), F: v})
			}
		}
		e.series = append(e.series, s)
	}
	return e
}

// randomHistogram is none that makes sense.
func randomHistogram(r *rand.Rand) *histogram.FloatHistogram {
	floats := func() (out []float64) {
		for range r.IntN(4) {
			out = append(out, pick(r, 0, 1, r.NormFloat64(), math.NaN()))
		}
		return out
	}
	spans := func() (out []histogram.Span) {
		for range r.IntN(3) {
			out = append(out, histogram.Span{Offset: int32(r.Uint32()), Length: r.Uint32()})
		}
		return out
	}
	return &histogram.FloatHistogram{
		CounterResetHint: histogram.CounterResetHint(r.IntN(4)), Schema: int32(r.IntN(60)) - 53, ZeroThreshold: r.Float64(), ZeroCount: r.Float64(),
		Count: r.Float64(), Sum: pick(r, 1, math.NaN()), PositiveSpans: spans(), NegativeSpans: spans(), PositiveBuckets: floats(),
		NegativeBuckets: floats(), CustomValues: floats(),
	}
}

// same compares every bit, of NaN too.
func same(a, b *extent) bool {
	if a.seq != b.seq || a.steps != b.steps || !reflect.DeepEqual(a.samples, b.samples) || len(a.series) != len(b.series) {
		return false
	}
	for i := range a.series {
		x, y := a.series[i], b.series[i]
		if !labels.Equal(x.Metric, y.Metric) || len(x.Floats) != len(y.Floats) || len(x.Histograms) != len(y.Histograms) {
			return false
		}
		for k, p := range x.Histograms {
			if q := y.Histograms[k]; p.T != q.T || !bytes.Equal(appendHistogram(nil, p.H), appendHistogram(nil, q.H)) {
				return false
			}
		}
		for k := range x.Floats {
			if x.Floats[k].T != y.Floats[k].T || math.Float64bits(x.Floats[k].F) != math.Float64bits(y.Floats[k].F) {
				return false
			}
		}
	}
	return true
}

func TestExtentIsDecodedAsItWas(t *testing.T) {
	for seed := range uint64(300) {
		e := randomExtent(rand.New(rand.NewPCG(seed, 5)))
		entry := e.append(nil, []byte("key"))
		var got extent
		if err := got.decode(entry, []byte("key")); err != nil || !same(&got, e) {
			t.Fatalf("seed %d: %v\n got %+v\nwant %+v", seed, err, got, *e)
		}
		if err := got.decode(entry, []byte("kez")); err == nil {
			t.Fatal("an entry was taken for one of another key")
		}
		for n := range len(entry) {
			if err := got.decode(entry[:n], []byte("key")); err == nil {
				t.Fatalf("seed %d: %d of %d bytes are taken for an extent", seed, n, len(entry))
			}
		}
	}
}

func FuzzExtent(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomExtent(rand.New(rand.NewPCG(seed, 6))).append(nil, nil))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var e, again extent
		if err := e.decode(src, nil); err != nil {
			return
		}
		if err := again.decode(e.append(nil, nil), nil); err != nil || !same(&again, &e) {
			t.Fatalf("%v: %+v became %+v", err, e, again)
		}
	})
}

// Pieces of one answer put together are the answer.
func TestJoinPieces(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		e := randomExtent(r)
		var pieces []piece
		from := e.steps.start
		for from <= e.steps.end {
			to := from + r.Int64N(10*e.steps.interval)
			// Each piece has points of the others too, which it is not asked for.
			pieces = append(pieces, piece{e.series, from, to})
			from = to + 1
		}
		got := extent{seq: e.seq, steps: e.steps, samples: e.samples, series: join(pieces)}
		want := *e
		want.series = join([]piece{{e.series, e.steps.start, e.steps.end}})
		if !same(&got, &want) {
			t.Fatalf("seed %d: got %v\nwant %v", seed, got.series, want.series)
		}
		for _, s := range e.series {
			if len(s.Floats) > 0 && len(want.series) == 0 {
				t.Fatalf("seed %d: nothing is left of %v", seed, e.series)
			}
		}
	}
}
