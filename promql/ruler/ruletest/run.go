package ruletest

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// Result is what came of one test.
type Result struct {
	Name   string
	Errors []error // none: it passed
}

// Run runs the tests of a file; an error is of the file.
func Run(name string, p parser.Parser) ([]Result, error) {
	f, err := read(name)
	if err != nil {
		return nil, err
	}
	order, err := f.order()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var out []Result
	for i := range f.Tests {
		t := &f.Tests[i]
		if t.Interval == 0 {
			t.Interval = f.EvaluationInterval
		}
		res := Result{Name: t.Name}
		if res.Name == "" {
			res.Name = fmt.Sprintf("unnamed#%d", i)
		}
		res.Errors = (&runner{test: t, file: f, order: order, parser: p}).run()
		out = append(out, res)
	}
	return out, nil
}

// runner runs one test.
type runner struct {
	test   *test
	file   *file
	order  map[string]int
	parser parser.Parser

	loader *promqltest.LazyLoader
	groups []*rules.Group
	errs   []error
}

func (r *runner) fail(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

func (r *runner) run() (errs []error) {
	loader, err := promqltest.NewLazyLoader(r.test.load(), promqltest.LazyLoaderOpts{
		EnableAtModifier: true, EnableNegativeOffset: true, StartTime: r.test.StartTimestamp.Time, Parser: r.parser,
	})
	if err != nil {
		return []error{err}
	}
	defer func() {
		if err := loader.Close(); err != nil {
			errs = append(errs, err)
		}
	}()
	r.loader = loader
	interval := time.Duration(r.file.EvaluationInterval)
	loader.SubqueryInterval = interval
	if errs := r.load(); len(errs) > 0 {
		return errs
	}
	start := time.Unix(0, 0).UTC()
	if !r.test.StartTimestamp.IsZero() {
		start = r.test.StartTimestamp.Time
	}
	if !r.evaluate(start, interval) {
		return r.errs
	}
	for i := range r.test.Exprs {
		r.checkExpr(&r.test.Exprs[i], start)
	}
	return r.errs
}

// load makes the groups of the files of rules, in the order that the file names.
func (r *runner) load() []error {
	for _, a := range r.test.Alerts {
		if a.Alertname == "" {
			return []error{fmt.Errorf("an item under alert_rule_test misses required attribute alertname at eval_time %v", a.EvalTime)}
		}
	}
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(r.loader.QueryEngine(), r.loader.Storage()),
		AppendableV2: r.loader.Storage(),
		Context:      context.Background(),
		NotifyFunc:   func(context.Context, string, ...*rules.Alert) {},
		Logger:       slog.New(slog.DiscardHandler),
		Parser:       r.parser,
	})
	byKey, errs := m.LoadGroups(time.Duration(r.test.Interval), r.test.ExternalLabels, r.test.ExternalURL, nil, false, r.file.RuleFiles...)
	if len(errs) > 0 {
		return errs
	}
	for _, g := range byKey {
		r.groups = append(r.groups, g)
		for _, a := range g.AlertingRules() {
			a.SetRestored(true) // ALERTS are recorded from the first evaluation on
		}
	}
	slices.SortFunc(r.groups, func(a, b *rules.Group) int {
		if c := r.order[a.Name()] - r.order[b.Name()]; c != 0 {
			return c
		}
		return strings.Compare(rules.GroupKey(a.File(), a.Name()), rules.GroupKey(b.File(), b.Name()))
	})
	return nil
}

// evaluate evaluates all groups at every interval, and checks alerts on the way: those
// of a time as of the evaluation at or before it. It reports whether all rules could be
// evaluated.
func (r *runner) evaluate(start time.Time, interval time.Duration) bool {
	alerts := slices.Clone(r.test.Alerts)
	slices.SortStableFunc(alerts, func(a, b alertTest) int { return int(a.EvalTime - b.EvalTime) })
	for ts, end := start, start.Add(r.test.last()); !ts.After(end); ts = ts.Add(interval) {
		failed := false
		r.loader.WithSamplesTill(ts, func(err error) {
			if err != nil {
				r.errs = append(r.errs, err)
				return
			}
			for _, g := range r.groups {
				g.Eval(r.loader.Context(), ts)
				for _, rule := range g.Rules() {
					if rule.LastError() != nil {
						failed = true
						r.fail("rule: %s, time: %s, err: %w", rule.Name(), ts.Sub(time.Unix(0, 0)), rule.LastError())
					}
				}
			}
		})
		if failed {
			return false
		}
		for len(alerts) > 0 && time.Duration(alerts[0].EvalTime) < ts.Add(interval).Sub(start) {
			r.checkAlerts(&alerts[0])
			alerts = alerts[1:]
		}
	}
	return true
}

