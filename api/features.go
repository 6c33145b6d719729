package api

import "github.com/prometheus/prometheus/util/features"

// addFeatures says which of Prometheus's optional features there are, beside those of
// the language, which its engine says.
func addFeatures(to features.Collector, admin bool) features.Collector {
	if to == nil {
		to = features.NewRegistry()
	}
	for _, f := range []struct {
		category string
		names    []string
		enabled  bool
	}{
		{features.API, []string{
			"label_values_match", "query_warnings", "query_stats", "time_range_series", "time_range_labels", "exclude_alerts", "openapi_3.1", "openapi_3.2",
		}, true},
		{features.API, []string{"admin"}, admin},
		{features.API, []string{"lifecycle", "query_cost", "search", "remote_write_receiver", "otlp_write_receiver"}, false},
		{features.OTLPReceiver, []string{"delta_conversion", "native_delta_ingestion"}, false},
		{features.Prometheus, []string{"server_mode"}, true},
		{features.Prometheus, []string{"agent_mode", "auto_reload_config"}, false},
		{features.TSDB, []string{"exemplar_storage", "native_histograms"}, true},
	} {
		for _, name := range f.names {
			to.Set(f.category, name, f.enabled)
		}
	}
	return to
}
