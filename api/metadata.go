package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/internal/scope"
)

// Metric is what a tenant's metric is.
type Metric struct {
	Name string
	Type model.MetricType
	Help string
	Unit string
}

// withMetadata reads the tenant's metrics before Prometheus's handler, which
// takes metadata from the targets it scrapes: the request's context carries them
// as one target's. No other route has it, so none shows a target.
func (a *api) withMetadata(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := scope.From(r.Context())
		if !ok {
			panic("api: a request for metadata without a scope")
		}
		metrics, err := a.tenants.Metrics(r.Context(), s.Tenant)
		if err != nil {
			respondError(w, a.logger, http.StatusInternalServerError, errorInternal, fmt.Sprintf("read the metrics of tenant %s: %v", s.Tenant, err))
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), metadataKey{}, metadataStore(metrics))))
	})
}

type metadataKey struct{}

// targets is the retriever of Prometheus's handlers.
func targets(ctx context.Context) v1.TargetRetriever {
	if store, ok := ctx.Value(metadataKey{}).(metadataStore); ok {
		t := scrape.NewTarget(labels.EmptyLabels(), &config.ScrapeConfig{}, nil, nil)
		t.SetMetadataStore(store)
		return metadataTarget{target: t}
	}
	return noTargets{}
}

// metadataTarget has one target, which is there for its metadata alone.
type metadataTarget struct {
	noTargets
	target *scrape.Target
}

func (m metadataTarget) TargetsActive() map[string][]*scrape.Target {
	return map[string][]*scrape.Target{"metrics": {m.target}}
}

// metadataStore implements scrape.MetricMetadataStore.
type metadataStore []Metric

func (s metadataStore) ListMetadata() []scrape.MetricMetadata {
	out := make([]scrape.MetricMetadata, len(s))
	for i, m := range s {
		out[i] = m.metadata()
	}
	return out
}

func (s metadataStore) GetMetadata(name string) (scrape.MetricMetadata, bool) {
	for _, m := range s {
		if m.Name == name {
			return m.metadata(), true
		}
	}
	return scrape.MetricMetadata{}, false
}

func (s metadataStore) LengthMetadata() int { return len(s) }

func (s metadataStore) SizeMetadata() int {
	n := 0
	for _, m := range s {
		n += len(m.Name) + len(m.Type) + len(m.Help) + len(m.Unit)
	}
	return n
}

func (m Metric) metadata() scrape.MetricMetadata {
	return scrape.MetricMetadata{MetricFamily: m.Name, Type: m.Type, Help: m.Help, Unit: m.Unit}
}
