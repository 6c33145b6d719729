package main

import (
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

func (r *remote) connect() (*client.Client, error) {
	return client.New(client.Options{Server: r.Server, Token: r.Token, Tenant: r.Tenant, Timeout: requestTimeout})
}
