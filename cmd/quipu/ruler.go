package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler"
	"github.com/quipudb/quipu/tsdb"
)

// externalURL is where people reach the server, for links in alerts.
func (c *serveCmd) externalURL() (*url.URL, error) {
	if c.ExternalURL == "" {
		return &url.URL{Scheme: c.scheme(), Host: c.Listen}, nil
	}
	u, err := url.Parse(strings.TrimSuffix(c.ExternalURL, "/"))
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = errors.New("it must begin with http:// or https:// and a host")
	}
	if err != nil {
		return nil, fmt.Errorf("--web.external-url=%s: %w", c.ExternalURL, err)
	}
	return u, nil
}

// ruler makes what evaluates the rules of all tenants.
func (c *serveCmd) ruler(db *tsdb.DB, engine upstream.QueryEngine, logger *slog.Logger, reg *prometheus.Registry, conf *configs) (*ruler.Ruler, error) {
	external, err := c.externalURL()
	if err != nil {
		return nil, err
	}
	said := conf.get()
	r, err := ruler.New(ruler.Options{
		Store: db, Queryable: db, History: db, Engine: engine, Parser: promql.NewParser(), Files: ruler.NewFiles(c.DataDir),
		ExternalURL: external, Logger: logger, Reg: reg, Config: said.Rules, Alerting: said.Alerting,
	})
	if err != nil {
		return nil, err
	}
	conf.subscribe(func(_, next *configFile) {
		if err := r.Configure(next.Rules, next.Alerting); err != nil {
			logger.Error("the configuration of rules is not in force", "err", err)
		}
	})
	return r, nil
}

// background runs work until stop is called, which waits for its end.
func background(work func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
