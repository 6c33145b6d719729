package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// sessions returns what makes a tenant's open sessions, which storage keeps in step with
// its log.
func (c *serveCmd) sessions(reg prometheus.Registerer) (func(tenant.ID) tsdb.State, error) {
	m, err := session.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	return func(tenant.ID) tsdb.State {
		return session.NewTable(session.Options{Quiet: c.SessionsQuiet, Metrics: m})
	}, nil
}
