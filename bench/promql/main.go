package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

type duration = time.Duration

var queries = map[string]query{
	"sum":       {expr: `sum(rate(m_total[5m]))`, data: "dense", span: 55 * time.Minute, step: 15 * time.Second, overSamples: 10, overIncrements: 40},
	"sum_by":    {expr: `sum by (country) (rate(m_total[5m]))`, data: "dense", span: 55 * time.Minute, step: 15 * time.Second, overSamples: 10, overIncrements: 40},
	"topk":      {expr: `topk(10, sum by (page) (increase(m_total[1h])))`, data: "dense", overSamples: 5, overIncrements: 20},
	"quantile":  {expr: `histogram_quantile(0.95, sum by (le) (rate(h_bucket[5m])))`, data: "buckets", span: 55 * time.Minute, step: 15 * time.Second, overSamples: 6, overIncrements: 20},
	"count":     {expr: `count(m_total)`, data: "dense", overSamples: 5, overIncrements: 5},
	"month":     {expr: `sum by (page) (increase(m_total[1h]))`, data: "sparse100", span: 30*24*time.Hour - time.Hour, step: time.Hour, overIncrements: 50},
	"rules":     {rules: true, data: "dense", overIncrements: 4},
	"month_20k": {expr: `sum by (page) (increase(m_total[1h]))`, data: "sparse", span: 30*24*time.Hour - time.Hour, step: time.Hour},
	// Once more one step later, through the cache of results.
	"sum_again":   {again: "sum", overSamples: 10, overIncrements: 5},
	"month_again": {again: "month", overIncrements: 50},
}

// order is that of the output.
var order = []string{"sum", "sum_by", "topk", "quantile", "count", "rules", "month", "month_20k", "sum_again", "month_again"}

// env is what a process of this program works on.
type env struct {
	data, storage, query, dir string
	scale                     float64
	runs                      int
	profile                   string
}

func main() {
	var e env
	flag.Float64Var(&e.scale, "scale", 1, "part of the full number of series")
	flag.IntVar(&e.runs, "runs", 3, "times that a query is measured; the median counts")
	flag.StringVar(&e.profile, "cpuprofile", "", "write CPU profiles to this directory")
	flag.StringVar(&e.data, "data", "", "fill -dir with this data, or query it")
	flag.StringVar(&e.storage, "storage", "", "of this storage: upstream, samples or increments")
	flag.StringVar(&e.query, "query", "", "measure this query over -dir")
	flag.StringVar(&e.dir, "dir", "", "where -data is")
	only := flag.String("figures", "", "measure only the queries whose names match this regular expression")
	flag.Parse()
	var err error
	switch {
	case e.data != "" && e.query != "":
		err = measureQuery(e)
	case e.data != "":
		err = fill(e)
	default:
		if err := printFigures(e, *only); err != nil {
			fmt.Println("bench-promql:", err)
		}
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) // the process that prints the figures says so, and goes on
	}
}

// printFigures measures and prints the queries whose names match only.
func printFigures(e env, only string) (err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-figures %q: %w", only, err)
	}
	began := time.Now()
	fmt.Printf("%s %s/%s, %d CPUs, scale %g: %d dense series\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		e.scale, int(float64(datasets["dense"].series)*e.scale))
	fmt.Print(header, strings.Repeat("-", len(header)-1), "\n")
	dirs := map[string]string{}    // by data and storage
	first := map[string]*results{} // by query and storage
	defer func() {
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, name := range order {
		if !pattern.MatchString(name) {
			continue
		}
		if err := e.printQuery(name, dirs, first); err != nil {
			fmt.Printf("%-12s not measured: %v\n", name, err)
		}
	}
	fmt.Printf("took %s\n", time.Since(began).Round(time.Second))
	return nil
}

// printQuery measures a query over each storage. One that is asked again is beside the
// first time over the same storage, others are beside upstream.
func (e env) printQuery(name string, dirs map[string]string, first map[string]*results) error {
	q := queries[name]
	e.data = q.data
	if q.again != "" {
		e.data = queries[q.again].data
	}
	var theirs *results
	for _, s := range []struct {
		storage string
		times   float64
	}{{"upstream", 0}, {"samples", q.overSamples}, {"increments", q.overIncrements}} {
		if q.rules && s.storage == "samples" || q.data == "sparse" && s.storage != "increments" || q.data == "sparse100" && s.storage == "samples" {
			continue // too many samples, and not asked for
		}
		if q.again != "" {
			if theirs = first[q.again+"/"+s.storage]; s.storage == "upstream" || s.times == 0 {
				continue
			}
			if theirs == nil {
				return fmt.Errorf("%s of %s was not", q.again, s.storage)
			}
			theirs = &results{CPU: theirs.CPU, Values: theirs.Values, Sum: theirs.Sum}
		}
		e.storage, e.query = s.storage, ""
		at := e.data + "/" + s.storage
		if dirs[at] == "" {
			dir, err := os.MkdirTemp("", "quipu-bench-*")
			if err != nil {
				return err
			}
			dirs[at], e.dir = dir, dir
			if _, err := e.run(); err != nil {
				return err
			}
		}
		e.dir, e.query = dirs[at], name
		out, err := e.run()
		if err != nil {
			return err
		}
		var r results
		if err := json.Unmarshal(out, &r); err != nil {
			return err
		}
		first[name+"/"+s.storage] = &r
		if s.storage == "upstream" {
			write(os.Stdout, name, s.storage, &r, nil, 0)
			theirs = &r
			continue
		}
		write(os.Stdout, name, s.storage, &r, theirs, s.times)
	}
	return nil
}

// run runs this program on e in a process of its own.
func (e env) run() ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var complaint bytes.Buffer
	cmd := exec.Command(self, "-data", e.data, "-storage", e.storage, "-query", e.query, "-dir", e.dir,
		"-scale", strconv.FormatFloat(e.scale, 'g', -1, 64), "-runs", strconv.Itoa(e.runs), "-cpuprofile", e.profile)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(complaint.String(), "\n")
		return nil, fmt.Errorf("%s of %s, %s: %w: %s", e.query, e.data, e.storage, err, first)
	}
	return out, nil
}
