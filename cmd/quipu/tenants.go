package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/units"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/internal/client"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/usage"
)

// tenantsCmd is what an operator does with the tenants of a running server.
type tenantsCmd struct {
	Create  tenantsCreateCmd  `cmd:"" help:"Make a tenant."`
	List    tenantsListCmd    `cmd:"" help:"List tenants."`
	Show    tenantsShowCmd    `cmd:"" help:"Show a tenant and its settings."`
	Set     tenantsSetCmd     `cmd:"" help:"Change settings of a tenant; they are in force at once."`
	Suspend tenantsSuspendCmd `cmd:"" help:"Refuse reads and writes of a tenant, and keep its data."`
	Resume  tenantsResumeCmd  `cmd:"" help:"Serve a suspended tenant again."`
	Delete  tenantsDeleteCmd  `cmd:"" help:"Delete a tenant with all its data."`
	Usage   tenantsUsageCmd   `cmd:"" help:"Show what a tenant has and does."`
}

// showData prints the server's answer as JSON, or as a table of what it is decoded into.
func showData[T any](con *console, output string, data json.RawMessage, err error, table func(w io.Writer, of *T)) error {
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(con.out, data)
	}
	var of T
	if err := json.Unmarshal(data, &of); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return printTable(con.out, func(w io.Writer) { table(w, &of) })
}

type tenantsCreateCmd struct {
	printing `embed:""`

	ID       string   `arg:"" help:"The tenant: letters, digits, - _ and . ."`
	Settings []string `arg:"" optional:"" name:"field=value" help:"Settings, as for \"quipu tenants set\"."`
}

func (c *tenantsCreateCmd) Run(con *console) error {
	settings, err := settingsObject(c.Settings)
	if err != nil {
		return err
	}
	return c.withTenant(con, c.ID, func(ctx context.Context, server *client.Client) (json.RawMessage, error) {
		return server.CreateTenant(ctx, c.ID, settings)
	})
}

// withTenant does something with a tenant and shows it.
func (r *printing) withTenant(con *console, id string, do func(context.Context, *client.Client) (json.RawMessage, error)) error {
	if _, err := tenant.Parse(id); err != nil {
		return err
	}
	server, err := r.connect()
	if err != nil {
		return err
	}
	data, err := do(con.ctx, server)
	return showData(con, r.Output, data, err, writeTenant)
}

// settingsObject is the JSON of settings that were written as "limits.series=100".
func settingsObject(args []string) (json.RawMessage, error) {
	top, inside := map[string]json.RawMessage{}, map[string]map[string]json.RawMessage{}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form field=value, as limits.series=100000", arg)
		}
		value, err := tenant.FieldJSON(name, text)
		if err != nil {
			return nil, err
		}
		object, field, ok := strings.Cut(name, ".")
		if !ok {
			top[name] = value
			continue
		}
		if inside[object] == nil {
			inside[object] = map[string]json.RawMessage{}
		}
		inside[object][field] = value
	}
	for object, fields := range inside {
		text, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		top[object] = text
	}
	return json.Marshal(top)
}

type tenantsListCmd struct {
	printing `embed:""`
}

func (c *tenantsListCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	all := []json.RawMessage{}
	for after := ""; ; {
		page, next, err := server.Tenants(con.ctx, after)
		if err != nil {
			return err
		}
		all = append(all, page...)
		if next == "" {
			break
		}
		after = next
	}
	data, err := json.Marshal(all)
	return showData(con, c.Output, data, err, func(w io.Writer, tenants *[]api.TenantStatus) {
		fmt.Fprintln(w, "TENANT\tSTATE\tSERIES\tON DISK\tIN MEMORY\t")
		for _, t := range *tenants {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", t.ID, t.State, t.Series, bytesText(t.BlockBytes), bytesText(t.MemoryBytes), t.Error)
		}
	})
}

func bytesText(n int64) string { return units.Base2Bytes(n).Round(1).String() }

type tenantsShowCmd struct {
	printing `embed:""`

	ID string `arg:"" help:"The tenant."`
}

func (c *tenantsShowCmd) Run(con *console) error {
	return c.withTenant(con, c.ID, func(ctx context.Context, server *client.Client) (json.RawMessage, error) {
		return server.Tenant(ctx, c.ID)
	})
}

// writeTenant writes a tenant and each of its settings, with where that is from.
func writeTenant(w io.Writer, t *api.TenantSettings) {
	writeStatus(w, &t.TenantStatus)
	own := t.Own.Fields()
	for _, f := range tenant.Fields(&t.Settings) {
		from := ""
		switch {
		case slices.Contains(t.Pinned, f.Name):
			from = "the server's configuration decides it"
		case slices.Contains(own, f.Name):
			from = "set"
		}
		fmt.Fprintf(w, "%s\t%v\t%s\n", f.Name, f.Value, from)
	}
}

