package tsdb

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// metrics are the process's own, named quipu_tsdb_... .
type metrics struct {
	walSyncSeconds  prometheus.Histogram
	walBytes        prometheus.Counter
	walRecords      prometheus.Counter
	walDamage       prometheus.Counter
	flushes         *prometheus.CounterVec
	flushSeconds    prometheus.Histogram
	compactions     *prometheus.CounterVec
	retentionBlocks *prometheus.CounterVec
	retentionBytes  *prometheus.CounterVec
	retentionMemory *prometheus.CounterVec
	downsampled     prometheus.Counter
	downsampledFrom prometheus.Counter
	downsampledTo   prometheus.Counter
	notesRefused    prometheus.Counter
	blockDamage     prometheus.Counter
	folded          *prometheus.CounterVec

	foldedMu   sync.Mutex
	foldedSeen map[[2]string]struct{} // label values of folded so far
}

// foldedSeenMax bounds the series of the folded metric.
const foldedSeenMax = 200

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		foldedSeen: map[[2]string]struct{}{},
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
		retentionBlocks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_retention_deleted_blocks_total", Help: "Blocks that retention dropped by their age or because a tenant had too many bytes, and those of which it removed what a rule says is past.",
		}, []string{"reason"}),
		retentionBytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_retention_deleted_bytes_total", Help: "Bytes of blocks that retention gave back.",
		}, []string{"reason"}),
		retentionMemory: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_retention_deleted_memory_bytes_total", Help: "Bytes of memory that retention gave back of tenants that have too little there for a block.",
		}, []string{"reason"}),
		downsampled:     f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_downsampled_blocks_total", Help: "Blocks that were rewritten in coarser windows."}),
		downsampledFrom: f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_downsampled_read_bytes_total", Help: "Bytes of the blocks that were rewritten in coarser windows, those that they were merged with included."}),
		downsampledTo:   f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_downsampled_written_bytes_total", Help: "Bytes of the blocks that were written of them."}),
		notesRefused: f.NewCounter(prometheus.CounterOpts{
			Name: "quipu_tsdb_notes_refused_total", Help: "Exemplars and metadata that were left out: too long, or more metrics than metadata is kept for.",
		}),
		blockDamage: f.NewCounter(prometheus.CounterOpts{Name: "quipu_tsdb_block_damage_total", Help: "Blocks in which something could not be read because it is damaged or missing."}),
		folded: f.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_tsdb_folded_increments_total", Help: "Increments whose label values were replaced by (other) because their metric, or their tenant, is at its limit of series.",
		}, []string{"tenant", "metric"}),
	}
	m.retentionMemory.WithLabelValues(removedByAge)
	m.retentionMemory.WithLabelValues(removedByRule)
	for _, reason := range []string{removedByAge, removedBySize, removedByRule} {
		m.countRetained(reason, nil) // from the start, so that the first increase shows
	}
	return m
}

// countRetained counts blocks that retention dropped.
func (m *metrics) countRetained(reason string, blocks []blockInfo) {
	bytes := int64(0)
	for _, b := range blocks {
		bytes += b.Bytes
	}
	m.retentionBlocks.WithLabelValues(reason).Add(float64(len(blocks)))
	m.retentionBytes.WithLabelValues(reason).Add(float64(bytes))
}

// countDownsampled counts a compaction that was done, if it made something coarser, and the
// bytes that it wrote.
func (m *metrics) countDownsampled(c compaction, written int64) {
	coarser, read := 0, int64(0)
	for _, b := range c.blocks {
		if read += b.Bytes; b.Step < c.step {
			coarser++
		}
	}
	if coarser > 0 {
		m.downsampled.Add(float64(coarser))
		m.downsampledFrom.Add(float64(read))
		m.downsampledTo.Add(float64(written))
	}
}

func (m *metrics) startTimer(h prometheus.Histogram) (stop func()) {
	start := time.Now()
	return func() { h.Observe(time.Since(start).Seconds()) }
}

// forget gives up what names a tenant.
func (m *metrics) forget(id tenant.ID) {
	m.foldedMu.Lock()
	defer m.foldedMu.Unlock()
	for key := range m.foldedSeen {
		if key[0] == id.String() {
			delete(m.foldedSeen, key)
		}
	}
	m.folded.DeletePartialMatch(prometheus.Labels{"tenant": id.String()})
}

// countFolded names the metric that is past its limit.
func (m *metrics) countFolded(id tenant.ID, ls labels.Labels) {
	m.foldedMu.Lock()
	defer m.foldedMu.Unlock()
	key := [2]string{id.String(), ls.Get(model.MetricNameLabel)}
	if _, ok := m.foldedSeen[key]; !ok {
		if len(m.foldedSeen) >= foldedSeenMax {
			key = [2]string{increment.Other, increment.Other}
		}
		m.foldedSeen[key] = struct{}{}
	}
	m.folded.WithLabelValues(key[0], key[1]).Inc()
}
