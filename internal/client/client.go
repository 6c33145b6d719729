package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// answerBytesMax bounds what is read of one answer.
const answerBytesMax = 256 << 20

// Options say which server to talk to, and as whom.
type Options struct {
	// Server is the base address, as in "http://127.0.0.1:9480"; a path in it
	// comes before the path of every request.
	Server string
	// Token is sent as a bearer token unless it is "".
	Token string
	// Tenant is sent as X-Scope-OrgID unless it is "".
	Tenant string
	// Timeout bounds one request and its answer; 0 does not.
	Timeout time.Duration
}

// Client is one server and who asks it. It is safe for concurrent use.
type Client struct {
	options Options
	base    *url.URL
	http    *http.Client
}

// New checks the options; it does not connect.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Server)
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("server address %q is not of the form http://host:port", o.Server)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return &Client{options: o, base: base, http: &http.Client{Timeout: o.Timeout, Transport: transport}}, nil
}

// UnreachableError says that no answer came: nobody listened, or the
// connection broke before the answer was whole.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string {
	if errors.Is(e.Err, syscall.ECONNREFUSED) {
		return fmt.Sprintf("nothing listens at %s: start a server with \"quipu serve\", or name another with --server", e.Server)
	}
	return fmt.Sprintf("no answer from %s: %v", e.Server, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Code int
	// Message is what the server said, in one line.
	Message string
	// RetryAfter is how long the server asked to wait, 0 if it did not say.
	RetryAfter time.Duration
	body       []byte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d: %s", e.Code, e.Message)
}

// request is one HTTP request below the base address.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
	got          *http.Header // set to that of the answer; nil: it is not asked for
}

// do sends a request and returns the body of a 2xx answer. Any other answer is
// a *StatusError, no answer an *UnreachableError.
func (c *Client) do(ctx context.Context, r request) ([]byte, error) {
	address := c.base.JoinPath(r.path)
	address.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, address.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if c.options.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.options.Token)
	}
	if c.options.Tenant != "" {
		req.Header.Set("X-Scope-OrgID", c.options.Tenant)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	if r.got != nil {
		*r.got = resp.Header
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax+1))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if len(body) > answerBytesMax {
		return nil, fmt.Errorf("%s %s: the answer is larger than %d MiB", r.method, r.path, answerBytesMax>>20)
	}
	if resp.StatusCode/100 != 2 {
		message := messageOf(body)
		if resp.StatusCode == http.StatusUnauthorized && c.options.Token == "" {
			message += "; give one with --token or in QUIPU_TOKEN"
		}
		return nil, &StatusError{Code: resp.StatusCode, Message: message, RetryAfter: retryAfter(resp.Header, time.Now()), body: body}
	}
	return body, nil
}

func (c *Client) unreachable(err error) error {
	// The *url.Error around it repeats method and address.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return &UnreachableError{Server: c.options.Server, Err: err}
}

// Ready returns nil when the server says that it can take requests.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.do(ctx, request{method: http.MethodGet, path: "/-/ready"})
	return err
}

// messageOf finds the message in the body of an error: the field "error" of a
// JSON object, else the first line.
func messageOf(body []byte) string {
	var object struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(body, &object); err == nil && object.Error != "" {
		return object.Error
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if line == "" {
		return "(no message)"
	}
	const lineMax = 300
	if len(line) > lineMax {
		line = line[:lineMax] + "..."
	}
	return line
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
