package main

import (
	"io"
	"text/tabwriter"
	"time"

	"github.com/quipudb/quipu/internal/client"
)

// requestTimeout bounds one request; the server's own limits are lower.
const requestTimeout = 2 * time.Minute

// remote are the flags of every command that talks to a server.
type remote struct {
	Server string `default:"http://127.0.0.1:9480" env:"QUIPU_SERVER" placeholder:"URL" help:"Address of the server (default ${default})."`
	Token  string `env:"QUIPU_TOKEN" placeholder:"TOKEN" help:"API key or token to send as bearer; the variable keeps it out of the process list."`
	Tenant string `placeholder:"ID" help:"Tenant to send as X-Scope-OrgID; the server must run with --tenant.header=X-Scope-OrgID, or the key be the operator's."`
}

// printing are the flags of every command that prints what a server keeps.
type printing struct {
	remote `embed:""`

	Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// printTable prints what write writes, cells with tabs between them, in columns.
func printTable(out io.Writer, write func(w io.Writer)) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	write(w)
	return w.Flush()
}

func (r *remote) connect() (*client.Client, error) {
	return client.New(client.Options{Server: r.Server, Token: r.Token, Tenant: r.Tenant, Timeout: requestTimeout})
}
