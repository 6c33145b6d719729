//go:build unix

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// BenchmarkRefresh is a panel of a dashboard: a range query for the first time, and
// again a step later. cpu-ms is user and system time of the process, collection of
// garbage included.
func BenchmarkRefresh(b *testing.B) {
	for _, panel := range []struct {
		name         string
		series       int
		every        time.Duration // between increments of a series
		query        string
		span, step   time.Duration
		loadedBefore time.Duration
	}{
		{"1h_by_15s_of_100k_series", 100_000, 15 * time.Second, `sum by (page) (rate(hits_total[5m]))`, time.Hour, 15 * time.Second, 65 * time.Minute},
		{"30d_by_1h_of_200_series", 200, time.Minute, `sum by (page) (rate(hits_total[1h]))`, 30 * 24 * time.Hour, time.Hour, 30*24*time.Hour + time.Hour},
	} {
		b.Run(panel.name, func(b *testing.B) {
			now := &atomic.Int64{}
			now.Store(time.Date(2026, 3, 4, 12, 0, 7, 0, time.UTC).UnixMilli())
			db := loadedDB(b, now, panel.series, panel.every, panel.loadedBefore)
			cache, err := promql.NewCache(promql.NewEngine(promql.EngineOptions{Distinct: db}), promql.CacheOptions{Bytes: 64 << 20, History: db})
			if err != nil {
				b.Fatal(err)
			}
			refresh := func(b *testing.B, e upstream.QueryEngine) {
				ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: now.Load()})
				end := time.UnixMilli(now.Load()).Truncate(panel.step)
				q, err := e.NewRangeQuery(ctx, db, nil, panel.query, end.Add(-panel.span), end, panel.step)
				if err != nil {
					b.Fatal(err)
				}
				defer q.Close()
				if res := q.Exec(ctx); res.Err != nil || len(res.Value.(upstream.Matrix)) == 0 {
					b.Fatal(res.Err)
				}
			}
			refresh(b, cache) // what is made at a first query of these series is not counted
			b.Run("first", func(b *testing.B) {
				before := cpuTime(b)
				for b.Loop() {
					cache.Close()
					refresh(b, cache)
				}
				b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			})
			b.Run("a_step_later", func(b *testing.B) {
				before := cpuTime(b)
				for b.Loop() {
					now.Add(panel.step.Milliseconds())
					refresh(b, cache)
				}
				b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			})
			cache.Close()
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadedDB has counters of 100 pages with increments up to the present.
func loadedDB(b *testing.B, now *atomic.Int64, series int, every, before time.Duration) *tsdb.DB {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = series * 2
	db, err := tsdb.Open(tsdb.Options{
		Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler), Defaults: settings, WALSyncEvery: time.Minute, WALBytesMax: 4 << 30,
		Now: func() time.Time { return time.UnixMilli(now.Load()) },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	names := make([]*increment.Series, series)
	for i := range names {
		names[i] = increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "hits_total", "page", fmt.Sprint(i%100), "host", fmt.Sprint(i/100)), increment.Counter, nil)
	}
	end := now.Load()
	for t := (end - before.Milliseconds()) / 15_000 * 15_000; t <= end; t += every.Milliseconds() {
		for from := 0; from < series; from += 10_000 {
			batch := &increment.Batch{}
			for i, s := range names[from:min(from+10_000, series)] {
				batch.Increments = append(batch.Increments, increment.Increment{Series: s, Time: t, Value: float64(1 + (i+int(t/15_000))%7)})
			}
			if _, err := db.Append(context.Background(), tenant.Default, batch); err != nil {
				b.Fatal(err)
			}
		}
	}
	if before < 24*time.Hour {
		return db // in memory
	}
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		b.Fatal(err)
	}
	return db
}
