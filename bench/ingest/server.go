package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

// rules are three of the metrics that such events are for: a counter with many series,
// a histogram and a count of users with few.
const rules = `metrics:
  - {name: page_views_total, type: counter, labels: {event: event, page: page, country: country, device: device}}
  - {name: page_load_seconds, type: histogram, value: duration_ms, scale: 0.001, labels: {device: device}}
  - {name: visitors, type: distinct, value: user_id, labels: {country: country}}
`

// settings let the counter have all of its series.
const settings = "grid: 15s\nlimits: {series_per_metric: 200000}\n"

const (
	readyWait = time.Minute
	stopWait  = time.Minute
)

// server is a "quipu serve" on a temporary directory.
type server struct {
	url string
	dir string
	cmd *exec.Cmd
	log bytes.Buffer // read it after exited is closed

	exited chan struct{} // closed when the process has been waited for
}

// startServer returns when the server is ready and has the rules.
func startServer(ctx context.Context, binary, profile, rules string) (s *server, err error) {
	s = &server{exited: make(chan struct{})}
	if s.dir, err = os.MkdirTemp("", "quipu-bench-*"); err != nil {
		return nil, err
	}
	data := filepath.Join(s.dir, "data", tenant.Default.String())
	address, err := freeAddress()
	err = errors.Join(err, os.MkdirAll(data, 0o755), os.WriteFile(filepath.Join(data, "settings.yaml"), []byte(settings), 0o644))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	s.url = "http://" + address
	s.cmd = exec.Command(binary, "serve", "--listen="+address, "--data.dir="+filepath.Join(s.dir, "data"), "--log.level=warn")
	if profile != "" {
		s.cmd.Args = append(s.cmd.Args, "--debug.cpuprofile="+profile)
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", binary, err), os.RemoveAll(s.dir))
	}
	go func() {
		_ = s.cmd.Wait() // how a server ends that was told to is no figure
		close(s.exited)
	}()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.setRules(ctx, rules); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *server) awaitReady(ctx context.Context) error {
	deadline := time.After(readyWait)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _, err := s.do(ctx, http.MethodGet, "/-/ready", "", ""); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended before it was ready: %s", firstLine(s.log.String()))
		case <-deadline:
			return fmt.Errorf("the server was not ready after %s", readyWait)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *server) setRules(ctx context.Context, rules string) error {
	status, body, err := s.do(ctx, http.MethodPut, "/api/v1/event-rules", "application/yaml", rules)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, firstLine(body))
	}
	if err != nil {
		return fmt.Errorf("set the rules: %w", err)
	}
	return nil
}

func (s *server) do(ctx context.Context, method, path, contentType, body string) (status int, answer string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// stop ends the server and removes its directory.
func (s *server) stop() error {
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		err = nil
	case <-time.After(stopWait):
		err = errors.Join(err, fmt.Errorf("the server still ran %s after it was told to stop", stopWait), s.cmd.Process.Kill())
		<-s.exited
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
