package ruler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/promql"
)

// History is where the ruler learns what came late. The context carries the tenant.
type History interface {
	// Recorded returns a mark: of samples up to until, what changes after it by events
	// that come late is told by CameLate. Its generation is 0 where there is no tenant.
	Recorded(ctx context.Context, until int64) (past.Mark, error)
	CameLate(ctx context.Context, m past.Mark) ([]past.Interval, error)
}

// lateState is what a group knows of late data.
type lateState struct {
	mark  past.Mark // of the last evaluation; generation 0: none
	since int64     // no step before is evaluated again

	// rewritten are metrics that rules of the tenant have recorded otherwise since.
	// Guarded by Ruler.mu.
	rewritten []rewrite
}

// rewrite is an interval in which a metric has been recorded otherwise.
type rewrite struct {
	metric string
	past.Interval
	again bool // it was tried before
}

// lateMax is how many rewrites of other groups are told apart.
const lateMax = 64

// mark notes that samples up to until are about to be read.
func (r *Ruler) mark(ctx context.Context, g *group, until int64) (m past.Mark) {
	if r.options.History == nil {
		return m
	}
	m, err := r.options.History.Recorded(ctx, until)
	if err != nil {
		r.options.Logger.Warn("late events cannot be told from others: rules are not evaluated again", "tenant", g.tenant.id, "err", err)
	}
	return m
}

// replay evaluates the recording rules of a group again, at times before last, where
// events that came late, or other rules that were evaluated again, have changed what they
// read. Alerts are not: what they said has been said. A rule sees what the ones before it
// record again, and only what differs is stored, so that chains of rules come to an end.
//
// REQUIRES: g.evaluating
func (r *Ruler) replay(ctx context.Context, g *group, last int64, now past.Mark) {
	before := g.late.mark
	r.mu.Lock()
	changed := g.late.rewritten
	g.late.rewritten = nil
	horizon := durationMillis(r.config.LateHorizon)
	r.mu.Unlock()
	if before.Generation != 0 && before.Generation == now.Generation {
		late, err := r.options.History.CameLate(ctx, before)
		if err != nil {
			r.options.Logger.Warn("late events are not known: they are asked for with the next evaluation", "tenant", g.tenant.id, "err", err)
			r.keep(g, changed...)
			return
		}
		for _, iv := range late {
			changed = append(changed, rewrite{Interval: iv})
		}
	}
	if now.Generation != 0 { // else there is none now, and that before still says what came since
		g.late.mark = now
	}
	if len(changed) == 0 {
		return
	}
	skipped := false
	for i, rule := range g.rules.Rules() {
		rec, ok := rule.(*rules.RecordingRule)
		if !ok {
			continue
		}
		p := replayed{ruler: r, group: g, rule: rec, depends: promql.DependenceOf(rec.Query())}
		p.from, p.to, ok = p.depends.Touched(readBy(rec.Query(), changed))
		p.to = min(p.to, last-g.interval)
		p.from = max(p.from, g.late.since)
		if !ok || p.from > p.to {
			continue
		}
		if oldest := last - horizon; p.from < oldest {
			// What is tried again was counted when it was new.
			from, _, isNew := p.depends.Touched(readBy(rec.Query(), slices.DeleteFunc(slices.Clone(changed), func(w rewrite) bool { return w.again })))
			skipped = skipped || isNew && max(from, g.late.since) < oldest
			p.from = oldest
		}
		if p.from = p.first(last); p.from > p.to {
			continue
		}
		iv, err := p.run(ctx, last)
		if err != nil {
			r.options.Logger.Warn("a rule cannot be evaluated again for late events: it is tried with the next evaluation", "tenant", g.tenant.id,
				"namespace", g.namespace, "group", g.rules.Name(), "rule", rec.Name(), "err", err)
			for _, iv := range readBy(rec.Query(), changed) {
				r.keep(g, rewrite{Interval: iv, again: true})
			}
			continue
		}
		if iv != nil {
			w := rewrite{metric: rec.Name(), Interval: *iv}
			changed = append(changed, w)
			r.tell(g, i, w)
		}
	}
	if skipped {
		r.metrics.lateSkipped.Inc()
	}
}

// tell lets the other groups of the tenant know that a metric is recorded otherwise, and
// g itself where a rule up to the i-th reads it.
func (r *Ruler) tell(from *group, i int, w rewrite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range from.tenant.groups {
		readers := g.rules.Rules()
		if g == from {
			readers = readers[:i+1]
		}
		if !slices.ContainsFunc(readers, func(rule rules.Rule) bool { return reads(rule.Query(), w.metric) }) {
			continue
		}
		g.late.add(w)
	}
}

// keep leaves what has changed for the next evaluation of a group.
func (r *Ruler) keep(g *group, changed ...rewrite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range changed {
		g.late.add(w)
	}
}

