package main

import (
	"math"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

func TestSeriesDiffer(t *testing.T) {
	seen := map[string]int{}
	for i := range 20_000 {
		s := seriesLabels(i).String()
		if j, ok := seen[s]; ok {
			t.Fatalf("series %d and %d are both %s", j, i, s)
		}
		seen[s] = i
	}
	n := 0
	seriesLabels(7).Range(func(labels.Label) { n++ })
	if n != 6 {
		t.Errorf("a series has %d labels, want its name and five", n)
	}
}

// TestDenseWorkload: the rates have the median and mean that figures are quoted
// for, and draws have the rate's mean and variance.
func TestDenseWorkload(t *testing.T) {
	rates := denseRates(401)
	slices.Sort(rates)
	sum := 0.0
	for _, v := range rates {
		sum += v
	}
	if median, mean := rates[200], sum/401; math.Abs(median-1) > 1e-9 || math.Abs(mean-3) > 0.1 {
		t.Errorf("rates have median %g and mean %g, want 1 and about 3", median, mean)
	}
	r := newRand()
	const n, rate = 200_000, 2.5
	sum, squares := 0.0, 0.0
	for range n {
		v := float64(poisson(r, rate))
		sum, squares = sum+v, squares+v*v
	}
	mean := sum / n
	if variance := squares/n - mean*mean; math.Abs(mean-rate) > 0.02 || math.Abs(variance-rate) > 0.05 {
		t.Errorf("draws have mean %g and variance %g, want both %g", mean, variance, rate)
	}
}
