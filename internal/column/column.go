// Package column is how storage hands a whole series to the query planner: as
// slices, with what its kind makes known, instead of sample by sample behind an
// iterator.
//
// Files: column.go (columns and sets of them), runs.go (series of increments as
// runs of a grid, and their samples), iterator.go (columns of samples read one by
// one).
package column

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Set is the series that a selector selects, in the order in which storage hands
// them out: by labels. Its methods are safe for concurrent use.
type Set interface {
	// Len is the number of series, and Labels the labels of each.
	Len() int
	Labels(i int) labels.Labels
	// Reading calls f, which may read.
	Reading(f func() error) error
	// Read sets c to the i-th series; only in Reading. What c has room for is used
	// again. It may have samples outside of what was asked for.
	Read(i int, c *Column) error
}

// Alike is a Set that may know which of its series have the same labels.
type Alike interface {
	// LabelSets is how many different labels there are; 0: it is not known. LabelSet
	// numbers those of a series.
	LabelSets() int
	LabelSet(i int) int
}

// Ordered is a Set whose series are read faster in another order than their own.
type Ordered interface {
	// Order is all series in that order; nil: it is their own.
	Order() []int32
}

// Column is one series. Times are milliseconds since 1970, ascending. A series has
// float samples or histograms or, where it is Prometheus's own, both at different
// times; or it has Runs, and then neither.
type Column struct {
	// T and V are the float samples, stale markers among them where Stale is set.
	T []int64
	V []float64
	// Stale says that a sample may be a staleness marker.
	Stale bool
	// Rising says that no value is less than the one before it.
	Rising bool
	// ST are the start timestamps of T; empty: none is known.
	ST []int64

	// HT and H are the histograms, HST their start timestamps; a staleness marker is
	// one whose sum is. They may be shared and are not changed.
	HT  []int64
	H   []*histogram.FloatHistogram
	HST []int64

	// Runs are a counter's running totals on a grid of Step milliseconds, made of the
	// increments Inc of windows that start at Win.
	Runs []Run
	Step int64
	Win  []int64
	Inc  []float64
	// Whole says that all increments are whole numbers: sums of them below 2^53 are exact
	// in any order.
	Whole bool

	// SameTimes says that T is what it was when runs were last expanded: all series that
	// are counted all the time share their times.
	SameTimes bool
	expanded  Run // the run that T is of; none where it has no samples

	// Chunks and Bytes are what was read from storage.
	Chunks, Bytes int

	// Scratch is storage's own, for the next read.
	Scratch any
}

// Reset empties c, which keeps its capacity. Field by field: to set a slice to a part of
// itself writes no pointer, which while garbage is collected is most of the cost.
func (c *Column) Reset() {
	c.T, c.V, c.ST = c.T[:0], c.V[:0], c.ST[:0]
	c.HT, c.H, c.HST = c.HT[:0], c.H[:0], c.HST[:0]
	c.Runs, c.Win, c.Inc = c.Runs[:0], c.Win[:0], c.Inc[:0]
	c.Stale, c.Rising, c.Whole, c.SameTimes = false, false, false, false
	c.Chunks, c.Bytes, c.Step = 0, 0, 0
}
