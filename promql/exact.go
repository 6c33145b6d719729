package promql

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"
)

// Exact is a QueryEngine in which increase and rate of counts are anchored without being
// told so: what they give is what was counted, not what a scraper would extrapolate.
// Only selectors that name their metric are: what others select can change. Safe for
// concurrent use.
type Exact struct {
	engine upstream.QueryEngine
	counts func(ctx context.Context, metric string) (bool, error)
}

var _ upstream.QueryEngine = (*Exact)(nil)

// NewExact returns an engine that marks queries for another. counts reports whether the
// tenant of a context wants a metric's counts to be exact, and has them.
func NewExact(engine upstream.QueryEngine, counts func(ctx context.Context, metric string) (bool, error)) *Exact {
	return &Exact{engine, counts}
}

// NewInstantQuery returns the engine's query.
func (x *Exact) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	return x.query(ctx, qs, func(qs string) (upstream.Query, error) {
		return x.engine.NewInstantQuery(ctx, q, opts, qs, ts)
	})
}

// NewRangeQuery returns the engine's query.
func (x *Exact) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	return x.query(ctx, qs, func(qs string) (upstream.Query, error) {
		return x.engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
}

func (x *Exact) query(ctx context.Context, qs string, build func(string) (upstream.Query, error)) (upstream.Query, error) {
	if !slices.ContainsFunc(anchoredByMark, func(f string) bool { return strings.Contains(qs, f) }) {
		return build(qs)
	}
	expr, err := NewParser().ParseExpr(qs)
	if err != nil {
		return build(qs) // which says what is wrong
	}
	var at []int
	for _, ms := range markable(expr) {
		vs := ms.VectorSelector.(*parser.VectorSelector)
		i := slices.IndexFunc(vs.LabelMatchers, func(m *labels.Matcher) bool {
			return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual
		})
		if i < 0 || vs.Anchored || vs.Smoothed {
			continue
		}
		yes, err := x.counts(ctx, vs.LabelMatchers[i].Value)
		if err != nil {
			return nil, err
		}
		if yes {
			at = append(at, int(ms.PositionRange().Start))
		}
	}
	if at == nil {
		return build(qs)
	}
	query, err := build(qs + anchorMark(at))
	if err != nil {
		return nil, err
	}
	return markedQuery{query, qs}, nil
}

// markedQuery is a query that shows its text as it was written.
type markedQuery struct {
	upstream.Query
	text string
}

func (q markedQuery) String() string { return q.text }

// anchoredByMark are the functions whose ranges a mark makes anchored.
var anchoredByMark = []string{"increase", "rate"}

// markable are the ranges in expr of which counts can be exact.
func markable(expr parser.Expr) []*parser.MatrixSelector {
	var out []*parser.MatrixSelector
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if c, ok := n.(*parser.Call); ok && slices.Contains(anchoredByMark, c.Func.Name) {
			if ms, ok := unparen(c.Args[0]).(*parser.MatrixSelector); ok {
				out = append(out, ms)
			}
		}
		return nil
	})
	return out
}

// anchorMarkStart begins a comment at the end of a query that says at which positions
// ranges begin that are anchored. A mark in the text lets all that parses a query, be it
// the cache or upstream's engine, read the same of it (I2), and leaves its positions.
const anchorMarkStart = "\n# anchored at "

func anchorMark(at []int) string {
	texts := make([]string, len(at))
	for i, n := range at {
		texts[i] = strconv.Itoa(n)
	}
	return anchorMarkStart + strings.Join(texts, " ")
}

// applyAnchorMark makes the ranges in expr anchored that a mark at the end of its text
// names.
func applyAnchorMark(input string, expr parser.Expr) {
	i := strings.LastIndex(input, anchorMarkStart)
	if i < 0 || strings.Trim(input[i+len(anchorMarkStart):], " 0123456789") != "" {
		return
	}
	at := strings.Fields(input[i+len(anchorMarkStart):])
	for _, ms := range markable(expr) {
		vs := ms.VectorSelector.(*parser.VectorSelector)
		if !vs.Smoothed && slices.Contains(at, strconv.Itoa(int(ms.PositionRange().Start))) {
			vs.Anchored = true
		}
	}
}
