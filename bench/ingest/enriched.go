package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/ingest/enrich"
	"github.com/quipudb/quipu/internal/accesslog"
	"github.com/quipudb/quipu/internal/load"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	realLog = "testdata/access_log_2015.log"
	places  = "testdata/GeoLite2-City-Test.mmdb"

	// enrichedRounds take turns, so that both are measured on the same machine.
	enrichedRounds = 10
)

// enrichedRules count what the other rules do, by what is found besides.
const enrichedRules = rules + `
  - {name: visits_total, type: counter, labels: {browser: browser, os: os, kind: bot, country: country, city: city}}
`

// sentRules are the same where the events say it all themselves.
const sentRules = rules + `
  - {name: visits_total, type: counter, labels: {browser: sent_browser, os: sent_os, kind: sent_bot, country: sent_country, city: sent_city}}
`

// enriched measures what it costs to find the browser, system, place and bots of events
// that have a real user agent and an address, beside counting what they say themselves.
func (b *bench) enriched() error {
	bodies, err := enrichedBodies()
	if err != nil {
		return err
	}
	plain, err := ingest.FormatNamed("plain")
	if err != nil {
		return err
	}
	settings := tenant.DefaultSettings()
	settings.FilterBots = true
	var cpu [2]time.Duration
	var run [2]func() error
	for i, of := range []struct {
		rules string
		store nowhere
	}{{sentRules, nowhere{tenant.DefaultSettings()}}, {enrichedRules, nowhere{settings}}} {
		e, err := enrich.New(enrich.Options{Places: places, Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		g, err := ingest.New(ingest.Options{Store: of.store, Rules: fixedRules(of.rules), Registerer: prometheus.NewRegistry(), Enricher: e})
		if err != nil {
			return err
		}
		run[i] = func() error {
			before, err := load.OwnCPU()
			if err != nil {
				return err
			}
			for _, body := range bodies {
				post, err := plain.Open(&ingest.Request{Body: body})
				if err != nil {
					return err
				}
				if r, err := g.Events(b.ctx, tenant.Default, post, ""); err != nil || r.Accepted+r.Filtered != batchEvents {
					return fmt.Errorf("%+v, %w", r, err)
				}
			}
			after, err := load.OwnCPU()
			cpu[i] += after - before
			return err
		}
		if err := run[i](); err != nil { // once for the series, and the caches
			return err
		}
		cpu[i] = 0
	}
	for range enrichedRounds {
		for i := range run {
			runtime.GC()
			if err := run[i](); err != nil {
				return err
			}
		}
	}
	events := float64(enrichedRounds * len(bodies) * batchEvents)
	per := func(d time.Duration) float64 { return d.Seconds() / events * 1e6 }
	b.print(figure{name: "enrich_cpu", value: per(cpu[1]) - per(cpu[0]), unit: "cpu-s/million events", atMost: 0.5,
		note: fmt.Sprintf("user agent, place and bots: %.2f with, %.2f where the events say it themselves", per(cpu[1]), per(cpu[0]))})
	return nil
}

// enrichedBodies are batches whose events have the user agents of a real log, as often as
// they are in it, and addresses that the database of places knows.
func enrichedBodies() ([][]byte, error) {
	bodies, err := load.Bodies(load.Options{Format: "plain", Batch: batchEvents}, aloneBatches)
	if err != nil {
		return nil, err
	}
	log, err := os.ReadFile(realLog)
	if err != nil {
		return nil, fmt.Errorf("read the log of user agents, from the top of the repository: %w", err)
	}
	var agents []string
	for line := range strings.Lines(string(log)) {
		if e, err := accesslog.Parse([]byte(strings.TrimSpace(line))); err == nil && e.UserAgent != "" {
			agents = append(agents, strconv.Quote(e.UserAgent))
		}
	}
	at := 0
	for i, body := range bodies {
		var out bytes.Buffer
		parts := bytes.Split(body, []byte(`"further_data":{`))
		for k, part := range parts {
			if k > 0 {
				fmt.Fprintf(&out, `"further_data":{"user_agent":%s,"ip":"81.2.69.%d","sent_browser":"Firefox","sent_os":"Windows","sent_bot":"false","sent_country":"GB","sent_city":"London",`, agents[at%len(agents)], at%256)
				at++
			}
			out.Write(part)
		}
		bodies[i] = out.Bytes()
	}
	return bodies, nil
}
