package ruler

import (
	"context"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/tenant"
)

// notifiers send alerts: each tenant that has any has one of upstream's notifiers, with
// a queue and a sender for each of its Alertmanagers. So one that is slow, and a tenant
// that sends very much, hold up no other tenant's alerts.
type notifiers struct {
	externalURL string
	logger      *slog.Logger
	reg         prometheus.Registerer

	mu      sync.Mutex
	config  Alerting
	stopped bool
	tenants map[tenant.ID]*tenantNotifier
}

// tenantNotifier is a notifier that runs.
type tenantNotifier struct {
	*notifier.Manager
	done    chan struct{} // closed when it has stopped
	metrics *trackedRegisterer
}

// trackedRegisterer knows what was registered by way of it.
type trackedRegisterer struct {
	prometheus.Registerer
	all []prometheus.Collector
}

// MustRegister registers and notes collectors.
func (t *trackedRegisterer) MustRegister(all ...prometheus.Collector) {
	t.Registerer.MustRegister(all...)
	t.all = append(t.all, all...)
}

// REQUIRES: notifiers.mu, so that no other notifier of the tenant is made before
func (t *trackedRegisterer) unregister() {
	if t == nil {
		return
	}
	for _, c := range t.all {
		t.Unregister(c)
	}
}

// unregister makes room for other notifiers of the same tenants.
//
// REQUIRES: notifiers.mu
func unregister(all map[tenant.ID]*tenantNotifier) {
	for _, m := range all {
		m.metrics.unregister()
	}
}

func newNotifiers(c Alerting, externalURL string, logger *slog.Logger, reg prometheus.Registerer) *notifiers {
	return &notifiers{externalURL: externalURL, logger: logger, reg: reg, config: c, tenants: map[tenant.ID]*tenantNotifier{}}
}

// sender is the NotifyFunc of a tenant's groups.
func (n *notifiers) sender(id tenant.ID) rules.NotifyFunc {
	send := rules.SendAlerts(tenantSender{n, id}, n.externalURL)
	return func(ctx context.Context, expr string, alerts ...*rules.Alert) {
		if len(alerts) > 0 {
			send(ctx, expr, alerts...)
		}
	}
}

// tenantSender names the tenant in alerts on their way out.
type tenantSender struct {
	notifiers *notifiers
	tenant    tenant.ID
}

// Send queues alerts.
func (s tenantSender) Send(alerts ...*notifier.Alert) {
	m, label := s.notifiers.of(s.tenant)
	if m == nil {
		return
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, a := range alerts {
		// Whatever the rules say: whose alert it is, is not theirs to decide.
		b.Reset(a.Labels)
		a.Labels = b.Set(label, s.tenant.String()).Labels()
	}
	m.Send(alerts...)
}

// of returns the notifier of a tenant, made at the first use, nil where there is nowhere
// to send alerts, and the label for the tenant.
func (n *notifiers) of(id tenant.ID) (*tenantNotifier, string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	label := n.config.TenantLabel
	if label == "" {
		label = tenantLabelDefault
	}
	if m := n.tenants[id]; m != nil || n.stopped {
		return m, label
	}
	managers := n.config.of(id)
	if len(managers) == 0 {
		return nil, label
	}
	m, err := n.start(id, managers)
	if err != nil {
		n.logger.Error("alerts cannot be sent", "tenant", id, "err", err)
		return nil, label
	}
	n.tenants[id] = m
	return m, label
}

// start runs a notifier.
//
// REQUIRES: n.mu
func (n *notifiers) start(id tenant.ID, managers config.AlertmanagerConfigs) (*tenantNotifier, error) {
	capacity := n.config.QueueCapacity
	if capacity == 0 {
		capacity = queueCapacityDefault
	}
	o := &notifier.Options{QueueCapacity: capacity, DrainOnShutdown: true}
	m := &tenantNotifier{done: make(chan struct{})}
	if n.reg != nil {
		m.metrics = &trackedRegisterer{Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"tenant": id.String()}, n.reg)}
		o.Registerer = m.metrics
	}
	m.Manager = notifier.NewManager(o, model.UTF8Validation, n.logger.With("tenant", id))
	if err := m.ApplyConfig(n.upstreamConfig(managers)); err != nil {
		m.metrics.unregister()
		return nil, err
	}
	targets := make(chan map[string][]*targetgroup.Group)
	go func() {
		defer close(m.done)
		m.Run(targets)
	}()
	targets <- targetsOf(managers)
	targets <- nil // the first has been taken in once the second is received
	return m, nil
}

// upstreamConfig is the configuration as upstream's notifier reads it.
//
// REQUIRES: n.mu
func (n *notifiers) upstreamConfig(managers config.AlertmanagerConfigs) *config.Config {
	c := &config.Config{GlobalConfig: config.DefaultGlobalConfig}
	c.GlobalConfig.ExternalLabels = n.config.external()
	c.GlobalConfig.MetricNameValidationScheme = model.UTF8Validation
	c.AlertingConfig = config.AlertingConfig{AlertRelabelConfigs: n.config.AlertRelabelConfigs, AlertmanagerConfigs: managers}
	return c
}

// targetsOf are the static targets, by the names that ToMap gives.
func targetsOf(managers config.AlertmanagerConfigs) map[string][]*targetgroup.Group {
	out := map[string][]*targetgroup.Group{}
	for name, c := range managers.ToMap() {
		for _, sd := range c.ServiceDiscoveryConfigs {
			if static, ok := sd.(discovery.StaticConfig); ok {
				out[name] = append(out[name], static...)
			}
		}
	}
	return out
}

// configure puts another configuration in force: notifiers are made anew when they are
// needed. What is queued is still sent.
func (n *notifiers) configure(c Alerting) {
	n.mu.Lock()
	old := n.tenants
	n.config, n.tenants = c, map[tenant.ID]*tenantNotifier{}
	unregister(old)
	n.mu.Unlock()
	for _, m := range old {
		m.Stop()
	}
}

// forget ends the notifier of a tenant. What is queued is still sent.
func (n *notifiers) forget(id tenant.ID) {
	n.mu.Lock()
	m := n.tenants[id]
	delete(n.tenants, id)
	if m != nil {
		m.metrics.unregister()
	}
	n.mu.Unlock()
	if m != nil {
		m.Stop()
	}
}

// stopTimeMax bounds how long alerts that wait may hold up a stop.
const stopTimeMax = 5 * time.Second

// stop sends what is queued and ends.
func (n *notifiers) stop() {
	n.mu.Lock()
	old := n.tenants
	n.tenants, n.stopped = map[tenant.ID]*tenantNotifier{}, true
	unregister(old)
	n.mu.Unlock()
	for _, m := range old {
		m.Stop()
	}
	timeout := time.NewTimer(stopTimeMax)
	defer timeout.Stop()
	for id, m := range old {
		select {
		case <-m.done:
		case <-timeout.C:
			n.logger.Warn("alerts were still being sent and are lost", "tenant", id)
			return
		}
	}
}

func (n *notifiers) externalLabels() labels.Labels {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config.external()
}

// alertmanagers are those of a tenant, whether or not it has sent an alert.
func (n *notifiers) alertmanagers(id tenant.ID) (active, dropped []*url.URL) {
	m, _ := n.of(id)
	if m == nil {
		return nil, nil
	}
	return m.Alertmanagers(), m.DroppedAlertmanagers()
}
