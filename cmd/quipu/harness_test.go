package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// readyTimeout bounds the wait for a started server, replay included.
	readyTimeout = 60 * time.Second
	// stopTimeout bounds a graceful stop.
	stopTimeout = 60 * time.Second
)

var quipuBinary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if quipuBinary.dir != "" {
		os.RemoveAll(quipuBinary.dir)
	}
	os.Exit(code)
}

// buildQuipu builds the real binary, once for all tests of the process, and
// returns its path.
func buildQuipu(t testing.TB) string {
	t.Helper()
	quipuBinary.once.Do(func() {
		b := &quipuBinary
		if b.dir, b.err = os.MkdirTemp("", "quipu-test-"); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "quipu")
		cmd := exec.Command("go", "build", "-o", b.path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if quipuBinary.err != nil {
		t.Fatalf("build quipu: %v", quipuBinary.err)
	}
	return quipuBinary.path
}

// serverProcess is a running "quipu serve".
type serverProcess struct {
	// URL is the base address: "http://127.0.0.1:PORT", with no slash at the end.
	URL string
	// DataDir is the data directory, which outlives the process when it was
	// given in the arguments of startServer.
	DataDir string

	t      testing.TB
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{} // closed when the process has been waited for
	err    error         // of Wait; read it only after exited is closed
}

// startServer starts "quipu serve" with the arguments given and returns when
// /-/ready answers 200. Without --data.dir=... it serves a new temporary
// directory, without --listen=... a free port of 127.0.0.1. What still runs
// when the test ends is killed, and a failed test shows the server's log.
func startServer(t testing.TB, args ...string) *serverProcess {
	t.Helper()
	return startServerWith(t, nil, args...)
}

// startServerWith starts one that is asked over TLS, by the client given; nil: it is not.
func startServerWith(t testing.TB, secure *http.Client, args ...string) *serverProcess {
	t.Helper()
	dir := argValue(args, "--data.dir")
	if dir == "" {
		dir = t.TempDir()
		args = append(args, "--data.dir="+dir)
	}
	listen := argValue(args, "--listen")
	if listen == "" {
		listen = freeAddress(t)
		args = append(args, "--listen="+listen)
	}
	s := &serverProcess{
		URL:     "http://" + listen,
		DataDir: dir,
		t:       t,
		cmd:     exec.Command(buildQuipu(t), append([]string{"serve"}, args...)...),
		log:     &lockedBuffer{},
		exited:  make(chan struct{}),
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start quipu serve: %v", err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("log of quipu serve %s:\n%s", strings.Join(args, " "), s.log.String())
		}
	})
	client := http.DefaultClient
	if secure != nil {
		s.URL, client = "https://"+listen, secure
	}
	s.awaitReady(client)
	return s
}

func (s *serverProcess) awaitReady(client *http.Client) {
	s.t.Helper()
	secure := client != http.DefaultClient
	deadline := time.After(readyTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := client.Get(s.URL + "/-/ready"); err == nil {
			resp.Body.Close()
			// Where --web.config.file has users they alone may ask, also this.
			if resp.StatusCode == http.StatusOK || secure && resp.StatusCode == http.StatusUnauthorized && strings.Contains(s.log.String(), "msg=ready") {
				return
			}
		}
		select {
		case <-s.exited:
			s.t.Fatalf("quipu serve ended before it was ready: %v\n%s", s.err, s.log.String())
		case <-deadline:
			s.t.Fatalf("quipu serve was not ready after %s\n%s", readyTimeout, s.log.String())
		case <-tick.C:
		}
	}
}

// stop ends the server with SIGTERM and fails the test unless it ends cleanly.
func (s *serverProcess) stop() {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		if s.err != nil {
			s.t.Fatalf("quipu serve did not stop cleanly: %v\n%s", s.err, s.log.String())
		}
	case <-time.After(stopTimeout):
		s.t.Fatalf("quipu serve still ran %s after SIGTERM\n%s", stopTimeout, s.log.String())
	}
}

// kill ends the server with SIGKILL and returns when it is gone. Killing one
// that has ended does nothing.
func (s *serverProcess) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// runQuipu runs the real binary to its end.
func runQuipu(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(buildQuipu(t), args...)
	// A cache directory of its own: the state of imports must not leak
	// between tests, nor into the home directory.
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// argValue returns the value of "name=value" in args, "" if there is none.
func argValue(args []string, name string) string {
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") })
	if i < 0 {
		return ""
	}
	return strings.TrimPrefix(args[i], name+"=")
}

// freeAddress returns an address of 127.0.0.1 that nothing listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}

// lockedBuffer is a buffer that a process writes while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
