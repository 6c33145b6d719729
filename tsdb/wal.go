package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/vfs"
)

// ErrReadOnly is returned by writes after the log could not be written or synced:
// what is in the kernel's cache then is unknown, so nothing more is acknowledged
// until the directory is opened again and replayed.
var ErrReadOnly = errors.New("storage is read-only after a failed write; restart to recover")

// position is a place in one WAL. Positions of one WAL are ordered by segment and
// offset; those of different WALs do not compare.
type position struct {
	WAL     ulid.ULID `json:"wal"`
	Segment uint64    `json:"segment"`
	Offset  int64     `json:"offset"`
}

// before reports whether p is an earlier place of the same WAL than q.
func (p position) before(q position) bool {
	return p.WAL == q.WAL && (p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset)
}

// walWrite is one record on its way to disk.
type walWrite struct {
	// encode appends the record's payload for the given segment. It runs on the
	// writer goroutine, alone.
	encode func(dst []byte, segment uint64) []byte
	done   chan error // receives once: nil when the record is durable
}

// wal is the write-ahead log of all tenants: segments of framed, checksummed
// records, written by one goroutine that gathers all waiting records into one
// write and one fsync.
type wal struct {
	fs         vfs.FS
	dir        string
	id         ulid.ULID
	logger     *slog.Logger
	metrics    *metrics
	segmentMax int64
	grown      func() // called after every group, without locks

	mu      sync.Mutex
	wake    *sync.Cond
	queue   []walWrite
	closing bool
	failed  error    // ErrReadOnly with its cause; sticks
	durable position // end of what is durable
	oldest  uint64   // the first segment on disk
	bytes   map[uint64]int64

	// Owned by the writer goroutine.
	file    vfs.File
	segment uint64
	offset  int64
	buf     []byte
	payload []byte
	stopped chan struct{}
}

// walEnd is where the log ended when it was opened.
type walEnd struct {
	id          ulid.ULID // zero: no log yet
	nextSegment uint64
	segments    map[uint64]int64 // sizes of those on disk
}

// startWAL begins a new segment after what is on disk and starts the writer.
func startWAL(o *Options, dir string, end walEnd, m *metrics, grown func()) (*wal, error) {
	w := &wal{
		fs: o.FS, dir: dir, id: end.id, logger: o.Logger, metrics: m, segmentMax: o.WALSegmentBytesMax, grown: grown,
		bytes: end.segments, segment: end.nextSegment, stopped: make(chan struct{}),
	}
	if w.bytes == nil {
		w.bytes = map[uint64]int64{}
	}
	w.oldest = end.nextSegment
	for s := range w.bytes {
		w.oldest = min(w.oldest, s)
	}
	w.wake = sync.NewCond(&w.mu)
	if err := w.openSegment(); err != nil {
		return nil, err
	}
	w.durable = position{w.id, w.segment, w.offset}
	go w.run()
	return w, nil
}

// append makes a record durable. It blocks for at most one group before it and
// its own.
func (w *wal) append(encode func(dst []byte, segment uint64) []byte) error {
	wr := walWrite{encode: encode, done: make(chan error, 1)}
	w.mu.Lock()
	switch {
	case w.failed != nil:
		w.mu.Unlock()
		return w.failed
	case w.closing:
		w.mu.Unlock()
		return errors.New("storage is closed")
	}
	w.queue = append(w.queue, wr)
	w.mu.Unlock()
	w.wake.Signal()
	return <-wr.done
}

// end is a position after every record that was acknowledged so far.
func (w *wal) end() position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.durable
}

// size is the number of bytes of all segments.
func (w *wal) size() int64 { return w.sizeFrom(0) }

// sizeFrom is the number of bytes of a segment and those after it.
func (w *wal) sizeFrom(segment uint64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(0)
	for s, b := range w.bytes {
		if s >= segment {
			n += b
		}
	}
	return n
}

// oldestSegment is the first segment that is still needed.
func (w *wal) oldestSegment() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.oldest
}

// close writes what waits and stops the writer.
func (w *wal) close() error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.wake.Signal()
	<-w.stopped
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

