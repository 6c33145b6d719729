package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindowMax is the largest window of a zstd frame: that of the encoders in
// use short of their "long" modes. RFC 8878 asks decoders for 8 MiB at least.
const zstdWindowMax = 32 << 20

// bodyError is why a body was not read, and the status that says so.
type bodyError struct {
	code int
	err  error
}

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

func badBody(code int, format string, args ...any) *bodyError {
	return &bodyError{code, fmt.Errorf(format, args...)}
}

// bodyReader reads bodies of requests within bounds.
type bodyReader struct {
	bodyBytesMax, decodedBytesMax int64
	// zstd decoders are kept because one allocates its window anew. They decode
	// on the caller's goroutine and so may be dropped without being closed.
	zstd sync.Pool
	// buffers hold bodies of events: making one anew for each, by doubling, was a
	// tenth of the server's time.
	buffers sync.Pool
}

// bufferBytesMax is the largest buffer that is kept for another body.
const bufferBytesMax = 4 << 20

// buffer returns an empty buffer, which is given back with put.
func (b *bodyReader) buffer() *bytes.Buffer {
	if buf, ok := b.buffers.Get().(*bytes.Buffer); ok {
		buf.Reset()
		return buf
	}
	return new(bytes.Buffer)
}

// put keeps a buffer whose bytes nobody uses any more.
func (b *bodyReader) put(buf *bytes.Buffer) {
	if buf.Cap() <= bufferBytesMax {
		b.buffers.Put(buf)
	}
}

// read returns the decompressed body of r.
func (b *bodyReader) read(w http.ResponseWriter, r *http.Request) ([]byte, *bodyError) {
	return b.readInto(new(bytes.Buffer), w, r)
}

// gzipStart is how gzip begins (RFC 1952, section 2.3.1), and no text does.
var gzipStart = []byte{0x1f, 0x8b}

// readInto is read into a buffer whose bytes it returns. A body that begins as gzip does
// is gzip where no header names its encoding: pages cannot name one without a preflight,
// and so their trackers do not.
func (b *bodyReader) readInto(buf *bytes.Buffer, w http.ResponseWriter, r *http.Request) ([]byte, *bodyError) {
	if r.ContentLength > b.bodyBytesMax {
		return nil, b.tooLong()
	}
	var src io.Reader = http.MaxBytesReader(w, r.Body, b.bodyBytesMax)
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	if encoding == "" {
		if _, err := buf.ReadFrom(io.LimitReader(src, int64(len(gzipStart)))); err != nil {
			return nil, b.failed(err, encoding)
		}
		if bytes.Equal(buf.Bytes(), gzipStart) {
			buf.Reset()
			encoding, src = "gzip", io.MultiReader(bytes.NewReader(gzipStart), src)
		}
	}
	switch encoding {
	case "", "identity":
		return b.readAll(buf, src, encoding)
	case "gzip":
		z, err := gzip.NewReader(src)
		if err != nil {
			return nil, b.failed(err, encoding)
		}
		defer z.Close()
		return b.readAll(buf, z, encoding)
	case "zstd":
		z, err := b.zstdReader(src)
		if err != nil {
			return nil, b.failed(err, encoding)
		}
		defer b.release(z)
		return b.readAll(buf, z, encoding)
	}
	return nil, badBody(http.StatusUnsupportedMediaType, "content encoding %q is not supported: send identity, gzip or zstd", encoding)
}

// readAll reads what is left of a body after what is in the buffer.
func (b *bodyReader) readAll(buf *bytes.Buffer, src io.Reader, encoding string) ([]byte, *bodyError) {
	_, err := buf.ReadFrom(io.LimitReader(src, b.decodedBytesMax+1))
	switch {
	case err != nil:
		return nil, b.failed(err, encoding)
	case int64(buf.Len()) > b.decodedBytesMax:
		return nil, b.tooLongDecoded()
	}
	return buf.Bytes(), nil
}

func (b *bodyReader) zstdReader(src io.Reader) (*zstd.Decoder, error) {
	if z, ok := b.zstd.Get().(*zstd.Decoder); ok {
		return z, z.Reset(src)
	}
	return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindowMax))
}

// release keeps z for another request where it is in order.
func (b *bodyReader) release(z *zstd.Decoder) {
	if z.Reset(nil) == nil {
		b.zstd.Put(z)
	}
}

func (b *bodyReader) failed(err error, encoding string) *bodyError {
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return b.tooLong()
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return badBody(http.StatusRequestEntityTooLarge, "the zstd body needs a window of more than %d bytes: compress without --long", int64(zstdWindowMax))
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return b.tooLongDecoded()
	case encoding == "" || encoding == "identity":
		return badBody(http.StatusBadRequest, "read the body: %w", err)
	}
	return badBody(http.StatusBadRequest, "decompress the %s body: %w", encoding, err)
}

func (b *bodyReader) tooLong() *bodyError {
	return badBody(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes: send the events in several requests", b.bodyBytesMax)
}

func (b *bodyReader) tooLongDecoded() *bodyError {
	return badBody(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes after decompression: send the events in several requests", b.decodedBytesMax)
}
