package promql

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/budget"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
)

// cachedQuery is a range query whose steps can be kept.
type cachedQuery struct {
	cache     *Cache
	reach     reach
	steps     steps // end is the last step
	text      string
	queryable storage.Queryable
	opts      perStep
	key       []byte

	// whole is the query at the engine, which answers where the cache knows nothing of
	// use.
	whole  upstream.Query
	stats  *stats.Statistics // where it was not asked
	cancel atomic.Pointer[context.CancelFunc]
}

// answer is what a query found out: values of all steps, each as of the mark or later.
type answer struct {
	mark     past.Mark
	settled  int // steps, from the first, that can be kept
	known    *known
	res      *upstream.Result
	samples  []int64 // of each step
	computed int     // of the settled steps
}

// known is what the cache has of a query: the steps [lo, hi) of an extent are right.
type known struct {
	extent
	lo, hi int
}

// Exec runs the query, once.
func (q *cachedQuery) Exec(ctx context.Context) *upstream.Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q.cancel.Store(&cancel)
	a := &answer{}
	var err error
	if a.mark, err = q.cache.history.Settle(ctx); err != nil || a.mark.Generation == 0 {
		return q.whole.Exec(ctx) // which says what is wrong
	}
	a.settled = q.reach.settled(q.steps, a.mark.Settled)
	if a.settled > 0 {
		a.known = q.lookup(ctx, a.mark)
		if lo, hi := q.overlap(a); q.worth(hi - lo) {
			if q.assemble(ctx, a, lo, hi) {
				q.keep(ctx, a)
				return a.res
			}
			// What was put together is not of one state: begin anew, from one cut.
			a = &answer{known: nil, settled: a.settled}
			if a.mark, err = q.cache.history.Settle(ctx); err != nil {
				return &upstream.Result{Err: err}
			}
		}
	}
	q.stats = nil
	q.count(resultMiss, 0)
	a.res, a.samples, a.computed = q.whole.Exec(ctx), samplesPerStep(q.whole), a.settled
	q.keep(ctx, a)
	return a.res
}

// worth reports whether so many steps that are known save work: around fewer of them
// up to two queries take the place of one.
func (q *cachedQuery) worth(n int) bool { return n > 0 && 8*n >= q.steps.count() }

func (q *cachedQuery) count(result string, fromCache int) {
	m := q.cache.metrics
	m.queries.WithLabelValues(result).Inc()
	m.steps.WithLabelValues("cache").Add(float64(fromCache))
	m.steps.WithLabelValues("storage").Add(float64(q.steps.count() - fromCache))
}

// lookup returns what the cache has of the query and is right still, nil for nothing.
func (q *cachedQuery) lookup(ctx context.Context, m past.Mark) *known {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil
	}
	entry := q.cache.store.get(sc.Tenant, m.Generation, q.key)
	if entry == nil {
		return nil
	}
	k := &known{}
	if err := k.decode(entry, q.key); err != nil || k.steps.interval != q.steps.interval {
		return nil
	}
	changes, err := q.cache.history.Changed(ctx, past.Mark{Generation: m.Generation, Seq: k.seq})
	if err != nil {
		return nil
	}
	if k.lo, k.hi = q.reach.unchanged(k.steps, changes); k.lo == k.hi {
		return nil
	}
	return k
}

// overlap returns the steps of the query that are settled and known: [lo, hi).
func (q *cachedQuery) overlap(a *answer) (lo, hi int) {
	if a.known == nil {
		return 0, 0
	}
	shift := int((a.known.steps.start - q.steps.start) / q.steps.interval)
	lo, hi = max(shift+a.known.lo, 0), min(shift+a.known.hi, a.settled)
	if lo >= hi {
		return 0, 0
	}
	return lo, hi
}

