package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// results are what a probe measured, by name.
type results map[string]float64

// probe is one measurement. It runs in a process of its own (I1).
type probe func(e env) (results, error)

// env is what a probe has.
type env struct {
	name    string
	dir     string // empty at first, removed after
	scale   float64
	profile string // directory of CPU profiles; "" for none
}

// spent is what a piece of work took.
type spent struct{ cpu, wall time.Duration }

// measure runs f and returns what it took.
func (e env) measure(f func() error) (s spent, err error) {
	if e.profile != "" {
		out, err := os.Create(filepath.Join(e.profile, e.name+".pprof"))
		if err != nil {
			return s, fmt.Errorf("write profile: %w", err)
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return s, fmt.Errorf("write profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	runtime.GC()
	before, err := cpuTime()
	if err != nil {
		return s, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return s, err
	}
	s.wall = time.Since(start)
	after, err := cpuTime()
	s.cpu = after - before
	return s, err
}

// arguments are those under which this binary runs a probe.
func (e env) arguments() []string {
	return []string{"-probe", e.name, "-dir", e.dir, "-scale", strconv.FormatFloat(e.scale, 'g', -1, 64), "-cpuprofile", e.profile}
}

// runProbe runs a probe in a process of its own, in a temporary directory.
func runProbe(e env) (r results, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if e.dir, err = os.MkdirTemp("", "quipu-bench-*"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(e.dir)) }()
	var complaint bytes.Buffer
	cmd := exec.Command(self, e.arguments()...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(complaint.String(), "\n") // of a panic's many
		return nil, fmt.Errorf("probe %s: %w: %s", e.name, err, first)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("probe %s printed %q: %w", e.name, out, err)
	}
	return r, nil
}

// filled is what a filler prints when all it wrote is acknowledged.
const filled = "filled\n"

// fillAndKill runs a filler on e's directory in a process of its own and kills
// that, without a chance to close anything, once it says that it is done.
func (e env) fillAndKill(filler string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	e.name, e.profile = filler, ""
	cmd := exec.Command(self, e.arguments()...)
	cmd.Stderr = os.Stderr
	// The filler waits for the end of its input, so that it does not outlive us.
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != filled {
		return errors.Join(fmt.Errorf("filler %s said %q, not that it is done: %w", filler, line, err), cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return errors.Join(cmd.Process.Kill(), ignoreExit(cmd.Wait()))
}

// ignoreExit drops the error that says how a killed process ended.
func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// awaitKill says that a filler is done and waits to be killed.
func awaitKill() error {
	if _, err := os.Stdout.WriteString(filled); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// heapInUse is the heap after garbage collection, in bytes.
func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools kept goes at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}

// residentBytes is the memory of this process that is in RAM now.
func residentBytes() (float64, error) {
	src, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read memory in use: %w", err)
	}
	fields := strings.Fields(string(src))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory in use: /proc/self/statm says %q", src)
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()), err
}

// fileBytes is the size of all files under dir for whose path want holds.
func fileBytes(dir string, want func(path string) bool) (float64, error) {
	n := int64(0)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !want(p) {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("no files to measure under %s", dir)
	}
	return float64(n), err
}

func isChunkFile(p string) bool { return filepath.Base(filepath.Dir(p)) == "chunks" }
func isIndexFile(p string) bool { return filepath.Base(p) == "index" }
