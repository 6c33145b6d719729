package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb"
)

// withoutSync is the operating system's file system without fsync.
type withoutSync struct{ vfs.OS }

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error { return nil }

func (fs withoutSync) Create(name string) (vfs.File, error) {
	f, err := fs.OS.Create(name)
	return unsyncedFile{f}, err
}

func (withoutSync) SyncDir(string) error { return nil }

func openOurs(e env, d data) (*tsdb.DB, error) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 10_000_000
	return tsdb.Open(tsdb.Options{
		Dir: filepath.Join(e.dir, "ours"), FS: withoutSync{}, Defaults: settings, Now: func() time.Time { return d.end() },
		WALBytesMax: 64 << 30, MemtableBytesMax: 64 << 30, MaintainInterval: 24 * time.Hour, WALSyncEvery: time.Hour,
	})
}

func openUpstream(e env) (*promtsdb.DB, error) {
	db, err := promtsdb.Open(filepath.Join(e.dir, "upstream"), nil, nil, promtsdb.DefaultOptions(), nil)
	if err != nil {
		return nil, fmt.Errorf("open upstream's storage: %w", err)
	}
	db.DisableCompactions()
	return db, nil
}

// fill fills the directory of e.
func fill(e env) error {
	d := datasets[e.data]
	n := max(1, int(float64(d.series)*e.scale))
	if e.storage == "upstream" {
		db, err := openUpstream(e)
		if err != nil {
			return err
		}
		return errors.Join(fillUpstream(db, d, n), db.Close())
	}
	db, err := openOurs(e, d)
	if err != nil {
		return err
	}
	return errors.Join(fillOurs(db, d, n, e.storage == "samples"), db.Close())
}

// batcher gathers increments.
type batcher struct {
	db    *tsdb.DB
	batch increment.Batch
}

func (b *batcher) add(inc increment.Increment) error {
	if b.batch.Increments = append(b.batch.Increments, inc); len(b.batch.Increments) < 5000 {
		return nil
	}
	return b.flush()
}

func (b *batcher) flush() error {
	_, err := b.db.Append(context.Background(), tenant.Default, &b.batch)
	b.batch.Increments = b.batch.Increments[:0]
	return err
}

func fillOurs(db *tsdb.DB, d data, n int, samples bool) error {
	b := &batcher{db: db}
	var failed error
	add := func(inc increment.Increment) {
		if err := b.add(inc); err != nil && failed == nil {
			failed = err
		}
	}
	const perFlush = 40_000_000 // increments: those of an hour are in one block
	written := 0
	for i := range n {
		switch {
		case samples:
			written += eachSample(d, i, func(ls labels.Labels, series int) func(int64, float64) {
				s := increment.NewSeries(ls, increment.Sample, nil)
				return func(t int64, v float64) { add(increment.Increment{Series: s, Time: t, Value: v}) }
			})
		case d.buckets:
			s := increment.NewSeries(d.labels(i), increment.Buckets, nil)
			d.counts(i, func(w int, count float64) {
				h := &increment.Hist{Bounds: bounds}
				for k := range int(count) {
					h.Observe(observation(i, w, k))
				}
				add(increment.Increment{Series: s, Time: windowTime(w), Hist: h})
				written++
			})
		default:
			s := increment.NewSeries(d.labels(i), increment.Counter, nil)
			d.counts(i, func(w int, count float64) {
				add(increment.Increment{Series: s, Time: windowTime(w), Value: count})
				written++
			})
		}
		if failed != nil {
			return failed
		}
		if written > perFlush {
			written = 0
			if err := errors.Join(b.flush(), db.Flush(context.Background(), tenant.Default)); err != nil {
				return err
			}
		}
	}
	return errors.Join(b.flush(), db.Flush(context.Background(), tenant.Default))
}

func windowTime(w int) int64 { return start.UnixMilli() + int64(w)*step }

// observation is the k-th in a window.
func observation(i, w, k int) float64 { return float64((i*7+w*3+k*11)%97) / 40 }

// eachSample calls what series returns with every sample that the view of increments
// has, of the i-th counter or of the buckets of the i-th histogram. It returns how many
// there are.
func eachSample(d data, i int, series func(ls labels.Labels, n int) func(t int64, v float64)) int {
	if !d.buckets {
		return totals(d, i, []func(int64, float64){series(d.labels(i), i)})
	}
	var to []func(int64, float64)
	for k := range len(bounds) + 1 {
		le := math.Inf(1)
		if k < len(bounds) {
			le = bounds[k]
		}
		b := labels.NewBuilder(d.labels(i))
		b.Set(model.MetricNameLabel, "h_bucket")
		b.Set(model.BucketLabel, labels.FormatOpenMetricsFloat(le))
		to = append(to, series(b.Labels(), i*(len(bounds)+1)+k))
	}
	return totals(d, i, to)
}

// totals walks the windows of a series and its running totals, one for each of to.
func totals(d data, i int, to []func(int64, float64)) int {
	n := len(to)
	sums := make([]float64, n)
	written := 0
	show := func(t int64, stale bool) {
		for k, f := range to {
			v := sums[k]
			if stale {
				v = math.Float64frombits(value.StaleNaN)
			}
			f(t, v)
			written++
		}
	}
	const idle = hour // windows
	last := -1        // window with the last increment of the run
	fillTo := func(w int) {
		for t := last + 1; t < w; t++ {
			show(windowTime(t+1), false)
		}
	}
	d.counts(i, func(w int, count float64) {
		if last < 0 || w-last-1 > idle || w/day != last/day {
			zero := windowTime(w)
			if last >= 0 {
				end := min(last+idle, (last/day+1)*day-1)
				fillTo(end + 1)
				if end+2 < w {
					show(windowTime(end+2), true)
				}
				if end+1 >= w { // the run before ends where this one begins
					zero++
				}
			}
			clear(sums)
			show(zero, false)
		} else {
			fillTo(w)
		}
		for k := range sums {
			if n == 1 {
				sums[k] += count
				continue
			}
			for o := range int(count) {
				if k == len(bounds) || observation(i, w, o) <= bounds[k] {
					sums[k]++
				}
			}
		}
		show(windowTime(w+1), false)
		last = w
	})
	fillTo(min(d.windows, last+idle+1))
	return written
}

// fillUpstream appends in batches of one series: its head takes times that are not
// ahead of those before by more than half an hour, so by window for what is longer.
func fillUpstream(db *promtsdb.DB, d data, n int) error {
	type sample struct {
		t int64
		v float64
	}
	var all [][]sample
	var of []labels.Labels
	for i := range n {
		eachSample(d, i, func(ls labels.Labels, _ int) func(int64, float64) {
			k := len(all)
			all, of = append(all, nil), append(of, ls)
			return func(t int64, v float64) { all[k] = append(all[k], sample{t, v}) }
		})
	}
	refs := make([]storage.SeriesRef, len(all))
	for from := start.UnixMilli(); from <= d.end().UnixMilli(); from += 600_000 {
		app := db.AppenderV2(context.Background())
		pending := 0
		for k := range all {
			for len(all[k]) > 0 && all[k][0].t < from+600_000 {
				s := all[k][0]
				all[k] = all[k][1:]
				ref, err := app.Append(refs[k], of[k], 0, s.t, s.v, nil, nil, storage.AOptions{})
				if err != nil {
					return err
				}
				refs[k] = ref
				pending++
			}
			if pending > 5000 {
				if err := app.Commit(); err != nil {
					return err
				}
				app, pending = db.AppenderV2(context.Background()), 0
			}
		}
		if err := app.Commit(); err != nil {
			return err
		}
	}
	return nil
}
