package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	frame []byte // of the record; nil: only what is before it is waited for
	// to are the series that the record refers to. Those of them that segment
	// does not define yet are fresh; the writer looks again where another segment
	// has begun since.
	to      []routed
	segment uint64
	fresh   []*memSeries
	// holds are told of the segment before the record is written there.
	holds []*logHold
	// sync asks for an fsync where --wal.fsync=interval would wait with it.
	sync bool
	done chan walDone // receives once, or twice where lead comes first
}

// walReserve is how far ahead of what is written a segment is filled with zeros.
const walReserve = 1 << 20

// walDone is how a write ended: nil and the segment it is in when it is durable, as
// far as the log's mode goes. Where lead is set it did not end yet: the receiver is to
// write the group that waits, its own record with it.
type walDone struct {
	lead    bool
	segment uint64
	err     error
}

// wal is the write-ahead log of all tenants: segments of framed, checksummed
// records. Whoever finds nobody writing writes all waiting records with one write
// and one fsync, then hands over to the first who came meanwhile. Where syncEvery is set an answer does not wait for the fsync,
// which comes at that interval: a power loss takes what was written since.
type wal struct {
	fs         vfs.FS
	dir        string
	id         ulid.ULID
	logger     *slog.Logger
	metrics    *metrics
	segmentMax int64
	syncEvery  time.Duration    // 0: every group
	grown      func(size int64) // called after every group with the log's size, without locks
	segment    atomic.Uint64    // the one that is written to; changed by the writer

	mu      sync.Mutex
	queue   []walWrite
	spare   []walWrite // memory for the next queue
	busy    bool       // somebody writes
	idle    *sync.Cond // busy has become false
	closing bool
	failed  error    // ErrReadOnly with its cause; sticks
	durable position // end of what is durable
	oldest  uint64   // the first segment on disk
	bytes   map[uint64]int64

	// Owned by who writes.
	file     vfs.File
	offset   int64
	reserved int64 // the file is this long; zeros follow what is written
	dirty    bool  // written and not synced
	buf      []byte
	payload  []byte
	defined  []*memSeries
	// again is the frame that defines the series of the last group that had any. It
	// is written a second time with the next group, so that damage in one place does
	// not take the records that refer to them.
	again   []byte
	ticking chan struct{} // closed to stop the ticker of syncEvery
}

// walEnd is where the log ended when it was opened.
type walEnd struct {
	id          ulid.ULID // zero: no log yet
	nextSegment uint64
	segments    map[uint64]int64 // sizes of those on disk
}

// startWAL begins a new segment after what is on disk and starts the writer.
func startWAL(o *Options, dir string, end walEnd, m *metrics, grown func(size int64)) (*wal, error) {
	w := &wal{
		fs: o.FS, dir: dir, id: end.id, logger: o.Logger, metrics: m, segmentMax: o.WALSegmentBytesMax, syncEvery: o.WALSyncEvery,
		grown: grown, bytes: end.segments, ticking: make(chan struct{}),
	}
	w.segment.Store(end.nextSegment)
	if w.bytes == nil {
		w.bytes = map[uint64]int64{}
	}
	w.oldest = end.nextSegment
	for s := range w.bytes {
		w.oldest = min(w.oldest, s)
	}
	w.idle = sync.NewCond(&w.mu)
	if err := w.openSegment(); err != nil {
		return nil, err
	}
	w.durable = position{w.id, w.segment.Load(), w.offset}
	if w.syncEvery > 0 {
		go w.tick()
	}
	return w, nil
}

// tick syncs what was written, at every interval.
func (w *wal) tick() {
	t := time.NewTicker(w.syncEvery)
	defer t.Stop()
	for {
		select {
		case <-w.ticking:
			return
		case <-t.C:
		}
		// A failure is logged, and refuses the writes that follow.
		_, _ = w.append(walWrite{sync: true})
	}
}

// append makes a record durable and returns its segment. It blocks for at most one
// group before it and its own.
func (w *wal) append(wr walWrite) (segment uint64, err error) {
	wr.done = make(chan walDone, 2)
	w.mu.Lock()
	switch {
	case w.failed != nil:
		w.mu.Unlock()
		return 0, w.failed
	case w.closing:
		w.mu.Unlock()
		return 0, errors.New("storage is closed")
	}
	w.queue = append(w.queue, wr)
	if w.busy {
		w.mu.Unlock()
		if done := <-wr.done; !done.lead {
			return done.segment, done.err
		}
		w.mu.Lock()
	}
	w.busy = true
	group := w.queue
	w.queue, w.spare = w.spare[:0], nil
	failed := w.failed
	w.mu.Unlock()
	w.lead(group, failed)
	done := <-wr.done
	return done.segment, done.err
}

// syncAll makes durable what was acknowledged so far, where that is not yet.
func (w *wal) syncAll() error {
	if w.syncEvery == 0 {
		return nil
	}
	_, err := w.append(walWrite{sync: true})
	return err
}

