// Package increment is what flows from ingest/ to tsdb/: increments of series on
// the time grid, in batches that are applied whole or not at all.
//
// Files: increment.go (kinds, increments, batches), histogram.go (native
// exponential histograms as sparse bucket increments).
package increment

import (
	"github.com/prometheus/prometheus/model/labels"
)

// Kind says how two values of one series and window merge. A metric name has one
// kind per tenant. The values are part of the disk format.
type Kind uint8

// The kinds of series.
const (
	Counter   Kind = 1 // increments add
	Histogram Kind = 2 // buckets, sum and count add
	Distinct  Kind = 3 // sets of ids unite
)

// String returns the name that rules and messages use.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Histogram:
		return "histogram"
	case Distinct:
		return "distinct"
	}
	return "unknown"
}

// Valid reports whether k is a kind this version knows.
func (k Kind) Valid() bool { return k >= Counter && k <= Distinct }

// Increment is what one batch adds to one window of one series.
type Increment struct {
	Labels labels.Labels // with __name__, sorted
	Keep   []string      // label names that survive when the metric is past its limit of series; never written to
	Kind   Kind
	Time   int64 // start of the window: milliseconds since 1970, a multiple of the tenant's grid

	// One of these, by Kind.
	Count float64 // Counter: finite, not negative
	Hist  *Hist   // Histogram
	IDs   []uint64
	// Distinct: keyed hashes of the ids seen, in any order, repeats allowed
}

// Batch is one request's increments. The receiver owns it until it returns.
type Batch struct {
	// Key de-duplicates the batch where HasKey is set: a hash of what the
	// client named it.
	Key        [16]byte
	HasKey     bool
	Increments []Increment
}