func (w *wal) run() {
	defer close(w.stopped)
	var group []walWrite
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.closing {
			w.wake.Wait()
		}
		if len(w.queue) == 0 {
			w.mu.Unlock()
			return
		}
		group, w.queue = w.queue, group[:0]
		failed := w.failed
		w.mu.Unlock()
		if failed == nil {
			failed = w.commit(group)
		}
		for i := range group {
			group[i].done <- failed
			group[i] = walWrite{}
		}
		w.grown()
	}
}

// commit writes one group and syncs it. A failure poisons the log: the fsync is
// never tried again, because the kernel may have dropped what it could not write.
func (w *wal) commit(group []walWrite) error {
	err := w.writeGroup(group)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed = fmt.Errorf("%w: %w", ErrReadOnly, err)
		w.logger.Error("write-ahead log failed, refusing writes until restart", "err", err)
		return w.failed
	}
	w.durable = position{w.id, w.segment, w.offset}
	w.bytes[w.segment] = w.offset
	return nil
}

func (w *wal) writeGroup(group []walWrite) error {
	if w.offset >= w.segmentMax {
		if err := w.file.Close(); err != nil {
			return fmt.Errorf("close WAL segment %d: %w", w.segment, err)
		}
		w.segment++
		if err := w.openSegment(); err != nil {
			return err
		}
	}
	w.buf = w.buf[:0]
	for i := range group {
		w.payload = group[i].encode(w.payload[:0], w.segment)
		if len(w.payload) > walPayloadMax {
			return fmt.Errorf("WAL record of %d bytes, at most %d are allowed", len(w.payload), walPayloadMax)
		}
		w.buf = appendFrame(w.buf, w.payload)
	}
	if err := vfs.WriteAll(w.file, w.buf); err != nil {
		return fmt.Errorf("write WAL segment %d: %w", w.segment, err)
	}
	timer := w.metrics.startTimer(w.metrics.walSyncSeconds)
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync WAL segment %d: %w", w.segment, err)
	}
	timer()
	w.metrics.walBytes.Add(float64(len(w.buf)))
	w.metrics.walRecords.Add(float64(len(group)))
	w.offset += int64(len(w.buf))
	if cap(w.buf) > 16<<20 {
		w.buf, w.payload = nil, nil
	}
	return nil
}

func (w *wal) openSegment() error {
	name := segmentName(w.segment)
	f, err := w.fs.Create(filepath.Join(w.dir, name))
	if err != nil {
		return fmt.Errorf("create WAL segment: %w", err)
	}
	h := segmentHeader{wal: w.id, segment: w.segment}
	head := h.append(nil)
	err = vfs.WriteAll(f, head)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = w.fs.SyncDir(w.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start WAL segment %s: %w", name, err), f.Close())
	}
	w.file, w.offset = f, int64(len(head))
	w.mu.Lock()
	w.bytes[w.segment] = w.offset
	w.mu.Unlock()
	return nil
}

// release removes the segments before keep, oldest first: nothing in them is
// needed any more. keep is at most the segment of an end of the log that was read
// before it was decided.
func (w *wal) release(keep uint64) error {
	w.mu.Lock()
	first := w.oldest
	w.mu.Unlock()
	for s := first; s < keep; s++ {
		err := w.fs.Remove(filepath.Join(w.dir, segmentName(s)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove WAL segment: %w", err)
		}
		w.mu.Lock()
		w.oldest = s + 1
		delete(w.bytes, s)
		w.mu.Unlock()
	}
	return nil
}

const segmentSuffix = ".wal"

func segmentName(n uint64) string { return fmt.Sprintf("%08d%s", n, segmentSuffix) }

// listSegments returns the numbers of the segments in dir, ascending.
func listSegments(fsys vfs.FS, dir string) ([]uint64, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list WAL: %w", err)
	}
	var out []uint64
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		var n uint64
		if _, err := fmt.Sscanf(stem, "%d", &n); err != nil || segmentName(n) != e.Name() {
			return nil, fmt.Errorf("list WAL: unexpected file %s", e.Name())
		}
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, nil
}
