package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
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
	// decodeRounds are of 2 ms each, sampleRounds of 20 times as much: enough that the
	// collection of garbage before a measurement does not show in it.
	decodeRounds = 200
	sampleRounds = 10
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

// denseOurs is the size of dense chunks, the time to decode them, and the time that a
// query takes until it has them and until it has every sample.
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
		if err := decodeOurs(e, events, out); err != nil {
			return err
		}
		e.profile = "" // one profile a probe
		return queryOurs(e, db, events, out)
	})
	return out, err
}

// decodeOurs decodes the chunks, as they are in memory, into the same slices. Time is
// by window that has an increment: others are not stored.
func decodeOurs(e env, events int, out results) error {
	all, err := readChunks(e.dir)
	if err != nil {
		return err
	}
	var win []int64
	var counts []float64
	windows := 0
	decode, err := e.measure(func() error {
		for range decodeRounds {
			for _, c := range all {
				var err error
				if win, counts, err = tsdb.DecodeCounter(c, win[:0], counts[:0]); err != nil {
					return err
				}
				windows += len(win)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if windows != decodeRounds*events {
		return fmt.Errorf("decoded %d windows, want %d", windows, decodeRounds*events)
	}
	out["decode_ns"] = float64(decode.cpu.Nanoseconds()) / float64(windows)
	return nil
}

// readChunks returns the chunks in the chunk files under dir. A file is a header and,
// for each chunk, its length, its encoding, the chunk and its checksum.
func readChunks(dir string) ([][]byte, error) {
	var out [][]byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !isChunkFile(path) {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for src = src[chunks.SegmentHeaderSize:]; len(src) > 0; {
			size, n := binary.Uvarint(src)
			src = src[n+chunks.ChunkEncodingSize:]
			out = append(out, src[:size])
			src = src[size+crc32.Size:]
		}
		return nil
	})
	return out, err
}

// queryOurs is what a query takes before the first sample of each series: it reads
// the chunks of a day from the page cache, checks their sums, decodes and merges
// them, and finds the runs of the view. Then the same, with every sample.
func queryOurs(e env, db *tsdb.DB, events int, out results) error {
	series, samples := 0, 0
	err := selectOurs(db, func(storage.Series) error { series++; return nil }, everySeries) // opens the block
	if err != nil {
		return err
	}
	if series != denseSeries {
		return fmt.Errorf("selected %d series, want %d", series, denseSeries)
	}
	rounds := func(f func(s storage.Series) error) (spent, error) {
		return e.measure(func() error {
			for range sampleRounds {
				if err := selectOurs(db, f, everySeries); err != nil {
					return err
				}
			}
			return nil
		})
	}
	query, err := rounds(func(s storage.Series) error { return s.Iterator(nil).Err() })
	if err != nil {
		return err
	}
	view, err := rounds(func(s storage.Series) error {
		it := s.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			samples++
		}
		return it.Err()
	})
	out["decode_query_ns"] = float64(query.cpu.Nanoseconds()) / float64(sampleRounds*events)
	out["view_ns"] = float64(view.cpu.Nanoseconds()) / float64(samples)
	return err
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
		for range sampleRounds {
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
