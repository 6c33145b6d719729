package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/quipudb/quipu/internal/client"
)

const (
	// demoAddress is where the documentation says that a server listens.
	demoAddress = "127.0.0.1:9480"
	// demoReadyWait and demoStopWait bound what takes a moment.
	demoReadyWait = time.Minute
	demoStopWait  = time.Minute
)

// demoServer is a "quipu serve" of this same binary.
type demoServer struct {
	url     string
	client  *client.Client
	logPath string
	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has been waited for
	err     error         // of Wait; read it only after exited is closed
}

// startDemoServer returns when the server is ready. Its data and its log are
// below dir.
func startDemoServer(ctx context.Context, dir string) (*demoServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the quipu binary: %w", err)
	}
	address, err := freeDemoAddress()
	if err != nil {
		return nil, err
	}
	s := &demoServer{url: "http://" + address, logPath: filepath.Join(dir, "server.log"), exited: make(chan struct{})}
	if s.client, err = client.New(client.Options{Server: s.url, Timeout: requestTimeout}); err != nil {
		return nil, err
	}
	log, err := os.Create(s.logPath)
	if err != nil {
		return nil, fmt.Errorf("make the server's log: %w", err)
	}
	defer log.Close() // the child has its own
	s.cmd = exec.Command(self, "serve", "--data.dir="+filepath.Join(dir, "data"), "--listen="+address)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// Ctrl-C must reach the demo alone, which then stops the server in order.
	ownProcessGroup(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// freeDemoAddress is the usual address, or a free port when that is taken.
func freeDemoAddress() (string, error) {
	l, err := net.Listen("tcp", demoAddress)
	if err != nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *demoServer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoReadyWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.client.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended before it was ready: %w", s.failure())
		case <-ctx.Done():
			return fmt.Errorf("wait for the server to be ready: %w", err)
		case <-tick.C:
		}
	}
}

// stop ends the server in order, by force if that takes too long. It is an
// error if it did not end cleanly, but none if it had ended before.
func (s *demoServer) stop() error {
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server: %w", err)
	}
	select {
	case <-s.exited:
		if s.err != nil {
			return fmt.Errorf("the server did not stop cleanly: %w", s.failure())
		}
		return nil
	case <-time.After(demoStopWait):
		killed := s.cmd.Process.Kill()
		return errors.Join(fmt.Errorf("the server did not stop within %s and was killed", demoStopWait), killed)
	}
}

// failure is how the server ended, with the end of its log, which is about to
// be removed. It may be called when exited is closed.
func (s *demoServer) failure() error {
	const linesShown = 20
	content, err := os.ReadFile(s.logPath)
	if err != nil {
		return errors.Join(s.err, err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-linesShown):]
	status := "exit status 0"
	if s.err != nil {
		status = s.err.Error()
	}
	return fmt.Errorf("%s; the end of its log:\n%s", status, strings.Join(lines, "\n"))
}