func writeStatus(w io.Writer, s *api.TenantStatus) {
	fmt.Fprintf(w, "tenant\t%s\t\nstate\t%s\t%s\nseries\t%d\t\nblocks\t%d\t%s on disk\nmemory\t%s\t\n",
		s.ID, s.State, s.Error, s.Series, s.Blocks, bytesText(s.BlockBytes), bytesText(s.MemoryBytes))
}

type tenantsSetCmd struct {
	printing `embed:""`

	ID       string   `arg:"" help:"The tenant."`
	Settings []string `arg:"" name:"field=value" help:"As retention=30d, limits.series=200000 or idle_timeouts.orders_total=3h; with nothing after the = the default is in force again."`
}

func (c *tenantsSetCmd) Run(con *console) error {
	settings, err := settingsObject(c.Settings)
	if err != nil {
		return err
	}
	return c.withTenant(con, c.ID, func(ctx context.Context, server *client.Client) (json.RawMessage, error) {
		return server.ChangeTenant(ctx, c.ID, settings)
	})
}

type tenantsSuspendCmd struct {
	printing `embed:""`

	ID string `arg:"" help:"The tenant."`
}

func (c *tenantsSuspendCmd) Run(con *console) error {
	return c.withTenant(con, c.ID, func(ctx context.Context, server *client.Client) (json.RawMessage, error) {
		return server.SuspendTenant(ctx, c.ID)
	})
}

type tenantsResumeCmd struct {
	printing `embed:""`

	ID string `arg:"" help:"The tenant."`
}

func (c *tenantsResumeCmd) Run(con *console) error {
	return c.withTenant(con, c.ID, func(ctx context.Context, server *client.Client) (json.RawMessage, error) {
		return server.ResumeTenant(ctx, c.ID)
	})
}

type tenantsDeleteCmd struct {
	printing `embed:""`

	Yes bool   `help:"Do not ask for the tenant's name again."`
	ID  string `arg:"" help:"The tenant."`
}

func (c *tenantsDeleteCmd) Run(con *console) error {
	if _, err := tenant.Parse(c.ID); err != nil {
		return err
	}
	server, err := c.connect()
	if err != nil {
		return err
	}
	if !c.Yes {
		fmt.Fprintf(con.err, "Everything of tenant %s will be gone. Type its name to delete it: ", c.ID)
		typed, err := bufio.NewReader(con.in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the tenant's name: %w", err)
		}
		if strings.TrimSpace(typed) != c.ID {
			return fmt.Errorf("tenant %s is not deleted: its name was not typed, and there is no --yes", c.ID)
		}
	}
	data, err := server.DeleteTenant(con.ctx, c.ID)
	return showData(con, c.Output, data, err, func(w io.Writer, d *api.DeletedTenant) {
		directory := "gone"
		if !d.DirectoryGone {
			directory = "there again: the tenant has been made anew"
		}
		fmt.Fprintf(w, "deleted\t%s\nseries\t%d\nfreed on disk\t%s\nfreed in memory\t%s\ndirectory\t%s\n",
			d.ID, d.Series, bytesText(d.DiskBytes), bytesText(d.MemoryBytes), directory)
	})
}

type tenantsUsageCmd struct {
	printing `embed:""`

	ID string `arg:"" help:"The tenant."`
}

func (c *tenantsUsageCmd) Run(con *console) error {
	if _, err := tenant.Parse(c.ID); err != nil {
		return err
	}
	server, err := c.connect()
	if err != nil {
		return err
	}
	data, err := server.TenantUsage(con.ctx, c.ID)
	return showData(con, c.Output, data, err, func(w io.Writer, u *api.TenantUsage) {
		writeStatus(w, &u.TenantStatus)
		fmt.Fprintf(w, "\nsince\t%s\t%s\n", u.Start, u.Day)
		for _, row := range []struct {
			name string
			of   func(c *usage.Counts) int64
		}{
			{"accepted events", func(c *usage.Counts) int64 { return c.Accepted }},
			{"duplicate events", func(c *usage.Counts) int64 { return c.Duplicate }},
			{"filtered events", func(c *usage.Counts) int64 { return c.Filtered }},
			{"rejected events", func(c *usage.Counts) int64 { return c.Rejected }},
			{"queries", func(c *usage.Counts) int64 { return c.Queries }},
			{"samples read", func(c *usage.Counts) int64 { return c.Samples }},
		} {
			fmt.Fprintf(w, "%s\t%d\t%d\n", row.name, row.of(&u.SinceStart), row.of(&u.Today))
		}
	})
}
