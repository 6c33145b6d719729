package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/quipudb/quipu/ingest"
)

// eventsCmd is about event rules; it needs no server.
type eventsCmd struct {
	Check   eventsCheckCmd   `cmd:"" help:"Say what is wrong with event rules."`
	Test    eventsTestCmd    `cmd:"" help:"Run tests of event rules."`
	Explain eventsExplainCmd `cmd:"" help:"Say which series an event would touch, and why."`
}

type eventsCheckCmd struct {
	Files []string `arg:"" name:"file" help:"Event rules."`
}

// Run checks every file and prints a line for each that is right.
func (c *eventsCheckCmd) Run(con *console) error {
	var failed []error
	for _, name := range c.Files {
		text, err := os.ReadFile(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		n, err := ingest.CheckRules(name, text)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintf(con.out, "%s: %d metrics\n", name, n)
	}
	return errors.Join(failed...)
}

type eventsTestCmd struct {
	Files []string `arg:"" name:"file" help:"Tests, which name their rules."`
}

// Run runs the tests of every file and prints what differs.
func (c *eventsTestCmd) Run(con *console) error {
	failed := 0
	for _, name := range c.Files {
		results, err := ingest.TestRules(name, os.ReadFile, con.now())
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.Diff == "" {
				fmt.Fprintf(con.out, "%s: %s: ok\n", name, r.Name)
				continue
			}
			failed++
			fmt.Fprintf(con.out, "%s: %s: FAILED\n%s", name, r.Name, r.Diff)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d tests failed", failed)
	}
	return nil
}

type eventsExplainCmd struct {
	Rules  string `placeholder:"FILE" help:"Event rules (default: those of a tenant that has none)."`
	Format string `default:"plain" help:"Format that the event is in, such as segment; of one that is none the error names all."`
	JSON   bool   `name:"json" help:"Print JSON."`
	Event  string `arg:"" optional:"" help:"The event's JSON (default: standard input)."`
}

// Run explains one event.
func (c *eventsExplainCmd) Run(con *console) error {
	name, text := "default rules", ingest.DefaultRules
	if c.Rules != "" {
		var err error
		if text, err = os.ReadFile(c.Rules); err != nil {
			return err
		}
		name = c.Rules
	}
	raw := []byte(c.Event)
	if c.Event == "" {
		var err error
		if raw, err = io.ReadAll(con.in); err != nil {
			return fmt.Errorf("read the event: %w", err)
		}
	}
	format, err := ingest.FormatNamed(c.Format)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	post, err := format.Open(&ingest.Request{Body: raw})
	if err != nil {
		return err
	}
	ex, err := ingest.ExplainWith(name, text, post, con.now().UnixMilli())
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(con.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(ex)
	}
	ex.Write(con.out)
	return nil
}
