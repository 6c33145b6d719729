package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

const (
	denseSeries  = 300
	sparseSeries = 2000
	indexSeries  = 100_000
	decodeRounds = 10
)

// denseCounts are the events of every window of a day of one dense series.
func denseCounts(r *rand.Rand, rate float64) []int {
	out := make([]int, windowsPerDay)
	for w := range out {
		out[w] = poisson(r, rate)
	}
	return out
}

// sparseCounts have one event an hour.
func sparseCounts(r *rand.Rand) []int {
	out := make([]int, windowsPerDay)
	for hour := range 24 {
		out[hour*windowsPerDay/24+r.IntN(windowsPerDay/24)] = 1
	}
	return out
}

// dayOf are the counts of n series for a day, dense or sparse.
func dayOf(n int, dense bool) [][]int {
	r := newRand()
	rates := denseRates(n)
	out := make([][]int, n)
	for i := range out {
		if dense {
			out[i] = denseCounts(r, rates[i])
		} else {
			out[i] = sparseCounts(r)
		}
	}
	return out
}

// appendDay appends counts by series and window.
func appendDay(db *tsdb.DB, counts [][]int) error {
	var b increment.Batch
	flush := func() error {
		_, err := db.Append(context.Background(), tenant.Default, &b)
		b.Increments = b.Increments[:0]
		return err
	}
	ls := manyLabels(len(counts))
	for w := range windowsPerDay {
		for i := range counts {
			if n := counts[i][w]; n > 0 {
				b.Increments = append(b.Increments, increment.Increment{Series: increment.NewSeries(ls[i], increment.Counter, nil), Time: windowTime(w), Value: float64(n)})
			}
		}
		if len(b.Increments) >= batchSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// blockOf appends a day to our storage, flushes it, and runs f.
func blockOf(e env, counts [][]int, f func(db *tsdb.DB) error) error {
	return withOurs(e.fillOptions(), func(db *tsdb.DB) error {
		if err := appendDay(db, counts); err != nil {
			return err
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			return err
		}
		return f(db)
	})
}

// denseOurs is the size of dense chunks and the time to decode them. Decoding is
// what an iterator of the view does before its first sample: it reads the chunks
// of a day from the page cache, checks their sums, decodes and merges them, and
// finds the runs of the view.
func denseOurs(e env) (results, error) {
	counts := dayOf(denseSeries, true)
	events := 0 // windows that have any
	for _, day := range counts {
		for _, n := range day {
			events += min(n, 1)
		}
	}
	out := results{}
	err := blockOf(e, counts, func(db *tsdb.DB) error {
		size, err := fileBytes(e.dir, isChunkFile)
		if err != nil {
			return err
		}
		out["bytes_per_window"] = size / (denseSeries * windowsPerDay)
		var series []storage.Series
		if err := selectOurs(db, func(s storage.Series) error { series = append(series, s); return nil }, everySeries); err != nil {
			return err
		}
		if len(series) != denseSeries {
			return fmt.Errorf("selected %d series, want %d", len(series), denseSeries)
		}
		return decodeOurs(e, db, events, out)
	})
	return out, err
}

func decodeOurs(e env, db *tsdb.DB, events int, out results) error {
	var samples int
	err := selectOurs(db, func(storage.Series) error { return nil }, everySeries) // opens the block
	if err != nil {
		return err
	}
	// Time is by window that has an increment: others are not stored.
	decode, err := e.measure(func() error {
		for range decodeRounds {
			if err := selectOurs(db, func(s storage.Series) error { return s.Iterator(nil).Err() }, everySeries); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.profile = ""
	view, err := e.measure(func() error {
		for range decodeRounds {
			err := selectOurs(db, func(s storage.Series) error {
				it := s.Iterator(nil)
				for it.Next() != chunkenc.ValNone {
					samples++
				}
				return it.Err()
			}, everySeries)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	out["decode_ns"] = float64(decode.cpu.Nanoseconds()) / float64(decodeRounds*events)
	out["view_ns"] = float64(view.cpu.Nanoseconds()) / float64(samples)
	return nil
}

func sparseOurs(e env) (results, error) {
	out := results{}
	err := blockOf(e, dayOf(sparseSeries, false), func(*tsdb.DB) error {
		size, err := fileBytes(e.dir, isChunkFile)
		out["bytes_per_day"] = size / sparseSeries
		return err
	})
	return out, err
}

// xorChunks are the chunks that Prometheus makes of one series' running total, of
// 120 samples each.
func xorChunks(counts []int) ([]chunks.Meta, error) {
	const samplesPerChunk = 120
	var out []chunks.Meta
	var app chunkenc.Appender
	total := 0
	for w, n := range counts {
		if w%samplesPerChunk == 0 {
			c := chunkenc.NewXORChunk()
			var err error
			if app, err = c.Appender(); err != nil {
				return nil, err
			}
			out = append(out, chunks.Meta{Chunk: c})
		}
		total += n
		app.Append(0, windowTime(w)+step, float64(total))
	}
	return out, nil
}

// writeXOR writes the chunks of many series to files as a block has them, and
// returns their size.
func writeXOR(e env, counts [][]int) (size float64, all []chunks.Meta, err error) {
	dir := filepath.Join(e.dir, "chunks")
	w, err := chunks.NewWriter(dir)
	if err != nil {
		return 0, nil, err
	}
	for _, day := range counts {
		metas, err := xorChunks(day)
		if err == nil {
			err = w.WriteChunks(metas...)
		}
		if err != nil {
			return 0, nil, errors.Join(err, w.Close())
		}
		all = append(all, metas...)
	}
	if err := w.Close(); err != nil {
		return 0, nil, err
	}
	size, err = fileBytes(dir, isChunkFile)
	return size, all, err
}

// denseUpstream is what upstream's XOR chunks of the same totals take, and the time
// to read every sample of those in memory.
func denseUpstream(e env) (results, error) {
	size, metas, err := writeXOR(e, dayOf(denseSeries, true))
	if err != nil {
		return nil, err
	}
	samples, sum := 0, 0.0
	s, err := e.measure(func() error {
		var it chunkenc.Iterator
		for range decodeRounds {
			for _, m := range metas {
				it = m.Chunk.Iterator(it)
				for it.Next() != chunkenc.ValNone {
					_, v := it.At()
					sum += v
					samples++
				}
			}
		}
		return nil
	})
	if err != nil || sum == 0 {
		return nil, errors.Join(err, fmt.Errorf("%d samples sum to %g", samples, sum))
	}
	return results{
		"bytes_per_window": size / (denseSeries * windowsPerDay),
		"decode_ns":        float64(s.cpu.Nanoseconds()) / float64(samples),
	}, nil
}

func sparseUpstream(e env) (results, error) {
	size, _, err := writeXOR(e, dayOf(sparseSeries, false))
	return results{"bytes_per_day": size / sparseSeries}, err
}

// indexOurs is the index of a flushed block, every series with one chunk.
func indexOurs(e env) (results, error) {
	out := results{}
	err := withOurs(e.fillOptions(), func(db *tsdb.DB) error {
		if err := appendRounds(db, batchesOf(manyLabels(indexSeries)), 0, 1); err != nil {
			return err
		}
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			return err
		}
		size, err := fileBytes(e.dir, isIndexFile)
		out["bytes_per_series"] = size / indexSeries
		return err
	})
	return out, err
}

func indexUpstream(e env) (results, error) {
	w, err := promtsdb.NewBlockWriter(slog.New(slog.DiscardHandler), e.dir, promtsdb.DefaultBlockDuration)
	if err != nil {
		return nil, err
	}
	ls := manyLabels(indexSeries)
	app := w.AppenderV2(context.Background())
	for _, l := range ls {
		if _, err := app.Append(0, l, 0, windowTime(1), 1, nil, nil, storage.AOptions{}); err != nil {
			return nil, errors.Join(err, app.Rollback(), w.Close())
		}
	}
	if err := app.Commit(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if _, err := w.Flush(context.Background()); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	size, err := fileBytes(e.dir, isIndexFile)
	return results{"bytes_per_series": size / indexSeries}, errors.Join(err, w.Close())
}

// Memory: memorySeries series with memoryRounds windows each.
const (
	memorySeries = 1_000_000
	memoryRounds = 10
)

// eachRound calls f with every window and every batch of fresh labels, as decoded
// requests have them.
func eachRound(series, rounds int, f func(ls []labels.Labels, first, window int) error) error {
	ls := make([]labels.Labels, batchSize)
	for w := range rounds {
		for first := 0; first < series; first += batchSize {
			for i := range ls {
				ls[i] = seriesLabels(first + i)
			}
			if err := f(ls, first, w); err != nil {
				return err
			}
		}
	}
	return nil
}

func memoryOurs(e env) (results, error) {
	n := scaledSeries(e, memorySeries)
	out := results{}
	err := withOurs(e.fillOptions(), func(db *tsdb.DB) error {
		before := heapInUse()
		err := eachRound(n, memoryRounds, func(ls []labels.Labels, _, w int) error {
			return appendRounds(db, batchesOf(ls), w, w+1)
		})
		if err != nil {
			return err
		}
		// Postings are made when a query comes: they count too.
		err = selectOurs(db, func(storage.Series) error { return nil }, labels.MustNewMatcher(labels.MatchEqual, "page", "none"))
		out["bytes_per_series"] = (heapInUse() - before) / float64(n)
		return err
	})
	return out, err
}

func memoryUpstream(e env) (results, error) {
	n := scaledSeries(e, memorySeries)
	out := results{}
	err := withUpstream(e, n, func(db *upstream) error {
		before := heapInUse()
		err := eachRound(n, memoryRounds, db.appendBatch)
		out["bytes_per_series"] = (heapInUse() - before) / float64(n)
		return err
	})
	return out, err
}
