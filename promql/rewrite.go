package promql

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
)

// call is one call of distinct_over_time or count_distinct in a query.
type call struct {
	function string
	matchers []*labels.Matcher
	by       []string // of count_distinct, sorted
	pos      posrange.PositionRange

	// Milliseconds. The range ends at offset before the evaluation time, or
	// before *at where that is set.
	width, offset int64
	at            *int64

	times steps
}

// window returns the bounds (lo, hi] of the range of c at evaluation time t.
func (c *call) window(t int64) (lo, hi int64) {
	if c.at != nil {
		t = *c.at
	}
	return t - c.offset - c.width, t - c.offset
}

// callsIn returns the calls of our functions in expr.
func callsIn(expr parser.Expr) []*parser.Call {
	var calls []*parser.Call
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if c, ok := n.(*parser.Call); ok && isOwn(c) {
			calls = append(calls, c)
		}
		return nil
	})
	return calls
}

// newCall reads c, a call in stmt after upstream's PreprocessExpr: durations are
// numbers then.
func newCall(c *parser.Call, stmt *parser.EvalStmt) *call {
	ms := unparen(c.Args[0]).(*parser.MatrixSelector)
	vs := ms.VectorSelector.(*parser.VectorSelector)
	out := &call{
		function: c.Func.Name,
		matchers: vs.LabelMatchers,
		pos:      c.PosRange,
		width:    millis(ms.Range),
		offset:   millis(vs.OriginalOffset),
		at:       vs.Timestamp,
	}
	// PreprocessExpr does not look for these in the parameter of an aggregation.
	switch vs.StartOrEnd {
	case parser.START:
		out.at = new(timestamp.FromTime(stmt.Start))
	case parser.END:
		out.at = new(timestamp.FromTime(stmt.End))
	}
	for _, a := range c.Args[1:] {
		out.by = append(out.by, unparen(a).(*parser.StringLiteral).Val)
	}
	slices.Sort(out.by)
	return out
}

func millis(d time.Duration) int64 { return d.Milliseconds() }

// syntheticName names the selector that replaces c: no two calls of a query
// start at the same position (I2).
func syntheticName(c *parser.Call) string {
	return syntheticPrefix + strconv.Itoa(int(c.PosRange.Start))
}

// isSynthetic returns the name of the synthetic selector that matchers spell.
func isSynthetic(matchers []*labels.Matcher) (name string, ok bool) {
	if len(matchers) != 1 {
		return "", false
	}
	m := matchers[0]
	if m.Type != labels.MatchEqual || m.Name != model.MetricNameLabel || !strings.HasPrefix(m.Value, syntheticPrefix) {
		return "", false
	}
	return m.Value, true
}

// planParser is the parser that upstream's engine uses: what it returns has
// synthetic selectors in place of our functions.
type planParser struct{ checkedParser }

func (p planParser) ParseExpr(input string) (parser.Expr, error) {
	expr, err := p.checkedParser.ParseExpr(input)
	if err != nil {
		return expr, err
	}
	return rewrite(expr), nil
}

// rewrite replaces every call of our functions in expr, which it changes.
func rewrite(expr parser.Expr) parser.Expr {
	switch n := expr.(type) {
	case *parser.AggregateExpr:
		n.Expr = rewrite(n.Expr)
		if n.Param != nil {
			n.Param = rewrite(n.Param)
		}
	case *parser.BinaryExpr:
		n.LHS, n.RHS = rewrite(n.LHS), rewrite(n.RHS)
	case *parser.Call:
		if isOwn(n) {
			return synthetic(n)
		}
		for i := range n.Args {
			n.Args[i] = rewrite(n.Args[i])
		}
	case *parser.ParenExpr:
		n.Expr = rewrite(n.Expr)
	case *parser.SubqueryExpr:
		n.Expr = rewrite(n.Expr)
	case *parser.UnaryExpr:
		n.Expr = rewrite(n.Expr)
	}
	return expr
}

// synthetic returns what replaces c: its selector under a unary plus. The engine
// treats some functions of a bare selector in a way of their own (timestamp,
// absent); over a call it does not, and the plus, which changes no value, keeps
// that so.
func synthetic(c *parser.Call) parser.Expr {
	name := syntheticName(c)
	return &parser.UnaryExpr{
		Op:       parser.ADD,
		StartPos: c.PosRange.Start,
		Expr: &parser.VectorSelector{
			Name:          name,
			LabelMatchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name)},
			PosRange:      c.PosRange,
		},
	}
}
