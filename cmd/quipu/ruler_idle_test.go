package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/tenant"
)

const noOrdersFor2h = `groups:
- name: shop
  interval: 5m
  rules:
  - {alert: ByPlan, expr: "increase(orders_total[2h] anchored) == 0"}
  - {alert: Always, expr: "(sum(increase(orders_total[2h] anchored)) or vector(0)) == 0"}
`

// An alert on no increase of a series is firing from two hours after its last event for
// as long as two hours back from then the series shows: until the idle timeout of its
// metric, or midnight, and two hours more. One that falls back to zero goes on.
func TestAlertOnNothingByIdleTimeout(t *testing.T) {
	for _, tc := range []struct{ settings, until string }{
		{`{}`, "13:00"},
		{`{"idle_timeouts": {"orders_total": "6h"}}`, "18:00"},
		{`{"idle_timeouts": {"orders_total": "1d"}}`, "02:00"}, // two hours from midnight
	} {
		t.Run(tc.settings, func(t *testing.T) {
			w := newRuleWorld(t)
			w.write("shop", "orders", noOrdersFor2h)
			w.open()
			w.count("shop", ruleStart.Add(-time.Minute), 1, "__name__", "orders_total", "plan", "pro")
			if _, err := w.db.ChangeSettings(mustTenant(t, "shop"), func(own *tenant.Patch) ([]string, error) { return own.Merge([]byte(tc.settings)) }); err != nil {
				t.Fatal(err)
			}
			fired := map[string][]string{}
			for w.now().Before(ruleStart.Add(18 * time.Hour)) {
				w.run(5 * time.Minute)
				for _, r := range w.ruler.AlertingRules(mustTenant(t, "shop")) {
					if r.State() == rules.StateFiring {
						fired[r.Name()] = append(fired[r.Name()], w.now().UTC().Format("15:04"))
					}
				}
			}
			span := func(times []string) string {
				if len(times) == 0 {
					return "never"
				}
				begin, _ := time.Parse("15:04", times[0])
				for i, at := range times { // without a break
					if want := begin.Add(time.Duration(i) * 5 * time.Minute).Format("15:04"); at != want {
						t.Errorf("not firing at %s", want)
						break
					}
				}
				return fmt.Sprintf("%s to %s", times[0], times[len(times)-1])
			}
			if got, want := span(fired["ByPlan"]), "12:05 to "+tc.until; got != want {
				t.Errorf("by plan it is firing from %s, want %s", got, want)
			}
			if got, want := span(fired["Always"]), "12:05 to 04:00"; got != want {
				t.Errorf("with a fallback it is firing from %s, want %s", got, want)
			}
		})
	}
}
