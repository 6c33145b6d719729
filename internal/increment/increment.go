// Package increment is what flows from ingest/ to tsdb/: increments of series on
// the time grid, in batches that are applied whole or not at all.
//
// Files: increment.go (kinds, increments, batches), histogram.go (native
// exponential histograms as sparse bucket increments).
package increment

import (
	"fmt"
	"math"

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

// Other replaces label values that a limit does not allow.
const Other = "(other)"

// Shape is what a rule says of its metric's labels; it is shared and never changed.
type Shape struct {
	// Names are all label names that the rule may set, Keep those of them that
	// survive when the metric is past its limit of series; both sorted.
	Names, Keep []string
}

// Increment is what one batch adds to one window of one series.
type Increment struct {
	Labels labels.Labels // with __name__, sorted
	Shape  *Shape        // of the rule that made it; nil: the labels it has, none kept
	Kind   Kind
	Time   int64 // start of the window: milliseconds since 1970, a multiple of the tenant's grid

	// One of these, by Kind.
	Count float64 // Counter: finite, not negative
	Hist  *Hist   // Histogram
	IDs   []uint64
	// Distinct: keyed hashes of the ids seen, in any order, repeats allowed; or
	// Sketch, a set of them as package sketch encodes it.
	Sketch []byte
}

// Validate checks that the increment is one that can be stored on a grid of step
// milliseconds; the error names the series.
func (inc *Increment) Validate(step int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("increment of %s: %s", inc.Labels, fmt.Sprintf(format, args...))
	}
	if inc.Time%step != 0 {
		return bad("%d is not on the grid of %d ms", inc.Time, step)
	}
	switch inc.Kind {
	case Counter:
		if math.IsNaN(inc.Count) || math.IsInf(inc.Count, 0) || inc.Count < 0 {
			return bad("%v is no increment of a counter", inc.Count)
		}
	case Histogram:
		if inc.Hist == nil {
			return bad("no histogram")
		}
		if math.IsNaN(inc.Hist.Sum) || math.IsInf(inc.Hist.Sum, 0) {
			return bad("the sum is %v", inc.Hist.Sum)
		}
		if err := inc.Hist.Validate(); err != nil {
			return bad("%v", err)
		}
	case Distinct:
	default:
		return bad("unknown kind %d", inc.Kind)
	}
	return nil
}

// Batch is one request's increments. The receiver owns it until it returns.
type Batch struct {
	// Key de-duplicates the batch where HasKey is set: a hash of what the
	// client named it.
	Key        [16]byte
	HasKey     bool
	Increments []Increment
}
