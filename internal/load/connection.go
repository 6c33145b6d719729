package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// requestTimeMax is how long an answer is waited for.
	requestTimeMax = time.Minute
	// answerBytesMax bounds an answer: one of a batch of which every event is
	// rejected names each.
	answerBytesMax = 64 << 20
)

// connection is a connection to the server, opened when it is needed. Requests are
// bytes that are ready to be sent, and an answer is read by its length: net/http's
// client costs as much as the server that is measured.
type connection struct {
	base   *url.URL
	conn   net.Conn    // nil: not open
	forget func() bool // that the end of a context closes conn
	reader *bufio.Reader
	body   []byte
}

// exchange sends a request and returns the status and the body of its answer, which is
// good until the next one. After an error nobody knows whether the server took it.
func (c *connection) exchange(ctx context.Context, request []byte) (status int, body []byte, err error) {
	if c.conn == nil {
		if err := c.open(ctx); err != nil {
			return 0, nil, err
		}
	}
	keep := false
	defer func() {
		if !keep {
			c.close()
		}
	}()
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeMax)); err != nil {
		return 0, nil, err
	}
	_, sendErr := c.conn.Write(request)
	// A server may answer, and say why, before it has read all.
	status, keep, err = c.answer()
	if err != nil {
		keep = false
		return 0, nil, errors.Join(fmt.Errorf("read the answer to a batch: %w", err), sendErr)
	}
	keep = keep && sendErr == nil
	return status, c.body, nil
}

func (c *connection) open(ctx context.Context) error {
	host := c.base.Host
	if c.base.Port() == "" {
		host = net.JoinHostPort(c.base.Hostname(), map[string]string{"http": "80", "https": "443"}[c.base.Scheme])
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if c.base.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: c.base.Hostname()})
	}
	c.conn, c.forget = conn, context.AfterFunc(ctx, func() { conn.Close() })
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(nil, 4096)
	}
	c.reader.Reset(conn)
	return nil
}

func (c *connection) close() {
	if c.conn != nil {
		c.forget()
		c.conn.Close() // nothing is left to be sent
		c.conn = nil
	}
}

// answer reads an answer (RFC 9112); keep is false where the server will close the
// connection after it.
func (c *connection) answer() (status int, keep bool, err error) {
	for {
		h, err := c.head()
		if err != nil {
			return 0, false, err
		}
		if h.status/100 == 1 {
			continue // an interim answer
		}
		c.body = c.body[:0]
		switch {
		case h.chunked:
			err = c.readAll(httputil.NewChunkedReader(c.reader))
			if err == nil {
				err = c.skipTrailer()
			}
		case h.length >= 0:
			err = c.readN(h.length)
		case h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		default:
			h.close = true
			err = c.readAll(c.reader)
		}
		return h.status, !h.close, err
	}
}

// head is what of an answer's head counts.
type head struct {
	status         int
	length         int // -1: not said
	chunked, close bool
}

func (c *connection) head() (h head, err error) {
	h.length = -1
	line, err := c.line()
	if err != nil {
		return h, err
	}
	version, rest, _ := bytes.Cut(line, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	if h.status, err = strconv.Atoi(string(code)); err != nil || !bytes.HasPrefix(version, []byte("HTTP/1.")) || h.status < 100 {
		return h, fmt.Errorf("%q is no status line", line)
	}
	h.close = string(version) == "HTTP/1.0"
	for {
		if line, err = c.line(); err != nil || len(line) == 0 {
			return h, err
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return h, fmt.Errorf("%q is no header", line)
		}
		switch value = textproto.TrimBytes(value); {
		case isHeader(name, "Content-Length"):
			if h.length, err = strconv.Atoi(string(value)); err != nil || h.length < 0 || h.length > answerBytesMax {
				return h, fmt.Errorf("content length %q", value)
			}
		case isHeader(name, "Transfer-Encoding"):
			if h.chunked = strings.EqualFold(string(value), "chunked"); !h.chunked {
				return h, fmt.Errorf("transfer encoding %q", value)
			}
		case isHeader(name, "Connection"):
			h.close = h.close || strings.EqualFold(string(value), "close")
		}
	}
}

func isHeader(name []byte, want string) bool {
	return len(name) == len(want) && strings.EqualFold(string(name), want)
}

// line reads a line of a head, without its end; it is good until the next.
func (c *connection) line() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

func (c *connection) readN(n int) error {
	if cap(c.body) < n {
		c.body = make([]byte, n)
	}
	c.body = c.body[:n]
	_, err := io.ReadFull(c.reader, c.body)
	return err
}

func (c *connection) readAll(r io.Reader) error {
	buf := bytes.NewBuffer(c.body)
	n, err := buf.ReadFrom(io.LimitReader(r, answerBytesMax+1))
	c.body = buf.Bytes()
	if err == nil && n > answerBytesMax {
		err = fmt.Errorf("an answer of more than %d bytes", answerBytesMax)
	}
	return err
}

// skipTrailer reads what follows the last chunk.
func (c *connection) skipTrailer() error {
	for {
		if line, err := c.line(); err != nil || len(line) == 0 {
			return err
		}
	}
}
