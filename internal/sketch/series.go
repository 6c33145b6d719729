package sketch

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
)

// Interval is the windows that show in (Lo, Hi], in milliseconds since 1970. A window
// shows at its end on the grid or, while it is open, at the present.
type Interval struct{ Lo, Hi int64 }

// Find returns the index of the one of sorted, disjoint intervals that has t; ok is
// false where none has.
func Find(in []Interval, t int64) (i int, ok bool) {
	i, _ = slices.BinarySearchFunc(in, t, func(v Interval, t int64) int {
		if v.Hi < t {
			return -1
		}
		return 1
	})
	return i, i < len(in) && in[i].Lo < t
}

// Series is one distinct series that a query reads.
type Series struct {
	Labels labels.Labels // with __name__
	// Unite adds the ids of the windows of each of the query's intervals to the union
	// of the same index.
	Unite func(ctx context.Context, unions []Union) error
}
