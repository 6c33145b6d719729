package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb"
)

// serveAuth are the flags about who may do what.
type serveAuth struct {
	Auth         string `default:"none" enum:"none,required" help:"none: everybody who reaches the server may do everything, so it listens on a loopback address only; required: every request needs an API key or a token."`
	NoneAnywhere bool   `name:"auth.none-anywhere" help:"With --auth=none: listen on any address. Everybody who reaches it may read, write and delete everything."`
	WebConfig    string `name:"web.config.file" type:"path" placeholder:"FILE" help:"TLS, client certificates and users of Basic authentication, as Prometheus's servers read them. With --auth=required its users are operators."`
	AuditLog     string `name:"audit.log" type:"path" placeholder:"FILE" help:"File that says who did what (default: @audit/audit.log in the directory of the data)."`
}

// checkListen refuses what would let anyone on the network do everything, or choose a
// tenant.
func (c *serveCmd) checkListen(logger *slog.Logger) error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("--listen=%s: %w", c.Listen, err)
	}
	switch {
	case c.Auth == "required" && c.NoneAnywhere:
		return errors.New("--auth.none-anywhere is for --auth=none, and --auth is required")
	case c.Auth == "required", auth.IsLoopback(host):
		return nil
	case c.TenantHeader != "":
		return fmt.Errorf("--tenant.header lets every client choose its tenant, so without --auth=required it is only for a loopback address; --listen is %s", c.Listen)
	case !c.NoneAnywhere:
		return fmt.Errorf("--listen=%s is no loopback address, and there are no credentials: ask for them with --auth=required, or let everybody who reaches it read, write and delete everything with --auth.none-anywhere", c.Listen)
	}
	logger.Warn("everybody who reaches this address may read, write and delete everything (--auth.none-anywhere)", "listen", c.Listen)
	return nil
}

// checkWebConfig says what is wrong with --web.config.file.
func (c *serveAuth) checkWebConfig() error {
	if c.WebConfig == "" {
		return nil
	}
	if err := toolkit.Validate(c.WebConfig); err != nil {
		return fmt.Errorf("--web.config.file: %w", err)
	}
	return nil
}

// serveOn answers requests at a listener, by --web.config.file where there is one.
func (c *serveAuth) serveOn(l net.Listener, server *http.Server, logger *slog.Logger) error {
	if c.WebConfig == "" {
		return server.Serve(l)
	}
	return toolkit.Serve(l, server, &toolkit.FlagConfig{WebConfigFile: &c.WebConfig}, logger)
}

// scheme is how the server's address begins.
func (c *serveAuth) scheme() string {
	text, err := os.ReadFile(c.WebConfig)
	var said struct {
		TLS map[string]any `yaml:"tls_server_config"`
	}
	if err == nil && yaml.Unmarshal(text, &said) == nil && len(said.TLS) > 0 {
		return "https"
	}
	return "http"
}

// guards are who says who makes a request, and where acts are written.
type guards struct {
	auth    *auth.Authenticator // nil: --auth=none
	audit   *auth.AuditLog
	dataDir string
}

func (g *guards) close() error {
	var err error
	if g.auth != nil {
		err = g.auth.Close()
	}
	return errors.Join(err, g.audit.Close())
}

// dropTenant forgets the keys of a tenant that is deleted: they are none of one that is
// made again, also where nobody asks for them now.
func (g *guards) dropTenant(_ context.Context, id tenant.ID) error {
	if g.auth != nil {
		_, err := g.auth.DropTenant(id)
		return err
	}
	keys, err := auth.OpenKeys(vfs.OS{}, g.dataDir, time.Now, rand.Reader)
	if err == nil {
		_, err = keys.DropTenant(id)
	}
	return err
}

// openGuards opens the audit log and, where credentials are required, keys and issuers.
func (c *serveCmd) openGuards(db *tsdb.DB, logger *slog.Logger, reg *prometheus.Registry, conf *configs) (*guards, error) {
	name := c.AuditLog
	if name == "" {
		name = filepath.Join(c.DataDir, "@audit", "audit.log")
	}
	log, err := auth.OpenAuditLog(name, time.Now, logger)
	if err != nil {
		return nil, err
	}
	g := &guards{audit: log, dataDir: c.DataDir}
	conf.unasked = func(why string, err error) {
		auth.Audit(log.Context(context.Background()), "reload configuration", why, err)
	}
	if c.Auth != "required" {
		return g, nil
	}
	g.auth, err = auth.New(auth.Options{
		DataDir: c.DataDir, Logger: logger, Registerer: reg, TenantHeader: c.TenantHeader,
		Config: conf.get().Auth, Audit: log, WebConfig: c.WebConfig,
		PlanOf: func(id tenant.ID) string {
			s, err := db.Settings(id)
			if err != nil {
				return "" // what is wrong with the tenant is said where its data is asked for
			}
			return s.Plan
		},
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if g.auth.Empty() {
		logger.Warn(fmt.Sprintf(`there is no API key yet, so every request is refused: make the first one with "quipu keys create --data.dir=%s --of='*' --permission=admin"`, c.DataDir))
	}
	conf.subscribe(func(old, new *configFile) {
		if reflect.DeepEqual(old.Auth, new.Auth) {
			return // what was verified stays so
		}
		if err := g.auth.Apply(new.Auth); err != nil {
			logger.Error("the issuers of the configuration before stay in force", "err", err)
		}
	})
	return g, nil
}
