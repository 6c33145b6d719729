package tsdb

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/quipudb/quipu/internal/tenant"
)

// An analysis of a directory says of its blocks what was put there, and of one tenant only
// that.
func TestAnalyze(t *testing.T) {
	ctx := context.Background()
	db := openTestDB(t, "", nil)
	first := db.days(t, tenant.Default, 3, []string{"page", "/"}, []string{"page", "/a", "country", "DE"})
	db.mustAppend(tenant.Default, counterInc("other_total", first, 1, "page", "/b"))
	other := tenantID(t, "other")
	db.mustAppend(other, counterInc("c_total", first, 1))
	for _, id := range []tenant.ID{tenant.Default, other} {
		if err := db.Flush(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	usage := db.mustStore(tenant.Default).usage()
	if _, err := Analyze(ctx, db.dir, tenant.ID{}, 10); err == nil {
		t.Error("a directory in use was analyzed")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	all, err := Analyze(ctx, db.dir, tenant.ID{}, 10)
	if err != nil || len(all) != 2 || all[0].Tenant != "default" || all[1].Series != 1 {
		t.Fatalf("of all tenants: %+v, %v", all, err)
	}
	got := all[0]
	if got.Series != 3 || got.Blocks != usage.Blocks || got.BlockBytes != usage.BlockBytes {
		t.Errorf("%+v, want 3 series and %+v", got, usage)
	}
	if k := got.Kinds; len(k) != 1 || k[0].Kind != "counter" || k[0].Series != 3 || k[0].Windows != 7 || k[0].Bytes <= 0 || k[0].Bytes != got.Metrics[0].Bytes+got.Metrics[1].Bytes {
		t.Errorf("kinds %+v of metrics %+v", k, got.Metrics)
	}
	if m := got.Metrics; m[0].Name != "c_total" || m[0].Series != 2 || m[0].Windows != 6 || m[0].Chunks != 6 || m[1].Name != "other_total" {
		t.Errorf("metrics %+v", m)
	}
	if want := []LabelCost{{"page", 3, 3}, {"__name__", 2, 3}, {"country", 1, 1}}; !slices.Equal(got.Labels, want) {
		t.Errorf("labels %+v, want %+v", got.Labels, want)
	}
	if want := []Churn{{"2026-03-04", 3, 1}, {"2026-03-06", 0, 2}}; !slices.Equal(got.Churn, want) {
		t.Errorf("churn %+v, want %+v", got.Churn, want)
	}
	one, err := Analyze(ctx, db.dir, tenant.Default, 1)
	if err != nil || len(one) != 1 || len(one[0].Metrics) != 1 || len(one[0].Labels) != 1 {
		t.Errorf("of one tenant, one of each: %+v, %v", one, err)
	}
	if _, err := Analyze(ctx, db.dir, tenantID(t, "nobody"), 1); !errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("of nobody: %v", err)
	}
	mustBeSound(t, db.dir)
}
