package promql

import (
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql/parser"
)

// steps are evaluation times, in milliseconds since 1970: start, then every
// interval, up to and including end.
type steps struct{ start, end, interval int64 }

// count is the number of evaluation times.
func (s steps) count() int {
	if s.end < s.start {
		return 0
	}
	return int((s.end-s.start)/s.interval) + 1
}

// at is the i-th evaluation time.
func (s steps) at(i int) int64 { return s.start + int64(i)*s.interval }

// scheduler follows the engine through a tree and notes when it evaluates each
// synthetic selector. It mirrors three places of upstream's promql/engine.go:
// subqueryTimeRange with subqueryEvaluationTimes (the grid of a subquery),
// setOffsetForAtModifier (@ on a subquery) and the evaluation of
// StepInvariantExpr (once, at the first step).
type scheduler struct {
	defaultStep func(rangeMillis int64) int64
	places      map[string]place
}

// place is where the engine evaluates a synthetic selector: when, and what of its
// evaluators the samples that it reads are counted in.
type place struct {
	steps
	above []level // outermost first
}

// clock is the evaluation times of a node and what @ on a subquery below it
// resolves against. Upstream turns @ into an offset from a reference time: the
// first step of the query or of the nearest subquery above that starts at
// another time than its parent.
type clock struct {
	steps
	reference int64
	// Of the subqueries between where the reference was taken and here: the
	// sum of their offsets, and the last @ among them.
	offset time.Duration
	pinned *int64

	above []level // evaluators, outermost first
}

// evaluationPlaces returns where the engine evaluates each synthetic selector of
// stmt.Expr, by name. defaultStep is the step of subqueries that
// name none.
func evaluationPlaces(stmt *parser.EvalStmt, defaultStep func(rangeMillis int64) int64) map[string]place {
	s := scheduler{defaultStep, make(map[string]place)}
	start := timestamp.FromTime(stmt.Start)
	c := clock{steps: steps{start, timestamp.FromTime(stmt.End), millis(stmt.Interval)}, reference: start}
	if c.interval <= 0 {
		c.end, c.interval = start, 1 // an instant query
	}
	s.visit(stmt.Expr, c, nil)
	return s.places
}

// visit notes what is in n, which stands in parent.
func (s *scheduler) visit(n parser.Node, c clock, parent parser.Node) {
	switch n := n.(type) {
	case *parser.VectorSelector:
		if name, ok := isSynthetic(n.LabelMatchers); ok {
			s.places[name] = place{c.steps, c.above}
		}
		return
	case *parser.StepInvariantExpr:
		c.above = append(slices.Clip(c.above), level{steps: c.steps})
		c.end = min(c.end, c.start)
	case *parser.SubqueryExpr:
		_, consumed := parent.(*parser.Call)
		above := append(slices.Clip(c.above), level{steps: c.steps, subquery: n, consumed: consumed})
		c = s.subquery(n, c)
		c.above = above
	}
	for child := range parser.ChildrenIter(n) {
		s.visit(child, c, n)
	}
}

// subquery returns the clock of what stands in n, whose own clock is c.
func (s *scheduler) subquery(n *parser.SubqueryExpr, c clock) clock {
	if c.count() == 0 {
		return c // the engine stops here
	}
	offset, end := n.OriginalOffset, c.at(c.count()-1)
	if n.Timestamp != nil {
		outer := c.offset
		if c.pinned != nil {
			outer += time.Duration(c.reference-*c.pinned) * time.Millisecond
		}
		offset += time.Duration(c.reference-*n.Timestamp)*time.Millisecond - outer
		end = c.start
	}

	inner := clock{steps: steps{interval: millis(n.Step), end: end - millis(offset)}}
	if inner.interval == 0 {
		inner.interval = s.defaultStep(millis(n.Range))
	}
	// The range is left-open: its first point on the grid is after lo.
	lo := c.start - millis(offset) - millis(n.Range)
	inner.start = lo / inner.interval * inner.interval
	if inner.start <= lo {
		inner.start += inner.interval
	}

	if inner.start != c.start {
		inner.reference = inner.start
		return inner
	}
	inner.reference, inner.offset, inner.pinned = c.reference, c.offset+n.OriginalOffset, c.pinned
	if n.Timestamp != nil {
		inner.offset, inner.pinned = n.OriginalOffset, n.Timestamp
	}
	return inner
}
