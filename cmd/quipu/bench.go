package main

import (
	"errors"
	"time"

	"github.com/quipudb/quipu/internal/load"
)

// benchCmd holds what can be measured of a running server.
type benchCmd struct {
	Events benchEventsCmd `cmd:"" help:"Send made-up events at a rate and tell how the server takes them."`
}

type benchEventsCmd struct {
	remote `embed:""`

	TenantHeader string        `name:"tenant-header" default:"X-Scope-OrgID" help:"Header that --tenant is sent as (default ${default})."`
	Format       string        `default:"plain" enum:"plain,ndjson,cloudevents,segment,posthog,amplitude,mixpanel" help:"Format of the bodies: ${enum} (default ${default})."`
	Path         string        `placeholder:"/PATH" help:"Where they are posted, if not where the format usually is."`
	Field        []string      `sep:"none" placeholder:"NAME=VALUES[:zipf]" help:"A field of the events and how many values it has; may be repeated. Without any: event=1, user_id=200000, page=2000:zipf, country=30, device=3."`
	BatchSize    int           `default:"1000" help:"Events in one request (default ${default})."`
	Connections  int           `default:"4" help:"Connections, each with one request at a time (default ${default})."`
	Duration     time.Duration `default:"10s" help:"How long to send (default ${default}); 0 is until --count."`
	Count        int           `help:"How many events to send at most."`
	Warmup       time.Duration `default:"1s" help:"How long to send before anything is measured (default ${default})."`
	Rate         float64       `help:"Events a second in all. Latency then counts from when a batch was due, sent or not. Without it each connection sends as fast as it is answered."`
	Late         float64       `help:"Part of the events whose time is in the past, 0 to 1."`
	LateBy       time.Duration `default:"1h" help:"By how much at most (default ${default})."`
	SameID       float64       `name:"same-id" help:"Part of the events that have the id of an event before; they count once where the rules say \"dedup: event_id\"."`
	SameBatch    float64       `name:"same-batch" help:"Part of the batches that are sent again with their Idempotency-Key; they count once."`
	Seed         uint64        `default:"1" help:"Of the fields' values (default ${default})."`
}

// Help is shown by "quipu bench events --help".
func (c *benchEventsCmd) Help() string {
	return `The server counts what is sent: use one that is there for it, or a tenant of its own. Its CPU time and memory are read from its /metrics, and include what others ask of it meanwhile.

The status is 0 only if every request was answered with 200 and the verdicts add up to what was sent.`
}

func (c *benchEventsCmd) Run(con *console) error {
	o := load.Options{
		Server: c.Server, Token: c.Token, TenantHeader: c.TenantHeader, Tenant: c.Tenant,
		Format: c.Format, Path: c.Path, Batch: c.BatchSize, Connections: c.Connections,
		Duration: c.Duration, Count: c.Count, Warmup: c.Warmup, Rate: c.Rate,
		Late: c.Late, LateBy: c.LateBy, SameID: c.SameID, SameBatch: c.SameBatch, Seed: c.Seed,
	}
	for _, text := range c.Field {
		f, err := load.ParseField(text)
		if err != nil {
			return err
		}
		o.Fields = append(o.Fields, f)
	}
	report, err := load.Run(con.ctx, o)
	if report != nil && report.Batches > 0 {
		err = errors.Join(err, report.Fprint(con.out))
	}
	if err != nil {
		return err
	}
	return report.Err()
}
