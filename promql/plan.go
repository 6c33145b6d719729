package promql

import (
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	upstream "github.com/prometheus/prometheus/promql"
)

// planner decides which subtrees of a query are computed directly. It decides by
// the query's text and the engine's options alone (I2).
type planner struct {
	// namesLast: upstream's engine drops metric names when all else is done, so what
	// a function would drop may still be needed above it.
	namesLast bool
	// off: only our own functions are taken.
	off bool
	// noPins: selectors with @ are left to the engine.
	noPins bool
	// stats: the engine reads no buckets of histograms, and makes their counter reset
	// hints from what it has read of a series before.
	stats bool
}

// visit calls take for every outermost subtree of expr that is computed directly, and
// puts what it returns in its place.
func (p planner) visit(expr parser.Expr, take func(parser.Expr) parser.Expr) parser.Expr {
	if p.takes(expr) {
		return take(expr)
	}
	switch n := expr.(type) {
	case *parser.AggregateExpr:
		n.Expr = p.visit(n.Expr, take)
		if n.Param != nil {
			p.noPins = true // nor does PreprocessExpr look for @ there
			n.Param = p.visit(n.Param, take)
		}
	case *parser.BinaryExpr:
		n.LHS, n.RHS = p.visit(n.LHS, take), p.visit(n.RHS, take)
	case *parser.Call:
		_, lone := lonely[n.Func.Name]
		p.off = p.off || lone
		switch n.Func.Name { // see detectHistogramStatsDecoding of upstream's promql/engine.go
		case "histogram_count", "histogram_sum", "histogram_avg":
			p.stats = true
		case "histogram_quantile", "histogram_quantiles", "histogram_fraction", "histogram_stddev", "histogram_stdvar":
			p.stats = false
		}
		for i := range n.Args {
			n.Args[i] = p.visit(n.Args[i], take)
		}
	case *parser.ParenExpr:
		n.Expr = p.visit(n.Expr, take)
	case *parser.SubqueryExpr:
		// Where a subquery begins when what is around it does, the engine takes @ below
		// it from another time.
		p.noPins = p.noPins || n.OriginalOffset != 0 || n.OriginalOffsetExpr != nil || n.Timestamp != nil || n.StartOrEnd != 0
		p.stats = false
		n.Expr = p.visit(n.Expr, take)
	case *parser.UnaryExpr:
		n.Expr = p.visit(n.Expr, take)
	}
	return expr
}

// lonely are the functions to which it matters what their argument is, not only what
// its value is, or that read samples below functions in ways of their own.
var lonely = map[string]struct{}{
	"absent": {}, "absent_over_time": {}, "timestamp": {}, "start_timestamp": {}, "info": {},
}

// differences are the functions whose histograms have no counter reset hint of their own.
var differences = []string{"rate", "increase", "delta", "irate", "idelta"}

func (p planner) takes(expr parser.Expr) bool {
	if c, ok := expr.(*parser.Call); ok && isOwn(c) {
		return true
	}
	if _, paren := expr.(*parser.ParenExpr); paren || p.off {
		return false
	}
	s, ok := shapeOf(expr)
	switch {
	case !ok || s.call == nil && len(s.aggregations) == 0:
		return false // a bare selector is what the engine reads anyway
	case p.noPins && s.pinned():
		return false
	case p.stats && (s.call == nil || !slices.Contains(differences, s.call.Func.Name)):
		return false // hints show
	case p.namesLast && s.call != nil && !keepsName(s.call):
		return s.forgetsName()
	}
	return true
}

// shape is a subtree that can be computed directly: aggregations, one over another,
// over a function of a range or over a selector.
type shape struct {
	aggregations []*parser.AggregateExpr // innermost first
	call         *parser.Call            // nil: of the selector itself
	matrix       *parser.MatrixSelector  // the argument of call
	selector     *parser.VectorSelector
}

// pinned reports whether the selector has @.
func (s *shape) pinned() bool { return s.selector.Timestamp != nil || s.selector.StartOrEnd != 0 }

// fixed reports whether every step gives the same, so that the engine evaluates but one.
func (s *shape) fixed() bool {
	if !s.pinned() {
		return false
	}
	if s.call == nil {
		return true
	}
	_, unsafe := upstream.AtModifierUnsafeFunctions[s.call.Func.Name]
	return !unsafe
}

func shapeOf(expr parser.Expr) (s shape, ok bool) {
	switch n := unparen(expr).(type) {
	case *parser.AggregateExpr:
		if !aggregates(n) {
			return s, false
		}
		s, ok = shapeOf(n.Expr)
		s.aggregations = append(s.aggregations, n)
		return s, ok
	case *parser.Call:
		return shapeOfCall(n)
	case *parser.VectorSelector:
		s.selector = n
		return s, !n.Smoothed && !n.Anchored
	}
	return s, false
}

// shapeOfCall takes functions of one range vector, other arguments being constant.
func shapeOfCall(n *parser.Call) (s shape, ok bool) {
	if n.Func.Name == "absent_over_time" || upstream.FunctionCalls[n.Func.Name] == nil || isOwn(n) {
		return s, false
	}
	s.call = n
	for _, arg := range n.Args {
		if m, ok := unparen(arg).(*parser.MatrixSelector); ok && s.matrix == nil {
			s.matrix = m
		} else if _, ok := constant(arg); !ok {
			return s, false
		}
	}
	if s.matrix == nil {
		return s, false
	}
	s.selector = s.matrix.VectorSelector.(*parser.VectorSelector)
	if s.selector.Anchored {
		_, ok = upstream.AnchoredSafeFunctions[n.Func.Name]
		return s, ok
	}
	if s.selector.Smoothed {
		_, ok = upstream.SmoothedSafeFunctions[n.Func.Name]
		return s, ok
	}
	return s, true
}

// aggregates reports whether n's operator and parameter are ones that we compute.
func aggregates(n *parser.AggregateExpr) bool {
	switch n.Op {
	case parser.SUM, parser.AVG, parser.MIN, parser.MAX, parser.COUNT, parser.GROUP, parser.STDDEV, parser.STDVAR:
		return true
	case parser.QUANTILE:
		_, ok := constant(n.Param)
		return ok
	case parser.TOPK, parser.BOTTOMK: // of others the engine says what is wrong
		k, ok := constant(n.Param)
		return ok && k >= 1 && k <= math.MaxInt32
	}
	return false
}

// constant returns the value of a number.
func constant(expr parser.Expr) (v float64, ok bool) {
	switch n := unparen(expr).(type) {
	case *parser.NumberLiteral:
		return n.Val, true
	case *parser.UnaryExpr:
		v, ok = constant(n.Expr)
		if n.Op == parser.SUB {
			v = -v
		}
		return v, ok
	}
	return 0, false
}

// keepsName reports whether the series of c's result have their metric's name.
func keepsName(c *parser.Call) bool {
	return c.Func.Name == "last_over_time" || c.Func.Name == "first_over_time"
}

// forgetsName reports whether an aggregation leaves nothing of the labels that
// functions drop.
func (s *shape) forgetsName() bool {
	return slices.ContainsFunc(s.aggregations, func(n *parser.AggregateExpr) bool {
		switch {
		case n.Op == parser.TOPK || n.Op == parser.BOTTOMK:
			return false
		case n.Without:
			return true
		}
		return !slices.ContainsFunc(n.Grouping, isMetadata)
	})
}

func isMetadata(label string) bool {
	return label == model.MetricNameLabel || label == model.MetricTypeLabel || label == model.MetricUnitLabel
}