// assemble answers with the steps [lo, hi) from what is known, and the others from the
// engine. It reports false where something of the answer has changed meanwhile that
// not all of it shows.
func (q *cachedQuery) assemble(ctx context.Context, a *answer, lo, hi int) bool {
	n := q.steps.count()
	st := &stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(q.opts.asked())}
	q.stats = st
	for _, t := range []stats.QueryTiming{stats.ExecTotalTime, stats.EvalTotalTime} {
		defer st.Timers.GetTimer(t).Start().Stop()
	}
	st.Samples.InitStepTracking(q.steps.start, q.steps.end, q.steps.interval)
	a.samples = make([]int64, n)
	a.computed = lo + a.settled - hi
	a.res = &upstream.Result{}
	var warnings annotations.Annotations
	var pieces []piece
	run := func(from, to int) bool {
		if from == to {
			return true
		}
		m, ok := q.run(ctx, a, &warnings, from, to)
		pieces = append(pieces, piece{m, q.steps.at(from), q.steps.at(to - 1)})
		return ok
	}
	ok := run(0, lo)
	pieces = append(pieces, piece{a.known.series, q.steps.at(lo), q.steps.at(hi - 1)})
	if shift := int((q.steps.start - a.known.steps.start) / q.steps.interval); ok {
		copy(a.samples[lo:hi], a.known.samples[shift+lo:shift+hi])
	}
	ok = ok && run(hi, n)
	a.res.Warnings = warnings
	if !ok {
		q.count(resultPartial, hi-lo)
		return true // the error is the answer
	}
	if n > hi-lo && q.changed(ctx, a.mark, hi) {
		return false
	}
	q.finish(ctx, a, join(pieces))
	if n == hi-lo {
		q.count(resultHit, hi-lo)
	} else {
		q.count(resultPartial, hi-lo)
	}
	budget.From(ctx).AddCached(hi - lo)
	explanationFrom(ctx).cached(hi - lo)
	return true
}

// finish makes m the answer, where it is not larger than a query may be.
func (q *cachedQuery) finish(ctx context.Context, a *answer, m upstream.Matrix) {
	points := 0
	for i := range m {
		points += len(m[i].Floats)
		for _, h := range m[i].Histograms {
			points += (h.H.Size() + 8) / 16 // as upstream's engine counts them
		}
	}
	most := q.cache.options.MaxSamples
	if b := budget.From(ctx); b != nil && b.SamplesMax > 0 {
		most = b.SamplesMax
	}
	if points > most {
		a.res = &upstream.Result{Err: upstream.ErrTooManySamples(where), Warnings: a.res.Warnings}
		return
	}
	if a.res.Value = m; m == nil {
		a.res.Value = upstream.Matrix{}
	}
	st := q.stats.Samples
	st.PeakSamples = max(st.PeakSamples, points)
	for i, n := range a.samples {
		st.IncrementSamplesAtStep(i, n)
	}
}

// run asks the engine for the steps [from, to). It reports false where that fails, and
// the answer is the error.
func (q *cachedQuery) run(ctx context.Context, a *answer, warnings *annotations.Annotations, from, to int) (upstream.Matrix, bool) {
	timer := q.stats.Timers.GetTimer(stats.InnerEvalTime).Start()
	defer timer.Stop()
	fail := func(err error) (upstream.Matrix, bool) {
		a.res.Err = err
		return nil, false
	}
	interval := time.Duration(q.steps.interval) * time.Millisecond
	query, err := q.cache.engine.NewRangeQuery(ctx, q.queryable, q.opts, q.text, time.UnixMilli(q.steps.at(from)), time.UnixMilli(q.steps.at(to-1)), interval)
	if err != nil {
		return fail(err)
	}
	defer query.Close()
	res := query.Exec(ctx)
	warnings.Merge(res.Warnings)
	if res.Err != nil {
		return fail(res.Err)
	}
	m, ok := res.Value.(upstream.Matrix)
	if !ok {
		return fail(errors.New("a range query has no matrix for a result"))
	}
	samples := samplesPerStep(query)
	copy(a.samples[from:to], samples)
	if s := query.Stats().Samples; s != nil {
		q.stats.Samples.PeakSamples = max(q.stats.Samples.PeakSamples, s.PeakSamples)
		q.stats.Samples.SamplesRead += s.SamplesRead
		q.stats.Samples.TotalSeries += s.TotalSeries
		if q.stats.Samples.SamplesReadPerStep != nil {
			copy(q.stats.Samples.SamplesReadPerStep[from:to], s.SamplesReadPerStep)
		}
	}
	// Of its own memory: the engine takes back that of the query.
	return join([]piece{{m, q.steps.at(from), q.steps.at(to - 1)}}), true
}

func samplesPerStep(q upstream.Query) []int64 {
	if s := q.Stats(); s != nil && s.Samples != nil {
		return s.Samples.TotalSamplesPerStep
	}
	return nil
}

