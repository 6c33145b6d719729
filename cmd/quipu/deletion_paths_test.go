package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// sealedFS commits nothing while it is sealed, so that what was deleted stays where it is
// and readers have to leave it out.
type sealedFS struct {
	unsynced
	sealed atomic.Bool
}

func (f *sealedFS) Rename(from, to string) error {
	if f.sealed.Load() {
		return errors.New("sealed")
	}
	return f.unsynced.Rename(from, to)
}

// deleted is what one call of Delete deletes: of a page, or of all, from one window to
// another.
type deleted struct {
	page     string // "": all
	from, to int    // windows, to not included
}

const deletedWindows = 240 // an hour

func (d *deleted) has(page string, window int) bool {
	return (d.page == "" || d.page == page) && window >= d.from && window < d.to
}

func (d *deleted) matcher() *labels.Matcher {
	if d.page == "" {
		return labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+")
	}
	return labels.MustNewMatcher(labels.MatchEqual, "page", d.page)
}

// deletionWorld is a storage with series of every kind on some pages.
type deletionWorld struct {
	*twin
	fs     *sealedFS
	engine *promql.Engine
}

func newDeletionWorld(t *testing.T) *deletionWorld {
	now := int64(twinStart + deletedWindows*twinGrid)
	w := &deletionWorld{twin: &twin{t: t, now: now, dataEnd: now}, fs: &sealedFS{}}
	db, err := tsdb.Open(tsdb.Options{
		Dir: t.TempDir(), FS: w.fs, Logger: slog.New(slog.DiscardHandler), Defaults: tenant.DefaultSettings(), MaintainInterval: time.Hour,
		Now: func() time.Time { return time.UnixMilli(now) }, WALSyncEvery: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.fs.sealed.Store(false)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w.db, w.engine = db, promql.NewEngine(promql.EngineOptions{Distinct: db})
	return w
}

// fill adds every step-th window from a first one on, but for what was deleted.
func (w *deletionWorld) fill(first, last, step int, without ...deleted) {
	w.t.Helper()
	var batch increment.Batch
	for i, page := range []string{"/", "/a", "/b", "/c"} {
		for j, country := range []string{"DE", "PE"} {
			add := func(kind increment.Kind, name string, inc increment.Increment) {
				ls := labels.FromStrings(model.MetricNameLabel, name, "page", page, "country", country)
				inc.Series = increment.NewSeries(ls, kind, nil)
				batch.Increments = append(batch.Increments, inc)
			}
		windows:
			for k := first; k < last; k += step {
				for _, d := range without {
					if d.has(page, k) {
						continue windows
					}
				}
				at := int64(twinStart + k*twinGrid)
				v := float64(1 + (k+2*j)%5 + i)
				h, buckets := &increment.Hist{}, &increment.Hist{Bounds: []float64{1, 3, 6}}
				h.Observe(v)
				buckets.Observe(v)
				add(increment.Counter, "views_total", increment.Increment{Time: at, Value: v})
				add(increment.Buckets, "size", increment.Increment{Time: at, Hist: buckets})
				add(increment.Histogram, "latency", increment.Increment{Time: at, Hist: h})
				add(increment.Gauge, "temperature", increment.Increment{Time: at, At: at + 1, Value: v})
				add(increment.Sample, "requests_total", increment.Increment{Time: at + 1, Value: float64(k * (i + 1))})
				add(increment.Distinct, "visitors", increment.Increment{Time: at, IDs: []uint64{uint64(k % 50), uint64(i)}})
			}
		}
	}
	if _, err := w.db.Append(context.Background(), tenant.Default, &batch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *deletionWorld) flush() {
	w.t.Helper()
	if err := w.db.Flush(context.Background(), tenant.Default); err != nil {
		w.t.Fatal(err)
	}
}

// deletedQueries take every way to read that the planner and storage have.
var deletedQueries = []string{
	`count(views_total)`,
	`count by (page) (views_total)`,
	`group by (page) (views_total)`,
	`views_total`,
	`views_total{page="/a"}`,
	`rate(views_total[5m])`,
	`sum(rate(views_total[5m]))`,
	`sum by (country) (rate(views_total[5m]))`,
	`sum without (country) (increase(views_total[10m]))`,
	`topk(2, sum by (page) (increase(views_total[1h])))`,
	`topk(3, views_total)`,
	`max by (country) (views_total)`,
	`histogram_quantile(0.9, sum by (le) (rate(size_bucket[5m])))`,
	`histogram_quantile(0.9, sum by (le, page) (rate(size_bucket[5m])))`,
	`histogram_quantile(0.5, sum(rate(size[5m])))`,
	`size_bucket{le="3.0"}`,
	`sum by (le) (size_bucket)`,
	`sum by (page) (size_sum) / sum by (page) (size_count)`,
	`histogram_quantile(0.9, sum by (country) (rate(latency[5m])))`,
	`histogram_count(latency)`,
	`temperature`,
	`sum by (country) (avg_over_time(temperature[5m]))`,
	`requests_total`,
	`sum by (page) (rate(requests_total[5m]))`,
	`count(requests_total)`,
	`visitors`,
	`sum by (country) (distinct_over_time(visitors[10m]))`,
	`count_distinct(visitors[10m], "country")`,
}

// answers are those to all queries, at the end of the data and over it.
func (w *deletionWorld) answers() map[string]*result {
	out := map[string]*result{}
	for _, expr := range deletedQueries {
		out[expr+" at the end"] = w.ask(w.engine, w.db, asked{expr: expr, start: w.now - 1})
		out[expr] = w.ask(w.engine, w.db, asked{expr: expr, start: twinStart, end: w.now - 1, step: 4 * time.Minute})
	}
	return out
}

// What was deleted is in no answer, whichever way it is read: before what holds it is
// rewritten and after, it is as if it had never been counted.
func TestNoQueryShowsWhatWasDeleted(t *testing.T) {
	places := map[string]func(w *deletionWorld, without ...deleted){
		"memory": func(w *deletionWorld, without ...deleted) { w.fill(0, deletedWindows, 1, without...) },
		"one block": func(w *deletionWorld, without ...deleted) {
			w.fill(0, deletedWindows, 1, without...)
			w.flush()
		},
		"blocks one after the other": func(w *deletionWorld, without ...deleted) {
			for k := 0; k < deletedWindows; k += 80 {
				w.fill(k, k+80, 1, without...)
				w.flush()
			}
		},
		"blocks of the same time": func(w *deletionWorld, without ...deleted) {
			for k := range 2 {
				w.fill(k, deletedWindows, 2, without...)
				w.flush()
			}
		},
		"a block and memory": func(w *deletionWorld, without ...deleted) {
			w.fill(0, 150, 1, without...)
			w.flush()
			w.fill(150, deletedWindows, 1, without...)
		},
	}
	changes := map[string][]deleted{
		"a page":             {{"/a", 0, deletedWindows}},
		"all before":         {{"", 0, 100}},
		"several":            {{"/a", 10, 60}, {"/a", 50, 130}, {"/c", 200, deletedWindows}},
		"everything":         {{"", 0, deletedWindows}},
		"a page in one part": {{"/", 0, 80}},
	}
	changed := map[string]bool{} // the queries whose answer a deletion changed
	for where, place := range places {
		for what, calls := range changes {
			t.Run(fmt.Sprintf("%s of %s", what, where), func(t *testing.T) {
				never, w := newDeletionWorld(t), newDeletionWorld(t)
				place(never, calls...)
				place(w)
				want := never.answers()
				for q, before := range w.answers() {
					changed[q] = changed[q] || before.differs(want[q], true, 0) != ""
				}
				w.fs.sealed.Store(true)
				for _, d := range calls {
					from, to := int64(twinStart+d.from*twinGrid), int64(twinStart+d.to*twinGrid-1)
					if _, err := w.db.Delete(context.Background(), tenant.Default, from, to, d.matcher()); err != nil {
						t.Fatal(err)
					}
				}
				check := func(when string, open bool) {
					t.Helper()
					for q, got := range w.answers() {
						if diff := got.differs(want[q], true, 0); diff != "" {
							t.Errorf("%s, %s:\n%s", when, q, diff)
						}
					}
					deletions, err := w.db.Deletions(tenant.Default)
					if err != nil || len(deletions) != len(calls) {
						t.Fatalf("%d deletions, %v", len(deletions), err)
					}
					for _, d := range deletions {
						if (d.State == tsdb.DeletionDone) != open {
							t.Errorf("%s, deletion %d is %s", when, d.Number, d.State)
						}
					}
				}
				check("as it waits", false)
				w.fs.sealed.Store(false)
				if err := w.db.CleanTombstones(context.Background(), tenant.Default); err != nil {
					t.Fatal(err)
				}
				check("rewritten", true)
			})
		}
	}
	for q, did := range changed {
		if !did {
			t.Errorf("no deletion changed the answer to %s", q)
		}
	}
}
