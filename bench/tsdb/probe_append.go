package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// appendCount is how many increments the probes of known series append.
const appendCount = 2_000_000

// appendOurs appends to series that storage knows: by the handles that ingestion
// keeps, or by labels alone.
func appendOurs(series int, keepHandles bool) probe {
	return func(e env) (results, error) {
		var s spent
		rounds := min(appendCount/series, windowsPerRange-1)
		err := withOurs(e.options(), func(db *tsdb.DB) error {
			batches := batchesOf(manyLabels(series))
			if err := appendRounds(db, batches, 0, 1); err != nil {
				return err
			}
			if !keepHandles {
				batches = batchesOf(manyLabels(series)) // I3
			}
			var err error
			s, err = e.measure(func() error {
				for w := 1; w <= rounds; w++ {
					if !keepHandles {
						forgetHandles(batches)
					}
					if err := appendRounds(db, batches, w, w+1); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		})
		return perItem(s, rounds*series), err
	}
}

// forgetHandles makes new ones of the same labels.
func forgetHandles(batches []increment.Batch) {
	for _, b := range batches {
		for i := range b.Increments {
			inc := &b.Increments[i]
			inc.Series = increment.NewSeries(inc.Labels, inc.Kind, nil)
		}
	}
}

// appendUpstream does the same with upstream's storage: by the references that a
// scraper keeps, or by labels alone, as a receiver of remote write has them.
func appendUpstream(series int, keepRefs bool) probe {
	return func(e env) (results, error) {
		var s spent
		rounds := min(appendCount/series, windowsPerRange-1)
		err := withUpstream(e, series, func(db *upstream) error {
			if err := db.appendRounds(manyLabels(series), 0, 1); err != nil {
				return err
			}
			ls := manyLabels(series)
			db.forgetRefs = !keepRefs
			var err error
			s, err = e.measure(func() error { return db.appendRounds(ls, 1, 1+rounds) })
			return err
		})
		return perItem(s, rounds*series), err
	}
}

// perItem is what each of n items took.
func perItem(s spent, n int) results {
	return results{
		"cpu_ns":  float64(s.cpu.Nanoseconds()) / float64(n),
		"cpu_us":  float64(s.cpu.Nanoseconds()) / float64(n) / 1e3,
		"wall_ns": float64(s.wall.Nanoseconds()) / float64(n),
	}
}

// newSeriesCount is how many series the probes of new series make.
const newSeriesCount = 200_000

func newSeriesOurs(e env) (results, error) {
	var s spent
	err := withOurs(e.options(), func(db *tsdb.DB) error {
		batches := batchesOf(manyLabels(newSeriesCount))
		var err error
		s, err = e.measure(func() error { return appendRounds(db, batches, 0, 1) })
		return err
	})
	return perItem(s, newSeriesCount), err
}

func newSeriesUpstream(e env) (results, error) {
	var s spent
	err := withUpstream(e, newSeriesCount, func(db *upstream) error {
		ls := manyLabels(newSeriesCount)
		var err error
		s, err = e.measure(func() error { return db.appendRounds(ls, 0, 1) })
		return err
	})
	return perItem(s, newSeriesCount), err
}

// groupCommit has writers append batches of 100 increments, each to series of its
// own, and waits for each to be durable before the next.
func groupCommit(writers int) probe {
	const (
		lasting      = 2 * time.Second
		perBatch     = 100
		windowsInUse = windowsPerRange - 1
	)
	return func(e env) (results, error) {
		waits := make([][]time.Duration, writers)
		errs := make([]error, writers)
		var s spent
		err := withOurs(e.options(), func(db *tsdb.DB) error {
			series := manyLabels(writers * perBatch)
			batches := make([]increment.Batch, writers)
			for i := range batches {
				batches[i] = batchesOf(series[i*perBatch : (i+1)*perBatch])[0]
			}
			if err := appendRounds(db, batches, 0, 1); err != nil {
				return err
			}
			var err error
			s, err = e.measure(func() error {
				var all sync.WaitGroup
				deadline := time.Now().Add(lasting)
				for i := range writers {
					all.Go(func() { waits[i], errs[i] = appendUntil(db, &batches[i], windowsInUse, deadline) })
				}
				all.Wait()
				return errors.Join(errs...)
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		every := slices.Sorted(slices.Values(slices.Concat(waits...)))
		return results{
			"batches_per_s": float64(len(every)) / s.wall.Seconds(),
			"p50_ms":        quantile(every, 0.5),
			"p99_ms":        quantile(every, 0.99),
			"cpu_us":        float64(s.cpu.Microseconds()) / float64(len(every)),
		}, nil
	}
}

// appendUntil appends a batch again and again, to one window after the other, and
// returns how long each took to be durable.
func appendUntil(db *tsdb.DB, b *increment.Batch, windows int, deadline time.Time) ([]time.Duration, error) {
	var out []time.Duration
	for w := 0; ; w++ {
		before := time.Now()
		if before.After(deadline) {
			return out, nil
		}
		setWindow(b, 1+w%windows)
		if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
			return nil, err
		}
		out = append(out, time.Since(before))
	}
}

// quantile of sorted durations, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(q*float64(len(sorted)-1))].Microseconds()) / 1e3
}

// Reopening: reopenSeries series with reopenRounds increments each.
const (
	reopenSeries = 100_000
	reopenRounds = 240
)

// fillOurs appends what reopenOurs replays, and is killed.
func fillOurs(e env) (results, error) {
	return nil, withOurs(e.fillOptions(), func(db *tsdb.DB) error {
		batches := batchesOf(manyLabels(scaledSeries(e, reopenSeries)))
		if err := appendRounds(db, batches, 0, reopenRounds); err != nil {
			return err
		}
		return awaitKill()
	})
}

func fillUpstream(e env) (results, error) {
	n := scaledSeries(e, reopenSeries)
	return nil, withUpstream(e, n, func(db *upstream) error {
		if err := db.appendRounds(manyLabels(n), 0, reopenRounds); err != nil {
			return err
		}
		return awaitKill()
	})
}

// scaledSeries is how many of n series there are at e's scale, in whole batches.
func scaledSeries(e env, n int) int {
	return max(1, int(e.scale*float64(n)/batchSize)) * batchSize
}

// reopenOurs opens a directory whose owner was killed, and checks that all of the
// first series is there.
func reopenOurs(e env) (results, error) {
	if err := e.fillAndKill("fill"); err != nil {
		return nil, err
	}
	var db *tsdb.DB
	s, err := e.measure(func() (err error) {
		db, err = tsdb.Open(e.options())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err := checkReopened(db); err != nil {
		return nil, err
	}
	log, err := fileBytes(filepath.Join(e.dir, "ours"), func(p string) bool { return filepath.Ext(p) == ".wal" })
	n := float64(scaledSeries(e, reopenSeries) * reopenRounds)
	return results{"wall_s": s.wall.Seconds(), "cpu_s": s.cpu.Seconds(), "log_bytes": log / n}, err
}

// checkReopened reads the total of the first series.
func checkReopened(db *tsdb.DB) error {
	want := 0.0
	for w := range reopenRounds {
		want += countOf(w, 0)
	}
	var first []*labels.Matcher
	seriesLabels(0).Range(func(l labels.Label) {
		first = append(first, labels.MustNewMatcher(labels.MatchEqual, l.Name, l.Value))
	})
	found := false
	err := selectOurs(db, func(s storage.Series) error {
		found = true
		got, err := lastValue(s)
		if err == nil && got != want {
			err = fmt.Errorf("series %s has a total of %g after reopening, want %g", s.Labels(), got, want)
		}
		return err
	}, first...)
	if err == nil && !found {
		err = errors.New("the first series is not there after reopening")
	}
	return err
}

func reopenUpstream(e env) (results, error) {
	if err := e.fillAndKill("fill-upstream"); err != nil {
		return nil, err
	}
	log, err := fileBytes(filepath.Join(e.dir, "upstream", "wal"), func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	n := float64(scaledSeries(e, reopenSeries) * reopenRounds)
	var db *upstream
	s, err := e.measure(func() (err error) {
		db, err = openUpstream(e, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return results{"wall_s": s.wall.Seconds(), "cpu_s": s.cpu.Seconds(), "log_bytes": log / n}, db.Close()
}
