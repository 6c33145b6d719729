package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quipudb/quipu/internal/overload"
)

const (
	// heldBytesMin is the least budget that the bodies of a server can have.
	heldBytesMin = 1 << 20
	// heldStep is how far ahead of what was read memory is reserved where a body's
	// length is not known, and how much of one of known length has to come before the
	// rest is: a promise takes no memory from those who send.
	heldStep = 64 << 10
	// heldRequestBytes is the least that a request counts for: it has a goroutine and
	// buffers of its connection, however short its body is.
	heldRequestBytes = 16 << 10
)

// heldBudget bounds the bytes of all bodies that are held, from before they are read
// until their requests are answered. Safe for concurrent use.
type heldBudget struct {
	max  int64
	of   *heldBudget // which it is a part of; nil: it is a whole
	held atomic.Int64
}

// take reserves n bytes; false where they do not fit.
func (b *heldBudget) take(n int64) bool {
	for {
		held := b.held.Load()
		if held+n > b.max {
			return false
		}
		if b.held.CompareAndSwap(held, held+n) {
			break
		}
	}
	if b.of != nil && !b.of.take(n) {
		b.held.Add(-n)
		return false
	}
	return true
}

func (b *heldBudget) give(n int64) {
	b.held.Add(-n)
	if b.of != nil {
		b.of.give(n)
	}
}

// heldBody is the body of one request and what it has reserved.
type heldBody struct {
	bytes    []byte
	reader   *bodyReader
	buffers  []*bytes.Buffer
	reserved int64
}

// release gives back what the body takes: nobody uses its bytes any more.
func (h *heldBody) release() {
	h.bytes = nil
	for _, buf := range h.buffers {
		h.reader.put(buf)
	}
	h.buffers = nil
	h.reader.budget.give(h.reserved)
	h.reserved = 0
}

// reserve makes the reservation n bytes larger.
func (h *heldBody) reserve(n int64) error {
	if !h.reader.budget.take(n) {
		b := h.reader.budget
		return &overload.Error{
			Reason: overload.ReasonMemory,
			Text:   fmt.Sprintf("bodies of requests take %d bytes of %d, %d more do not fit (--ingest.memory)", b.held.Load(), b.max, n),
		}
	}
	h.reserved += n
	return nil
}

// fill reads src to its end, or to one byte more than max, into a buffer of its own.
// size is how long it is, -1 where that is not known.
func (h *heldBody) fill(src io.Reader, size, max int64) (*bytes.Buffer, error) {
	buf := h.reader.buffer()
	h.buffers = append(h.buffers, buf)
	src = io.LimitReader(src, max+1)
	if size >= 0 {
		first := min(size, heldStep)
		if err := h.reserve(first); err != nil {
			return nil, err
		}
		if size > first {
			if _, err := io.CopyN(buf, src, first); err != nil {
				return nil, err
			}
			if err := h.reserve(size - first); err != nil {
				return nil, err
			}
		}
		buf.Grow(int(size) - buf.Len() + bytes.MinRead) // so that reading it to its end makes it no larger
		_, err := buf.ReadFrom(src)
		return buf, err
	}
	before := h.reserved
	for {
		if err := h.reserve(heldStep); err != nil {
			return nil, err
		}
		n, err := io.CopyN(buf, src, heldStep)
		if err == nil {
			continue
		}
		// What was reserved ahead is not needed.
		spare := h.reserved - before - int64(buf.Len())
		h.reserved -= spare
		h.reader.budget.give(spare)
		if n < heldStep && errors.Is(err, io.EOF) {
			err = nil
		}
		return buf, err
	}
}

// pacedBody gives a client time for its body: some to begin with, and more for what has
// come. Without it a client that stops halfway would hold its memory for ever. The
// deadline is the connection's, which the system's clock ends.
type pacedBody struct {
	io.ReadCloser
	conn    *http.ResponseController
	started time.Time
	stall   time.Duration // what a client may be behind
	perByte time.Duration // what each byte adds
	read    int64
}

func newPacedBody(w http.ResponseWriter, body io.ReadCloser, stall time.Duration, bytesPerSecond int64) *pacedBody {
	return &pacedBody{ReadCloser: body, conn: http.NewResponseController(w), started: time.Now(), stall: stall, perByte: time.Second / time.Duration(bytesPerSecond)}
}

func (p *pacedBody) Read(dst []byte) (int, error) {
	// Where a deadline cannot be set the connection is no network's, or is gone, and
	// then the read says it.
	_ = p.conn.SetReadDeadline(p.started.Add(p.stall + time.Duration(p.read)*p.perByte))
	n, err := p.ReadCloser.Read(dst)
	p.read += int64(n)
	return n, err
}

// done takes the deadline away once the body has been read. Where that failed it
// stays, so that nobody waits for the rest.
func (p *pacedBody) done() { _ = p.conn.SetReadDeadline(time.Time{}) }