// add notes that a metric has been recorded otherwise. Past lateMax all are one.
//
// REQUIRES: Ruler.mu
func (l *lateState) add(w rewrite) {
	if len(l.rewritten) < lateMax {
		l.rewritten = append(l.rewritten, w)
		return
	}
	all := rewrite{Interval: w.Interval, again: w.again}
	for _, o := range l.rewritten {
		all.Interval, all.again = all.Union(o.Interval), all.again && o.again
	}
	l.rewritten = append(l.rewritten[:0], all)
}

// readBy are the intervals in which something that the expression may read has changed.
func readBy(expr parser.Expr, changed []rewrite) (out []past.Interval) {
	for _, c := range changed {
		if c.metric == "" || reads(expr, c.metric) {
			out = append(out, c.Interval)
		}
	}
	return out
}

// reads reports whether an expression may read a metric.
func reads(expr parser.Expr, metric string) (found bool) {
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		sel, ok := n.(*parser.VectorSelector)
		found = found || ok && !slices.ContainsFunc(sel.LabelMatchers, func(m *labels.Matcher) bool {
			return m.Name == model.MetricNameLabel && !m.Matches(metric)
		})
		return nil
	})
	return found
}

// replayed is a recording rule at steps that are evaluated again.
type replayed struct {
	ruler    *Ruler
	group    *group
	rule     *rules.RecordingRule
	depends  promql.Dependence
	from, to int64
}

// first is the first step at or after p.from; steps are intervals before last.
func (p *replayed) first(last int64) int64 {
	return last - floorTo(last-p.from, p.group.interval)
}

