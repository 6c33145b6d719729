package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
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
	budget                        *heldBudget
	slots                         *overload.Slots // for decompressing, opening and explaining; nil: no bound
	// stall and bytesPerSecond are what a client is given time for: see pacedBody.
	stall          time.Duration
	bytesPerSecond int64
	// zstd decoders are kept because one allocates its window anew. They decode
	// on the caller's goroutine and so may be dropped without being closed.
	zstd sync.Pool
	// buffers hold bodies of events: making one anew for each, by doubling, was a
	// tenth of the server's time.
	buffers sync.Pool
}

const (
	// bodyStall and bodyBytesPerSecond are the slowest client: half a minute to begin
	// with, and then a modem of the last century.
	bodyStall          = 30 * time.Second
	bodyBytesPerSecond = 4 << 10
)

// newBodyReader reads what fits into the budget: a body at most a quarter and what it
// becomes at most half, so that what is within bounds can be taken.
func newBodyReader(o *Options) *bodyReader {
	return &bodyReader{
		bodyBytesMax: min(o.BodyBytesMax, o.HeldBytesMax/4), decodedBytesMax: min(o.DecodedBytesMax, o.HeldBytesMax/2),
		budget: &heldBudget{max: o.HeldBytesMax}, slots: o.Slots, stall: bodyStall, bytesPerSecond: bodyBytesPerSecond,
	}
}

// Bodies of requests whose credential is inside of them: until it is read nobody knows
// who has it sent. They are a tracker's, which sends less.
const (
	strangerBytesMax        = 4 << 20
	strangerDecodedBytesMax = 16 << 20
	strangerPart            = 4 // of what all bodies may take, one in
)

// forStrangers reads the bodies of requests that nobody knows yet, in a part of the
// budget, so that they cannot keep others out.
func (b *bodyReader) forStrangers() *bodyReader {
	return &bodyReader{
		bodyBytesMax: min(b.bodyBytesMax, strangerBytesMax), decodedBytesMax: min(b.decodedBytesMax, strangerDecodedBytesMax),
		budget: &heldBudget{max: b.budget.max / strangerPart, of: b.budget}, slots: b.slots, stall: b.stall, bytesPerSecond: b.bytesPerSecond,
	}
}

// bodyBounds are those of one body, and the fields that say so; "": the server.
type bodyBounds struct {
	body, decoded     int64
	bodyBy, decodedBy string
}

// bounds are the server's.
func (b *bodyReader) bounds() bodyBounds {
	return bodyBounds{body: b.bodyBytesMax, decoded: b.decodedBytesMax}
}

// of are the bounds of a tenant's bodies: its own where they are narrower.
func (b bodyBounds) of(l *tenant.Limits) bodyBounds {
	if n := l.BodyBytes; n > 0 && n < b.body {
		b.body, b.bodyBy = n, " (limits.body_bytes)"
	}
	if n := l.DecodedBytes; n > 0 && n < b.decoded {
		b.decoded, b.decodedBy = n, " (limits.decoded_bytes)"
	}
	return b
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

// gzipStart is how gzip begins (RFC 1952, section 2.3.1), and no text does.
var gzipStart = []byte{0x1f, 0x8b}

// read returns the decompressed body of r, which the caller releases. What is not
// compressed is bounded as such and as what it would become. A body that begins as gzip
// does is gzip where no header names its encoding: pages cannot name one without a
// preflight, and so their trackers do not.
func (b *bodyReader) read(w http.ResponseWriter, r *http.Request, bounds bodyBounds) (*heldBody, *bodyError) {
	if r.ContentLength > bounds.body {
		return nil, bounds.tooLong()
	}
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch encoding {
	case "", "identity", "gzip", "zstd":
	default:
		return nil, badBody(http.StatusUnsupportedMediaType, "content encoding %q is not supported: send identity, gzip or zstd", encoding)
	}
	h := &heldBody{reader: b}
	paced := newPacedBody(w, r.Body, b.stall, b.bytesPerSecond)
	var sent *bytes.Buffer
	err := h.reserve(max(0, heldRequestBytes-max(0, r.ContentLength)))
	if err == nil {
		sent, err = h.fill(http.MaxBytesReader(w, paced, bounds.body), r.ContentLength, bounds.body)
	}
	if over := (*overload.Error)(nil); errors.As(err, &over) {
		b.discard(w, r)
	}
	if err == nil {
		paced.done()
		if encoding == "" && bytes.HasPrefix(sent.Bytes(), gzipStart) {
			encoding = "gzip"
		}
		h.bytes, err = b.decode(r.Context(), h, sent, encoding, bounds)
	}
	if err != nil {
		h.release()
		return nil, bounds.failed(err, encoding)
	}
	return h, nil
}

// discard reads a body of which nothing is wanted: many clients read no answer before
// they have sent all of it, and take a connection that is closed meanwhile for a
// failure. One that asks first whether to send it is told so instead.
func (b *bodyReader) discard(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	paced := newPacedBody(w, r.Body, b.stall, b.bytesPerSecond)
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, paced, b.bodyBytesMax)); err == nil {
		paced.done()
	}
}

// decode returns what a body is when it is decompressed. That is done when all of it is
// there, and in a slot: a client that is slow holds what it has sent, but no decoder.
func (b *bodyReader) decode(ctx context.Context, h *heldBody, sent *bytes.Buffer, encoding string, bounds bodyBounds) ([]byte, error) {
	if encoding == "" || encoding == "identity" {
		if int64(sent.Len()) > bounds.decoded {
			return nil, bounds.tooLongDecoded()
		}
		return sent.Bytes(), nil
	}
	if err := b.slots.Acquire(ctx); err != nil {
		return nil, err
	}
	defer b.slots.Release()
	var src io.Reader
	if encoding == "gzip" {
		z, err := gzip.NewReader(sent)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		src = z
	} else {
		z, err := b.zstdReader(sent)
		if err != nil {
			return nil, err
		}
		defer b.release(z)
		src = z
	}
	decoded, err := h.fill(src, -1, bounds.decoded)
	switch {
	case err != nil:
		return nil, err
	case int64(decoded.Len()) > bounds.decoded:
		return nil, bounds.tooLongDecoded()
	}
	return decoded.Bytes(), nil
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

func (b bodyBounds) failed(err error, encoding string) *bodyError {
	var known *bodyError
	var over *overload.Error
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &over):
		return &bodyError{http.StatusServiceUnavailable, err}
	case errors.As(err, &tooLong):
		return b.tooLong()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return badBody(http.StatusRequestTimeout, "the body did not arrive in time: a client has %s, and a second more for every %d bytes", bodyStall, bodyBytesPerSecond)
	case errors.Is(err, context.Canceled):
		return badBody(statusClientClosed, "read the body: %w", err)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return badBody(http.StatusRequestEntityTooLarge, "the zstd body needs a window of more than %d bytes: compress without --long", int64(zstdWindowMax))
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return b.tooLongDecoded()
	case encoding == "" || encoding == "identity":
		return badBody(http.StatusBadRequest, "read the body: %w", err)
	}
	return badBody(http.StatusBadRequest, "decompress the %s body: %w", encoding, err)
}

func (b bodyBounds) tooLong() *bodyError {
	return badBody(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes%s: send the events in several requests", b.body, b.bodyBy)
}

func (b bodyBounds) tooLongDecoded() *bodyError {
	return badBody(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes after decompression%s: send the events in several requests", b.decoded, b.decodedBy)
}