// labelled is labels and annotations of an alert.
type labelled struct{ Labels, Annotations labels.Labels }

func (l labelled) String() string { return fmt.Sprintf("%s, annotations %s", l.Labels, l.Annotations) }

func (l labelled) equal(o labelled) bool {
	return labels.Equal(l.Labels, o.Labels) && labels.Equal(l.Annotations, o.Annotations)
}

func sortLabelled(ls []labelled) {
	slices.SortFunc(ls, func(a, b labelled) int {
		if c := labels.Compare(a.Labels, b.Labels); c != 0 {
			return c
		}
		return labels.Compare(a.Annotations, b.Annotations)
	})
}

func (r *runner) checkAlerts(t *alertTest) {
	var want, got []labelled
	for _, a := range t.Alerts {
		ls := labels.NewBuilder(labels.FromMap(a.Labels)).Set(labels.AlertName, t.Alertname).Labels()
		want = append(want, labelled{ls, labels.FromMap(a.Annotations)})
	}
	for _, g := range r.groups {
		for _, rule := range g.AlertingRules() {
			if rule.Name() != t.Alertname {
				continue
			}
			for _, a := range rule.ActiveAlerts() {
				if a.State == rules.StateFiring {
					got = append(got, labelled{a.Labels.Copy(), a.Annotations.Copy()})
				}
			}
		}
	}
	sortLabelled(want)
	sortLabelled(got)
	if !slices.EqualFunc(want, got, labelled.equal) {
		r.fail("alertname: %s, time: %s,\n  exp: %v\n  got: %v", t.Alertname, t.EvalTime, want, got)
	}
}

// sample is one of an expression's.
type sample struct {
	Labels    labels.Labels
	Value     float64
	Histogram string // in the language of upstream's tests; "" is none
}

func (s sample) String() string {
	if s.Histogram != "" {
		return s.Labels.String() + " " + s.Histogram
	}
	return s.Labels.String() + " " + strconv.FormatFloat(s.Value, 'E', -1, 64)
}

func (r *runner) checkExpr(t *exprTest, start time.Time) {
	query := rules.EngineQueryFunc(r.loader.QueryEngine(), r.loader.Queryable())
	vector, err := query(r.loader.Context(), t.Expr, start.Add(time.Duration(t.EvalTime)))
	if err != nil {
		r.fail("expr: %q, time: %s, err: %w", t.Expr, t.EvalTime, err)
		return
	}
	var got, want []sample
	for _, s := range vector {
		got = append(got, sample{s.Metric.Copy(), s.F, promqltest.HistogramTestExpression(s.H)})
	}
	for _, s := range t.Samples {
		parsed, err := r.parseSample(s.Labels, s.Histogram)
		if err != nil {
			r.fail("expr: %q, time: %s, err: labels %q: %w", t.Expr, t.EvalTime, s.Labels, err)
			return
		}
		parsed.Value = s.Value
		want = append(want, parsed)
	}
	byLabels := func(a, b sample) int { return labels.Compare(a.Labels, b.Labels) }
	slices.SortStableFunc(got, byLabels)
	slices.SortStableFunc(want, byLabels)
	same := func(x, y float64) bool { return x == y }
	if r.file.FuzzyCompare {
		same = near
	}
	if !slices.EqualFunc(want, got, func(a, b sample) bool {
		return labels.Equal(a.Labels, b.Labels) && a.Histogram == b.Histogram && same(a.Value, b.Value)
	}) {
		r.fail("expr: %q, time: %s,\n  exp: %v\n  got: %v", t.Expr, t.EvalTime, want, got)
	}
}

// near reports whether two values are the same, or next to each other.
func near(x, y float64) bool {
	return x == y || math.Nextafter(x, math.Inf(-1)) == y || math.Nextafter(x, math.Inf(1)) == y
}

func (r *runner) parseSample(ls, hist string) (s sample, err error) {
	if s.Labels, err = r.parser.ParseMetric(ls); err != nil || hist == "" {
		s.Histogram = promqltest.HistogramTestExpression(nil)
		return s, err
	}
	_, values, err := r.parser.ParseSeriesDesc("{} " + hist)
	if err != nil {
		return s, err
	}
	if len(values) != 1 || values[0].Histogram == nil {
		return s, fmt.Errorf("%q is not one histogram", hist)
	}
	s.Histogram = promqltest.HistogramTestExpression(values[0].Histogram)
	return s, nil
}
