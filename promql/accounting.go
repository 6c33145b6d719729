package promql

import (
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/stats"
)

// level is an evaluator of the engine, and how what is evaluated inside it is counted:
// once for all steps, or by the steps of a subquery.
type level struct {
	steps
	subquery *parser.SubqueryExpr // nil: what is inside is the same at every step
	consumed bool                 // by a function, at each step its range
}

// account makes qs, which has counted the samples of a synthetic selector at p, say what
// the engine would have looked at had it computed d itself.
func (d *direct) account(qs *stats.QuerySamples, p place) {
	s := &d.stats
	if s.counts.total == nil {
		return // never evaluated, or there was nothing to read
	}
	n := p.count()
	own := samplesOf(p)
	if len(p.above) == 0 {
		own = qs
	}
	for i := range n {
		k := min(i, len(s.counts.total)-1)
		total, first, values := s.counts.total[k], s.counts.first[k], s.values[k]
		own.IncrementSamplesAtStep(i, total-values)
		own.IncrementSamplesReadAtStep(i, first-values)
	}
	series := int64(s.series - s.emitted)
	qs.IncrementSeries(series)
	for i := len(p.above) - 1; i >= 0; i-- {
		above := qs
		if i > 0 {
			above = samplesOf(place{p.above[i].steps, p.above[:i]})
		}
		p.above[i].merge(above, own)
		own = above
	}
}

// samplesOf returns the counts of an evaluator that is not the query's own.
func samplesOf(p place) *stats.QuerySamples {
	if n := len(p.above); n > 0 && p.above[n-1].subquery != nil {
		return stats.NewChildWithStepTracking(p.start, max(p.end, p.start), p.interval)
	}
	return stats.NewQuerySamples(false)
}

// merge adds what was counted inside l to l's own, as eval of upstream's
// promql/engine.go does.
func (l *level) merge(own, inside *stats.QuerySamples) {
	n := l.count()
	if l.subquery == nil {
		for i := range n {
			own.IncrementSamplesAtStep(i, inside.TotalSamples)
		}
		own.IncrementSamplesReadAtStep(0, inside.SamplesRead)
		return
	}
	c := stats.SubqueryConsumer{Start: l.start, Interval: l.interval, NumSteps: n}
	if l.consumed {
		c.Offset, c.Range, c.AtTimestamp = millis(l.subquery.OriginalOffset), millis(l.subquery.Range), l.subquery.Timestamp
	}
	own.MergeTotalSamplesFromSubquery(inside, c)
	own.MergeSamplesReadFromSubquery(inside, c)
}