// changed reports whether something that the first n steps depend on has changed since
// m, or may have.
func (q *cachedQuery) changed(ctx context.Context, m past.Mark, n int) bool {
	changes, err := q.cache.history.Changed(ctx, m)
	if err != nil {
		return true
	}
	s := q.steps
	s.end = s.at(n - 1)
	lo, hi := q.reach.unchanged(s, changes)
	return hi-lo < n
}

// keep stores the settled steps of an answer, together with what is known next to them.
func (q *cachedQuery) keep(ctx context.Context, a *answer) {
	m, ok := a.res.Value.(upstream.Matrix)
	sc, scoped := scope.From(ctx)
	if a.res.Err != nil || !ok || !scoped || a.computed == 0 || len(a.samples) < a.settled {
		return
	}
	skip := q.cache.metrics.skipped
	if len(a.res.Warnings) > 0 {
		skip.WithLabelValues(skipAnnotated).Inc()
		return
	}
	last := q.steps.at(a.settled - 1)
	e := extent{seq: a.mark.Seq, steps: steps{q.steps.start, last, q.steps.interval}, samples: a.samples[:a.settled]}
	pieces := []piece{{m, q.steps.start, last}}
	if a.known != nil {
		pieces = q.extend(&e, a.known, pieces)
	}
	if 64*a.computed < e.steps.count() {
		return // a few steps more are computed again sooner than they are stored
	}
	e.series = join(pieces)
	points := 0
	for i := range e.series {
		points += len(e.series[i].Floats)
		for _, p := range e.series[i].Histograms {
			points += 6 + len(p.H.PositiveBuckets) + len(p.H.NegativeBuckets) + len(p.H.CustomValues)
		}
	}
	var entry []byte
	if points <= q.cache.entryMax { // a point takes a byte at least
		entry = e.append(nil, q.key)
	}
	switch {
	case entry == nil, len(entry) > q.cache.entryMax:
		skip.WithLabelValues(skipSize).Inc()
	case q.changed(ctx, a.mark, a.settled):
		skip.WithLabelValues(skipChanged).Inc()
	case !q.cache.store.put(sc.Tenant, a.mark.Generation, q.key, entry):
		skip.WithLabelValues(skipShare).Inc()
	default:
		q.cache.metrics.stored.Add(float64(len(entry)))
	}
}

// stepsMax is how many steps an entry has at most: as many as a query by HTTP.
const stepsMax = 11_000

// extend adds to e what k knows right before it and right after it.
func (q *cachedQuery) extend(e *extent, k *known, pieces []piece) []piece {
	first, end := k.steps.at(k.lo), k.steps.at(k.hi) // end is after the last step
	if first > e.steps.end+e.steps.interval || end < e.steps.start || int(max(end, e.steps.end)-min(first, e.steps.start))/int(e.steps.interval) > stepsMax {
		return pieces
	}
	at := func(t int64) int { return int((t - k.steps.start) / k.steps.interval) }
	start, last := e.steps.start, e.steps.end
	if first < start {
		pieces = append([]piece{{k.series, first, start - 1}}, pieces...)
		e.samples = append(append([]int64{}, k.samples[k.lo:at(start)]...), e.samples...)
		e.steps.start = first
	}
	if end > last+e.steps.interval {
		pieces = append(pieces, piece{k.series, last + 1, end - 1})
		e.samples = append(append([]int64{}, e.samples...), k.samples[at(last+e.steps.interval):k.hi]...)
		e.steps.end = end - e.steps.interval
	}
	return pieces
}

// Statement returns the query as written.
func (q *cachedQuery) Statement() parser.Statement { return q.whole.Statement() }

// String returns the query as written.
func (q *cachedQuery) String() string { return q.whole.String() }

// Stats returns what the query took. A step consumes the samples that it depends on,
// also where its value was known; what was read is what this query read.
func (q *cachedQuery) Stats() *stats.Statistics {
	if q.stats != nil {
		return q.stats
	}
	st := *q.whole.Stats()
	if st.Samples != nil && !q.opts.asked() {
		samples := *st.Samples
		samples.EnablePerStepStats, samples.TotalSamplesPerStep, samples.SamplesReadPerStep = false, nil, nil
		st.Samples = &samples
	}
	return &st
}

// Cancel stops the query.
func (q *cachedQuery) Cancel() {
	if cancel := q.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

// Close gives back the memory of the result.
func (q *cachedQuery) Close() { q.whole.Close() }
