package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// probes by name. Those that start with fill prepare a directory for another.
var probes = map[string]probe{
	"append":                 appendOurs(10_000, true),
	"append-labels":          appendOurs(100_000, false),
	"append-upstream":        appendUpstream(10_000, true),
	"append100k":             appendOurs(100_000, true),
	"append100k-upstream":    appendUpstream(100_000, true),
	"append-upstream-labels": appendUpstream(100_000, false),
	"new":                    newSeriesOurs,
	"new-upstream":           newSeriesUpstream,
	"dense":                  denseOurs,
	"dense-upstream":         denseUpstream,
	"sparse":                 sparseOurs,
	"sparse-upstream":        sparseUpstream,
	"index":                  indexOurs,
	"index-upstream":         indexUpstream,
	"fill":                   fillOurs,
	"fill-upstream":          fillUpstream,
	"reopen":                 reopenOurs,
	"reopen-upstream":        reopenUpstream,
	"memory":                 memoryOurs,
	"memory-upstream":        memoryUpstream,
	"fill-tenants":           fillTenants(0, 1),
	"fill-turnover":          fillTenants(make([]int, 64)...),
	"tenants":                openTenants,
	"turnover":               turnover,
	"distinct":               distinct,
	"merge":                  merge,
	"month":                  month,
	"backfill":               backfill,
	"snapshot":               snapshot,
	"commit1":                groupCommit(1),
	"commit8":                groupCommit(8),
	"commit64":               groupCommit(64),
}

// figures are the lines of the output, in order.
func figures() []figure {
	both := func(name, unit, probe, key string, atMost float64) figure {
		return figure{name: name, unit: unit, ours: source{probe, key}, upstr: source{probe + "-upstream", key}, atMost: atMost}
	}
	only := func(name, unit, probe, key string, atMost float64) figure {
		return figure{name: name, unit: unit, ours: source{probe, key}, atMost: atMost}
	}
	scaled := func(f figure) figure { f.scaled = true; return f }
	out := []figure{
		both("append_known_10k_series", "cpu-ns/increment", "append", "cpu_ns", 100),
		both("append_known_100k_series", "cpu-ns/increment", "append100k", "cpu_ns", 100),
		{
			name: "append_known_100k_by_labels", unit: "cpu-ns/increment",
			ours: source{"append-labels", "cpu_ns"}, upstr: source{"append-upstream-labels", "cpu_ns"},
		},
		both("new_series", "cpu-us/series", "new", "cpu_us", 1.5),
		both("dense_counter", "bytes/window", "dense", "bytes_per_window", 0.45),
		both("sparse_counter", "bytes/day", "sparse", "bytes_per_day", 60),
		both("decode", "cpu-ns/window", "dense", "decode_ns", 3),
		only("decode_query", "cpu-ns/window", "dense", "decode_query_ns", 0),
		only("view", "cpu-ns/sample", "dense", "view_ns", 0),
		scaled(only("distinct_30_days", "cpu-s/query", "distinct", "series_cpu_s", 1)),
		scaled(only("count_distinct_30_days", "cpu-s/query", "distinct", "country_cpu_s", 1)),
		only("unions", "of the bytes of windows", "distinct", "unions_of_windows", 1),
		only("merge", "cpu-s/million increments", "merge", "cpu_s_per_million", 0.15),
		only("month_of_pages", "bytes/increment", "month", "bytes_per_increment", 2.5),
		only("month_of_pages_by_hour", "of the bytes before", "month", "coarse_of_fine", 0.6),
		only("snapshot_10_gb", "s", "snapshot", "wall_s", 1),
		only("snapshot_10_gb_longest_wait", "ms", "snapshot", "wait_max_ms", 100),
		only("snapshot_10_gb_longest_wait_else", "ms", "snapshot", "calm_wait_max_ms", 0),
		only("backfill_memory", "MiB resident, peak", "backfill", "peak_mib", 600),
		only("backfill_cpu", "cpu-us/event", "backfill", "cpu_us", 0),
		only("backfill_bytes", "of those in order", "backfill", "of_ordered", 1.1),
		only("backfill_blocks", "blocks", "backfill", "blocks", 0),
		only("backfill_blocks_most", "blocks", "backfill", "blocks_most", 0),
		both("index", "bytes/series", "index", "bytes_per_series", 80),
		scaled(both("reopen_after_kill", "s", "reopen", "wall_s", 1)),
		scaled(both("reopen_after_kill_cpu", "cpu-s", "reopen", "cpu_s", 0)),
		both("log_known", "bytes/increment", "reopen", "log_bytes", 0),
		both("memory_active_counter", "bytes/series", "memory", "bytes_per_series", 700),
		only("open_10k_tenants", "s", "tenants", "wall_s", 3),
		only("open_10k_tenants_cpu", "cpu-s", "tenants", "cpu_s", 0),
		only("open_10k_tenants_memory", "MiB resident", "tenants", "resident_mib", 150),
		only("open_10k_tenants_heap", "MiB after GC", "tenants", "heap_mib", 0),
		only("turnover_10k_tenants", "cpu-s in background", "turnover", "cpu_s", 10),
		only("turnover_longest_wait", "ms", "turnover", "wait_max_ms", 100),
		only("turnover_wall", "s", "turnover", "wall_s", 0),
		only("turnover_log_left", "of its budget", "turnover", "log_of_budget", 1),
	}
	for _, writers := range []string{"1", "8", "64"} {
		out = append(out,
			only("commit_"+writers+"_writers", "batches/s", "commit"+writers, "batches_per_s", 0),
			only("commit_"+writers+"_writers_p50", "ms", "commit"+writers, "p50_ms", 0),
			only("commit_"+writers+"_writers_p99", "ms", "commit"+writers, "p99_ms", 0),
			only("commit_"+writers+"_writers_cpu", "cpu-us/batch", "commit"+writers, "cpu_us", 0),
		)
	}
	return out
}

