package promql

import (
	"context"
	"runtime"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/quipudb/quipu/internal/column"
)

// stage is a layer at work. It takes rows in the order in which the engine would, so
// that what depends on it (equals of topk, histograms that do not fit together, the
// last bits of a sum) is as the engine has it.
type stage interface {
	// add takes a row, which it does not keep.
	add(metric labels.Labels, r *row) error
	// flush hands on the result.
	flush(next func(labels.Labels, *row) error) error
}

// inOrder evaluates the series of set, several at a time, and takes their rows through
// the layers in order.
func (d *direct) inOrder(ctx context.Context, set column.Set, sink *output) (annotations.Annotations, error) {
	d.stats.inOrder = true
	said := make([]annotations.Annotations, len(d.layers))
	var stages []stage
	if d.sameLabels(set) {
		stages = append(stages, newMerger(d.maxSamples))
	}
	for i, l := range d.layers {
		stages = append(stages, newStage(d, l, &said[i]))
	}
	pass := func(to int) func(labels.Labels, *row) error {
		if to == len(stages) {
			return sink.add
		}
		return stages[to].add
	}
	first := pass(0)
	annos, err := d.produce(ctx, set, func(i int, r *row) error { return first(d.metric(set.Labels(i)), r) })
	for i, s := range stages {
		if err != nil {
			break
		}
		err = flushed(s, pass(i+1))
	}
	for _, more := range said { // of the same the last stands
		annos.Merge(more)
	}
	return annos, err
}

// flushed is s.flush; the arithmetic of histograms panics where one is broken.
func flushed(s stage, next func(labels.Labels, *row) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = recovered(p)
		}
	}()
	return s.flush(next)
}

func newStage(d *direct, l layer, annos *annotations.Annotations) stage {
	if l.call != nil {
		return newHistograms(d, l.call, annos)
	}
	a, param := l.aggregate, 0.0
	if a.Param != nil {
		param, _ = constant(a.Param)
	}
	by := newGrouping(a)
	switch a.Op {
	case parser.TOPK, parser.BOTTOMK:
		return &top{grouping: by, n: d.points(), k: int(param), annos: annos, room: d.maxSamples}
	case parser.QUANTILE:
		return newQuantiles(by, d.points(), param, annos, d.maxSamples)
	}
	return &cells{grouping: by, n: d.points(), annos: annos, room: d.maxSamples}
}

// smallWork is how many values are computed without a second goroutine.
const smallWork = 20_000

// block is consecutive series, evaluated by one goroutine.
type block struct {
	lo, hi int
	rows   []row
	err    error
	done   chan struct{}
}

// produce evaluates every series and calls use with those that have a value, in order
// and in one goroutine. A row is used again after use returns.
func (d *direct) produce(ctx context.Context, set column.Set, use func(i int, r *row) error) (annotations.Annotations, error) {
	n, points := set.Len(), d.points()
	workers := runtime.GOMAXPROCS(0)
	if n*points < smallWork || n < 2*workers {
		workers = 1
	}
	if workers == 1 {
		e := newEvaluator(d)
		err := set.Reading(func() error { return e.all(ctx, set, use) })
		e.finish()
		return e.annos, err
	}
	whole := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	size := min(max(1<<16/points, 1), 256, (n+workers-1)/workers)
	p := pipeline{d: d, set: set, jobs: make(chan *block), order: make(chan *block, 2*workers)}
	go p.schedule(ctx, n, size)
	evaluators := make([]*evaluator, workers)
	ended := make(chan struct{}, workers)
	for w := range workers {
		evaluators[w] = newEvaluator(d)
		go func() {
			p.work(ctx, evaluators[w])
			ended <- struct{}{}
		}()
	}
	err := p.consume(use)
	if err == nil {
		err = stopped(whole) // else not all was handed out
	}
	cancel()
	for range workers {
		<-ended
	}
	var annos annotations.Annotations
	for _, e := range evaluators {
		annos.Merge(e.annos)
		e.finish()
	}
	return annos, err
}

// all evaluates all series of set.
func (e *evaluator) all(ctx context.Context, set column.Set, use func(i int, r *row) error) error {
	var r row
	for i := range set.Len() {
		if err := e.checked(ctx, set, i, &r); err != nil {
			return err
		}
		if r.some {
			if err := used(use, i, &r); err != nil {
				return err
			}
		}
	}
	return nil
}

// used is use; the arithmetic of histograms panics where one is broken.
func used(use func(int, *row) error, i int, r *row) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = recovered(p)
		}
	}()
	return use(i, r)
}

// checked is eval, unless the query has ended.
func (e *evaluator) checked(ctx context.Context, set column.Set, i int, r *row) error {
	if err := stopped(ctx); err != nil {
		return err
	}
	return e.eval(set, i, r)
}

// finish adds what e counted to the computation's.
func (e *evaluator) finish() {
	e.counted.flush(e.spans)
	if e.d.stats.counts.total == nil {
		e.d.stats.counts = newCounts(e.n)
	}
	e.d.stats.counts.merge(&e.counted)
}

// pipeline hands blocks to goroutines and takes them back in order.
type pipeline struct {
	d     *direct
	set   column.Set
	jobs  chan *block
	order chan *block // as they were handed out; bounds how many wait
}

func (p *pipeline) schedule(ctx context.Context, n, size int) {
	defer close(p.jobs)
	defer close(p.order)
	for lo := 0; lo < n; lo += size {
		b := &block{lo: lo, hi: min(lo+size, n), done: make(chan struct{})}
		select {
		case p.order <- b:
		case <-ctx.Done():
			return
		}
		select {
		case p.jobs <- b:
		case <-ctx.Done():
			b.err = stopped(ctx)
			close(b.done)
			return
		}
	}
}

func (p *pipeline) work(ctx context.Context, e *evaluator) {
	for b := range p.jobs {
		b.rows = make([]row, b.hi-b.lo)
		b.err = p.set.Reading(func() error {
			for i := range b.rows {
				if err := e.checked(ctx, p.set, b.lo+i, &b.rows[i]); err != nil {
					return err
				}
			}
			return nil
		})
		close(b.done)
	}
}

// consume calls use with the rows of all blocks. It stops at the first error.
func (p *pipeline) consume(use func(int, *row) error) error {
	for b := range p.order {
		<-b.done
		if b.err != nil {
			return b.err
		}
		for i := range b.rows {
			if !b.rows[i].some {
				continue
			}
			if err := used(use, b.lo+i, &b.rows[i]); err != nil {
				return err
			}
		}
		b.rows = nil
	}
	return nil
}
