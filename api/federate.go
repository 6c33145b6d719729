package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/budget"
)

// federate answers GET /federate: of every series that a match[] selects the last sample
// in lookback, to be scraped by a Prometheus. It is what web/federate.go of Prometheus
// does, with the tenant's limits of series and samples, and a series that cannot be read
// fails it.
func (a *api) federate(w http.ResponseWriter, r *http.Request) {
	if err := a.isReady(); err != nil {
		http.Error(w, "Quipu is not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, fmt.Sprintf("error parsing form values: %v", err), http.StatusBadRequest)
		return
	}
	selectors, err := a.parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	samples, err := a.lastSamples(r.Context(), scopeOf(r).Now, selectors)
	if err != nil {
		code, _ := readErrorStatus(err)
		http.Error(w, err.Error(), code)
		return
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	out := federation{to: expfmt.NewEncoder(w, format), native: format.FormatType() != expfmt.TypeTextPlain}
	for i := range samples {
		if err = out.add(&samples[i]); err != nil {
			break
		}
	}
	if err == nil {
		err = out.end()
	}
	if err != nil {
		a.logger.Debug("the client did not take its answer", "err", err)
	}
}

// lastSamples returns the last samples before now of the series that any of the selectors
// select, by metric name. Staleness markers are left out: the formats have none.
func (a *api) lastSamples(ctx context.Context, now int64, selectors [][]*labels.Matcher) (promql.Vector, error) {
	mint := now - lookbackDelta.Milliseconds()
	q, err := a.storage.Querier(mint, now)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := q.Close(); err != nil {
			a.logger.Error("close a querier", "err", err)
		}
	}()
	var sets []storage.SeriesSet
	for _, matchers := range selectors {
		sets = append(sets, q.Select(ctx, true, &storage.SelectHints{Start: mint, End: now}, matchers...))
	}
	set := storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	last := lastSample{buffer: storage.NewBuffer(lookbackDelta.Milliseconds()), at: now}
	room := sampleRoom(ctx)
	var out promql.Vector
	for n := 0; set.Next(); n++ {
		if n%128 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s, ok, err := last.of(set.At())
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", set.At().Labels(), err)
		}
		if !ok {
			continue
		}
		if err := room.take(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if err := set.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b promql.Sample) int {
		return strings.Compare(a.Metric.Get(model.MetricNameLabel), b.Metric.Get(model.MetricNameLabel))
	})
	return out, nil
}

// lastSample finds the last sample of series at or before a time.
type lastSample struct {
	buffer *storage.BufferedSeriesIterator
	series chunkenc.Iterator
	at     int64
}

func (l *lastSample) of(s storage.Series) (out promql.Sample, ok bool, err error) {
	l.series = s.Iterator(l.series)
	l.buffer.Reset(l.series)
	out.Metric = s.Labels()
	found := l.buffer.Seek(l.at)
	if err := l.series.Err(); err != nil {
		return out, false, err
	}
	if found == chunkenc.ValFloat {
		out.T, out.F = l.buffer.At()
	} else if found != chunkenc.ValNone {
		out.T, out.H = l.buffer.AtFloatHistogram(nil)
	}
	// What comes after is not asked for: storage gives no more than it was asked for,
	// but to rely on that would show a sample of the future.
	if found == chunkenc.ValNone || out.T > l.at {
		before, ok := l.buffer.PeekBack(1)
		if !ok {
			return out, false, nil
		}
		out.T, out.F, out.H = before.T(), 0, nil
		switch before.Type() {
		case chunkenc.ValFloat:
			out.F = before.F()
		case chunkenc.ValHistogram:
			out.H = before.H().ToFloat(nil)
		case chunkenc.ValFloatHistogram:
			out.H = before.FH().Copy() // the buffer is used again for the next series
		default:
			return out, false, nil
		}
	}
	return out, !value.IsStaleNaN(out.F) && (out.H == nil || !value.IsStaleNaN(out.H.Sum)), nil
}

// samplesLeft is how many samples an answer may still hold.
type samplesLeft struct {
	bounded bool
	left    int
	query   *budget.Query
}

func sampleRoom(ctx context.Context) *samplesLeft {
	q := budget.From(ctx)
	if q == nil || q.SamplesMax == 0 {
		return &samplesLeft{}
	}
	return &samplesLeft{bounded: true, left: q.SamplesMax, query: q}
}

// take counts a sample, a histogram for as many as the engine does.
func (l *samplesLeft) take(s *promql.Sample) error {
	if !l.bounded {
		return nil
	}
	l.left--
	if s.H != nil {
		l.left -= s.H.Size() / bytesPerSample
	}
	if l.left >= 0 {
		return nil
	}
	return &budget.LimitError{
		Tenant: l.query.Tenant, Field: "query_samples", Limit: fmt.Sprint(l.query.SamplesMax), What: "the answer has too many samples",
	}
}

// bytesPerSample is what a float sample takes in the engine.
const bytesPerSample = 16

// isGauge reports whether a histogram does not count up.
func isGauge(h *histogram.FloatHistogram) bool {
	return h != nil && h.CounterResetHint == histogram.GaugeType
}
