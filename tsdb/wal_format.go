package tsdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/golang/snappy"
	"github.com/oklog/ulid/v2"
)

// A segment is a header and frames:
//
//	header   "QUIPUWAL", version (1 byte), WAL id (16 bytes), segment (8 bytes),
//	         CRC-32C of all that (4 bytes)
//	frame    length of what follows the checksum (4 bytes), its CRC-32C (4 bytes),
//	         compression (1 byte: 0 none, 1 snappy), payload
//
// Integers are big endian. A segment is read without any other: a series is
// defined again by the first record of a segment that uses it.
const (
	walVersion      = 1
	walMagic        = "QUIPUWAL"
	segmentHeadSize = len(walMagic) + 1 + 16 + 8 + 4
	frameHeadSize   = 8
	walPayloadMax   = 256 << 20
	compressMin     = 256 // bytes below which snappy does not pay
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type segmentHeader struct {
	wal     ulid.ULID
	segment uint64
}

func (h *segmentHeader) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, walMagic...)
	dst = append(dst, walVersion)
	dst = append(dst, h.wal[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.segment)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func (h *segmentHeader) decode(src []byte) (rest []byte, err error) {
	if len(src) < segmentHeadSize {
		return src, errCutShort
	}
	head := src[:segmentHeadSize]
	sum := binary.BigEndian.Uint32(head[segmentHeadSize-4:])
	switch {
	case !bytes.Equal(head[:len(walMagic)], []byte(walMagic)):
		return src, errors.New("not a WAL segment")
	case crc32.Checksum(head[:segmentHeadSize-4], castagnoli) != sum:
		return src, errors.New("checksum of the header is wrong")
	case head[len(walMagic)] != walVersion:
		return src, fmt.Errorf("WAL version %d, only %d is known", head[len(walMagic)], walVersion)
	}
	head = head[len(walMagic)+1:]
	copy(h.wal[:], head)
	h.segment = binary.BigEndian.Uint64(head[16:])
	return src[segmentHeadSize:], nil
}

// appendFrame frames one record's payload.
func appendFrame(dst, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, frameHeadSize)...)
	if len(payload) >= compressMin {
		dst = append(dst, 1)
		body := len(dst)
		dst = append(dst, make([]byte, snappy.MaxEncodedLen(len(payload)))...)
		dst = dst[:body+len(snappy.Encode(dst[body:], payload))]
	} else {
		dst = append(append(dst, 0), payload...)
	}
	body := dst[start+frameHeadSize:]
	binary.BigEndian.PutUint32(dst[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(dst[start+4:], crc32.Checksum(body, castagnoli))
	return dst
}

var errBadFrame = errors.New("checksum of a record is wrong")

// decodeFrame returns the payload of the frame that src begins with, written into
// buf where it was compressed, and the frame's size. On errBadFrame size is what
// the frame claims, 0 where that is past src.
func decodeFrame(src, buf []byte) (payload []byte, size int, err error) {
	if len(src) < frameHeadSize {
		return nil, 0, errCutShort
	}
	n := binary.BigEndian.Uint32(src)
	if n == 0 || uint64(n) > uint64(len(src)-frameHeadSize) {
		return nil, 0, errCutShort
	}
	size = frameHeadSize + int(n)
	body := src[frameHeadSize:size]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(src[4:]) {
		return nil, size, errBadFrame
	}
	switch body[0] {
	case 0:
		return body[1:], size, nil
	case 1:
		if n, err := snappy.DecodedLen(body[1:]); err != nil || n > walPayloadMax {
			return nil, size, fmt.Errorf("record claims %d bytes: %w", n, errors.Join(errBadFrame, err))
		}
		if payload, err = snappy.Decode(buf[:cap(buf)], body[1:]); err != nil {
			return nil, size, fmt.Errorf("decompress record: %w", err)
		}
		return payload, size, nil
	}
	return nil, size, fmt.Errorf("record has unknown compression %d", body[0])
}
