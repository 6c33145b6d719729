package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	// A year of events of so many pages.
	backfillSeries = 2000
	backfillEvents = 20_000_000
	backfillDays   = 365
)

// backfillNow is the end of that year and a bit of the next day.
func backfillNow() time.Time {
	return time.UnixMilli(spanStart + backfillDays*dayMillis).Add(3 * time.Hour)
}

// eventsOf are the events of a part of the year of n equal ones.
func eventsOf(part, parts, events int, r *rand.Rand) (window func() int64) {
	const windows = backfillDays * windowsPerDay
	from, to := int64(part)*windows/int64(parts), int64(part+1)*windows/int64(parts)
	return func() int64 { return spanStart + (from+r.Int64N(to-from))*step }
}

// backfill posts a year of events in random order at full rate to storage as a server has
// it, and says what that took and what is left when blocks have been merged, beside the
// same in order.
func backfill(e env) (results, error) {
	events := int(backfillEvents * e.scale)
	out := results{}
	s, err := e.measure(func() error { return postYear(e, "ours", events, 1, out) })
	if err != nil {
		return nil, err
	}
	out["cpu_us"] = float64(s.cpu.Microseconds()) / float64(events)
	if out["peak_mib"], err = peakResident(); err != nil {
		return nil, err
	}
	random, err := blockBytes(e, "ours")
	if err != nil {
		return nil, err
	}
	if err := postYear(e, "ordered", events, backfillDays, results{}); err != nil {
		return nil, err
	}
	ordered, err := blockBytes(e, "ordered")
	out["of_ordered"], out["bytes_per_event"] = random/ordered, random/float64(events)
	return out, err
}

func blockBytes(e env, name string) (float64, error) {
	return fileBytes(filepath.Join(e.dir, name), func(p string) bool { return isChunkFile(p) || isIndexFile(p) })
}

// postYear posts events, in random order in each of so many parts of the year, and waits
// until all is in blocks and they are merged.
func postYear(e env, name string, events, parts int, out results) error {
	o := tsdb.Options{Dir: filepath.Join(e.dir, name), Now: backfillNow, Defaults: e.options().Defaults, MaintainInterval: time.Second}
	o.Defaults.Retention = 0
	series := pages(backfillSeries)
	return withOurs(o, func(db *tsdb.DB) error {
		most := 0
		for part := range parts {
			n := events*(part+1)/parts - events*part/parts
			r := randomOf(uint64(part))
			window := eventsOf(part, parts, n, r)
			var b increment.Batch
			for i := range n {
				b.Increments = append(b.Increments, increment.Increment{Series: series[r.IntN(len(series))], Time: window(), Value: 1})
				if len(b.Increments) < batchSize && i < n-1 {
					continue
				}
				if err := appendWhenTaken(db, &b); err != nil {
					return err
				}
				b.Increments = b.Increments[:0]
				if (i+1)%(100*batchSize) == 0 {
					blocks, _, err := countBlocks(filepath.Join(o.Dir, tenant.Default.String()))
					if err != nil {
						return err
					}
					most = max(most, blocks)
				}
			}
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			return err
		}
		out["blocks_most"] = float64(most)
		return awaitMerged(o.Dir, out)
	})
}

// appendWhenTaken appends a batch, again and again while storage is behind.
func appendWhenTaken(db *tsdb.DB, b *increment.Batch) error {
	for {
		_, err := db.Append(context.Background(), tenant.Default, b)
		if busy := (*overload.Error)(nil); !errors.As(err, &busy) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// awaitMerged returns when blocks have been left alone for some seconds.
func awaitMerged(dir string, out results) error {
	last, since := 0, time.Now()
	err := awaitBlocks(dir, func(n int, idle bool) bool {
		if n != last || !idle {
			last, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	out["blocks"] = float64(last)
	return err
}

// peakResident is the most memory that this process had in RAM, in MiB.
func peakResident() (float64, error) {
	src, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read the peak of memory: %w", err)
	}
	_, rest, ok := bytes.Cut(src, []byte("VmHWM:"))
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 2 || fields[1] != "kB" {
		return 0, errors.New("read the peak of memory: /proc/self/status has no VmHWM")
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	return kib / 1024, err
}
