package promql

import (
	"fmt"
	"maps"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	distinctOverTime = "distinct_over_time"
	countDistinct    = "count_distinct"

	// syntheticPrefix begins the names of synthetic selectors.
	syntheticPrefix = "__quipu_planned_"
)

// ownFunctions are the functions added to upstream's.
func ownFunctions() map[string]*parser.Function {
	return map[string]*parser.Function{
		distinctOverTime: {
			Name:       distinctOverTime,
			ArgTypes:   []parser.ValueType{parser.ValueTypeMatrix},
			ReturnType: parser.ValueTypeVector,
		},
		countDistinct: {
			Name:       countDistinct,
			ArgTypes:   []parser.ValueType{parser.ValueTypeMatrix, parser.ValueTypeString},
			Variadic:   -1,
			ReturnType: parser.ValueTypeVector,
		},
	}
}

// language is PromQL with all that upstream still calls experimental in
// expressions; the range modifiers anchored and smoothed need no option.
func language() parser.Options {
	return parser.Options{EnableExperimentalFunctions: true, EnableBinopFillModifiers: true}
}

// NewParser returns a parser of PromQL with distinct_over_time and
// count_distinct. What they cannot take, such as a subquery, is a parse error
// like any other, with its position. Safe for concurrent use.
func NewParser() parser.Parser { return newParser(language()) }

func newParser(o parser.Options) checkedParser {
	o.Functions = maps.Clone(parser.Functions)
	maps.Copy(o.Functions, ownFunctions())
	return checkedParser{parser.NewParser(o)}
}

// checkedParser is upstream's parser, then the checks of our own functions.
type checkedParser struct{ parser.Parser }

func (p checkedParser) ParseExpr(input string) (parser.Expr, error) {
	expr, err := p.Parser.ParseExpr(input)
	if err != nil {
		return expr, err
	}
	var errs parser.ParseErrors
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if at, err := checkNode(n); err != nil {
			errs = append(errs, parser.ParseErr{PositionRange: at.PositionRange(), Err: err, Query: input})
		}
		return nil
	})
	if len(errs) > 0 {
		return expr, errs
	}
	applyAnchorMark(input, expr)
	return expr, nil
}

// checkNode returns what is wrong with n, and the node to point at.
func checkNode(n parser.Node) (at parser.Node, err error) {
	switch n := n.(type) {
	case *parser.VectorSelector:
		for _, m := range n.LabelMatchers {
			if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && strings.HasPrefix(m.Value, syntheticPrefix) {
				return n, fmt.Errorf("metric name %q is reserved: names must not begin with %q", m.Value, syntheticPrefix)
			}
		}
	case *parser.Call:
		if isOwn(n) {
			return checkCall(n)
		}
	}
	return n, nil
}

func isOwn(c *parser.Call) bool {
	return c.Func.Name == distinctOverTime || c.Func.Name == countDistinct
}

func checkCall(c *parser.Call) (at parser.Node, err error) {
	arg := unparen(c.Args[0])
	ms, ok := arg.(*parser.MatrixSelector)
	if !ok {
		return arg, fmt.Errorf("%s needs a range selector over a distinct metric, such as users[1d], not a subquery: counts of ids do not add up", c.Func.Name)
	}
	switch vs := ms.VectorSelector.(*parser.VectorSelector); {
	case vs.Anchored:
		return arg, fmt.Errorf("%s counts the windows in its range, the anchored modifier has no meaning for it", c.Func.Name)
	case vs.Smoothed:
		return arg, fmt.Errorf("%s counts the windows in its range, the smoothed modifier has no meaning for it", c.Func.Name)
	}
	for _, a := range c.Args[1:] {
		s, ok := unparen(a).(*parser.StringLiteral)
		if !ok {
			return a, fmt.Errorf("%s groups by label names given as string literals, got %s", c.Func.Name, a)
		}
		if !model.UTF8Validation.IsValidLabelName(s.Val) {
			return a, fmt.Errorf("%s cannot group by %q: it is not a label name", c.Func.Name, s.Val)
		}
	}
	return c, nil
}

func unparen(e parser.Expr) parser.Expr {
	for {
		p, ok := e.(*parser.ParenExpr)
		if !ok {
			return e
		}
		e = p.Expr
	}
}
