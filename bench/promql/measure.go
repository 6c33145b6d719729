package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"time"

	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

// results are what a query took.
type results struct {
	CPU, Wall  float64 // seconds
	MemoryMiB  float64
	Values     int // of the result
	Sum        float64
	Complaints string
}

// measureQuery runs a query over the directory of e.
func measureQuery(e env) (err error) {
	q, d := queries[e.query], datasets[e.data]
	if q.again != "" {
		q = queries[q.again]
	}
	var store storage.Queryable
	var engine upstream.QueryEngine
	var theirs *promtsdb.DB
	var ours *tsdb.DB
	if e.storage == "upstream" {
		db, err := openUpstream(e)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		store, theirs = db, db
		engine = upstream.NewEngine(upstream.EngineOpts{
			MaxSamples: 1 << 40, Timeout: time.Hour, Parser: promql.NewParser(), EnableAtModifier: true, EnableNegativeOffset: true,
		})
	} else {
		db, err := openOurs(e, d)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		store, ours = db, db
		engine = promql.NewEngine(promql.EngineOptions{Distinct: db, MaxSamples: 1 << 40, Timeout: time.Hour})
	}
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: d.end().UnixMilli()})
	ask := func() (results, error) { return askOnce(ctx, engine, store, q, d) }
	if q.rules {
		if ask, err = evaluations(e, d, ours, theirs, engine); err != nil {
			return err
		}
	}
	var runs []results
	memory := 0.0
	for i := range 1 + max(e.runs, 1) {
		if i == 1 && e.profile != "" {
			out, err := os.Create(filepath.Join(e.profile, e.query+"-"+e.storage+".pprof"))
			if err != nil {
				return err
			}
			defer out.Close()
			if err := pprof.StartCPUProfile(out); err != nil {
				return err
			}
			defer pprof.StopCPUProfile()
		}
		if queries[e.query].again != "" {
			if ask, err = askAgain(ctx, engine, ours, q, d); err != nil {
				return err
			}
		}
		r, err := once(ask, i == 0)
		if err != nil {
			return err
		}
		if i == 0 {
			memory = r.MemoryMiB // later runs use what this one has allocated
			continue
		}
		r.MemoryMiB = memory
		runs = append(runs, r)
	}
	last := runs[len(runs)-1]
	slices.SortFunc(runs, func(a, b results) int { return int((a.CPU - b.CPU) * 1e9) })
	median := runs[len(runs)/2]
	// Rules are evaluated at another time in each run: to compare results takes the same.
	median.Values, median.Sum = last.Values, last.Sum
	return json.NewEncoder(os.Stdout).Encode(median)
}

// once measures ask; its memory is looked at where watched is set.
func once(ask func() (results, error), watched bool) (r results, err error) {
	runtime.GC()
	var heap peak
	memory := 0.0
	if watched {
		heap.begin()
	}
	before, err := cpuTime()
	if err != nil {
		return r, err
	}
	began := time.Now()
	r, failed := ask()
	wall := time.Since(began).Seconds()
	after, err := cpuTime()
	if watched {
		memory = heap.end()
	}
	r.CPU, r.Wall, r.MemoryMiB = (after - before).Seconds(), wall, memory
	return r, errors.Join(failed, err)
}

// askOnce runs a query.
func askOnce(ctx context.Context, engine upstream.QueryEngine, store storage.Queryable, q query, d data) (r results, err error) {
	end := d.end()
	var query upstream.Query
	if q.span == 0 {
		query, err = engine.NewInstantQuery(ctx, store, nil, q.expr, end)
	} else {
		query, err = engine.NewRangeQuery(ctx, store, nil, q.expr, end.Add(-q.span), end, q.step)
	}
	if err != nil {
		return r, err
	}
	defer query.Close()
	res := query.Exec(ctx)
	if res.Err != nil {
		return r, fmt.Errorf("%s: %w", q.expr, res.Err)
	}
	switch v := res.Value.(type) {
	case upstream.Vector:
		for _, s := range v {
			r.Values++
			r.Sum += s.F
		}
	case upstream.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				r.Values++
				r.Sum += p.F
			}
		}
	}
	return r, nil
}

// askAgain returns a function that runs a query through a cache that has its results
// until one step before the end.
func askAgain(ctx context.Context, engine upstream.QueryEngine, ours *tsdb.DB, q query, d data) (func() (results, error), error) {
	cache, err := promql.NewCache(engine, promql.CacheOptions{Bytes: 64 << 20, History: ours, MaxSamples: 1 << 40, Now: d.end})
	if err != nil {
		return nil, err
	}
	before := d
	before.windows -= int(q.step.Milliseconds() / step)
	if _, err := askOnce(ctx, cache, ours, q, before); err != nil {
		return nil, err
	}
	return func() (results, error) { return askOnce(ctx, cache, ours, q, d) }, nil
}

// peak samples the heap.
type peak struct {
	base, most uint64
	stop, done chan struct{}
}

func heapInUse() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func (p *peak) begin() {
	p.base, p.stop, p.done = heapInUse(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			p.most = max(p.most, heapInUse())
			select {
			case <-tick.C:
			case <-p.stop:
				return
			}
		}
	}()
}

// end returns MiB.
func (p *peak) end() float64 {
	close(p.stop)
	<-p.done
	return float64(max(p.most, p.base)-p.base) / (1 << 20)
}
