package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quipudb/quipu/internal/answer"
	"github.com/quipudb/quipu/internal/client"
	"github.com/quipudb/quipu/promql"
)

type queryCmd struct {
	remote `embed:""`

	Expr    string `arg:"" help:"PromQL expression."`
	Time    string `placeholder:"TIME" help:"Instant to evaluate at: RFC 3339, seconds since 1970, or like now-1h (default now)."`
	Start   string `placeholder:"TIME" help:"First instant of a range, written like --time."`
	End     string `placeholder:"TIME" help:"Last instant of a range (default now)."`
	Step    string `placeholder:"DURATION" help:"Time between the instants of a range (default: about a hundred of them)."`
	Explain bool   `help:"Print how the query is computed and what that takes, instead of its result; as JSON with --output=json."`
	Output  string `short:"o" enum:"auto,table,json,plot" default:"auto" help:"table, json or plot (default: plot for a range, table otherwise)."`
}

// Help is shown by "quipu query --help".
func (c *queryCmd) Help() string {
	return `An expression that begins with a minus sign goes after two of them, and after all flags: quipu query -- '-1'`
}

func (c *queryCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	if c.Start == "" {
		return c.instant(con, server)
	}
	return c.overRange(con, server)
}

func (c *queryCmd) instant(con *console, server *client.Client) error {
	if c.End != "" || c.Step != "" {
		return errors.New("--end and --step belong to a range, which begins with --start")
	}
	if c.Output == "plot" {
		return errors.New("--output=plot needs a range: give --start")
	}
	var at time.Time // the server's present
	if c.Time != "" {
		var err error
		if at, err = parseInstant(c.Time, con.now()); err != nil {
			return fmt.Errorf("--time: %w", err)
		}
	}
	if c.Explain {
		return c.explain(con, server, at, nil)
	}
	a, err := server.Query(con.ctx, c.Expr, at)
	if err != nil {
		return err
	}
	return show(con, a, c.Output, answer.Plot{})
}

func (c *queryCmd) overRange(con *console, server *client.Client) error {
	if c.Time != "" {
		return errors.New("--time is for one instant, --start for a range: give one of them")
	}
	r, err := c.parseRange(con.now())
	if err != nil {
		return err
	}
	if c.Explain {
		return c.explain(con, server, time.Time{}, &r)
	}
	a, err := server.QueryRange(con.ctx, c.Expr, r)
	if err != nil {
		return err
	}
	output := c.Output
	if output == "auto" {
		output = "plot"
	}
	return show(con, a, output, answer.Plot{Range: r, Width: con.width, Colors: con.outTerminal})
}

// explain prints the plan of each run of the engine, after what the cache knew.
func (c *queryCmd) explain(con *console, server *client.Client, at time.Time, r *client.Range) error {
	body, err := server.Explain(con.ctx, c.Expr, at, r)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		_, err := fmt.Fprintf(con.out, "%s\n", body)
		return err
	}
	var x promql.Explanation
	if err := json.Unmarshal(body, &x); err != nil {
		return fmt.Errorf("read the server's explanation: %w", err)
	}
	if r != nil {
		fmt.Fprintf(con.out, "%d steps of the cache\n", x.CachedSteps)
	}
	for _, run := range x.Runs {
		if r != nil {
			text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano) }
			fmt.Fprintf(con.out, "from %s to %s by %s:\n", text(run.Start), text(run.End), time.Duration(run.Step)*time.Millisecond)
		}
		if err := run.Plan.Write(con.out); err != nil {
			return err
		}
	}
	return nil
}

func (c *queryCmd) parseRange(now time.Time) (client.Range, error) {
	r := client.Range{End: now}
	var err error
	if r.Start, err = parseInstant(c.Start, now); err != nil {
		return r, fmt.Errorf("--start: %w", err)
	}
	if c.End != "" {
		if r.End, err = parseInstant(c.End, now); err != nil {
			return r, fmt.Errorf("--end: %w", err)
		}
	}
	if r.End.Before(r.Start) {
		return r, fmt.Errorf("the range ends at %s, before it begins at %s", r.End.UTC().Format(time.RFC3339), r.Start.UTC().Format(time.RFC3339))
	}
	r.Step = stepFor(r.End.Sub(r.Start))
	if c.Step != "" {
		if r.Step, err = parseDuration(c.Step); err != nil {
			return r, fmt.Errorf("--step: %w", err)
		}
		if r.Step < time.Millisecond {
			return r, fmt.Errorf("--step: %s is shorter than a millisecond", c.Step)
		}
	}
	return r, nil
}

// show prints an answer, and what the server remarks on it to stderr (I1).
func show(con *console, a client.Answer, output string, plot answer.Plot) error {
	for _, warning := range a.Warnings {
		fmt.Fprintln(con.err, "warning:", warning)
	}
	for _, info := range a.Infos {
		fmt.Fprintln(con.err, "info:", info)
	}
	if output == "json" {
		_, err := fmt.Fprintf(con.out, "%s\n", a.Body)
		return err
	}
	value, err := answer.Decode(a)
	if err != nil {
		return err
	}
	if output == "plot" {
		return answer.FprintPlot(con.out, value, plot)
	}
	return answer.FprintTable(con.out, value)
}
