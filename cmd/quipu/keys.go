package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/client"
	"github.com/quipudb/quipu/internal/vfs"
)

// keysCmd manages the API keys of a server.
type keysCmd struct {
	Create keysCreateCmd `cmd:"" help:"Make an API key and print it, once."`
	List   keysListCmd   `cmd:"" help:"List API keys, also those that are revoked or expired."`
	Revoke keysRevokeCmd `cmd:"" help:"End API keys."`
}

type keysCreateCmd struct {
	printing    `embed:""`
	DataDir     string         `name:"data.dir" type:"path" placeholder:"DIR" help:"Directory of the data to make the key in, instead of asking a server: for the first one. A server that runs takes it within a second."`
	Of          string         `placeholder:"ID" help:"Tenant that the key is of; * for a key of the operator's, which may name any tenant (default: that of the credential)."`
	Name        string         `placeholder:"TEXT" help:"What the key is for."`
	Permissions []string       `required:"" name:"permission" short:"p" placeholder:"PERMISSION" help:"events:write, metrics:write, metrics:read, rules:write, admin or process:read; several with commas."`
	Plan        string         `placeholder:"NAME" help:"Plan of the configuration (auth.plans) that bounds the key (default: the tenant's)."`
	ExpiresIn   model.Duration `placeholder:"30d" help:"Time after which the key is refused (default: never)."`
}

// Run makes a key. Its text goes to stdout and what else there is to say to stderr, so
// that the text can be put somewhere.
func (c *keysCreateCmd) Run(con *console) error {
	var expires time.Time
	if c.ExpiresIn != 0 {
		expires = con.now().Add(time.Duration(c.ExpiresIn)).UTC().Truncate(time.Second)
	}
	made, err := c.create(con, expires)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(con.out, made)
	}
	fmt.Fprintf(con.err, "key %s of tenant %s: %s. It is shown this once:\n", made.ID, made.Tenant, strings.Join(made.Permissions, ", "))
	fmt.Fprintln(con.out, made.Text)
	return nil
}

func (c *keysCreateCmd) create(con *console, expires time.Time) (client.Key, error) {
	if c.DataDir == "" {
		conn, err := c.connect()
		if err != nil {
			return client.Key{}, err
		}
		return conn.CreateKey(con.ctx, client.KeyWanted{Tenant: c.Of, Name: c.Name, Permissions: c.Permissions, Plan: c.Plan, Expires: expires})
	}
	if c.Of == "" {
		return client.Key{}, fmt.Errorf("--of: name the tenant of the key, or * for a key of the operator's")
	}
	if info, err := os.Stat(c.DataDir); err != nil {
		return client.Key{}, fmt.Errorf("--data.dir: %w", err)
	} else if !info.IsDir() {
		return client.Key{}, fmt.Errorf("--data.dir: %s is no directory", c.DataDir)
	}
	keys, err := auth.OpenKeys(vfs.OS{}, c.DataDir, con.now, rand.Reader)
	if err != nil {
		return client.Key{}, err
	}
	k, text, err := keys.Create(auth.NewKey{Tenant: c.Of, Name: c.Name, Permissions: c.Permissions, Plan: c.Plan, Expires: expires})
	return client.Key{
		ID: k.ID, Tenant: k.Tenant, Name: k.Name, Permissions: k.Permissions, Plan: k.Plan, State: "live", Created: k.Created, Expires: k.Expires, Text: text,
	}, err
}

type keysListCmd struct {
	printing `embed:""`
	Of       string `placeholder:"ID" help:"Tenant whose keys are listed (default: all that the credential may see)."`
}

// Run prints a table.
func (c *keysListCmd) Run(con *console) error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	keys, err := conn.Keys(con.ctx, c.Of)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(con.out, keys)
	}
	date := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format(time.DateOnly)
	}
	return printTable(con.out, func(w io.Writer) {
		fmt.Fprintln(w, "ID\tTENANT\tSTATE\tPERMISSIONS\tPLAN\tCREATED\tEXPIRES\tLAST USED\tNAME")
		for _, k := range keys {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, k.State, strings.Join(k.Permissions, ","), k.Plan, date(k.Created), date(k.Expires), date(k.Used.Last), k.Name)
		}
	})
}

type keysRevokeCmd struct {
	remote
	IDs []string `arg:"" name:"id" help:"Ids of keys, as the list shows them."`
}

// Run revokes one key after the other, until one fails.
func (c *keysRevokeCmd) Run(con *console) error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	for _, id := range c.IDs {
		k, err := conn.RevokeKey(con.ctx, id)
		if err != nil {
			return fmt.Errorf("revoke %s: %w", id, err)
		}
		fmt.Fprintf(con.err, "key %s of tenant %s is revoked\n", k.ID, k.Tenant)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
