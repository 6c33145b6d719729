package tsdb

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// writeUpstreamChunks writes chunk files as upstream does, and returns the chunks.
func writeUpstreamChunks(t testing.TB, dir string, bytesMax int64) []chunks.Meta {
	t.Helper()
	cw, err := chunks.NewWriter(dir, chunks.WithSegmentSize(bytesMax))
	if err != nil {
		t.Fatal(err)
	}
	var metas []chunks.Meta
	for n := range 20 {
		c := chunkenc.NewXORChunk()
		app, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1 + n*n {
			app.Append(0, testStart.UnixMilli()+int64(i)*g, float64(i*n))
		}
		metas = append(metas, chunks.Meta{Chunk: c})
	}
	if err := errors.Join(cw.WriteChunks(metas...), cw.Close()); err != nil {
		t.Fatal(err)
	}
	return metas
}

// Chunks that upstream wrote, into several files, are read by their references; a file in
// which any bit of one is another is not taken for it.
func TestReadUpstreamsChunkFiles(t *testing.T) {
	dir := t.TempDir()
	metas := writeUpstreamChunks(t, dir, 2000)
	c, err := openChunks(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(c.files) < 2 {
		t.Fatalf("%d files, want several", len(c.files))
	}
	for i, m := range metas {
		e, src, err := c.chunk(m.Ref)
		if err != nil || e != chunkenc.EncXOR || !slices.Equal(src, m.Chunk.Bytes()) {
			t.Fatalf("chunk %d: encoding %d, %d bytes, %v", i, e, len(src), err)
		}
		file, at := chunks.BlockChunkRef(m.Ref).Unpack()
		whole := c.files[file].Bytes()
		end := at + 2 + len(src) + 4 // a byte or two with its length, its encoding, its checksum
		if len(src) >= 0x80 {
			end++
		}
		for n := at; n < end; n++ {
			if _, _, err := chunkBytes(whole[:n], at); err == nil {
				t.Fatalf("chunk %d is read from a file that ends in it", i)
			}
			damaged := slices.Clone(whole)
			damaged[n] ^= 1 << (n % 8)
			if _, _, err := chunkBytes(damaged, at); err == nil {
				t.Fatalf("chunk %d is read with byte %d of %d damaged", i, n-at, end-at)
			}
		}
	}
	for _, ref := range []chunks.BlockChunkRef{chunks.NewBlockChunkRef(uint64(len(c.files)), 8), chunks.NewBlockChunkRef(0, 1<<20)} {
		if _, _, err := c.chunk(chunks.ChunkRef(ref)); err == nil {
			t.Errorf("there is a chunk at %d", ref)
		}
	}
}

// A file of another format, or too short for a header, is not opened.
func TestOpenChunksOfAnotherFormat(t *testing.T) {
	for name, change := range map[string]func(src []byte) []byte{
		"magic":   func(src []byte) []byte { src[0]++; return src },
		"version": func(src []byte) []byte { src[chunks.MagicChunksSize]++; return src },
		"short":   func(src []byte) []byte { return src[:chunks.SegmentHeaderSize-1] },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeUpstreamChunks(t, dir, 1<<20)
			path := filepath.Join(dir, chunkFileName(0))
			src, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(src), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if c, err := openChunks(dir); err == nil {
				c.Close()
				t.Error("it is opened")
			}
		})
	}
}

// What is no chunk is an error, and a chunk has the bytes that are there.
func FuzzChunkBytes(f *testing.F) {
	dir := f.TempDir()
	metas := writeUpstreamChunks(f, dir, 1<<20)
	src, err := os.ReadFile(filepath.Join(dir, chunkFileName(0)))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range metas[:5] {
		_, at := chunks.BlockChunkRef(m.Ref).Unpack()
		f.Add(src, at)
	}
	f.Fuzz(func(t *testing.T, src []byte, at int) {
		if at < 0 { // a reference has none
			return
		}
		e, got, err := chunkBytes(src, at)
		if err != nil {
			return
		}
		if _, err := kindOf(e); err != nil || at+len(got)+6 > len(src) {
			t.Fatalf("encoding %d, %d bytes at %d of %d", e, len(got), at, len(src))
		}
	})
}
