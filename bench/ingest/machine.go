package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// machine is what all processes did so far; the zero value where that is not known.
type machine struct {
	at         time.Time
	busy, idle float64 // CPU seconds
}

// ticksPerSecond is the unit of /proc/stat on every Linux that Go runs on.
const ticksPerSecond = 100

func readMachine() machine {
	src, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}
	}
	first, _, _ := strings.Cut(string(src), "\n")
	m := machine{at: time.Now()}
	for i, text := range strings.Fields(first) { // cpu user nice system idle iowait irq softirq steal guest...
		n, err := strconv.ParseFloat(text, 64)
		switch {
		case i == 0 || i > 8 || err != nil: // a guest's time is in user
		case i == 4 || i == 5:
			m.idle += n / ticksPerSecond
		default:
			m.busy += n / ticksPerSecond
		}
	}
	return m
}

// since returns how many CPUs were busy and idle on average.
func (m machine) since(before machine) (busy, idle float64, ok bool) {
	seconds := m.at.Sub(before.at).Seconds()
	if m.at.IsZero() || before.at.IsZero() || seconds <= 0 {
		return 0, 0, false
	}
	return (m.busy - before.busy) / seconds, (m.idle - before.idle) / seconds, true
}

// fsync measures what a commit of the log cannot do without: a few KiB appended to a
// file and synced.
func (b *bench) fsync() (err error) {
	const rounds, bytes = 500, 4096
	f, err := os.CreateTemp("", "quipu-bench-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close() // nothing of it is kept
		os.Remove(f.Name())
	}()
	took := make([]time.Duration, rounds)
	for i := range took {
		start := time.Now()
		if _, err := f.Write(make([]byte, bytes)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	b.print(figure{name: "fsync_p50", value: ms(took[rounds/2]), unit: "ms", note: "4 KiB appended and synced, one after the other"})
	b.print(figure{name: "fsync_p99", value: ms(took[rounds*99/100]), unit: "ms"})
	return nil
}
