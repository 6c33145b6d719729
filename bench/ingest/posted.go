package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/load"
)

const (
	// batchEvents are the events in a batch, connections how many post them.
	batchEvents = 1000
	connections = 4
	// singleConnections post one event a request.
	singleConnections = 64
)

// bench is what measurements share.
type bench struct {
	ctx      context.Context
	binary   string
	profiles string // directory; "": none
	duration time.Duration
	warmup   time.Duration
	print    func(f figure)
}

// served runs f against a new server with the rules given (I1).
func (b *bench) served(name, rules string, f func(s *server) error) (err error) {
	profile := ""
	if b.profiles != "" {
		profile = filepath.Join(b.profiles, name+".pprof")
	}
	s, err := startServer(b.ctx, b.binary, profile, rules)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return f(s)
}

// options are those of a run against s.
func (b *bench) options(s *server, format string) load.Options {
	return load.Options{
		Server: s.url, Format: format, Batch: batchEvents, Connections: connections,
		Duration: b.duration, Warmup: b.warmup, Seed: 1,
	}
}

// run is load.Run, with an error where an answer was not as it must be (I2).
func (b *bench) run(o load.Options) (*load.Report, error) {
	r, err := load.Run(b.ctx, o)
	if err == nil {
		err = r.Err()
	}
	if err == nil {
		err = r.ServerErr
	}
	return r, err
}

// batches measures batches of plain events, as fast as they are answered and then at
// half that rate.
func (b *bench) batches() error {
	return b.served("batches", rules, func(s *server) error {
		machine := readMachine()
		r, err := b.run(b.options(s, "plain"))
		if err != nil {
			return err
		}
		b.print(figure{name: "batches_server_cpu", value: r.ServerCPUPerMillion(), unit: "cpu-s/million events", atMost: 1.2})
		b.print(figure{name: "batches_throughput", value: r.EventsPerSecond(), unit: "events/s", atLeast: 800_000, note: limits(r, machine)})
		b.print(figure{name: "batches_resident", value: r.ServerResident / (1 << 20), unit: "MiB", atMost: 500})
		b.print(figure{name: "batches_allocations", value: r.ServerAllocations(), unit: "allocations/event", note: "of the whole server, its answers to /metrics included"})
		b.print(figure{name: "batches_generator_cpu", value: r.OwnCPUPerMillion(), unit: "cpu-s/million events"})

		o := b.options(s, "plain")
		o.Rate, o.Connections, o.Warmup = r.EventsPerSecond()/2, 2*connections, 0
		if r, err = b.run(o); err != nil {
			return err
		}
		at := fmt.Sprintf("at %.0f events/s", r.EventsPerSecond())
		b.print(figure{name: "half_rate_p50", value: ms(r.Latencies.Quantile(.5)), unit: "ms", note: at})
		b.print(figure{name: "half_rate_p99", value: ms(r.Latencies.Quantile(.99)), unit: "ms", atMost: 25, note: at})
		b.print(figure{name: "half_rate_max", value: ms(r.Latencies.Max()), unit: "ms", note: at})
		b.print(figure{name: "half_rate_server_cpu", value: r.ServerCPUPerMillion(), unit: "cpu-s/million events", note: at})
		return nil
	})
}

// singles measures requests of one event each.
func (b *bench) singles() error {
	return b.served("singles", rules, func(s *server) error {
		machine := readMachine()
		o := b.options(s, "plain")
		o.Batch, o.Connections = 1, singleConnections
		r, err := b.run(o)
		if err != nil {
			return err
		}
		b.print(figure{name: "singles_throughput", value: r.RequestsPerSecond(), unit: "requests/s", atLeast: 25_000, note: limits(r, machine)})
		b.print(figure{name: "singles_p50", value: ms(r.Latencies.Quantile(.5)), unit: "ms"})
		b.print(figure{name: "singles_p99", value: ms(r.Latencies.Quantile(.99)), unit: "ms"})
		b.print(figure{name: "singles_server_cpu", value: r.ServerCPUPerMillion(), unit: "cpu-us/request"})
		b.print(figure{name: "singles_allocations", value: r.ServerAllocations(), unit: "allocations/request"})
		return nil
	})
}

// dedup measures batches whose events have ids that are remembered.
func (b *bench) dedup() error {
	return b.served("dedup", "dedup: event_id\n"+rules, func(s *server) error {
		machine := readMachine()
		r, err := b.run(b.options(s, "plain"))
		if err != nil {
			return err
		}
		b.print(figure{name: "dedup_server_cpu", value: r.ServerCPUPerMillion(), unit: "cpu-s/million events"})
		b.print(figure{name: "dedup_throughput", value: r.EventsPerSecond(), unit: "events/s", note: limits(r, machine)})
		b.print(figure{name: "dedup_resident", value: r.ServerResident / (1 << 20), unit: "MiB"})
		return nil
	})
}

// formats measures batches of each other format that the server reads.
func (b *bench) formats() error {
	for _, format := range load.Formats()[1:] {
		if err := b.served(format, rules, func(s *server) error { return b.format(s, format) }); err != nil {
			notMeasured(format, err)
		}
	}
	return nil
}

func (b *bench) format(s *server, format string) error {
	if known, err := s.reads(b.ctx, format); err != nil || !known {
		if err == nil {
			err = fmt.Errorf("the server does not read the format %s", format)
		}
		return err
	}
	r, err := b.run(b.options(s, format))
	if err != nil {
		return err
	}
	b.print(figure{name: format + "_server_cpu", value: r.ServerCPUPerMillion(), unit: "cpu-s/million events"})
	b.print(figure{name: format + "_throughput", value: r.EventsPerSecond(), unit: "events/s"})
	return nil
}

// reads reports whether the server knows the format: there is something at its path, and
// where that is the one of plain events, what is no CloudEvent is rejected.
func (s *server) reads(ctx context.Context, format string) (bool, error) {
	for _, probe := range []struct{ format, path, contentType, body string }{
		{"cloudevents", "/api/v1/events", "application/cloudevents-batch+json", `[{"data":{"event":"probe"}}]`},
		{"segment", "/v1/batch", "application/json", `{"batch":[]}`},
		{"posthog", "/batch/", "application/json", `{"api_key":"bench","batch":[]}`},
	} {
		if probe.format != format {
			continue
		}
		status, _, err := s.do(ctx, http.MethodPost, probe.path, probe.contentType, probe.body)
		return status != http.StatusNotFound && (format != "cloudevents" || status != http.StatusOK), err
	}
	return true, nil
}

// limits says whose CPU time was used up while a run was measured.
func limits(r *load.Report, before machine) string {
	cores := func(cpu time.Duration) float64 { return cpu.Seconds() / r.Wall.Seconds() }
	parts := []string{fmt.Sprintf("server %.2f CPUs", cores(r.ServerCPU)), fmt.Sprintf("generator %.2f", cores(r.OwnCPU))}
	if busy, idle, ok := readMachine().since(before); ok {
		parts = append(parts, fmt.Sprintf("whole machine, with the warm-up, %.2f of %.2f busy", busy, busy+idle))
	}
	return strings.Join(parts, ", ")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
