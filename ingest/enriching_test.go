package ingest

import (
	"testing"

	"github.com/quipudb/quipu/ingest/enrich"
)

// newEnricher is one without a database of places.
func newEnricher(t testing.TB) *enrich.Enricher {
	t.Helper()
	e, err := offlineEnricher()
	if err != nil {
		t.Fatal(err)
	}
	return e
}
