package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	// snapshotBytes is what the tenant has, in so many blocks. Most of it is holes in the
	// files of chunks: a snapshot links them, whatever is in them.
	snapshotBytes  = 10 << 30
	snapshotBlocks = 40
	snapshotSeries = 2000
	// snapshotWrites is how long writes are measured before and after.
	snapshotWrites = 2 * time.Second
)

// snapshot is how long a snapshot of a large tenant takes while others write to it, and the
// longest that one of those waits, then and without it.
func snapshot(e env) (results, error) {
	o := e.fillOptions()
	series := pages(snapshotSeries)
	// Days apart, so that none would be merged.
	at := func(block int) int64 { return spanStart + int64(block)*3*dayMillis }
	err := withOurs(o, func(db *tsdb.DB) error {
		for b := range snapshotBlocks {
			batch := increment.Batch{}
			for _, s := range series {
				batch.Increments = append(batch.Increments, increment.Increment{Series: s, Time: at(b), Value: 1})
			}
			if _, err := db.Append(context.Background(), tenant.Default, &batch); err != nil {
				return err
			}
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(o.Dir, "default", "*", "chunks", "*"))
	if err != nil || len(files) < snapshotBlocks {
		return nil, errors.Join(err, fmt.Errorf("%d files of chunks", len(files)))
	}
	for _, f := range files {
		if err := os.Truncate(f, int64(snapshotBytes/len(files))); err != nil {
			return nil, err
		}
	}
	o = e.options()
	o.Now = func() time.Time { return time.UnixMilli(at(snapshotBlocks)) }
	out := results{}
	return out, withOurs(o, func(db *tsdb.DB) error {
		w := startWrites(db, series, at(snapshotBlocks)-step)
		time.Sleep(snapshotWrites)
		out["calm_wait_max_ms"] = w.longest()
		begun := time.Now()
		_, err := db.Snapshot(context.Background(), tenant.Default, false)
		out["wall_s"] = time.Since(begun).Seconds()
		time.Sleep(snapshotWrites)
		out["wait_max_ms"] = w.longest()
		return errors.Join(err, w.stop())
	})
}

// writes are batches that are appended one after the other.
type writes struct {
	most atomic.Int64 // nanoseconds, since it was asked for
	end  chan struct{}
	err  chan error
}

// startWrites begins to append batches of some series to one window.
func startWrites(db *tsdb.DB, series []*increment.Series, window int64) *writes {
	w := &writes{end: make(chan struct{}), err: make(chan error, 1)}
	go func() {
		for i := 0; ; i++ {
			select {
			case <-w.end:
				w.err <- nil
				return
			default:
			}
			var b increment.Batch
			for k := range 100 {
				b.Increments = append(b.Increments, increment.Increment{Series: series[(100*i+k)%len(series)], Time: window, Value: 1})
			}
			begun := time.Now()
			if _, err := db.Append(context.Background(), tenant.Default, &b); err != nil {
				w.err <- err
				return
			}
			w.most.Store(max(w.most.Load(), time.Since(begun).Nanoseconds()))
		}
	}()
	return w
}

// longest is the longest wait since it was asked for last, in ms.
func (w *writes) longest() float64 { return float64(w.most.Swap(0)) / 1e6 }

func (w *writes) stop() error {
	close(w.end)
	return <-w.err
}
