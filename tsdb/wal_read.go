package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/golang/snappy"
	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/vfs"
)

// walReader replays a log. Its methods are called before the log is written to.
type walReader struct {
	fs      vfs.FS
	dir     string
	logger  *slog.Logger
	metrics *metrics
	// Where check is set nothing is changed on disk, and it is told of damage and
	// of what opening would cut off.
	check *walCheck
}

// walCheck is who reads a log without opening it.
type walCheck struct {
	damaged func(segment uint64, offset int64, cause error)
	torn    func(segment uint64, offset int64)
}

// replay calls apply for every intact batch, in order, with the position where
// its record begins, and returns where the log ends. A torn last record, the mark
// of a crash before its batch was acknowledged, is cut off. Damage elsewhere is
// reported with segment and offset; intact records around it are kept. Series are
// defined twice in a segment, so that those after it do not need what was damaged.
//
// The last segment is written anew before replay returns: its last records may be
// in the kernel's cache alone, when the process died between write and fsync, and
// a duplicate of their batches is acknowledged from here on.
func (r *walReader) replay(apply func(position, *walRecord) error) (walEnd, error) {
	segments, err := listSegments(r.fs, r.dir)
	if err != nil {
		return walEnd{}, err
	}
	if err := r.sweep(); err != nil {
		return walEnd{}, err
	}
	end := walEnd{nextSegment: 1, segments: map[uint64]int64{}}
	a := startApplier(apply)
	for i, s := range segments {
		if i > 0 && s != segments[i-1]+1 {
			r.damaged(segments[i-1]+1, 0, fmt.Errorf("%s is missing", filepath.Join(r.dir, segmentName(segments[i-1]+1))))
		}
		size, err := r.replaySegment(s, i == len(segments)-1, &end.id, a)
		if err != nil {
			return walEnd{}, errors.Join(err, a.finish())
		}
		end.nextSegment = s // again, where it was removed
		if size > 0 {
			end.nextSegment = s + 1
			end.segments[s] = size
		}
	}
	return end, a.finish()
}

// applier applies records on a goroutine of its own while the next are decoded.
type applier struct {
	todo   chan placedRecord
	free   chan *walRecord
	failed atomic.Bool
	done   chan error
}

type placedRecord struct {
	pos position
	rec *walRecord
}

func startApplier(apply func(position, *walRecord) error) *applier {
	const ahead = 8
	a := &applier{todo: make(chan placedRecord, ahead), free: make(chan *walRecord, ahead), done: make(chan error, 1)}
	for range ahead {
		a.free <- &walRecord{}
	}
	go func() {
		var err error
		for p := range a.todo {
			if err == nil {
				if err = apply(p.pos, p.rec); err != nil {
					err = fmt.Errorf("replay WAL segment %d, offset %d: %w", p.pos.Segment, p.pos.Offset, err)
					a.failed.Store(true)
				}
			}
			a.free <- p.rec
		}
		a.done <- err
	}()
	return a
}

// finish waits for all records and returns why they could not be applied.
func (a *applier) finish() error {
	close(a.todo)
	return <-a.done
}

func (r *walReader) replaySegment(n uint64, last bool, id *ulid.ULID, a *applier) (size int64, err error) {
	path := filepath.Join(r.dir, segmentName(n))
	src, err := r.fs.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read WAL segment %d: %w", n, err)
	}
	var h segmentHeader
	rest, err := h.decode(src)
	switch {
	case err != nil && last && len(src) < segmentHeadSize:
		// The segment was being made when the process died: nothing was in it.
		return 0, r.settle(n, path, src, 0)
	case err != nil:
		r.damaged(n, 0, err)
		return int64(len(src)), nil
	case h.segment != n:
		return 0, fmt.Errorf("WAL segment file %s says it is segment %d", segmentName(n), h.segment)
	case *id != (ulid.ULID{}) && h.wal != *id:
		return 0, fmt.Errorf("WAL segment %d belongs to WAL %s, the segments before it to %s", n, h.wal, *id)
	}
	*id = h.wal
	records := newRecordReader()
	var buf []byte
	for len(rest) > 0 && !a.failed.Load() {
		offset := int64(len(src) - len(rest))
		if allZero(rest) { // room that was reserved
			src = src[:offset]
			break
		}
		payload, frame, err := decodeFrame(rest, buf)
		if err != nil {
			next := nextFrame(rest, frame)
			if next < 0 {
				if last {
					return offset, r.settle(n, path, src, offset)
				}
				r.damaged(n, offset, err)
				return int64(len(src)), nil
			}
			r.damaged(n, offset, err)
			rest = rest[next:]
			records.defineAll(rest)
			continue
		}
		rest = rest[frame:]
		if cap(payload) > cap(buf) && frame < len(payload) {
			buf = payload
		}
		rec := <-a.free
		switch ok, err := records.decode(payload, rec); {
		case ok:
			a.todo <- placedRecord{position{h.wal, n, offset}, rec}
			continue
		case err != nil:
			r.damaged(n, offset, err)
		}
		a.free <- rec
	}
	if a.failed.Load() {
		return int64(len(src)), nil // finish says why
	}
	if last {
		err = r.settle(n, path, src, int64(len(src)))
	}
	return int64(len(src)), err
}

