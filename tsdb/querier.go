package tsdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
)

var errNoScope = errors.New("request names no tenant")

// Querier returns a querier of the view over [mint, maxt]. It serves the tenant
// and the present that the contexts of its calls carry (package scope), and pins
// one version of the tenant's data at its first use.
func (db *DB) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{db: db, mint: mint, maxt: maxt}, nil
}

// querier is used by one query; its methods are safe for concurrent use.
type querier struct {
	db         *DB
	mint, maxt int64

	mu      sync.Mutex
	pinned  bool
	store   *store // nil: there is no such tenant
	scope   scope.Scope
	version *version
	blocks  openBlocks
	cut     cut
	view    viewParams // of all that is read
}

// pin resolves the tenant and the version. version is nil where there is no such
// tenant.
func (q *querier) pin(ctx context.Context) (*version, viewParams, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil, viewParams{}, errNoScope
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.pinned {
		s, err := q.db.store(sc.Tenant, false)
		if err != nil {
			return nil, viewParams{}, err
		}
		q.scope, q.pinned = sc, true
		if s != nil {
			settings := s.settings()
			q.store = s
			q.view = viewParams{
				grid: s.grid(), idle: time.Duration(settings.IdleTimeout).Milliseconds(), own: settings.IdleTimeouts,
				now: sc.Now, evalEnd: q.maxt,
			}
			q.cut, q.version = s.cuts.take(s.versions)
		}
	}
	if q.scope != sc {
		return nil, viewParams{}, fmt.Errorf("querier of tenant %s asked for tenant %s", q.scope.Tenant, sc.Tenant)
	}
	if q.store == nil { // nor will there be for this query
		return nil, viewParams{}, nil
	}
	return q.version, q.view, nil
}

// Close gives back the version and the blocks that were read; what is read after it
// is an error.
func (q *querier) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.version != nil {
		q.blocks.close()
		q.store.versions.unpin(q.version)
		q.store.cuts.giveBack(q.cut)
		q.version = nil
	}
	return nil
}

// Select returns the views of the series that the matchers select. Counters show
// as cumulative floats, histograms as cumulative native histograms with an
// unknown counter reset hint, distinct series and gauges as floats, samples
// as they are. Histograms with buckets show as native ones and, where the matchers name
// them, as classic series. They are sorted by labels.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	v, params, err := q.pin(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	if v == nil {
		return storage.EmptySeriesSet()
	}
	mint, maxt := q.mint, q.maxt
	if hints != nil {
		mint, maxt = hints.Start, hints.End
	}
	params.evalEnd = maxt
	view := params.selecting(matchers)
	win := windowFor(view, mint, maxt)
	sels, err := selectSeries(ctx, v, &q.blocks, win, matchers)
	if err != nil {
		return storage.ErrSeriesSet(because(ctx, err))
	}
	if err := sortSelections(ctx, sels); err != nil {
		return storage.ErrSeriesSet(because(ctx, err))
	}
	set := &seriesSet{i: -1, warnings: coarseWarnings(sels, params)}
	for _, sel := range sels {
		set.series = append(set.series, &viewSeries{sel: sel, blocks: &q.blocks, at: q.cut, v: view.of(sel.labels), win: win, mint: mint, maxt: maxt})
	}
	if err := q.addClassic(ctx, set, v, params, mint, maxt, matchers); err != nil {
		return storage.ErrSeriesSet(because(ctx, err))
	}
	if hints != nil && hints.Limit > 0 && len(set.series) > hints.Limit {
		set.series = set.series[:hints.Limit]
	}
	return set
}

// because makes the error of a context that has ended say why it has.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// coarseWarnings says which metrics a bare selector has no value for.
func coarseWarnings(sels []*selection, v viewParams) annotations.Annotations {
	var out annotations.Annotations
	for _, sel := range sels {
		if sel.kind == increment.Distinct && (v.grid > distinctSpan || sel.coarse()) {
			out.Add(coarseWarning(sel.labels))
		}
	}
	return out
}

func coarseWarning(ls labels.Labels) error {
	return fmt.Errorf("%w: %q is a distinct metric on a grid coarser than 5m, a bare selector has no value; use distinct_over_time",
		annotations.PromQLWarning, ls.Get(model.MetricNameLabel))
}

func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	v, params, err := q.pin(ctx)
	if err != nil || v == nil {
		return nil, nil, err
	}
	out, err := collectLabelValues(ctx, v, &q.blocks, windowFor(params.selecting(matchers), q.mint, q.maxt), name, matchers)
	if err == nil {
		out, err = q.addClassicStrings(ctx, v, params, name, matchers, out)
	}
	return limited(out, hints), nil, because(ctx, err)
}

func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	v, params, err := q.pin(ctx)
	if err != nil || v == nil {
		return nil, nil, err
	}
	out, err := collectLabelNames(ctx, v, &q.blocks, windowFor(params.selecting(matchers), q.mint, q.maxt), matchers)
	if err == nil {
		out, err = q.addClassicStrings(ctx, v, params, "", matchers, out)
	}
	return limited(out, hints), nil, because(ctx, err)
}

func limited(s []string, hints *storage.LabelHints) []string {
	if hints != nil && hints.Limit > 0 && len(s) > hints.Limit {
		return s[:hints.Limit]
	}
	return s
}

// viewSeries is the view of one selected series.
type viewSeries struct {
	sel        *selection
	blocks     *openBlocks
	at         cut
	v          viewParams
	win        window
	mint, maxt int64
}

func (s *viewSeries) Labels() labels.Labels { return s.sel.labels }

func (s *viewSeries) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	var p points
	from, to := s.win.read(s.sel.kind)
	err := s.blocks.read(func() (err error) {
		p, err = s.sel.read(from, to+1, s.at)
		return err
	})
	switch {
	case err != nil:
		return errIterator{Iterator: chunkenc.NewNopIterator(), err: err}
	case s.sel.kind == increment.Distinct:
		return newDistinctView(&p, s.v, s.mint, s.maxt)
	case s.sel.kind == increment.Sample:
		return newSampleView(&p, s.mint, s.maxt)
	case s.sel.kind == increment.Gauge:
		return newGaugeView(&p, s.v, s.mint, s.maxt)
	}
	return newView(&p, s.v, s.mint, s.maxt)
}

type errIterator struct {
	chunkenc.Iterator
	err error
}

func (it errIterator) Err() error { return it.err }

type seriesSet struct {
	series   []storage.Series
	i        int
	warnings annotations.Annotations
}

func (s *seriesSet) Next() bool                        { s.i++; return s.i < len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.i] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return s.warnings }
