package session

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the process's own, of all tables. A nil one counts nothing.
type Metrics struct {
	open    prometheus.Gauge
	settled [reasons]prometheus.Counter
}

// reason is why a session was counted.
type reason int

const (
	reasonEnded reason = iota
	reasonLimit
	reasons
)

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{open: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "quipu_ingest_open_sessions", Help: "Sessions of all tenants that have not ended yet, and so are not counted.",
	})}
	settled := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quipu_ingest_sessions_total", Help: "Sessions that were counted, by reason: they had ended, or, because of the limit of open sessions, early.",
	}, []string{"reason"})
	m.settled[reasonEnded], m.settled[reasonLimit] = settled.WithLabelValues("ended"), settled.WithLabelValues("limit")
	for _, c := range []prometheus.Collector{m.open, settled} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of sessions: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) opened(n int) {
	if m != nil {
		m.open.Add(float64(n))
	}
}

func (m *Metrics) counted(why reason, n int) {
	if m != nil {
		m.settled[why].Add(float64(n))
	}
}
