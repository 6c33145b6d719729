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

// plannedIn returns the subtrees of expr that are computed directly, outermost first.
func (p planner) plannedIn(expr parser.Expr) []parser.Expr {
	var found []parser.Expr
	p.visit(expr, func(n parser.Expr) parser.Expr {
		found = append(found, n)
		return n
	})
	return found
}

// newCall reads c, a call in stmt after upstream's PreprocessExpr: durations are
// numbers then.
func newCall(c *parser.Call, stmt *parser.EvalStmt) *call {
	ms := unparen(c.Args[0]).(*parser.MatrixSelector)
	vs := ms.VectorSelector.(*parser.VectorSelector)
	resolvePin(vs, stmt)
	out := &call{
		function: c.Func.Name,
		matchers: vs.LabelMatchers,
		pos:      c.PosRange,
		width:    millis(ms.Range),
		offset:   millis(vs.OriginalOffset),
		at:       vs.Timestamp,
	}
	for _, a := range c.Args[1:] {
		out.by = append(out.by, unparen(a).(*parser.StringLiteral).Val)
	}
	slices.Sort(out.by)
	return out
}

// resolvePin gives @ start() and @ end() their times: PreprocessExpr does not look for
// them in the parameter of an aggregation.
func resolvePin(vs *parser.VectorSelector, stmt *parser.EvalStmt) {
	switch vs.StartOrEnd {
	case parser.START:
		vs.Timestamp = new(timestamp.FromTime(stmt.Start))
	case parser.END:
		vs.Timestamp = new(timestamp.FromTime(stmt.End))
	}
}

func millis(d time.Duration) int64 { return d.Milliseconds() }

// syntheticName names the selector that replaces a subtree: no two that are replaced
// start at the same position (I2).
func syntheticName(expr parser.Expr) string {
	return syntheticPrefix + strconv.Itoa(int(expr.PositionRange().Start))
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
// synthetic selectors in place of what is computed directly.
type planParser struct {
	checkedParser
	planner planner
}

func (p planParser) ParseExpr(input string) (parser.Expr, error) {
	expr, err := p.checkedParser.ParseExpr(input)
	if err != nil {
		return expr, err
	}
	return p.planner.visit(expr, synthetic), nil
}

// synthetic returns what replaces expr: its selector under a unary plus. The engine
// treats some functions of a bare selector in a way of their own (timestamp,
// absent); over a call it does not, and the plus, which changes no value, keeps
// that so.
func synthetic(expr parser.Expr) parser.Expr {
	name, pos := syntheticName(expr), expr.PositionRange()
	vs := &parser.VectorSelector{
		Name:          name,
		LabelMatchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name)},
		PosRange:      pos,
	}
	// What is the same at every step stays so: the engine evaluates it, and what is
	// around it, once.
	if s, ok := shapeOf(expr); ok && s.fixed() {
		vs.Timestamp, vs.StartOrEnd = s.selector.Timestamp, s.selector.StartOrEnd
	}
	return &parser.UnaryExpr{Op: parser.ADD, StartPos: pos.Start, Expr: vs}
}
