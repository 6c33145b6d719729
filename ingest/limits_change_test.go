package ingest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// limitsOnly is a storage that has nothing but limits.
type limitsOnly struct{ limits tenant.Limits }

func (*limitsOnly) Kinds(tenant.ID) (map[string]increment.Kind, error) { return nil, nil }

func (*limitsOnly) LabelValues(context.Context, tenant.ID, string, string) ([]string, error) {
	return nil, nil
}

func (l *limitsOnly) Limits(tenant.ID) (tenant.Limits, error) { return l.limits, nil }

// Rules are checked again when the limit of their labels changes: what was refused under
// a lower one is in force under a higher one, without a change of the file.
func TestRulesFollowTheLimitOfLabels(t *testing.T) {
	now := time.UnixMilli(present)
	stored := &limitsOnly{limits: tenant.DefaultLimits()}
	rules := &memoryRules{text: "metrics: [{name: a_total, type: counter, labels: {x: x}}]"}
	g, err := New(Options{Store: newMemory(), Registerer: prometheus.NewRegistry(), Rules: rules, Stored: stored, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what, metric, wrong string) {
		t.Helper()
		now = now.Add(2 * reloadEvery)
		got, err := g.Rules(tenant.Default)
		if err != nil || !strings.Contains(got.Text, metric) || (got.Error != "") != (wrong != "") || !strings.Contains(got.Error, wrong) {
			t.Errorf("%s: %+v, %v; want %s and the error %q", what, got, err, metric, wrong)
		}
	}
	expect("one label", "a_total", "")
	rules.text = "metrics: [{name: b_total, type: counter, labels: {x: x, y: y}}]"
	stored.limits.LabelsPerSeries = 1
	expect("two labels where one is allowed", "a_total", "2 labels, at most 1 are allowed")
	stored.limits.LabelsPerSeries = 2
	expect("two labels where two are allowed", "b_total", "")
	stored.limits.LabelsPerSeries = 1
	expect("a lower limit", "b_total", "2 labels, at most 1 are allowed")
}

// A tenant that is deleted and made again owes nothing, and its rules are read anew.
func TestForgottenTenantOwesNothing(t *testing.T) {
	m := newMemory()
	m.profile.Limits.EventsPerSecond = 1
	rules := &memoryRules{text: "metrics: [{name: a_total, type: counter}]"}
	g, _ := newTestIngesterWith(t, m, rules)
	post(t, g, strings.Repeat(`{"event":"e"}`+"\n", 50), "application/x-ndjson", "")
	if _, err := g.Admit(tenant.Default); err == nil {
		t.Fatal("the tenant owes nothing")
	}
	rules.text = ""
	g.Forget(tenant.Default)
	if _, err := g.Admit(tenant.Default); err != nil {
		t.Errorf("forgotten, the tenant owes still: %v", err)
	}
	if got, err := g.Rules(tenant.Default); err != nil || !got.Default {
		t.Errorf("rules are %+v, %v; want the defaults", got, err)
	}
}