// run evaluates the steps and stores what differs from what is there: the interval of
// samples that may then be others, nil where nothing differs.
func (p *replayed) run(ctx context.Context, last int64) (*past.Interval, error) {
	p.to = p.first(last) + floorTo(p.to-p.first(last), p.group.interval)
	fresh, err := p.evaluate(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := p.stored(ctx)
	if err != nil {
		return nil, err
	}
	batch := increment.Batch{SkipRefused: true, Derived: true}
	iv := past.Interval{From: math.MaxInt64, To: math.MinInt64}
	for key, series := range fresh {
		p.compare(&batch, &iv, series, stored[key])
		delete(stored, key)
	}
	if p.alone() {
		for _, series := range stored {
			p.compare(&batch, &iv, &recordedSeries{labels: series.labels, at: map[int64]point{}}, series)
		}
	}
	if len(batch.Increments) == 0 {
		return nil, nil
	}
	p.ruler.metrics.lateSamples.Add(float64(len(batch.Increments)))
	for rest := batch.Increments; len(rest) > 0; {
		n := min(len(rest), batchMax)
		batch.Increments, rest = rest[:n:n], rest[n:]
		if _, err := p.ruler.options.Store.Append(ctx, p.group.tenant.id, &batch); err != nil {
			return nil, fmt.Errorf("store the results: %w", err)
		}
	}
	return &iv, nil
}

// alone reports whether no other rule of the tenant records under the same name: then
// all series of the name are of this one.
func (p *replayed) alone() bool {
	p.ruler.mu.Lock()
	defer p.ruler.mu.Unlock()
	n := 0
	for _, g := range p.group.tenant.groups {
		for _, rule := range g.rules.Rules() {
			if _, ok := rule.(*rules.RecordingRule); ok && rule.Name() == p.rule.Name() {
				n++
			}
		}
	}
	return n == 1
}

// point is a sample's value.
type point struct {
	value  float64
	native *histogram.FloatHistogram
}

func (a point) equal(b point) bool {
	if a.native != nil || b.native != nil {
		return a.native != nil && b.native != nil && a.native.Equals(b.native)
	}
	return math.Float64bits(a.value) == math.Float64bits(b.value)
}

func (a point) stale() bool {
	if a.native != nil {
		return value.IsStaleNaN(a.native.Sum)
	}
	return value.IsStaleNaN(a.value)
}

var stalePoint = point{value: math.Float64frombits(value.StaleNaN)}

// recordedSeries is a series that a rule records, by time.
type recordedSeries struct {
	labels labels.Labels
	at     map[int64]point
}

// compare appends to the batch what is to be stored of a series: values that differ,
// and a marker where a value is no more.
func (p *replayed) compare(batch *increment.Batch, iv *past.Interval, fresh, stored *recordedSeries) {
	series := increment.NewSeries(fresh.labels, increment.Sample, nil)
	showing := false
	if stored != nil {
		before, ok := stored.at[p.from-p.group.interval]
		showing = ok && !before.stale()
	}
	for t := p.from; t <= p.to; t += p.group.interval {
		want, have := fresh.at[t]
		var was point
		there := false
		if stored != nil {
			was, there = stored.at[t]
		}
		switch {
		case have && there && want.equal(was), !have && !showing && (!there || was.stale()):
			showing = have
			continue
		case !have && there && was.stale():
			showing = false
			continue
		case !have:
			want = stalePoint
		}
		showing = have
		inc := increment.Increment{Series: series, Time: t, Value: want.value}
		if want.native != nil {
			inc.Native = &increment.Native{Float: want.native.Copy()}
		}
		batch.Increments = append(batch.Increments, inc)
		iv.From, iv.To = min(iv.From, t), max(iv.To, t)
	}
}

// evaluate returns what the rule gives at its steps now, by series.
func (p *replayed) evaluate(ctx context.Context) (map[string]*recordedSeries, error) {
	at, err := p.values(ctx)
	if err != nil {
		return nil, err
	}
	health, lastErr := p.rule.Health(), p.rule.LastError()
	defer func() { // which Eval changes: they are those of the last evaluation
		p.rule.SetHealth(health)
		p.rule.SetLastError(lastErr)
	}()
	out := map[string]*recordedSeries{}
	for t := p.from; t <= p.to; t += p.group.interval {
		// The rule itself names and checks what it records.
		vector, err := p.rule.Eval(ctx, 0, time.UnixMilli(t), func(context.Context, string, time.Time) (upstream.Vector, error) {
			return at(t)
		}, nil, p.group.rules.Limit())
		if err != nil {
			return nil, err
		}
		for _, s := range vector {
			key := string(s.Metric.Bytes(nil))
			if out[key] == nil {
				out[key] = &recordedSeries{labels: s.Metric, at: map[int64]point{}}
			}
			out[key].at[t] = point{s.F, s.H}
		}
	}
	return out, nil
}

// values returns the values of the rule's expression by time: from one query of a range,
// where that gives what one for each step does.
func (p *replayed) values(ctx context.Context) (func(t int64) (upstream.Vector, error), error) {
	r, text := p.ruler, p.rule.Query().String()
	if !p.depends.AlikeInRanges() || p.rule.Query().Type() != parser.ValueTypeVector {
		return func(t int64) (upstream.Vector, error) { return r.query(ctx, text, time.UnixMilli(t)) }, nil
	}
	settings, err := r.options.Store.Settings(p.group.tenant.id)
	if err != nil {
		return nil, err
	}
	// As many steps as the tenant's queries may have, and as fit in memory.
	most := (min(settings.Limits.QuerySteps, pieceSteps) - 1) * p.group.interval
	byTime := map[int64]upstream.Vector{}
	for from := p.from; from <= p.to; from += most + p.group.interval {
		if err := p.rangeInto(ctx, text, from, min(p.to, from+most), byTime); err != nil {
			return nil, err
		}
	}
	return func(t int64) (upstream.Vector, error) { return byTime[t], nil }, nil
}

// pieceSteps is how many steps are asked for at once.
const pieceSteps = 1000

// rangeInto adds the values of the rule's expression at steps to those by time.
func (p *replayed) rangeInto(ctx context.Context, text string, from, to int64, byTime map[int64]upstream.Vector) error {
	o := &p.ruler.options
	q, err := o.Engine.NewRangeQuery(ctx, o.Queryable, nil, text, time.UnixMilli(from), time.UnixMilli(to), p.group.rules.Interval())
	if err != nil {
		return err
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return res.Err
	}
	m, err := res.Matrix()
	if err != nil {
		return err
	}
	for _, s := range m {
		for _, f := range s.Floats {
			byTime[f.T] = append(byTime[f.T], upstream.Sample{Metric: s.Metric, T: f.T, F: f.F})
		}
		for _, h := range s.Histograms {
			byTime[h.T] = append(byTime[h.T], upstream.Sample{Metric: s.Metric, T: h.T, H: h.H.Copy()})
		}
	}
	return nil
}

// stored returns the series that are there under the rule's name, from a step before.
func (p *replayed) stored(ctx context.Context) (out map[string]*recordedSeries, err error) {
	q, err := p.ruler.options.Queryable.Querier(p.from-p.group.interval, p.to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, p.rule.Name()))
	out = map[string]*recordedSeries{}
	var it chunkenc.Iterator
	for set.Next() {
		s := &recordedSeries{labels: set.At().Labels().Copy(), at: map[int64]point{}}
		it = set.At().Iterator(it)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			if vt == chunkenc.ValFloat {
				t, v := it.At()
				s.at[t] = point{value: v}
				continue
			}
			t, h := it.AtFloatHistogram(nil)
			s.at[t] = point{native: h}
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
		out[string(s.labels.Bytes(nil))] = s
	}
	return out, set.Err()
}

// startLate lets a group that has just been loaded know of what comes late from now on.
// One that was there when the process started has recorded before.
func (r *Ruler) startLate(g *group, restarted bool) {
	now := r.options.Now().UnixMilli()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: g.tenant.id, Now: now})
	g.late.mark = r.mark(ctx, g, now-g.offset)
	g.late.since = math.MinInt64
	if !restarted {
		g.late.since = now - g.offset
	}
}