// sweep removes what a crash left of settle.
func (r *walReader) sweep() error {
	entries, err := r.fs.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("list WAL: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".tmp") || r.check != nil {
			continue
		}
		if err := r.fs.Remove(filepath.Join(r.dir, e.Name())); err != nil {
			return fmt.Errorf("remove leftover of the WAL: %w", err)
		}
	}
	return nil
}

// resyncBytesMax bounds how many bytes the search for an intact frame sums.
const resyncBytesMax = 1 << 30

// nextFrame finds the first intact frame after a damaged one of the claimed size;
// -1 where there is none.
func nextFrame(src []byte, claimed int) int {
	if claimed > 0 {
		if _, _, err := decodeFrame(src[claimed:], nil); err == nil {
			return claimed
		}
	}
	left := resyncBytesMax
	for i := 1; i+frameHeadSize < len(src) && left > 0; i++ {
		size := plausibleFrame(src[i:])
		if size == 0 {
			continue
		}
		if _, _, err := decodeFrame(src[i:], nil); err == nil {
			return i
		}
		left -= size
	}
	return -1
}

// plausibleFrame returns the size of the frame that src may begin with, 0 where no
// frame begins so. Of half a million places among random bytes about one is
// plausible, so that few checksums are tried.
func plausibleFrame(src []byte) int {
	n := int64(binary.BigEndian.Uint32(src))
	if n == 0 || n > int64(len(src)-frameHeadSize) {
		return 0
	}
	body := src[frameHeadSize:]
	switch body[0] {
	case 0:
		if n > compressMin {
			return 0
		}
	case 1:
		const ratioMax = 24 // snappy's copies are of at most 64 bytes and take 3
		decoded, err := snappy.DecodedLen(body[1:n])
		if err != nil || decoded < compressMin || int64(decoded) > ratioMax*n || n > int64(snappy.MaxEncodedLen(decoded))+1 {
			return 0
		}
	default:
		return 0
	}
	return frameHeadSize + int(n)
}

// allZero looks at the first bytes first: only the end of a segment has any.
func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// defineAll takes note of the series that the intact frames of src define.
func (r *recordReader) defineAll(src []byte) {
	for len(src) > 0 {
		payload, size, err := decodeFrame(src, nil)
		if err != nil {
			if size = nextFrame(src, size); size < 0 {
				return
			}
		} else if len(payload) > 0 && payload[0] == recordSeries {
			// One that cannot be decoded is reported where it stands.
			_, _ = r.decode(payload, nil)
		}
		src = src[size:]
	}
}

// settle makes the first bytes of the last segment durable and drops the rest.
func (r *walReader) settle(n uint64, path string, src []byte, intact int64) error {
	torn := int64(len(src)) - intact
	if r.check != nil {
		if torn > 0 || intact == 0 {
			r.check.torn(n, intact)
		}
		return nil
	}
	if torn > 0 && intact > 0 {
		r.logger.Warn("write-ahead log ends in a torn record, which was never acknowledged: cut off",
			"segment", n, "offset", intact, "bytes", torn)
	}
	var err error
	if intact == 0 {
		err = r.fs.Remove(path)
	} else {
		err = vfs.WriteFile(r.fs, path, src[:intact])
	}
	if err != nil {
		return fmt.Errorf("settle the last WAL segment %d: %w", n, err)
	}
	return nil
}

func (r *walReader) damaged(segment uint64, offset int64, cause error) {
	r.metrics.walDamage.Inc()
	if r.check != nil {
		r.check.damaged(segment, offset, cause)
		return
	}
	r.logger.Error("write-ahead log is damaged: a record is lost",
		"segment", segment, "offset", offset, "err", cause)
}
