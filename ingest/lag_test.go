package ingest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The age of each event at its arrival counts once, whatever the batch it is in: not of
// events that were counted before, nor of those that are rejected.
func TestLagOfEvents(t *testing.T) {
	m := newMemory()
	g, reg := newTestIngester(t, m)
	event := func(age int64) string { return fmt.Sprintf(`{"event": "e", "timestamp": %d}`+"\n", present-age) }
	body := event(-500) + event(0) + event(1000) + event(1001) + event(299_000) + event(7_200_000) + event(100*86_400_000) + `{"timestamp": "never"}`
	post(t, g, body, "application/x-ndjson", "key")
	post(t, g, body, "application/x-ndjson", "key") // a duplicate
	want := `
# HELP quipu_ingest_lag_seconds How old events were when they came, of those that were accepted; one counts at most 49 days in the sum.
# TYPE quipu_ingest_lag_seconds histogram
quipu_ingest_lag_seconds_bucket{tenant="default",le="1"} 3
quipu_ingest_lag_seconds_bucket{tenant="default",le="5"} 4
quipu_ingest_lag_seconds_bucket{tenant="default",le="15"} 4
quipu_ingest_lag_seconds_bucket{tenant="default",le="60"} 4
quipu_ingest_lag_seconds_bucket{tenant="default",le="300"} 5
quipu_ingest_lag_seconds_bucket{tenant="default",le="900"} 5
quipu_ingest_lag_seconds_bucket{tenant="default",le="3600"} 5
quipu_ingest_lag_seconds_bucket{tenant="default",le="21600"} 6
quipu_ingest_lag_seconds_bucket{tenant="default",le="86400"} 6
quipu_ingest_lag_seconds_bucket{tenant="default",le="+Inf"} 7
quipu_ingest_lag_seconds_sum{tenant="default"} 4.302468296e+06
quipu_ingest_lag_seconds_count{tenant="default"} 7
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "quipu_ingest_lag_seconds"); err != nil {
		t.Error(err)
	}
}
