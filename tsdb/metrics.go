package tsdb

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/tenant"
)

// metrics are the process's own, named quipu_tsdb_... .
type metrics struct {
	walSyncSeconds prometheus.Histogram
	walBytes       prometheus.Counter
	walRecords     prometheus.Counter
	walDamage      prometheus.Counter
	flushes        *prometheus.CounterVec
	flushSeconds   prometheus.Histogram
	compactions    *prometheus.CounterVec
	blocksDropped  prometheus.Counter
	folded         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		walSyncSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "quipu_tsdb_wal_sync_seconds", Help: "Time one fsync of the write-ahead log took.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14),
		}),
		walBytes:   f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_wal_bytes_total", Help: "Bytes written to the write-ahead log."}),
		walRecords: f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_wal_records_total", Help: "Batches written to the write-ahead log."}),
		walDamage:  f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_wal_damage_total", Help: "Damaged places met in the write-ahead log."}),
		flushes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_flushes_total", Help: "Flushes of a tenant's memtables to blocks.",
		}, []string{"result"}),
		flushSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "quipu_tsdb_flush_seconds", Help: "Time one flush took.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
		}),
		compactions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_compactions_total", Help: "Merges of a tenant's blocks into one.",
		}, []string{"result"}),
		blocksDropped: f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_blocks_dropped_total", Help: "Blocks dropped by retention."}),
		folded: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_folded_increments_total", Help: "Increments whose label values were replaced by (other) because their metric is at its limit of series.",
		}, []string{"tenant", "metric"}),
	}
}

func (m *metrics) startTimer(h prometheus.Histogram) (stop func()) {
	start := time.Now()
	return func() { h.Observe(time.Since(start).Seconds()) }
}

// countFolded names the metric that is past its limit.
func (m *metrics) countFolded(id tenant.ID, ls labels.Labels) {
	m.folded.WithLabelValues(id.String(), ls.Get(model.MetricNameLabel)).Inc()
}
