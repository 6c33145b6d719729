package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	tenantCount      = 10_000
	tenantSeries     = 20
	turnoverLongest  = 30 * time.Second
	turnoverWriters  = 8
	turnoverInterval = 10 * time.Millisecond // between the posts of one writer
)

func tenantID(i int) (tenant.ID, error) { return tenant.Parse(fmt.Sprintf("tenant-%05d", i)) }

// tenantBatch is what a tenant posts in a window.
func tenantBatch(series []labels.Labels, window int) *increment.Batch {
	b := batchesOf(series)[0]
	setWindow(&b, window)
	return &b
}

// fillTenants gives each of many tenants a few series, and is killed. Every tenant
// posts once for each of the windows.
func fillTenants(windows ...int) probe {
	return func(e env) (results, error) {
		return nil, withOurs(e.fillOptions(), func(db *tsdb.DB) error {
			series := manyLabels(tenantSeries)
			for _, w := range windows {
				for i := range tenantCount {
					id, err := tenantID(i)
					if err != nil {
						return err
					}
					if _, err := db.Append(context.Background(), id, tenantBatch(series, w)); err != nil {
						return err
					}
				}
			}
			return awaitKill()
		})
	}
}

// openTenants opens a directory of many tenants.
func openTenants(e env) (results, error) {
	if err := e.fillAndKill("fill-tenants"); err != nil {
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
	resident, err := residentBytes()
	return results{
		"wall_s": s.wall.Seconds(), "cpu_s": s.cpu.Seconds(),
		"resident_mib": resident / (1 << 20), "heap_mib": heapInUse() / (1 << 20),
	}, errors.Join(err, db.Close())
}

// turnover has many tenants post now and then under a log budget that their old
// segments are past, until the log is within it, or for turnoverLongest. The log has
// several times what the tenants hold, because they posted to the same windows
// again and again: the budget leaves room for all that has to stay.
func turnover(e env) (results, error) {
	if err := e.fillAndKill("fill-turnover"); err != nil {
		return nil, err
	}
	perPost, err := cpuPerPost(e)
	if err != nil {
		return nil, err
	}
	o := e.options()
	logDir := filepath.Join(o.Dir, "@wal")
	before, err := logBytes(logDir)
	if err != nil {
		return nil, err
	}
	o.WALBytesMax, o.WALSegmentBytesMax, o.MaintainInterval = before/2, before/16, time.Second
	out := results{}
	err = withOurs(o, func(db *tsdb.DB) error {
		ctx, stop := context.WithTimeout(context.Background(), turnoverLongest)
		defer stop()
		var p posters
		s, err := e.measure(func() error {
			done := make(chan error, 1)
			go func() { done <- awaitLogWithin(ctx, logDir, o.WALBytesMax); stop() }()
			return errors.Join(p.run(ctx, db, -1), <-done)
		})
		if err != nil {
			return err
		}
		out["cpu_s"] = (s.cpu - time.Duration(p.posts)*perPost).Seconds()
		out["wait_max_ms"] = float64(p.longest.Microseconds()) / 1e3
		out["wall_s"] = s.wall.Seconds()
		after, err := logBytes(logDir)
		out["log_of_budget"] = float64(after) / float64(o.WALBytesMax)
		return err
	})
	return out, err
}

// cpuPerPost is what a post takes where the log has room.
func cpuPerPost(e env) (time.Duration, error) {
	const posts = 2000
	e.profile = ""
	var s spent
	err := withOurs(e.options(), func(db *tsdb.DB) error {
		var p posters
		var err error
		s, err = e.measure(func() error { return p.run(context.Background(), db, posts) })
		return err
	})
	return s.cpu / posts, err
}

// posters post for one tenant after the other.
type posters struct {
	mu      sync.Mutex
	posts   int
	longest time.Duration
	err     error
}

// run posts until ctx ends or, where limit is not negative, limit posts are done.
func (p *posters) run(ctx context.Context, db *tsdb.DB, limit int) error {
	var all sync.WaitGroup
	for range turnoverWriters {
		all.Go(func() {
			series := manyLabels(2)
			pace := time.NewTicker(turnoverInterval)
			defer pace.Stop()
			for p.postNext(db, series, limit) {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
	}
	all.Wait()
	return p.err
}

// postNext posts for the tenant whose turn it is; false where there is no more to
// do.
func (p *posters) postNext(db *tsdb.DB, series []labels.Labels, limit int) bool {
	p.mu.Lock()
	n := p.posts
	if p.err != nil || n == limit {
		p.mu.Unlock()
		return false
	}
	p.posts++
	p.mu.Unlock()
	before := time.Now()
	id, err := tenantID(n * 7919 % tenantCount) // in no order that storage could know
	if err == nil {
		_, err = db.Append(context.Background(), id, tenantBatch(series, 2+n/tenantCount))
	}
	took := time.Since(before)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest = max(p.longest, took)
	p.err = errors.Join(p.err, err)
	return err == nil
}

// awaitLogWithin returns when the log is within a budget, or ctx ends.
func awaitLogWithin(ctx context.Context, dir string, budget int64) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		n, err := logBytes(dir)
		if err != nil || n <= budget {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// logBytes is the size of the log; segments may go while it looks.
func logBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("size of the log: %w", err)
	}
	n := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("size of the log: %w", err)
		}
		n += info.Size()
	}
	return n, nil
}
