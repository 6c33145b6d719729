package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql/ruler"
)

// metric is the sum of a metric of the ruler's.
func (w *ruleWorld) metric(name string) (sum float64) {
	w.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// recordedAsAsked checks that what a rule recorded from one time to another is what its
// expression gives there now.
func (w *ruleWorld) recordedAsAsked(metric, expr string, from, to time.Time) {
	w.Helper()
	value := func(text string, at time.Time) string {
		_, v, _ := strings.Cut(w.query("shop", text, at), "=>")
		return v
	}
	n := 0
	for at := from; !at.After(to); at = at.Add(15 * time.Second) {
		if w.query("shop", metric+"[15s]", at) == "" {
			continue // no time of its group
		}
		if got, want := value(metric, at), value(expr, at); got != want {
			w.Errorf("%s at %s is %q, %q was to be recorded", metric, at, got, want)
		}
		n++
	}
	if n < 5 {
		w.Errorf("%s was compared at %d times", metric, n)
	}
}

const lateRules = `groups:
- name: a-reader
  interval: 1m
  rules:
  - {record: "twice:orders", expr: "2 * orders:increase5m"}
- name: orders
  interval: 1m
  rules:
  - {record: "orders:increase5m", expr: "sum(increase(orders_total[5m] anchored))"}
  - {record: "orders:more", expr: "orders:increase5m + 1000"}
  - {record: "orders:renamed", expr: "label_replace(orders:increase5m, \"of\", \"shop\", \"\", \"\")"}
  - {alert: TooMany, expr: "orders:increase5m > 100"}
`

// Events that come late change what recording rules have recorded, and what rules that
// read those have, in their group and in others; alerts are not replayed.
func TestLateEventsAreRecorded(t *testing.T) {
	w := newRuleWorld(t)
	w.write("shop", "orders", lateRules)
	w.open()
	count := func(from, to time.Duration, n float64) {
		for d := from; d < to; d += 15 * time.Second {
			w.count("shop", ruleStart.Add(d), n, "__name__", "orders_total")
		}
	}
	for i := range 40 {
		w.count("shop", ruleStart.Add(time.Duration(i)*30*time.Second), 1, "__name__", "orders_total")
		w.run(30 * time.Second)
	}
	// A phone was offline for a while, then another one, which counts what nobody did.
	count(8*time.Minute, 10*time.Minute, 1000)
	w.run(2 * time.Minute)
	w.count("shop", ruleStart.Add(5*time.Minute), 7, "__name__", "orders_total", "plan", "new")
	w.run(5 * time.Minute)

	last := ruleStart.Add(24 * time.Minute)
	w.recordedAsAsked("orders:increase5m", "sum(increase(orders_total[5m] anchored))", ruleStart, last)
	w.recordedAsAsked("orders:more", "orders:increase5m + 1000", ruleStart, last)
	w.recordedAsAsked("orders:renamed", "orders:increase5m", ruleStart, last)
	// Its group comes at other times: before and after it saw what there was a while ago.
	w.recordedAsAsked("twice:orders", "2 * orders:increase5m", ruleStart.Add(6*time.Minute), ruleStart.Add(15*time.Minute))
	if got := w.query("shop", `max_over_time(orders:increase5m[30m])`, w.now()); !strings.Contains(got, "=> 8") {
		t.Errorf("the most orders were %q, there were 8,010", got)
	}
	if a := w.ruler.AlertingRules(mustTenant(t, "shop"))[0]; a.State() != rules.StateInactive || w.query("shop", `max_over_time(ALERTS[30m])`, w.now()) != "" {
		t.Errorf("the alert is %s: it was replayed", a.State())
	}
	if n := w.metric("quipu_ruler_late_intervals_skipped_total"); n != 0 {
		t.Errorf("%v intervals were skipped", n)
	}
	before := w.metric("quipu_ruler_late_samples_total")
	w.run(10 * time.Minute)
	if after := w.metric("quipu_ruler_late_samples_total"); after != before {
		t.Errorf("%v samples are still recorded otherwise without late events", after-before)
	}
}

// What is past the horizon stays as it was, and is counted.
func TestLateEventsPastTheHorizon(t *testing.T) {
	w := newRuleWorld(t)
	w.config = ruler.DefaultConfig()
	w.config.LateHorizon = model.Duration(5 * time.Minute)
	w.write("shop", "total", `groups: [{name: g, interval: 15s, rules: [{record: "orders:total", expr: "sum(orders_total)"}]}]`)
	w.open()
	w.count("shop", ruleStart.Add(15*time.Second), 1, "__name__", "orders_total")
	w.run(20 * time.Minute)
	w.count("shop", ruleStart.Add(30*time.Second), 1, "__name__", "orders_total")
	w.run(time.Minute)
	for ago, want := range map[time.Duration]int{10 * time.Minute: 1, 4 * time.Minute: 2, time.Minute: 2} {
		if got := w.query("shop", "orders:total", w.now().Add(-ago)); !strings.Contains(got, fmt.Sprintf("=> %d @", want)) {
			t.Errorf("the total of %s ago is %q, want %d", ago, got, want)
		}
	}
	if n := w.metric("quipu_ruler_late_intervals_skipped_total"); n != 1 {
		t.Errorf("%v intervals were skipped, want 1", n)
	}
}

// What came late is not forgotten where it cannot be asked for or evaluated at once, or
// where the configuration is read again meanwhile; and an hour of short steps is asked for
// in pieces that the tenant's queries may have.
func TestLateEventsAreNotForgotten(t *testing.T) {
	const expr = "sum(increase(orders_total[5m] anchored))"
	for name, disturb := range map[string]func(w *ruleWorld){
		"nothing": func(*ruleWorld) {},
		"the first question fails": func(w *ruleWorld) {
			n := 0
			w.refuseLate = func() error {
				if n++; n == 1 {
					return errors.New("the disk is busy")
				}
				return nil
			}
		},
		"the first evaluation fails": func(w *ruleWorld) {
			n := 0
			w.refuseRange = func(int64) error {
				if n++; n == 1 {
					return errors.New("the queue is full")
				}
				return nil
			}
		},
		"the configuration is read again": func(w *ruleWorld) {
			if err := w.ruler.Configure(w.config, w.alerts); err != nil {
				w.Fatal(err)
			}
		},
		"other configuration is read": func(w *ruleWorld) {
			w.config = ruler.DefaultConfig()
			w.config.ResendDelay = model.Duration(2 * time.Minute)
			if err := w.ruler.Configure(w.config, w.alerts); err != nil {
				w.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRuleWorld(t)
			w.write("shop", "orders", "groups: [{name: g, interval: 15s, rules: [{record: orders, expr: \""+expr+"\"}]}]")
			w.open()
			for i := range 40 {
				w.count("shop", ruleStart.Add(time.Duration(i)*30*time.Second), 1, "__name__", "orders_total")
				w.run(30 * time.Second)
			}
			w.count("shop", ruleStart.Add(5*time.Minute), 7, "__name__", "orders_total", "plan", "new")
			disturb(w)
			w.run(3 * time.Minute)
			w.recordedAsAsked("orders", expr, ruleStart.Add(time.Minute), ruleStart.Add(20*time.Minute))
			if got := w.query("shop", `max_over_time(orders[30m])`, w.now()); !strings.Contains(got, "=> 17") {
				t.Errorf("the most orders were %q, there were 17", got)
			}
			if n := w.metric("quipu_ruler_late_intervals_skipped_total"); n != 0 {
				t.Errorf("%v intervals were skipped", n)
			}
		})
	}
}

// Steps that are evaluated again are asked for in pieces that a tenant's queries may have.
func TestLateEventsInPieces(t *testing.T) {
	w := newRuleWorld(t)
	w.config = ruler.DefaultConfig()
	w.config.LateHorizon = model.Duration(7 * 24 * time.Hour)
	w.write("shop", "total", `groups: [{name: g, interval: 15s, rules: [{record: "orders:total", expr: "sum(orders_total)"}]}]`)
	w.open()
	w.count("shop", ruleStart.Add(15*time.Second), 1, "__name__", "orders_total")
	if _, err := w.db.ChangeSettings(mustTenant(t, "shop"), func(own *tenant.Patch) ([]string, error) {
		return own.Merge([]byte(`{"limits": {"query_steps": 50}, "idle_timeout": "1d"}`))
	}); err != nil {
		t.Fatal(err)
	}
	pieces := 0
	w.refuseRange = func(steps int64) error {
		if pieces++; steps > 50 {
			return fmt.Errorf("%d steps are more than query_steps, 50", steps)
		}
		return nil
	}
	w.run(2 * time.Hour)
	w.count("shop", ruleStart.Add(30*time.Second), 1, "__name__", "orders_total")
	w.run(time.Minute)
	w.recordedAsAsked("orders:total", "sum(orders_total)", ruleStart.Add(time.Minute), ruleStart.Add(119*time.Minute))
	if pieces < 9 {
		t.Errorf("two hours of 15 s were asked for in %d pieces of 50 steps at most", pieces)
	}
}
