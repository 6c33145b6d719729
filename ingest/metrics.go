package ingest

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// metrics are the process's own. Tenants past the first labelsMax share one
// label value, so that tenants cannot make the process's metrics grow.
type metrics struct {
	labelsMax int
	events    *prometheus.CounterVec
	batches   *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	refused   *prometheus.CounterVec
	overRate  *prometheus.CounterVec

	mu      sync.RWMutex
	tenants map[tenant.ID]*tenantMetrics
	other   *tenantMetrics // nil until a tenant is past labelsMax
}

// tenantMetrics are the children of one label value, looked up once. They show
// zeros from the tenant's first batch on, so that a first rejection is an
// increase.
type tenantMetrics struct {
	label                         string
	lag                           lagCounts
	batches                       *prometheus.CounterVec // by format
	bytes, refused                prometheus.Counter
	accepted, duplicate, filtered prometheus.Counter
	rejected                      [reasons]prometheus.Counter
	filteredBy                    [filters]prometheus.Counter
	overRate                      map[string]prometheus.Counter // by unit
}

func newMetrics(reg prometheus.Registerer, labelsMax int) (*metrics, error) {
	m := &metrics{
		labelsMax: labelsMax,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_events_total",
			Help: "Events received, by the one verdict each ended in and, where that is rejected or filtered for another reason than that no rule counts them, the reason.",
		}, []string{"tenant", "verdict", "reason"}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_batches_total",
			Help: "Batches of events received, readable or not, by format.",
		}, []string{"tenant", "format"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_bytes_total",
			Help: "Bytes of batches received, after decompression.",
		}, []string{"tenant"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_refused_increments_total",
			Help: "Increments of events that storage left out of a batch, such as those of a gauge past its limit of series.",
		}, []string{"tenant"}),
		overRate: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ingest_refused_batches_total",
			Help: "Batches refused whole because their tenant is past a limit, by its field. Their events have no verdict.",
		}, []string{"tenant", "reason"}),
		tenants: map[tenant.ID]*tenantMetrics{},
	}
	for _, c := range []prometheus.Collector{m.events, m.batches, m.bytes, m.refused, m.overRate, newLagCollector(m)} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of ingest: %w", err)
		}
	}
	return m, nil
}

// tenant returns the counters that id counts under.
func (m *metrics) tenant(id tenant.ID) *tenantMetrics {
	m.mu.RLock()
	t, other, full := m.tenants[id], m.other, len(m.tenants) >= m.labelsMax
	m.mu.RUnlock()
	switch {
	case t != nil:
		return t
	case full && other != nil:
		return other
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tenants[id]; t != nil {
		return t
	}
	if len(m.tenants) < m.labelsMax {
		t := m.children(id.String())
		m.tenants[id] = t
		return t
	}
	if m.other == nil {
		m.other = m.children(increment.Other)
	}
	return m.other
}

func (m *metrics) children(label string) *tenantMetrics {
	t := &tenantMetrics{
		label:     label,
		batches:   m.batches.MustCurryWith(prometheus.Labels{"tenant": label}),
		bytes:     m.bytes.WithLabelValues(label),
		refused:   m.refused.WithLabelValues(label),
		accepted:  m.events.WithLabelValues(label, "accepted", ""),
		duplicate: m.events.WithLabelValues(label, "duplicate", ""),
		filtered:  m.events.WithLabelValues(label, "filtered", ""),
		overRate:  map[string]prometheus.Counter{},
	}
	for _, unit := range []string{unitEvents, unitBytes} {
		t.overRate[unit] = m.overRate.WithLabelValues(label, (&RateError{Unit: unit}).Limit())
	}
	for f := notFiltered + 1; f < filters; f++ {
		t.filteredBy[f] = m.events.WithLabelValues(label, "filtered", f.String())
	}
	for r := range reasons {
		t.rejected[r] = m.events.WithLabelValues(label, "rejected", r.String())
	}
	return t
}
