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
		if _, ok := ofHistograms[n.Func.Name]; ok { // see detectHistogramStatsDecoding of upstream's promql/engine.go
			p.stats = slices.Contains(ofStats, n.Func.Name)
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

// ofHistograms are the functions of histograms, with the place of their vector among the
// arguments; ofStats are those that need but counts and sums.
var (
	ofHistograms = map[string]int{
		"histogram_count": 0, "histogram_sum": 0, "histogram_avg": 0, "histogram_stddev": 0, "histogram_stdvar": 0,
		"histogram_quantile": 1, "histogram_quantiles": 0, "histogram_fraction": 2,
	}
	ofStats = []string{"histogram_count", "histogram_sum", "histogram_avg"}
)

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
	case !ok || s.call == nil && len(s.layers) == 0:
		return false // a bare selector is what the engine reads anyway
	case p.noPins && s.pinned():
		return false
	case p.showsHints(&s):
		return false
	case p.namesLast && s.dropsNames():
		return s.forgetsName()
	}
	return true
}

// showsHints reports whether the engine makes counter reset hints of its own for the
// histograms that are selected, and something of s looks at them.
func (p planner) showsHints(s *shape) bool {
	stats := p.stats
	for _, l := range slices.Backward(s.layers) {
		if l.call != nil {
			stats = slices.Contains(ofStats, l.call.Func.Name)
		}
	}
	if !stats || s.call != nil {
		return stats && !slices.Contains(differences, s.call.Func.Name)
	}
	return s.layers[0].call == nil
}

// shape is a subtree that can be computed directly: aggregations and functions of
// histograms, one over another, over a function of a range or over a selector.
type shape struct {
	layers   []layer                // innermost first
	call     *parser.Call           // nil: of the selector itself
	matrix   *parser.MatrixSelector // the argument of call
	selector *parser.VectorSelector
}

// layer is an aggregation or a call of a function of histograms.
type layer struct {
	aggregate *parser.AggregateExpr
	call      *parser.Call
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
		s.layers = append(s.layers, layer{aggregate: n})
		return s, ok
	case *parser.Call:
		if at, ok := ofHistograms[n.Func.Name]; ok {
			if !constantsBut(n, at) {
				return s, false
			}
			s, ok = shapeOf(n.Args[at])
			s.layers = append(s.layers, layer{call: n})
			return s, ok
		}
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

// constantsBut reports whether all arguments of n but one are constants.
func constantsBut(n *parser.Call, at int) bool {
	for i, arg := range n.Args {
		_, number := constant(arg)
		_, text := unparen(arg).(*parser.StringLiteral)
		if i != at && !number && !text {
			return false
		}
	}
	return true
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

// dropsNames reports whether a function of s drops the names of metrics.
func (s *shape) dropsNames() bool {
	return s.call != nil && !keepsName(s.call) || slices.ContainsFunc(s.layers, func(l layer) bool { return l.call != nil })
}

// forgetsName reports whether an aggregation leaves nothing of the labels that
// functions drop.
func (s *shape) forgetsName() bool {
	return slices.ContainsFunc(s.layers, func(l layer) bool {
		n := l.aggregate
		switch {
		case n == nil:
			return false
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
