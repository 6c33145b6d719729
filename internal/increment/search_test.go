package increment

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSearchBucketEqualsBinarySearch, for all indexes in and around buckets.
func TestSearchBucketEqualsBinarySearch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for size := range 40 {
		var bs []Bucket
		for at := int32(-20); len(bs) < size; at += 1 + r.Int32N(3) {
			bs = append(bs, Bucket{Index: at, Count: 1})
		}
		for index := int32(-25); index < 120; index++ {
			at, found := searchBucket(bs, index)
			wantAt, want := slices.BinarySearchFunc(bs, index, func(b Bucket, i int32) int { return int(b.Index) - int(i) })
			if at != wantAt || found != want {
				t.Fatalf("%d in %v is at %d, %t, want %d, %t", index, bs, at, found, wantAt, want)
			}
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	values := make([]float64, 4096)
	for i := range values {
		values[i] = r.ExpFloat64() * 0.1
	}
	h := Hist{}
	n := 0
	for b.Loop() {
		h.Observe(values[n%len(values)])
		n++
	}
}
