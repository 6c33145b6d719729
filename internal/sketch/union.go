package sketch

import (
	"github.com/prometheus/prometheus/model/labels"
)

// unionExactMax bounds the memory of one exact union: past it, about 16 MiB, it
// goes on as registers.
const unionExactMax = 1 << 20

// Union is the number of distinct ids over any number of sketches. It is exact
// while every sketch is exact and at most 2^20 ids are seen. The zero Union is
// empty and ready to use. Not safe for concurrent use.
type Union struct {
	seen map[uint64]struct{}
	hll  Sketch // set once an estimate is unavoidable
}

// Add puts all ids of s into the union; s is not changed.
func (u *Union) Add(s *Sketch) error {
	if u.hll.hll != nil {
		return u.hll.Merge(s)
	}
	if s.hll == nil {
		if u.seen == nil {
			u.seen = make(map[uint64]struct{}, len(s.ids))
		}
		for _, id := range s.ids {
			u.seen[id] = struct{}{}
		}
		if len(u.seen) <= unionExactMax {
			return nil
		}
	}
	ids := make([]uint64, 0, len(u.seen))
	for id := range u.seen {
		ids = append(ids, id)
	}
	u.seen = nil
	if s.hll == nil {
		return u.hll.Add(ids...)
	}
	if err := u.hll.Merge(s); err != nil {
		return err
	}
	return u.hll.Add(ids...)
}

// Exact reports whether Estimate is exact.
func (u *Union) Exact() bool { return u.hll.hll == nil }

// Estimate returns the number of distinct ids, a whole number.
func (u *Union) Estimate() (float64, error) {
	if u.hll.hll == nil {
		return float64(len(u.seen)), nil
	}
	return u.hll.Estimate()
}

// Window is the sketch of one window of a series.
type Window struct {
	// End is when the window shows, in milliseconds since 1970: its end on the
	// grid or, while it is open, the present.
	End    int64
	Sketch *Sketch // never nil, never changed
}

// Series is the windows of one distinct series, by ascending End.
type Series struct {
	Labels  labels.Labels // with __name__
	Windows []Window
}
