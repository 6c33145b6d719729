package api

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/notifications"
)

// Prometheus's handlers call all of the following without asking whether they
// are nil.

// noTargets: nothing is scraped.
type noTargets struct{}

func (noTargets) ScrapePools() []string                       { return []string{} }
func (noTargets) TargetsActive() map[string][]*scrape.Target  { return nil }
func (noTargets) TargetsDropped() map[string][]*scrape.Target { return nil }
func (noTargets) TargetsDroppedCounts() map[string]int        { return map[string]int{} }
func (noTargets) ScrapePoolConfig(pool string) (*config.ScrapeConfig, error) {
	return nil, fmt.Errorf("there is no scrape pool %q", pool)
}

// noAlertmanagers: no alert is sent where there is no Ruler.
type noAlertmanagers struct{}

func (noAlertmanagers) Alertmanagers() []*url.URL        { return nil }
func (noAlertmanagers) DroppedAlertmanagers() []*url.URL { return nil }

// noRules: no rule is evaluated where there is no Ruler.
type noRules struct{}

func (noRules) RuleGroups() []*rules.Group           { return nil }
func (noRules) AlertingRules() []*rules.AlertingRule { return nil }

// samplesOnly is a Queryable whose series are computed on read, so that there
// are no chunks of samples to hand out.
type samplesOnly struct{ storage.Queryable }

func (samplesOnly) ChunkQuerier(int64, int64) (storage.ChunkQuerier, error) {
	return nil, errors.New("series are computed on read and have no chunks: ask for samples")
}

func noNotifications() []notifications.Notification { return []notifications.Notification{} }

func noSubscription() (<-chan notifications.Notification, func(), bool) {
	return nil, func() {}, false
}