func main() {
	var e env
	flag.Float64Var(&e.scale, "scale", 0.2, "part of the full size at which reopening (24 million increments) and memory (1 million series) are measured")
	flag.StringVar(&e.profile, "cpuprofile", "", "write a CPU profile of each probe to this directory")
	flag.StringVar(&e.name, "probe", "", "run this probe alone, in -dir, and print its results as JSON")
	flag.StringVar(&e.dir, "dir", "", "where -probe works")
	only := flag.String("figures", "", "measure only the figures whose names match this regular expression")
	flag.Parse()
	if e.name != "" {
		if err := runHere(e); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) // the process that prints the figures says so, and goes on
		}
		return
	}
	if err := printFigures(e, *only); err != nil {
		fmt.Println("bench-tsdb:", err)
	}
}

// runHere runs a probe in this process.
func runHere(e env) error {
	p, ok := probes[e.name]
	if !ok || e.dir == "" {
		return fmt.Errorf("no probe %q, or no -dir", e.name)
	}
	r, err := p(e)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// printFigures measures and prints the figures whose names match only.
func printFigures(e env, only string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-figures %q: %w", only, err)
	}
	if e.scale <= 0 || e.scale > 1 {
		return fmt.Errorf("-scale is %g, must be more than 0 and at most 1", e.scale)
	}
	if e.profile != "" {
		if err := os.MkdirAll(e.profile, 0o755); err != nil {
			return err
		}
	}
	chosen := slices.DeleteFunc(figures(), func(f figure) bool { return !pattern.MatchString(f.name) })
	if len(chosen) == 0 {
		return errors.New("no figure has a name that matches -figures")
	}
	began := time.Now()
	fmt.Printf("%s %s/%s, %d CPUs, scale %g: %d increments to replay, %d series in memory\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		e.scale, scaledSeries(e, reopenSeries)*reopenRounds, scaledSeries(e, memorySeries))
	fmt.Print(header, strings.Repeat("-", len(header)-1), "\n")
	done := map[string]measured{}
	for _, f := range chosen {
		f.write(os.Stdout, e.scale, func(name string) (results, error) {
			m, ok := done[name]
			if !ok {
				e.name = name
				m.results, m.err = runProbe(e)
				done[name] = m
			}
			return m.results, m.err
		})
	}
	fmt.Printf("took %s\n", time.Since(began).Round(time.Second))
	return nil
}

// measured is how a probe ended.
type measured struct {
	results results
	err     error
}
