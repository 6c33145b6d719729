package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/quipudb/quipu/api"
)

// snapshotCmd is about the snapshots of a running server, which are in its data directory.
type snapshotCmd struct {
	Create  snapshotCreateCmd  `cmd:"" help:"Make a snapshot and print its name."`
	List    snapshotListCmd    `cmd:"" help:"List snapshots, the newest first."`
	Delete  snapshotDeleteCmd  `cmd:"" help:"Delete snapshots."`
	Restore snapshotRestoreCmd `cmd:"" help:"Make a tenant what it is in a snapshot."`
}

type snapshotCreateCmd struct {
	printing `embed:""`

	SkipHead bool     `help:"Leave out what is in no block yet, and ids of events: to be used with a copy of the log."`
	Tenants  []string `arg:"" optional:"" name:"tenant" help:"Tenants (default: all)."`
}

// Run prints the name to stdout, so that it can be put somewhere, and what is not in the
// snapshot to stderr.
func (c *snapshotCreateCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	data, err := server.MakeSnapshot(con.ctx, c.Tenants, c.SkipHead)
	if err != nil {
		return err
	}
	var made api.MadeSnapshot
	if err := json.Unmarshal(data, &made); err != nil {
		return fmt.Errorf("read the server's answer about the snapshot: %w", err)
	}
	if c.Output == "json" {
		err = printJSON(con.out, data)
	} else {
		_, err = fmt.Fprintln(con.out, made.Name)
	}
	for id, why := range made.Failed {
		fmt.Fprintf(con.err, "tenant %s is not in it: %s\n", id, why)
	}
	if n := len(made.Failed); n > 0 && err == nil {
		err = fmt.Errorf("snapshot %s is without %d tenants", made.Name, n)
	}
	return err
}

type snapshotListCmd struct {
	printing `embed:""`
}

func (c *snapshotListCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	data, err := server.Snapshots(con.ctx)
	return showData(con, c.Output, data, err, func(w io.Writer, all *[]api.SnapshotStatus) {
		fmt.Fprintln(w, "SNAPSHOT\tMADE\tTENANT\tBLOCKS\tBYTES\t")
		for _, s := range *all {
			for _, t := range s.Tenants {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", s.Name, s.Time, t.ID, t.Blocks, bytesText(t.Bytes), t.Error)
			}
		}
	})
}

type snapshotDeleteCmd struct {
	remote `embed:""`

	Names []string `arg:"" name:"snapshot" help:"Names, as list shows them."`
}

func (c *snapshotDeleteCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		if err := server.DeleteSnapshot(con.ctx, name); err != nil {
			return err
		}
		fmt.Fprintf(con.out, "snapshot %s is deleted\n", name)
	}
	return nil
}

type snapshotRestoreCmd struct {
	printing `embed:""`

	Replace         bool   `help:"Give up what the tenant has; without it there must be no such tenant."`
	WithoutEventIDs bool   `name:"without-event-ids" help:"Do not take the ids of events that were counted: who sends those again has them counted again."`
	Snapshot        string `arg:"" help:"Name of the snapshot."`
	Of              string `arg:"" name:"restored-tenant" help:"The tenant."`
}

func (c *snapshotRestoreCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	data, err := server.RestoreTenant(con.ctx, c.Snapshot, c.Of, c.Replace, c.WithoutEventIDs)
	return showData(con, c.Output, data, err, func(w io.Writer, r *api.RestoredTenant) {
		fmt.Fprintf(w, "tenant\t%s\nblocks\t%d\t%s\nevent ids\t%d\n", r.Tenant, r.Blocks, bytesText(r.Bytes), r.EventIDs)
	})
}
