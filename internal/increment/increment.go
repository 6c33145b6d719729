// Package increment is what flows from ingest/ to tsdb/: increments of series on
// the time grid, in batches that are applied whole or not at all.
//
// Files: increment.go (kinds, series, increments), batch.go (batches and what else
// they carry), histogram.go (histogram increments as sparse buckets).
package increment

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Kind says how two values of one series and window merge. A metric name has one
// kind per tenant. The values are part of the disk format.
type Kind uint8

// The kinds of series.
const (
	Counter   Kind = 1 // increments add
	Histogram Kind = 2 // exponential (native) buckets, sum and count add
	Distinct  Kind = 3 // sets of ids unite
	Gauge     Kind = 4 // the value of the latest time wins
	Sample    Kind = 5 // Prometheus samples as received; of one timestamp the last written wins
	Buckets   Kind = 6 // a histogram whose buckets have bounds of their own
)

// Kinds are all kinds this version knows.
var Kinds = [...]Kind{Counter, Histogram, Distinct, Gauge, Sample, Buckets}

// String returns the name that rules, files and messages use.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Histogram:
		return "histogram"
	case Distinct:
		return "distinct"
	case Gauge:
		return "gauge"
	case Sample:
		return "sample"
	case Buckets:
		return "histogram with buckets"
	}
	return "unknown"
}

// Valid reports whether k is a kind this version knows.
func (k Kind) Valid() bool { return k >= Counter && k <= Buckets }

// Other replaces label values that a limit does not allow.
const Other = "(other)"

// Shape is what a rule says of its metric's labels; it is shared and never changed.
type Shape struct {
	// Names are all label names that the rule may set, Keep those of them that
	// survive when the metric is past its limit of series; both sorted.
	Names, Keep []string
}

// Series names what an increment goes to. Whoever appends to the same series of the
// same tenant again and again keeps its Series: storage finds it faster then. Safe
// for concurrent use once made.
type Series struct {
	Labels labels.Labels // with __name__, sorted
	Kind   Kind
	Shape  *Shape // of the rule that made it; nil: the labels it has, none kept

	hash uint64
	// Place is a note of the storage's, where it found the series last; 0: nowhere.
	Place atomic.Uint64
}

// NewSeries returns the series with these labels, which it keeps.
func NewSeries(ls labels.Labels, k Kind, shape *Shape) *Series {
	s := new(Series)
	s.Name(ls, k, shape)
	return s
}

// Name makes a zero Series the one with these labels, which it keeps, for who has it as
// a part of something.
func (s *Series) Name(ls labels.Labels, k Kind, shape *Shape) {
	s.Labels, s.Kind, s.Shape, s.hash = ls, k, shape, ls.Hash()
}

// Hash is that of the labels.
func (s *Series) Hash() uint64 { return s.hash }

// Native is a native histogram sample: one of the two.
type Native struct {
	Int   *histogram.Histogram
	Float *histogram.FloatHistogram
}

// Increment is what one batch adds to one window of one series, or one sample.
type Increment struct {
	*Series
	// Time is the start of the window: milliseconds since 1970, a multiple of the
	// tenant's grid. Of a Sample it is its own timestamp.
	Time int64

	// Value of a Counter is what it adds: finite, not negative. Of a Gauge and a
	// Sample it is the value.
	Value float64
	// At of a Gauge is when it had the value, in the window; of a Sample its start
	// timestamp, 0 where it has none. Milliseconds since 1970.
	At   int64
	Hist *Hist // Histogram, Buckets
	// IDs of a Distinct are keyed hashes of the ids seen, in any order, repeats
	// allowed.
	IDs []uint64
	// Native is a Sample that is a native histogram; nil: Value. Storage keeps it.
	Native *Native
}

// timeMax bounds times, milliseconds since 1970, to the next 8,900 years: differences of
// differences of them still fit wherever they are stored.
const timeMax = 1 << 48

// Validate checks that the increment is one that can be stored on a grid of step
// milliseconds; the error names the series.
func (inc *Increment) Validate(step int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s %s: %s", inc.Kind, inc.Labels, fmt.Sprintf(format, args...))
	}
	if inc.Time > timeMax || inc.Time < -timeMax {
		return bad("%d is no time", inc.Time)
	}
	if inc.Kind != Sample && inc.Time%step != 0 {
		return bad("%d is not on the grid of %d ms", inc.Time, step)
	}
	switch inc.Kind {
	case Counter:
		if math.IsNaN(inc.Value) || math.IsInf(inc.Value, 0) || inc.Value < 0 {
			return bad("%v is no increment of a counter", inc.Value)
		}
	case Histogram, Buckets:
		if inc.Hist == nil {
			return bad("no histogram")
		}
		if (inc.Hist.Bounds != nil) != (inc.Kind == Buckets) {
			return bad("%d bounds", len(inc.Hist.Bounds))
		}
		if math.IsNaN(inc.Hist.Sum) || math.IsInf(inc.Hist.Sum, 0) {
			return bad("the sum is %v", inc.Hist.Sum)
		}
		if err := inc.Hist.Validate(); err != nil {
			return bad("%v", err)
		}
	case Distinct:
	case Gauge:
		if inc.At < inc.Time || inc.At >= inc.Time+step {
			return bad("a value of %d is not in the window that starts at %d", inc.At, inc.Time)
		}
	case Sample:
		if n := inc.Native; n != nil {
			if err := n.validate(); err != nil {
				return bad("%v", err)
			}
		}
	default:
		return bad("unknown kind %d", inc.Kind)
	}
	return nil
}

// Clone returns a deep copy.
func (n *Native) Clone() *Native {
	if n.Int != nil {
		return &Native{Int: n.Int.Copy()}
	}
	return &Native{Float: n.Float.Copy()}
}

func (n *Native) validate() error {
	switch {
	case n.Int != nil && n.Float == nil:
		return n.Int.Validate()
	case n.Float != nil && n.Int == nil:
		return n.Float.Validate()
	}
	return fmt.Errorf("a native histogram is of integers or of floats, this is both or neither")
}
