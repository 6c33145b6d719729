package tsdb

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/vfs"
)

// walReader replays a log. Its methods are called before the log is written to.
type walReader struct {
	fs      vfs.FS
	dir     string
	logger  *slog.Logger
	metrics *metrics
	// report is told of damage; nil: only the log is.
	report func(segment uint64, offset int64, cause error)
}

// replay calls apply for every intact batch, in order, with the position where
// its record begins, and returns where the log ends. A torn last record, the mark
// of a crash before its batch was acknowledged, is cut off; damage elsewhere is
// reported with segment and offset, and everything intact around it is kept.
func (r *walReader) replay(apply func(position, *batchRecord) error) (walEnd, error) {
	segments, err := listSegments(r.fs, r.dir)
	if err != nil {
		return walEnd{}, err
	}
	end := walEnd{nextSegment: 1, segments: map[uint64]int64{}}
	for i, s := range segments {
		size, err := r.replaySegment(s, i == len(segments)-1, &end.id, apply)
		if err != nil {
			return walEnd{}, err
		}
		end.segments[s] = size
		end.nextSegment = s + 1
	}
	return end, nil
}

func (r *walReader) replaySegment(n uint64, last bool, id *ulid.ULID, apply func(position, *batchRecord) error) (size int64, err error) {
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
		return int64(len(src)), nil
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
	for len(rest) > 0 {
		offset := int64(len(src) - len(rest))
		payload, frame, err := decodeFrame(rest, buf)
		if err != nil {
			next := nextFrame(rest, frame)
			if next < 0 {
				return r.cutTail(n, last, path, offset, int64(len(src)), err)
			}
			r.damaged(n, offset, err)
			rest = rest[next:]
			continue
		}
		rest = rest[frame:]
		if cap(payload) > cap(buf) && frame < len(payload) {
			buf = payload
		}
		b, err := records.decode(payload)
		if err != nil {
			r.damaged(n, offset, err)
			continue
		}
		if err := apply(position{h.wal, n, offset}, b); err != nil {
			return 0, fmt.Errorf("replay WAL segment %d, offset %d: %w", n, offset, err)
		}
	}
	return int64(len(src)), nil
}

// nextFrame finds the first intact frame after a damaged one of the claimed size;
// -1 where there is none.
func nextFrame(src []byte, claimed int) int {
	if claimed > 0 {
		if _, _, err := decodeFrame(src[claimed:], nil); err == nil {
			return claimed
		}
	}
	for i := 1; i+frameHeadSize < len(src); i++ {
		if _, _, err := decodeFrame(src[i:], nil); err == nil {
			return i
		}
	}
	return -1
}

// cutTail handles damage with nothing intact after it.
func (r *walReader) cutTail(n uint64, last bool, path string, offset, size int64, cause error) (int64, error) {
	if !last {
		r.damaged(n, offset, cause)
		return size, nil
	}
	r.logger.Warn("write-ahead log ends in a torn record, which was never acknowledged: cut off",
		"segment", n, "offset", offset, "bytes", size-offset)
	if err := r.fs.Truncate(path, offset); err != nil {
		return 0, errors.Join(fmt.Errorf("cut torn record off WAL segment %d: %w", n, err), cause)
	}
	return offset, nil
}

func (r *walReader) damaged(segment uint64, offset int64, cause error) {
	r.metrics.walDamage.Inc()
	if r.report != nil {
		r.report(segment, offset, cause)
	}
	r.logger.Error("write-ahead log is damaged: a record is lost, those around it are kept",
		"segment", segment, "offset", offset, "err", cause)
}
