package ruler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/rules"
)

// metrics are those of the evaluation of rules. What fails names its tenant; the rest
// would be a series for each.
type metrics struct {
	groups, rules, badFiles prometheus.GaugeFunc
	evaluations             prometheus.Counter
	failures, missed        *prometheus.CounterVec
	seconds                 prometheus.Histogram
	lateSamples             prometheus.Counter
	lateSkipped             prometheus.Counter
}

func newMetrics(r *Ruler) *metrics {
	count := func(of func(t *tenantRules) int) func() float64 {
		return func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			n := 0
			for _, t := range r.tenants {
				n += of(t)
			}
			return float64(n)
		}
	}
	return &metrics{
		groups: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "quipu_ruler_groups", Help: "Groups of rules that are evaluated, of all tenants.",
		}, count(func(t *tenantRules) int { return len(t.groups) })),
		rules: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "quipu_ruler_rules", Help: "Rules that are evaluated, of all tenants.",
		}, count(func(t *tenantRules) (n int) {
			for _, g := range t.groups {
				n += len(g.rules.Rules())
			}
			return n
		})),
		badFiles: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "quipu_ruler_bad_files", Help: "Files of rules that are wrong, of all tenants: what was loaded of them before stays in force.",
		}, count(func(t *tenantRules) int { return len(t.bad) })),
		evaluations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "quipu_ruler_evaluations_total", Help: "Evaluations of rules.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ruler_evaluation_failures_total", Help: "Evaluations of rules that failed; the rules' health says why.",
		}, []string{"tenant"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quipu_ruler_missed_iterations_total", Help: "Times at which a group was not evaluated, because the one before took too long.",
		}, []string{"tenant"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "quipu_ruler_group_seconds", Help: "Time that the evaluation of a group took.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 120},
		}),
		lateSamples: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "quipu_ruler_late_samples_total", Help: "Samples of recording rules that were recorded otherwise because of late events.",
		}),
		lateSkipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "quipu_ruler_late_intervals_skipped_total", Help: "Times that recording rules of a group were not evaluated again as far back as late events go: the rest is past the horizon.",
		}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.groups, m.rules, m.badFiles, m.evaluations, m.failures, m.missed, m.seconds, m.lateSamples, m.lateSkipped}
}

// count counts one evaluation of a group.
func (m *metrics) count(g *group, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	all := g.rules.Rules()
	m.evaluations.Add(float64(len(all)))
	failed := 0
	for _, rule := range all {
		if rule.Health() == rules.HealthBad {
			failed++
		}
	}
	if failed > 0 {
		m.failures.WithLabelValues(g.tenant.id.String()).Add(float64(failed))
	}
}
