package promql

import (
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
	times       map[string]steps
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
}

// evaluationTimes returns the times at which the engine evaluates each synthetic
// selector of stmt.Expr, by name. defaultStep is the step of subqueries that
// name none.
func evaluationTimes(stmt *parser.EvalStmt, defaultStep func(rangeMillis int64) int64) map[string]steps {
	s := scheduler{defaultStep, make(map[string]steps)}
	start := timestamp.FromTime(stmt.Start)
	c := clock{steps: steps{start, timestamp.FromTime(stmt.End), millis(stmt.Interval)}, reference: start}
	if c.interval <= 0 {
		c.end, c.interval = start, 1 // an instant query
	}
	s.visit(stmt.Expr, c)
	return s.times
}

func (s *scheduler) visit(n parser.Node, c clock) {
	switch n := n.(type) {
	case *parser.VectorSelector:
		if name, ok := isSynthetic(n.LabelMatchers); ok {
			s.times[name] = c.steps
		}
		return
	case *parser.StepInvariantExpr:
		c.end = min(c.end, c.start)
	case *parser.SubqueryExpr:
		c = s.subquery(n, c)
	}
	for child := range parser.ChildrenIter(n) {
		s.visit(child, c)
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
