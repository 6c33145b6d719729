package promql

import (
	"math"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/quipudb/quipu/internal/past"
)

// Dependence is which samples the values of an expression depend on, for who keeps them
// by time.
type Dependence struct {
	reach reach
	any   bool // it reads samples
	all   bool // of any time, as far as is known
	alike bool
}

// DependenceOf returns that of an expression with the usual lookback.
func DependenceOf(expr parser.Expr) Dependence {
	v := reachVisitor{lookback: defaultLookbackDelta.Milliseconds(), ok: true, reach: reach{before: -farMillis, after: -farMillis}}
	v.visit(expr, 0, 0, false)
	d := Dependence{reach: v.reach, alike: v.ok, all: readsAnyTime(expr)}
	d.any = v.before != -farMillis || v.pinned || d.all
	if v.before == -farMillis {
		d.reach.before, d.reach.after = 0, 0
	}
	return d
}

// readsAnyTime reports whether an expression reads at times that are not seen in its
// text: those that reachVisitor does not follow.
func readsAnyTime(expr parser.Expr) (found bool) {
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			found = found || n.OriginalOffsetExpr != nil || n.StartOrEnd != 0
		case *parser.MatrixSelector:
			found = found || n.RangeExpr != nil
		case *parser.SubqueryExpr:
			found = found || n.Timestamp != nil || n.StartOrEnd != 0 || n.RangeExpr != nil || n.StepExpr != nil || n.OriginalOffsetExpr != nil
		case *parser.Call:
			found = found || n.Func.Name == "info"
		}
		return nil
	})
	return found
}

// AlikeInRanges reports whether the value at a time is the same whether it is asked for
// alone or as a step of a range.
func (d Dependence) AlikeInRanges() bool { return d.alike }

// Touched returns the first and the last time, in milliseconds since 1970, at which the
// expression may have another value where samples have changed in the intervals; ok is
// false where there is none.
func (d Dependence) Touched(changes []past.Interval) (first, last int64, ok bool) {
	first, last = math.MaxInt64, math.MinInt64
	for _, c := range changes {
		switch {
		case !d.any:
		case d.all, d.reach.pinned && c.Overlaps(d.reach.fixed):
			first, last = -farMillis, farMillis
		case d.reach.pinned && d.reach.before == 0 && d.reach.after == 0:
			// All selectors are pinned, and elsewhere.
		default:
			first = min(first, max(c.From, -farMillis)-d.reach.after)
			last = max(last, min(c.To, farMillis)+d.reach.before)
		}
	}
	return first, last, first <= last
}
