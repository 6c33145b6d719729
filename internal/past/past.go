// Package past is what storage tells those who keep answers about the past: up to
// when a tenant's past is settled, and what of it has changed since all the same.
package past

// Mark is a point in the history of what is stored for a tenant.
type Mark struct {
	// Generation is the tenant's; 0 where there is no such tenant.
	Generation uint64
	// Seq grows with every change of the settled past.
	Seq uint64
	// Settled is a time in milliseconds since 1970. Samples at or before it that are
	// read after the mark was made change only by what is listed as a change after it.
	Settled int64
}

// Interval is the times from From to To, in milliseconds since 1970, both included.
type Interval struct{ From, To int64 }

// Overlaps reports whether the two have a time in common.
func (i Interval) Overlaps(o Interval) bool { return i.From <= o.To && o.From <= i.To }

// Union is the smallest interval that has the times of both.
func (i Interval) Union(o Interval) Interval {
	return Interval{min(i.From, o.From), max(i.To, o.To)}
}
