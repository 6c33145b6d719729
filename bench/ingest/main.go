package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

func main() {
	b := bench{print: func(f figure) { f.write(os.Stdout) }}
	flag.StringVar(&b.binary, "quipu", beside("quipu"), "the binary to measure")
	flag.StringVar(&b.profiles, "cpuprofile", "", "write a CPU profile of each server to this directory")
	flag.DurationVar(&b.duration, "duration", 10*time.Second, "how long each load is measured")
	flag.DurationVar(&b.warmup, "warmup", 5*time.Second, "how long it is sent before")
	only := flag.String("only", "", "measure only those whose names match this regular expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b.ctx = ctx
	if err := b.all(*only); err != nil {
		fmt.Println("bench-ingest:", err)
	}
}

// beside is a file in the directory of this binary.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// all makes the measurements whose names match only, in order.
func (b *bench) all(only string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only %q: %w", only, err)
	}
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	began := time.Now()
	fmt.Printf("%s %s/%s, %d CPUs, %s each after %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), b.duration, b.warmup)
	fmt.Print(header, strings.Repeat("-", len(header)-1), "\n")
	for _, m := range []struct {
		name    string
		measure func() error
	}{
		{"fsync", b.fsync},
		{"alone", b.alone},
		{"enriched", b.enriched},
		{"batches", b.batches},
		{"singles", b.singles},
		{"sessions", b.sessions},
		{"dedup", b.dedup},
		{"formats", b.formats},
	} {
		if !pattern.MatchString(m.name) {
			continue
		}
		if err := m.measure(); err != nil {
			notMeasured(m.name, err)
		}
	}
	fmt.Printf("took %s\n", time.Since(began).Round(time.Second))
	return nil
}

func notMeasured(name string, err error) { fmt.Printf("%-28s not measured: %v\n", name, err) }
