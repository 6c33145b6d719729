package tsdb

import (
	"cmp"
	"slices"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// A block has a place in a hierarchy of spans of time, each aligned to multiples of
// itself since 1970, so that a span lies in one of the next longer or covers it, and
// never straddles two. What comes late is collected in memory and written to blocks by
// the spans that merging would bring it to anyway: a year of events in random order
// makes a block for each month and a few for the last one, not one for each day.

// blockSpan is a span of time in milliseconds since 1970, without its end.
type blockSpan struct{ start, end int64 }

// spanAt is the one of a length that t is in.
func spanAt(t int64, length time.Duration) blockSpan {
	start := floorTo(t, length.Milliseconds())
	return blockSpan{start, start + length.Milliseconds()}
}

// covers reports whether all of o is in s.
func (s blockSpan) covers(o blockSpan) bool { return s.start <= o.start && o.end <= s.end }

func (s blockSpan) overlaps(o blockSpan) bool { return s.start < o.end && o.start < s.end }

// over reports whether a span is past: nothing but late events comes for it.
func (s blockSpan) over(now time.Time) bool {
	return now.UnixMilli() >= s.end+compactQuiet.Milliseconds()
}

// mergeSpans are the lengths of the spans that a tenant's blocks are merged to, ascending.
func mergeSpans(settings *tenant.Settings) []time.Duration {
	age := time.Duration(settings.Retention)
	for i, r := range compactRanges {
		if i > 0 && age > 0 && r > age/10 {
			return compactRanges[:i] // a block is dropped whole: it must not hold much more than it should
		}
	}
	return compactRanges
}

// spanGroup is memtables that go into one block.
type spanGroup struct {
	blockSpan
	mems []*memtable
}

// groupBySpan says which memtables go into one block, by time: those of a day, or of a
// longer span that is over. Those that overlap are in one group, in their order.
func groupBySpan(mems []*memtable, now time.Time, settings *tenant.Settings) []spanGroup {
	var groups []spanGroup
	for _, m := range mems {
		own := blockSpan{m.start, m.end}
		span := spanAt(m.start, compactRanges[0])
		for _, r := range mergeSpans(settings) {
			if s := spanAt(m.start, r); s.over(now) {
				span = s
			}
		}
		if !span.covers(own) {
			span = own // made when longer ones were allowed
		}
		groups = append(groups, spanGroup{span, []*memtable{m}})
	}
	// The longest of those that begin together comes first, and covers the rest of its span.
	slices.SortStableFunc(groups, func(a, b spanGroup) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	var out []spanGroup
	for _, g := range groups {
		if last := len(out) - 1; last >= 0 && out[last].covers(g.blockSpan) {
			out[last].mems = append(out[last].mems, g.mems...)
		} else {
			out = append(out, g)
		}
	}
	for _, g := range out {
		slices.SortStableFunc(g.mems, func(a, b *memtable) int { return slices.Index(mems, a) - slices.Index(mems, b) })
	}
	return out
}
