package main

import (
	"errors"

	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/tsdb"
)

type checkCmd struct {
	Dir string `arg:"" help:"Data directory of a server that is stopped."`
}

// Run verifies a data directory and prints what is wrong with it.
func (c *checkCmd) Run(con *console) error {
	sum, problems, err := tsdb.Check(con.ctx, c.Dir, session.Check)
	if err != nil {
		return err
	}
	sum.Write(con.out, problems)
	if len(problems) > 0 {
		return errors.New("the data directory is damaged")
	}
	return nil
}
