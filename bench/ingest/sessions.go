package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/internal/load"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// sessionRules count sessions besides what the other rules do.
const sessionRules = rules + `
  - {name: site, type: session, key: user_id, labels: {landing: page, country: country}}
`

// sessionRounds take turns, so that both are measured on the same machine.
const sessionRounds = 10

// sessions measures what it costs to count the sessions of users besides the other rules,
// in this process: decoded, matched, logged with an fsync, and applied.
func (b *bench) sessions() (err error) {
	bodies, err := load.Bodies(load.Options{Format: "plain", Batch: batchEvents}, aloneBatches)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "quipu-bench-*")
	if err != nil {
		return err
	}
	var dbs []*tsdb.DB
	defer func() {
		for _, db := range dbs {
			err = errors.Join(err, db.Close())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	var cpu [2]time.Duration
	var run [2]func() error
	table := session.NewTable(session.Options{})
	for i, of := range []string{rules, sessionRules} {
		db, err := tsdb.Open(tsdb.Options{
			Dir: filepath.Join(dir, fmt.Sprint(i)), NewState: func(tenant.ID) tsdb.State { return table }, MaintainInterval: time.Hour,
		})
		if err != nil {
			return err
		}
		dbs = append(dbs, db)
		g, err := ingest.New(ingest.Options{Store: db, Rules: fixedRules(of), Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		run[i] = func() error { return b.counted(g, bodies, &cpu[i]) }
		if err := run[i](); err != nil { // once for the series
			return err
		}
		cpu[i] = 0
	}
	for range sessionRounds {
		for i := range run {
			runtime.GC()
			if err := run[i](); err != nil {
				return err
			}
		}
	}
	events := float64(sessionRounds * len(bodies) * batchEvents)
	per := func(d time.Duration) float64 { return d.Seconds() / events * 1e6 }
	b.print(figure{name: "sessions_cpu", value: per(cpu[1]) - per(cpu[0]), unit: "cpu-s/million events",
		note: fmt.Sprintf("a rule of sessions of users besides three others: %.2f with, %.2f without; %d sessions are open", per(cpu[1]), per(cpu[0]), table.Open())})
	return nil
}

// counted adds the CPU time that g takes for batches of plain events.
func (b *bench) counted(g *ingest.Ingester, bodies [][]byte, cpu *time.Duration) error {
	plain, err := ingest.FormatNamed("plain")
	if err != nil {
		return err
	}
	before, err := load.OwnCPU()
	if err != nil {
		return err
	}
	for _, body := range bodies {
		post, err := plain.Open(&ingest.Request{Body: body})
		if err != nil {
			return err
		}
		if r, err := g.Events(b.ctx, tenant.Default, post, ""); err != nil || r.Accepted != batchEvents {
			return fmt.Errorf("%+v, %w", r, err)
		}
	}
	after, err := load.OwnCPU()
	*cpu += after - before
	return err
}
