package promql

import (
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/quipudb/quipu/internal/past"
)

// reach is which samples the value of an expression at one step can depend on.
type reach struct {
	// before and after are of the step: samples in [t-before, t+after]. after is
	// negative where all selectors have an offset.
	before, after int64
	// fixed are the times that selectors with @ read at every step, where pinned.
	fixed  past.Interval
	pinned bool
}

// farMillis is further than any time that is asked for, and adds up without overflow.
const farMillis = math.MaxInt64 / 4

// reachOf returns the reach of expr, as it was parsed. ok is false where its value at a
// step can depend on something else, above all on what range is asked for, or where
// there is nothing to read.
func reachOf(expr parser.Expr, lookback int64) (r reach, ok bool) {
	v := reachVisitor{lookback: lookback, ok: true, reach: reach{before: -farMillis, after: -farMillis}}
	v.visit(expr, 0, 0, above{})
	if v.before == -farMillis && v.pinned { // no selector moves with the step
		v.before, v.after = 0, 0
	}
	return v.reach, v.ok && v.before != -farMillis
}

type reachVisitor struct {
	reach
	lookback int64
	ok       bool
}

// above is what stands above a node.
type above struct {
	subquery bool
	// stats: the engine makes the counter reset hints of histograms from what it has read
	// before; sums: something says where they do not agree.
	stats, sums bool
}

// under is what stands above the arguments of a call.
func (a above) under(n *parser.Call) above {
	switch f := n.Func.Name; f { // see detectHistogramStatsDecoding of upstream's promql/engine.go
	case "timestamp", "start_timestamp", "absent":
		a.stats = true
	case "changes":
		a.stats = false
	case "sum_over_time", "avg_over_time", "resets":
		a.sums = true
	default:
		if _, ok := ofHistograms[f]; ok {
			a.stats = slices.Contains(ofStats, f)
		}
		if slices.Contains(differences, f) {
			a.sums = false // their histograms have no hints
		}
	}
	return a
}

// visit takes a node that is evaluated at times in [t+lo, t+hi] for the step t.
func (v *reachVisitor) visit(n parser.Node, lo, hi int64, a above) {
	switch n := n.(type) {
	case *parser.VectorSelector:
		v.selector(n, 0, lo, hi, a)
		return
	case *parser.MatrixSelector:
		v.ok = v.ok && n.RangeExpr == nil
		v.selector(n.VectorSelector.(*parser.VectorSelector), millis(n.Range), lo, hi, a)
		return
	case *parser.SubqueryExpr:
		// Where @ on a subquery is resolved to depends on the first step.
		v.ok = v.ok && n.Timestamp == nil && n.StartOrEnd == 0 && n.RangeExpr == nil && n.StepExpr == nil && n.OriginalOffsetExpr == nil
		offset := millis(n.OriginalOffset)
		v.visit(n.Expr, lo-offset-millis(n.Range), hi-offset, above{subquery: true})
		return
	case *parser.Call:
		v.ok = v.ok && !dependsOnRange(n.Func.Name) && !mayCollide(n) && !(relabels(n) && (a.subquery || relabelsName(n)))
		a = a.under(n)
	case *parser.BinaryExpr:
		a.sums = a.sums || n.VectorMatching != nil && (n.Op == parser.ADD || n.Op == parser.SUB)
	case *parser.UnaryExpr:
		v.ok = v.ok && !mayCollide(n)
	case *parser.AggregateExpr:
		// These choose among series by hash or by order; and a parameter that is not the
		// same at all steps is checked over all of them.
		v.ok = v.ok && n.Op != parser.LIMITK && n.Op != parser.LIMIT_RATIO && (n.Param == nil || isLiteral(n.Param))
		a.sums = a.sums || n.Op == parser.SUM || n.Op == parser.AVG
	}
	for child := range parser.ChildrenIter(n) {
		v.visit(child, lo, hi, a)
	}
}

func (v *reachVisitor) selector(n *parser.VectorSelector, width, lo, hi int64, a above) {
	v.ok = v.ok && !(a.stats && a.sums)
	before, after := width, int64(0)
	if width == 0 || n.Anchored || n.Smoothed {
		before += v.lookback
	}
	if n.Smoothed {
		after = v.lookback
	}
	offset := millis(n.OriginalOffset)
	before, after = before+offset, after-offset
	switch {
	case n.OriginalOffsetExpr != nil, n.StartOrEnd != 0, n.Timestamp != nil && a.subquery:
		v.ok = false
	case n.Timestamp != nil:
		iv := past.Interval{From: *n.Timestamp - before, To: *n.Timestamp + after}
		if v.pinned {
			iv = iv.Union(v.fixed)
		}
		v.fixed, v.pinned = iv, true
	default:
		v.before, v.after = max(v.before, before-lo), max(v.after, after+hi)
	}
}

// dependsOnRange reports whether a function's value at a step can depend on the range
// that is asked for. What info reads is not in the expression.
func dependsOnRange(function string) bool {
	switch function {
	case "start", "end", "range", "step", "info":
		return true
	}
	return false
}

// relabels reports whether series can be one after the call n: one at each step, or the
// query fails. A subquery is evaluated between the ranges of its steps too, where it can
// fail.
func relabels(n *parser.Call) bool {
	return n.Func.Name == "label_replace" || n.Func.Name == "label_join"
}

// relabelsName reports whether n makes names of metrics, so that series can be one
// after a function that drops them.
func relabelsName(n *parser.Call) bool {
	s, ok := unparen(n.Args[1]).(*parser.StringLiteral)
	return !ok || isMetadata(s.Val)
}

func isLiteral(e parser.Expr) bool {
	switch unparen(e).(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return true
	}
	return false
}

// mayCollide reports whether series below a node that drops their names can differ in
// nothing else. The engine fails where there are two such in the range, if only at
// steps of their own.
func mayCollide(n parser.Node) (found bool) {
	parser.Inspect(n, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.BinaryExpr:
			found = found || n.Op == parser.LOR
		case *parser.VectorSelector:
			found = found || !slices.ContainsFunc(n.LabelMatchers, func(m *labels.Matcher) bool {
				return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual
			})
		}
		return nil
	})
	return found
}

// settled is how many of the steps, from the first, depend on nothing after until.
func (r *reach) settled(s steps, until int64) int {
	if r.pinned && r.fixed.To > until {
		return 0
	}
	last := until - r.after
	if last < s.start {
		return 0
	}
	return int(min(int64(s.count()), (last-s.start)/s.interval+1))
}

// unchanged is the longest stretch of steps, from the index lo up to hi, that depends
// on nothing in changes.
func (r *reach) unchanged(s steps, changes []past.Interval) (lo, hi int) {
	n := s.count()
	var hit [][2]int // by first step
	for _, c := range changes {
		if r.pinned && c.Overlaps(r.fixed) {
			return 0, 0
		}
		from := max(c.From, -farMillis) - r.after
		to := min(c.To, farMillis) + r.before
		if to < s.start || from > s.at(n-1) {
			continue
		}
		first, last := 0, n-1
		if from > s.start {
			first = int((from - s.start + s.interval - 1) / s.interval)
		}
		if to < s.at(n-1) {
			last = int((to - s.start) / s.interval)
		}
		if first <= last {
			hit = append(hit, [2]int{first, last})
		}
	}
	slices.SortFunc(hit, func(a, b [2]int) int { return a[0] - b[0] })
	next := 0 // the first step after all that is hit so far
	for _, h := range append(hit, [2]int{n, n}) {
		if h[0]-next > hi-lo {
			lo, hi = next, h[0]
		}
		next = max(next, h[1]+1)
	}
	return lo, hi
}
