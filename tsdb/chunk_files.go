package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// chunkFiles are a block's chunk files, in upstream's format (its docs/format/chunks.md).
// Its reader makes an object for each chunk; this one hands out the bytes.
type chunkFiles struct {
	files []*fileutil.MmapFile
	size  int64
}

// chunkAt is where a chunk is and what it spans: the start of its first window and the
// last millisecond of its last, or the times of its first and last sample.
type chunkAt struct {
	ref              chunks.ChunkRef
	MinTime, MaxTime int64
}

// openChunks maps chunk files. References number them as they come: with one missing
// those of the files after it would lead into the wrong one.
func openChunks(dir string) (*chunkFiles, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if want := chunkFileName(i); e.Name() != want {
			return nil, fmt.Errorf("%s is missing, %s is there", filepath.Join(dir, want), e.Name())
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s is missing", filepath.Join(dir, chunkFileName(0)))
	}
	c := &chunkFiles{}
	for i := range entries {
		if err := c.add(filepath.Join(dir, chunkFileName(i))); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// chunkFileName is the name of the chunk file to which references say n.
func chunkFileName(n int) string { return fmt.Sprintf("%06d", n+1) }

// chunksFormat is the version of a chunk file's format.
const chunksFormat = 1

// add maps a file.
func (c *chunkFiles) add(path string) error {
	f, err := fileutil.OpenMmapFile(path)
	if err != nil {
		return fmt.Errorf("map chunk file: %w", err)
	}
	c.files = append(c.files, f)
	b := f.Bytes()
	switch {
	case len(b) < chunks.SegmentHeaderSize:
		return fmt.Errorf("chunk file %s has %d bytes", path, len(b))
	case binary.BigEndian.Uint32(b) != chunks.MagicChunks:
		return fmt.Errorf("chunk file %s begins with %x", path, b[:chunks.MagicChunksSize])
	case b[chunks.MagicChunksSize] != chunksFormat:
		return fmt.Errorf("chunk file %s has version %d, only %d is known", path, b[chunks.MagicChunksSize], chunksFormat)
	}
	c.size += int64(len(b))
	return nil
}

// Size is the length of all files in bytes.
func (c *chunkFiles) Size() int64 { return c.size }

// Close unmaps the files.
func (c *chunkFiles) Close() (err error) {
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// chunk returns a chunk's encoding and its bytes, which are in the mapped file, after
// it has verified its checksum.
func (c *chunkFiles) chunk(ref chunks.ChunkRef) (chunkenc.Encoding, []byte, error) {
	file, at := chunks.BlockChunkRef(ref).Unpack()
	if file >= len(c.files) {
		return 0, nil, fmt.Errorf("there is no chunk file %d", file)
	}
	e, src, err := chunkBytes(c.files[file].Bytes(), at)
	if err != nil {
		return 0, nil, fmt.Errorf("%s/%s: %w", blockChunks, chunkFileName(file), err)
	}
	return e, src, nil
}

// chunkBytes are those of the chunk at a place in a file: a uvarint with their number,
// a byte with the encoding, the bytes, and the checksum of the encoding and them.
func chunkBytes(src []byte, at int) (chunkenc.Encoding, []byte, error) {
	if at > len(src) {
		return 0, nil, fmt.Errorf("a chunk would be at byte %d of %d", at, len(src))
	}
	src = src[at:]
	size, n := binary.Uvarint(src)
	if left := uint64(len(src) - max(n, 0)); n <= 0 || left < chunks.ChunkEncodingSize+crc32.Size || size > left-chunks.ChunkEncodingSize-crc32.Size {
		return 0, nil, fmt.Errorf("the chunk at byte %d is cut short", at)
	}
	end := n + chunks.ChunkEncodingSize + int(size)
	if have, want := crc32.Checksum(src[n:end], castagnoli), binary.BigEndian.Uint32(src[end:]); have != want {
		return 0, nil, fmt.Errorf("checksum mismatch at byte %d: expected %x, actual %x", at, want, have)
	}
	e := chunkenc.Encoding(src[n])
	if _, err := kindOf(e); err != nil {
		return 0, nil, err
	}
	return e, src[n+chunks.ChunkEncodingSize : end : end], nil
}
