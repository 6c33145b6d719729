package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	// pageSeries are counters of pages, each with pageIncrements a day.
	pageSeries     = 20_000
	pageIncrements = 200
	monthDays      = 30
	mergedDays     = 3
	dayMillis      = 24 * 60 * 60 * 1000
	// mergeLongest is after how long blocks must have been merged.
	mergeLongest = 10 * time.Minute
)

// spanStart is where a span of 27 days begins that blocks are merged to.
var spanStart = start.Add(8 * 24 * time.Hour).UnixMilli()

// pages are the counters of n pages.
func pages(n int) []*increment.Series {
	out := make([]*increment.Series, n)
	for i := range out {
		ls := labels.FromStrings(model.MetricNameLabel, "page_views_total", "country", fmt.Sprintf("C%d", i%25), "page", fmt.Sprintf("/articles/%05d", i))
		out[i] = increment.NewSeries(ls, increment.Counter, nil)
	}
	return out
}

// appendPages appends so many days of page counters, events at random times, and flushes
// each day. It returns how many events there were.
func appendPages(db *tsdb.DB, series []*increment.Series, days int) (events int, err error) {
	r := newRand()
	rate := float64(len(series)) * pageIncrements / windowsPerDay
	var b increment.Batch
	for w := range days * windowsPerDay {
		b.Increments = b.Increments[:0]
		for range poisson(r, rate) {
			b.Increments = append(b.Increments, increment.Increment{Series: series[r.IntN(len(series))], Time: spanStart + int64(w)*step, Value: 1})
		}
		events += len(b.Increments)
		if _, err := db.Append(context.Background(), tenant.Default, &b); err != nil {
			return events, err
		}
		if (w+1)%windowsPerDay == 0 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				return events, err
			}
		}
	}
	return events, nil
}

// month is the size of the whole directory of a month of page counters, by increment,
// when blocks have been merged, and what of it is left when they are in windows of an hour.
func month(e env) (results, error) {
	events, err := fillPages(e, monthDays)
	if err != nil {
		return nil, err
	}
	if _, err := mergeTo(e, 2); err != nil { // of 27 and of 3 days
		return nil, err
	}
	dir := filepath.Join(e.dir, "ours")
	all := func(string) bool { return true }
	size, err := fileBytes(dir, all)
	if err != nil {
		return nil, err
	}
	o := e.options()
	o.Now = func() time.Time { return time.UnixMilli(spanStart + 60*dayMillis) }
	o.MaintainInterval = time.Second
	hour := tenant.DownsampleRule{After: tenant.Duration(24 * time.Hour), To: tenant.Duration(time.Hour)}
	o.Defaults.Downsample = tenant.DownsampleRules{hour}
	if err := withOurs(o, func(*tsdb.DB) error { return awaitMerged(o.Dir, results{}) }); err != nil {
		return nil, err
	}
	coarse, err := fileBytes(dir, all)
	return results{"bytes_per_increment": size / float64(events), "coarse_of_fine": coarse / size}, err
}

// merge is what merging three days of page counters takes.
func merge(e env) (results, error) {
	events, err := fillPages(e, mergedDays)
	if err != nil {
		return nil, err
	}
	s, err := mergeTo(e, 1)
	return results{"cpu_s_per_million": s.cpu.Seconds() / float64(events) * 1e6}, err
}

func fillPages(e env, days int) (events int, err error) {
	o := e.fillOptions()
	o.Now = func() time.Time { return time.UnixMilli(spanStart + int64(days)*dayMillis) }
	err = withOurs(o, func(db *tsdb.DB) (err error) {
		events, err = appendPages(db, pages(scaledSeries(e, pageSeries)), days)
		return err
	})
	return events, err
}

// mergeTo opens the directory at a time when all its spans are past, and measures what it
// takes until there are so many blocks.
func mergeTo(e env, blocks int) (s spent, err error) {
	o := e.options()
	o.Now = func() time.Time { return time.UnixMilli(spanStart + 60*dayMillis) }
	o.MaintainInterval = time.Second // later than it takes to open the directory and begin to measure
	err = withOurs(o, func(*tsdb.DB) (err error) {
		s, err = e.measure(func() error {
			return awaitBlocks(o.Dir, func(n int, idle bool) bool { return n <= blocks && idle })
		})
		return err
	})
	return s, err
}

// awaitBlocks returns when done says so of how many blocks the tenant has, and whether
// none is being written.
func awaitBlocks(dir string, done func(blocks int, idle bool) bool) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		n, idle, err := countBlocks(filepath.Join(dir, tenant.Default.String()))
		switch {
		case err != nil:
			return err
		case done(n, idle):
			return nil
		case time.Since(began) > mergeLongest:
			return fmt.Errorf("%d blocks are left after %s", n, mergeLongest)
		}
	}
}

func countBlocks(dir string) (n int, idle bool, err error) {
	entries, err := os.ReadDir(dir)
	idle = true
	for _, d := range entries {
		switch {
		case d.IsDir() && strings.HasSuffix(d.Name(), ".tmp"):
			idle = false
		case d.IsDir() && len(d.Name()) == 26: // a ULID
			n++
		}
	}
	return n, idle, err
}

// randomOf is a random source of one's own for a part of a workload.
func randomOf(part uint64) *rand.Rand { return rand.New(rand.NewPCG(15, part)) }
