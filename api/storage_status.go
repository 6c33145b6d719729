package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/internal/tenant"
)

// Inventory says what is stored of a tenant.
type Inventory interface {
	// SeriesStats counts the tenant's series by their labels and returns the limit
	// largest of each list.
	SeriesStats(ctx context.Context, id tenant.ID, limit int) (*SeriesStats, error)
	// Blocks are the tenant's blocks, by their times.
	Blocks(ctx context.Context, id tenant.ID) ([]tsdb.BlockMeta, error)
}

// SeriesStats are in the form of Prometheus's API, and more. Its head is all that is
// stored, in memory and in blocks: what the limits of series count.
type SeriesStats struct {
	v1.TSDBStatus
	Storage StorageStats `json:"storage"`
	// Warnings say what they leave out.
	Warnings []string `json:"-"`
}

// StorageStats say what a tenant's series take. Lists have the largest first.
type StorageStats struct {
	Blocks     int          `json:"blocks"`
	BlockBytes int64        `json:"blockBytes"` // on disk, with index and unions
	SeriesCost              // of all
	ByKind     []SeriesCost `json:"byKind"`
	ByMetric   []SeriesCost `json:"byMetric"`
	// ByEventRule are the metrics of all event rules in force, and WithoutEventRule all
	// others together: recorded, sent as samples, or of rules that are no more.
	ByEventRule      []SeriesCost `json:"byEventRule"`
	WithoutEventRule SeriesCost   `json:"withoutEventRule"`
	// ByLabel has the labels with most values.
	ByLabel []LabelCost   `json:"byLabel"`
	Churn   []SeriesChurn `json:"churn"` // by day
}

// SeriesCost is what some series take.
type SeriesCost struct {
	Name   string `json:"name,omitempty"`
	Kind   string `json:"kind,omitempty"` // of a metric
	Series int    `json:"series"`
	// Increments are the windows of the grid with an increment, and samples.
	Increments  int64 `json:"increments"`
	Chunks      int   `json:"chunks"`
	ChunkBytes  int64 `json:"chunkBytes"`
	MemoryBytes int64 `json:"memoryBytes"`
	// BytesPerSeries counts chunks and memory, BytesPerIncrement what is in chunks.
	BytesPerSeries    float64 `json:"bytesPerSeries"`
	BytesPerIncrement float64 `json:"bytesPerIncrement"`
}

// LabelCost is how many values a label has, and how many series have it.
type LabelCost struct {
	Name   string `json:"name"`
	Values int    `json:"values"`
	Series uint64 `json:"series"`
}

// SeriesChurn is how many series have their first and their last increment on a day UTC;
// of the present day the last may not be the last.
type SeriesChurn struct {
	Day   string `json:"day"`
	First int    `json:"first"`
	Last  int    `json:"last"`
}

const (
	statsLimitDefault = 10
	statsLimitMax     = 10_000 // Prometheus's
)

// statusTSDB answers GET /api/v1/status/tsdb.
func (a *api) statusTSDB(w http.ResponseWriter, r *http.Request) {
	limit := statsLimitDefault
	if s := r.FormValue("limit"); s != "" {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil || n < 1:
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, "limit must be a positive number")
			return
		case n > statsLimitMax:
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("limit must not exceed %d", statsLimitMax))
			return
		}
		limit = n
	}
	s, err := a.inventory.SeriesStats(r.Context(), tenantOf(r), limit)
	if err != nil {
		a.respondReadError(w, err)
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: s, Warnings: s.Warnings})
}

// statusBlocks answers GET /api/v1/status/tsdb/blocks.
func (a *api) statusBlocks(w http.ResponseWriter, r *http.Request) {
	blocks, err := a.inventory.Blocks(r.Context(), tenantOf(r))
	if err != nil {
		a.respondReadError(w, err)
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: map[string][]tsdb.BlockMeta{"blocks": blocks}})
}

// statusReplay answers GET /api/v1/status/walreplay. Whoever asks while the log is
// replayed is told by the server that starts, so here it is done; the log is all
// tenants', and where it stands is no tenant's to know.
func (a *api) statusReplay(w http.ResponseWriter, _ *http.Request) {
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: struct {
		Min     int `json:"min"`
		Max     int `json:"max"`
		Current int `json:"current"`
	}{}})
}

// withMethods refuses requests of other methods, as Prometheus's router does, but says
// which there are.
func (a *api) withMethods(next http.HandlerFunc, methods ...string) http.HandlerFunc {
	names := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			a.wrongMethod(w, r, names+", OPTIONS", fmt.Sprintf("%s takes %s", r.URL.Path, names))
			return
		}
		next(w, r)
	}
}
