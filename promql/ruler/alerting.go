package ruler

import (
	"errors"
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/quipudb/quipu/internal/tenant"
)

// Alerting is the section "alerting" of the server's configuration: where alerts are
// sent, and how. Its parts are Prometheus's.
type Alerting struct {
	Alertmanagers       config.AlertmanagerConfigs `yaml:"alertmanagers"`
	AlertRelabelConfigs []*relabel.Config          `yaml:"alert_relabel_configs"`
	// ExternalLabels are added to every alert that has none of the name.
	ExternalLabels map[string]string `yaml:"external_labels"`
	// TenantLabel is the label of an alert on its way out that names the tenant; ""
	// is "tenant".
	TenantLabel string `yaml:"tenant_label"`
	// QueueCapacity is how many alerts of one tenant wait for one Alertmanager; past it
	// the oldest are dropped. 0: 1,000.
	QueueCapacity int `yaml:"queue_capacity"`
	// Tenants have Alertmanagers of their own, instead of all the above that they name.
	Tenants map[string]TenantAlerting `yaml:"tenants"`
}

// TenantAlerting is where the alerts of one tenant are sent.
type TenantAlerting struct {
	Alertmanagers config.AlertmanagerConfigs `yaml:"alertmanagers"`
}

const (
	tenantLabelDefault   = "tenant"
	queueCapacityDefault = 1000
)

// Validate says which field of the section is wrong.
func (a Alerting) Validate() error {
	for _, c := range a.AlertRelabelConfigs {
		if c == nil {
			return errors.New("alert_relabel_configs has an empty entry")
		}
		if err := c.Validate(model.UTF8Validation); err != nil {
			return fmt.Errorf("alert_relabel_configs: %w", err)
		}
	}
	if err := validateAlertmanagers("alertmanagers", a.Alertmanagers); err != nil {
		return err
	}
	for name, t := range a.Tenants {
		if _, err := tenant.Parse(name); err != nil {
			return fmt.Errorf("tenants: %w", err)
		}
		if err := validateAlertmanagers("tenants."+name+".alertmanagers", t.Alertmanagers); err != nil {
			return err
		}
	}
	for name := range a.ExternalLabels {
		if !model.UTF8Validation.IsValidLabelName(name) {
			return fmt.Errorf("external_labels: %q is not the name of a label", name)
		}
	}
	switch {
	case a.TenantLabel != "" && !model.UTF8Validation.IsValidLabelName(a.TenantLabel):
		return fmt.Errorf("tenant_label: %q is not the name of a label", a.TenantLabel)
	case a.QueueCapacity < 0:
		return fmt.Errorf("queue_capacity is %d, it must not be negative", a.QueueCapacity)
	}
	return nil
}

func validateAlertmanagers(field string, all config.AlertmanagerConfigs) error {
	for i, c := range all {
		if c == nil {
			return fmt.Errorf("%s[%d] is empty", field, i)
		}
		if err := c.Validate(model.UTF8Validation); err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		for _, sd := range c.ServiceDiscoveryConfigs {
			if _, ok := sd.(discovery.StaticConfig); !ok {
				return fmt.Errorf("%s[%d]: %s_sd_configs is not supported, only static_configs", field, i, sd.Name())
			}
		}
		if len(c.ServiceDiscoveryConfigs) == 0 {
			return fmt.Errorf("%s[%d] has no static_configs", field, i)
		}
	}
	return nil
}

// of are the Alertmanagers of a tenant.
func (a *Alerting) of(id tenant.ID) config.AlertmanagerConfigs {
	if t, ok := a.Tenants[id.String()]; ok {
		return t.Alertmanagers
	}
	return a.Alertmanagers
}

func (a *Alerting) external() labels.Labels { return labels.FromMap(a.ExternalLabels) }
