package promql

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

// source is what a direct computation reads.
type source struct {
	matchers []*labels.Matcher
	hints    *storage.SelectHints
	// statsOnly: of histograms only sum and count.
	statsOnly bool
}

// newSource returns what upstream's engine would select for a selector of stmt, with
// the same bounds of time: where the open window shows depends on them.
func newSource(s *shape, stmt *parser.EvalStmt) *source {
	hints := &storage.SelectHints{Step: millis(stmt.Interval)}
	if s.call != nil {
		hints.Func, hints.Range = s.call.Func.Name, millis(s.matrix.Range)
	}
	parser.Inspect(stmt.Expr, func(n parser.Node, path []parser.Node) error {
		if n == s.selector {
			hints.Start, hints.End = selectorBounds(stmt, s.selector, path, hints.Range)
		}
		return nil
	})
	out := &source{matchers: s.selector.LabelMatchers, hints: hints, statsOnly: s.selector.SkipHistogramBuckets}
	if len(s.layers) > 0 && s.layers[0].aggregate != nil {
		out.project(s.layers[0].aggregate)
	}
	return out
}

// project asks for no more labels than a needs, where all series are of one metric, so
// that none have the same labels without its name.
func (s *source) project(a *parser.AggregateExpr) {
	if a.Without || a.Op == parser.TOPK || a.Op == parser.BOTTOMK || !s.ofOneMetric() {
		return
	}
	s.hints.ProjectionInclude = true
	s.hints.ProjectionLabels = append(slices.Clone(a.Grouping), model.MetricNameLabel)
}

// ofOneMetric reports whether the matchers say which metric they want.
func (s *source) ofOneMetric() bool {
	return slices.ContainsFunc(s.matchers, func(m *labels.Matcher) bool {
		return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value != ""
	})
}

// selectorBounds is getTimeRangesForSelector of upstream's promql/engine.go: width is
// that of the range, 0 of a selector without one.
func selectorBounds(stmt *parser.EvalStmt, vs *parser.VectorSelector, path []parser.Node, width int64) (start, end int64) {
	start, end = timestamp.FromTime(stmt.Start), timestamp.FromTime(stmt.End)
	var offset, ranges int64 // of the subqueries above
	for _, n := range path {
		sub, ok := n.(*parser.SubqueryExpr)
		if !ok {
			continue
		}
		offset += millis(sub.OriginalOffset)
		ranges += millis(sub.Range)
		if sub.Timestamp != nil {
			offset, ranges = millis(sub.OriginalOffset), millis(sub.Range)
			start, end = *sub.Timestamp, *sub.Timestamp
		}
	}
	if vs.Timestamp != nil {
		start, end = *vs.Timestamp, *vs.Timestamp
	} else {
		start -= offset + ranges
		end -= offset
	}
	lookback := millis(stmt.LookbackDelta)
	before, after := selectorReach(vs, width, lookback)
	offset = millis(vs.OriginalOffset)
	return start - before + 1 - offset, end + after - offset
}

// selectorReach is how far before an evaluation time, and after it, a selector reads.
func selectorReach(vs *parser.VectorSelector, width, lookback int64) (before, after int64) {
	switch {
	case width == 0:
		return lookback, 0
	case vs.Anchored:
		return width + lookback, 0
	case vs.Smoothed:
		return width + lookback, lookback
	}
	return width, 0
}