// lead writes a group and hands over to who came meanwhile.
func (w *wal) lead(group []walWrite, failed error) {
	if failed == nil {
		failed = w.commit(group)
	}
	segment := w.segment.Load()
	w.mu.Lock()
	if len(w.queue) > 0 { // first of all, so that the disk does not wait
		w.queue[0].done <- walDone{lead: true}
	} else {
		w.busy = false
		w.idle.Broadcast()
	}
	w.mu.Unlock()
	for i := range group {
		group[i].done <- walDone{segment: segment, err: failed}
		group[i] = walWrite{}
	}
	w.mu.Lock()
	w.spare = group
	w.mu.Unlock()
	w.grown(w.size())
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

// close waits for what is being written and closes the log.
func (w *wal) close() error {
	w.mu.Lock()
	w.closing = true
	for w.busy {
		w.idle.Wait()
	}
	failed := w.failed
	w.mu.Unlock()
	close(w.ticking)
	if failed != nil {
		if w.file == nil { // it failed between two segments
			return nil
		}
		return w.file.Close()
	}
	return w.finishSegment()
}

// commit writes one group and syncs it. A failure poisons the log: the fsync is
// never tried again, because the kernel may have dropped what it could not write.
func (w *wal) commit(group []walWrite) error {
	err := w.writeGroup(group)
	sync := w.syncEvery == 0 || slices.ContainsFunc(group, func(wr walWrite) bool { return wr.sync })
	if err == nil && sync {
		err = w.sync()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed = fmt.Errorf("%w: %w", ErrReadOnly, err)
		w.logger.Error("write-ahead log failed, refusing writes until restart", "err", err)
		return w.failed
	}
	w.durable = position{w.id, w.segment.Load(), w.offset}
	w.bytes[w.segment.Load()] = w.offset
	return nil
}

// sync makes what was written durable.
func (w *wal) sync() error {
	if !w.dirty {
		return nil
	}
	timer := w.metrics.startTimer(w.metrics.walSyncSeconds)
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync WAL segment %d: %w", w.segment.Load(), err)
	}
	timer()
	w.dirty = false
	return nil
}

func (w *wal) writeGroup(group []walWrite) error {
	if w.offset >= w.segmentMax {
		if err := w.finishSegment(); err != nil {
			return err
		}
		w.segment.Add(1)
		if err := w.openSegment(); err != nil {
			return err
		}
	}
	w.buf = append(w.buf[:0], w.again...)
	w.again = w.again[:0]
	w.define(group)
	for i := range group {
		for _, h := range group[i].holds {
			h.use(w.segment.Load())
		}
		w.buf = append(w.buf, group[i].frame...)
	}
	return w.write(len(group))
}

// definedBytes is about how many bytes of labels one record of series has.
const definedBytes = 1 << 20

// define puts records of the series that a group is the first to use in the segment
// before the group's.
func (w *wal) define(group []walWrite) {
	segment := w.segment.Load()
	w.defined = w.defined[:0]
	define := func(s *memSeries) {
		if s.segment.Load() != uint32(segment) {
			s.segment.Store(uint32(segment))
			w.defined = append(w.defined, s)
		}
	}
	for i := range group {
		wr := &group[i]
		if wr.segment == segment {
			for _, s := range wr.fresh {
				define(s)
			}
			continue
		}
		for _, r := range wr.to {
			define(r.series)
		}
	}
	for rest := w.defined; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && size < definedBytes {
			size += int(rest[n].labels.ByteSize())
			n++
		}
		w.payload = encodeSeries(w.payload[:0], rest[:n])
		w.again = appendFrame(w.again, w.payload)
		rest = rest[n:]
	}
	w.buf = append(w.buf, w.again...)
}

// write writes what is in the buffer, some records.
func (w *wal) write(records int) error {
	if len(w.buf) == 0 {
		return nil
	}
	w.dirty = true
	if end := w.offset + int64(len(w.buf)); end > w.reserved {
		n := end - w.offset + min(walReserve, w.segmentMax)
		if err := w.file.Reserve(int(n)); err != nil {
			return fmt.Errorf("reserve room in WAL segment %d: %w", w.segment.Load(), err)
		}
		w.reserved = w.offset + n
	}
	if err := vfs.WriteAll(w.file, w.buf); err != nil {
		return fmt.Errorf("write WAL segment %d: %w", w.segment.Load(), err)
	}
	w.metrics.walBytes.Add(float64(len(w.buf)))
	w.metrics.walRecords.Add(float64(records))
	w.offset += int64(len(w.buf))
	if cap(w.buf) > 16<<20 {
		w.buf, w.payload = nil, nil
	}
	return nil
}

// finishSegment writes what is left of the open segment and closes it.
func (w *wal) finishSegment() error {
	w.buf = append(w.buf[:0], w.again...)
	w.again = nil
	err := w.write(0)
	if err == nil {
		err = w.sync()
	}
	w.mu.Lock()
	w.bytes[w.segment.Load()] = w.offset
	w.mu.Unlock()
	err = errors.Join(err, w.file.Close())
	w.file = nil
	if err != nil {
		return fmt.Errorf("close WAL segment %d: %w", w.segment.Load(), err)
	}
	return nil
}

func (w *wal) openSegment() error {
	name := segmentName(w.segment.Load())
	f, err := w.fs.Create(filepath.Join(w.dir, name))
	if err != nil {
		return fmt.Errorf("create WAL segment: %w", err)
	}
	h := segmentHeader{wal: w.id, segment: w.segment.Load()}
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
	w.file, w.offset, w.reserved = f, int64(len(head)), int64(len(head))
	w.mu.Lock()
	w.bytes[w.segment.Load()] = w.offset
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
		w.oldest = max(w.oldest, s+1) // another release may be ahead
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
