package load

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sampleEvery is how often the server is asked for its memory. An answer takes it a
// millisecond or two, which its CPU time includes.
const sampleEvery = time.Second

// serverMetrics are some of the server's own.
type serverMetrics struct {
	cpuSeconds    float64
	residentBytes float64
	allocations   float64
	events        float64 // by all verdicts, of all tenants
}

// scrape reads the metrics of the server at base.
func scrape(ctx context.Context, base *url.URL) (m serverMetrics, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/metrics").String(), nil)
	if err != nil {
		return m, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return m, fmt.Errorf("read the server's metrics: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return m, fmt.Errorf("read the server's metrics: status %s", answer.Status)
	}
	found := 0
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, ok := metricLine(lines.Text())
		if !ok {
			continue
		}
		switch name {
		case "process_cpu_seconds_total":
			m.cpuSeconds = value
			found++
		case "process_resident_memory_bytes":
			m.residentBytes = value
			found++
		case "go_memstats_mallocs_total":
			m.allocations = value
		case "quipu_ingest_events_total":
			m.events += value
		}
	}
	if err := lines.Err(); err != nil {
		return m, fmt.Errorf("read the server's metrics: %w", err)
	}
	if found < 2 {
		return m, fmt.Errorf("the server's metrics at %s do not have its CPU time and memory", base.JoinPath("/metrics"))
	}
	return m, nil
}

// metricLine reads a line of Prometheus's text format.
func metricLine(line string) (name string, value float64, ok bool) {
	if strings.HasPrefix(line, "#") {
		return "", 0, false
	}
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(line[at+1:], 64)
	name, _, _ = strings.Cut(line[:at], "{")
	return name, value, err == nil
}

// residentSampler notes the most memory that the server was seen to have.
type residentSampler struct {
	stop func()
	done sync.WaitGroup
	max  float64 // read it after end
}

func sampleResident(ctx context.Context, base *url.URL) *residentSampler {
	ctx, cancel := context.WithCancel(ctx)
	s := &residentSampler{stop: cancel}
	s.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if m, err := scrape(ctx, base); err == nil {
				s.max = max(s.max, m.residentBytes)
			}
		}
	})
	return s
}

// end stops sampling.
func (s *residentSampler) end() float64 {
	s.stop()
	s.done.Wait()
	return s.max
}
