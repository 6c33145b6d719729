package increment

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
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
