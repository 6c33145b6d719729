package promql

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/column"
)

// direct is a subtree of a query that is computed from whole series: a function of a
// range or a selector, and aggregations and functions of histograms over it.
type direct struct {
	shape
	expr   parser.Expr
	source *source
	times  steps // of evaluation
	asked  int64 // the first of them; times are those of @ where all steps are one

	// Milliseconds: what a step reads is in (t-offset-before, t-offset+after], t being
	// the evaluation time or at.
	offset, before, after int64
	at                    *int64
	lookback              time.Duration

	startTimes bool // start timestamps matter
	namesLast  bool // see planner
	maxSamples int

	stats directStats
}

// newDirect reads expr, a subtree of stmt that the planner takes, after upstream's
// PreprocessExpr. What it returns has no times yet.
func newDirect(expr parser.Expr, stmt *parser.EvalStmt, o directOptions) *direct {
	s, ok := shapeOf(expr)
	if !ok {
		panic(fmt.Sprintf("promql: planned %s cannot be computed directly", expr))
	}
	d := &direct{
		shape: s, expr: expr, source: newSource(&s, stmt),
		offset: millis(s.selector.OriginalOffset), at: s.selector.Timestamp,
		lookback: stmt.LookbackDelta, namesLast: o.namesLast, maxSamples: o.maxSamples,
	}
	width := int64(0)
	if s.call != nil {
		width = millis(s.matrix.Range)
		d.startTimes = o.startTimes && slices.Contains(ofStartTimes, s.call.Func.Name)
	}
	d.before, d.after = selectorReach(s.selector, width, millis(d.lookback))
	return d
}

// directOptions are the options of a query that matter to what is computed directly.
type directOptions struct {
	namesLast, startTimes bool
	maxSamples            int
}

// ofStartTimes are the functions to which upstream's engine gives start timestamps.
var ofStartTimes = []string{"rate", "irate", "increase", "resets"}

// setTimes says when d is evaluated. Where @ makes it the same at every step, the engine
// looks it up at the time of @.
func (d *direct) setTimes(s steps) {
	if d.times, d.asked = s, s.start; s.count() > 0 && d.fixed() {
		d.times = steps{start: *d.at, end: *d.at, interval: 1}
	}
}

// points is the number of evaluation times.
func (d *direct) points() int { return d.times.count() }

// window is what the i-th step reads: samples in (lo, hi].
func (d *direct) window(i int) (lo, hi int64) {
	t := d.times.at(i)
	if d.at != nil {
		t = *d.at
	}
	return t - d.offset - d.before, t - d.offset + d.after
}

// evaluatedAt is the time at which the engine evaluates the i-th step.
func (d *direct) evaluatedAt(i int) int64 { return d.asked + int64(i)*d.times.interval }

// metric is the labels of a series in the result of the function.
func (d *direct) metric(ls labels.Labels) labels.Labels {
	if d.dropsName() {
		return ls.DropReserved(schema.IsMetadataLabel)
	}
	return ls
}

// dropsName reports whether the function drops the names of metrics at once.
func (d *direct) dropsName() bool { return d.call != nil && !keepsName(d.call) && !d.namesLast }

// compute computes d: a sample at each evaluation time that has a value, and a stale
// marker where values end (I5).
func (d *direct) compute(ctx context.Context, q plannedQuerier) (out []storage.Series, ws annotations.Annotations, err error) {
	began := time.Now()
	defer func() { d.stats.took = time.Since(began) }()
	if d.points() == 0 {
		return nil, nil, nil
	}
	set, ws, err := selectColumns(ctx, q.Querier, d.source)
	if err != nil {
		if stop := stopped(ctx); stop != nil {
			err = stop
		}
		return nil, ws, err
	}
	d.stats.series = set.Len()
	out, more, err := d.evaluate(ctx, set)
	ws.Merge(more)
	return out, ws, err
}

// evaluate computes d over the series of set.
func (d *direct) evaluate(ctx context.Context, set column.Set) ([]storage.Series, annotations.Annotations, error) {
	sink := newOutput(d)
	fast, err := newAccumulation(ctx, d, set)
	if err != nil {
		return nil, nil, err
	}
	if fast != nil {
		annos, err := fast.run(ctx, set, sink)
		if !errors.Is(err, errNotSimple) {
			return sink.finish(), annos, err
		}
		d.stats.reset()
		sink = newOutput(d)
	}
	annos, err := d.inOrder(ctx, set, sink)
	if err != nil {
		return nil, annos, err
	}
	return sink.finish(), annos, nil
}

// sameLabels reports whether series of set have the same labels once the function has
// dropped their names: the engine then merges them, or refuses to.
func (d *direct) sameLabels(set column.Set) bool {
	if !d.dropsName() || set.Len() < 2 || d.source.ofOneMetric() {
		return false
	}
	seen := make(map[uint64]struct{}, set.Len())
	for i := range set.Len() {
		h := d.metric(set.Labels(i)).Hash()
		if _, ok := seen[h]; ok {
			return true
		}
		seen[h] = struct{}{}
	}
	return false
}

// recovered turns the panic of a function, which is how upstream's functions fail, into
// the error that the engine makes of it.
func recovered(p any) error {
	switch err := p.(type) {
	case runtime.Error:
		return fmt.Errorf("unexpected error: %w", err)
	case error:
		return &evaluationError{err}
	default:
		return &evaluationError{fmt.Errorf("%v", p)}
	}
}
