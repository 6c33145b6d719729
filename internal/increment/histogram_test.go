package increment

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/histogram"
)

// An observation lands in the bucket that Prometheus's own client counts it in.
func TestBucketsEqualClientGolang(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	values := []float64{0, 1, 2, 0.5, 0.25, 4, 1024, 1e-300, 1e300, -1, -0.75, -1e9, 12.5, 203023, ZeroThreshold, math.Nextafter(1, 2), math.Nextafter(1, 0)}
	for range 2000 {
		values = append(values, math.Exp(r.NormFloat64()*20)*float64(1-2*r.IntN(2)))
	}
	for _, v := range values {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", NativeHistogramBucketFactor: 1.1})
		h.Observe(v)
		var m dto.Metric
		if err := h.Write(&m); err != nil {
			t.Fatal(err)
		}
		var ours Hist
		ours.Observe(v)
		f := ours.Float(nil)
		if err := f.Validate(); err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		theirs := m.GetHistogram()
		if theirs.GetSchema() != Schema || theirs.GetZeroThreshold() != ZeroThreshold {
			t.Fatalf("client_golang: schema %d, zero threshold %g", theirs.GetSchema(), theirs.GetZeroThreshold())
		}
		if got, want := f.ZeroCount, float64(theirs.GetZeroCount()); got != want {
			t.Errorf("%v: zero count %v, client_golang %v", v, got, want)
		}
		sp := theirs.GetPositiveSpan()
		got := f.PositiveSpans
		if v < 0 {
			sp, got = theirs.GetNegativeSpan(), f.NegativeSpans
		}
		if len(got) == 0 {
			continue // a zero
		}
		if len(sp) != 1 || got[0].Offset != sp[0].GetOffset() {
			t.Errorf("%v: bucket %d, client_golang %v", v, got[0].Offset, sp)
		}
	}
}

func TestMergeEqualsObservingAll(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var all, a, b Hist
	for range 500 {
		v := float64(r.IntN(2000) - 500)
		all.Observe(v)
		if r.IntN(2) == 0 {
			a.Observe(v)
		} else {
			b.Observe(v)
		}
	}
	a.Merge(&b)
	if !a.Float(nil).Equals(all.Float(nil)) || a.Count() != 500 {
		t.Errorf("merged %v, all %v", a.Float(nil), all.Float(nil))
	}
	if err := a.Validate(); err != nil {
		t.Error(err)
	}
}

// Increments of different bounds merge in any order and grouping to the same, and no
// count is lost.
func TestMergeOfDifferentBounds(t *testing.T) {
	sets := [][]float64{{1, 2, 5, 10}, {1, 5, 20}, {0.5, 1, 10}, {3}, {}}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var parts []*Hist
		count, sum := uint64(0), 0.0
		for range 2 + r.IntN(5) {
			h := &Hist{Bounds: sets[r.IntN(1+r.IntN(len(sets)))]}
			for range r.IntN(20) {
				v := float64(r.IntN(25))
				h.Observe(v)
				count++
				sum += v
			}
			if err := h.Validate(); err != nil {
				t.Fatal(err)
			}
			parts = append(parts, h)
		}
		var want *Hist
		for range 10 {
			r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			// ((a b) (c d)) ...: two halves of the shuffled parts, merged by themselves.
			half := 1 + r.IntN(len(parts)-1)
			fold := func(hs []*Hist) *Hist {
				out := hs[0].Clone()
				for _, h := range hs[1:] {
					out.Merge(h)
				}
				return out
			}
			got := fold(parts[:half])
			got.Merge(fold(parts[half:]))
			if err := got.Validate(); err != nil || got.Count() != count || got.Sum != sum {
				t.Fatalf("seed %d: %+v, %v; want %d observations of %v", seed, got, err, count, sum)
			}
			if want != nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: %+v and %+v", seed, got, want)
			}
			want = got
		}
	}
}

func TestBucketsAreUpToTheirBound(t *testing.T) {
	h := &Hist{Bounds: []float64{1, 2.5}}
	for _, v := range []float64{-3, 1, 1.5, 2.5, 2.6, math.Inf(1)} {
		h.Observe(v)
	}
	if h.UpTo(0) != 2 || h.UpTo(1) != 4 || h.UpTo(2) != 6 || h.Count() != 6 {
		t.Errorf("up to each bound: %d %d %d", h.UpTo(0), h.UpTo(1), h.UpTo(2))
	}
	f := h.Float(nil)
	if f.Schema != histogram.CustomBucketsSchema || !slices.Equal(f.CustomValues, h.Bounds) || f.Count != 6 || f.Validate() != nil {
		t.Errorf("as a native histogram: %v, %v", f, f.Validate())
	}
	for _, bad := range [][]float64{{2, 1}, {1, 1}, {math.NaN()}, {math.Inf(1)}, make([]float64, BoundsMax+1)} {
		if ValidateBounds(bad) == nil {
			t.Errorf("bounds %v are valid", bad[:min(3, len(bad))])
		}
	}
}
