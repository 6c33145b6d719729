package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/client"
	"github.com/quipudb/quipu/internal/importer"
)

// importCmd holds the formats that can be imported.
type importCmd struct {
	Accesslog importAccesslogCmd `cmd:"" help:"Post Apache or nginx access logs in the combined or common format."`
}

type importAccesslogCmd struct {
	remote `embed:""`

	Files       []string      `arg:"" name:"file" help:"Log to import, gzipped or not; - is standard input."`
	BatchSize   int           `default:"1000" help:"Lines in one request. An import is resumed with the batch size it began with."`
	Concurrency int           `default:"2" help:"Requests in flight."`
	RetryFor    time.Duration `default:"1m" help:"How long to try a request again that gets no answer, 429 or 503."`
	ShiftToNow  bool          `help:"Move all times by one constant, so that the newest line is of now."`
}

// Help is shown by "quipu import accesslog --help".
func (c *importAccesslogCmd) Help() string {
	return `Every line becomes an event "http_request" with the time of the line, the client address as the user, and page, method, status, bytes, host of the referrer and user agent.

An import that was interrupted is run again with the same arguments: the server counts only what it has not counted yet, as long as its de-duplication window is open (24 hours). What it recognizes is a batch of lines at their place in a file, whatever the file is called: a copied or renamed log counts once, and so do two logs of the same content.

Import logs that are no longer written to, as access.log.1. When a file has grown, its last batch is another one, and the lines that it had before count again.`
}

func (c *importAccesslogCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	options := importer.Options{
		Files:       c.Files,
		Stdin:       con.in,
		BatchLines:  c.BatchSize,
		Concurrency: c.Concurrency,
		Retry:       client.Retry{For: c.RetryFor, First: 200 * time.Millisecond, Max: 10 * time.Second},
		ShiftToNow:  c.ShiftToNow,
		Now:         con.now(),
		Target:      c.Server + "\x00" + c.Tenant,
	}
	if c.ShiftToNow {
		cache, err := con.cacheDir()
		if err != nil {
			return fmt.Errorf("find where to keep the shift: %w", err)
		}
		options.StateDir = filepath.Join(cache, "quipu")
	}
	summary, err := importer.Run(con.ctx, server, importer.NewProgress(con.err, con.errTerminal, con.now), options)
	if summary.Lines > 0 || err == nil {
		if printErr := summary.Fprint(con.out); printErr != nil {
			return errors.Join(err, printErr)
		}
	}
	if err != nil {
		if summary.Lines > 0 {
			return fmt.Errorf("%w\nthe import is not complete: run it again with the same arguments, what was counted does not count twice", err)
		}
		return err
	}
	switch n := summary.Rejected; {
	case len(summary.Foreign) > 0:
		return fmt.Errorf("no line of %s could be parsed: is it an access log in the combined or common format?", strings.Join(summary.Foreign, ", nor of "))
	case n == 1:
		return errors.New("1 event was rejected")
	case n > 1:
		return fmt.Errorf("%s were rejected", importer.Count(n, "event"))
	}
	return nil
}
