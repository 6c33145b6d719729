package tenant

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// A merge changes the timeouts of the metrics that it names; what others hold of before
// stays as it is.
func TestMergeOfIdleTimeouts(t *testing.T) {
	var p Patch
	for _, step := range []struct{ object, want string }{
		{`{"idle_timeouts": {"a": "3h", "b": "1d"}}`, "{a: 3h, b: 1d}"},
		{`{"idle_timeouts": {"a": "2h"}}`, "{a: 2h, b: 1d}"},
		{`{"retention": "1d"}`, "{a: 2h, b: 1d}"},
		{`{"idle_timeouts": {"a": null, "c": "5m"}}`, "{b: 1d, c: 5m}"},
		{`{"idle_timeouts": {"b": null, "c": null}}`, "<nil>"},
		{`{"idle_timeouts": {"a": "3h"}}`, "{a: 3h}"},
		{`{"idle_timeouts": null}`, "<nil>"},
	} {
		before := p
		held := shownTimeouts(&before)
		if _, err := p.Merge([]byte(step.object)); err != nil {
			t.Fatal(err)
		}
		if got := shownTimeouts(&p); got != step.want {
			t.Errorf("after %s: %s, want %s", step.object, got, step.want)
		}
		if got := shownTimeouts(&before); got != held {
			t.Errorf("%s changed what was held of before, from %s to %s", step.object, held, got)
		}
	}
}

func shownTimeouts(p *Patch) string {
	if p.IdleTimeouts == nil {
		return "<nil>"
	}
	return p.IdleTimeouts.String()
}

// Timeouts of single metrics are those of the last layer that names any; those of the
// defaults follow a tenant's grid.
func TestIdleTimeoutsOfLayers(t *testing.T) {
	said := func(object string) (p Patch) {
		t.Helper()
		if _, err := p.Merge([]byte(object)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p, err := NewPolicy(DefaultSettings(), Defaults(said(`{"idle_timeouts": {"a": "2h15s"}}`)),
		Plans{"gold": said(`{"idle_timeouts": {"b": "4h"}}`)}, Overrides{"pinned": said(`{"idle_timeouts": {"d": "6h"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ id, own, want string }{
		{"plain", `{}`, "{a: 2h15s}"},
		{"coarse", `{"grid": "1h"}`, "{a: 3h}"},
		{"gold", `{"plan": "gold"}`, "{b: 4h}"},
		{"own", `{"plan": "gold", "idle_timeouts": {"c": "5h"}}`, "{c: 5h}"},
		{"pinned", `{"idle_timeouts": {"c": "5h"}}`, "{d: 6h}"},
	} {
		id, err := Parse(tc.id)
		if err != nil {
			t.Fatal(err)
		}
		own := said(tc.own)
		s, err := p.Settings(id, &own, 0)
		if err != nil || s.IdleTimeouts.String() != tc.want {
			t.Errorf("%s: %s, %v; want %s", tc.id, s.IdleTimeouts, err, tc.want)
		}
	}
}

// A metric without a timeout of its own has that of all.
func TestIdleTimeoutOfMetric(t *testing.T) {
	s := DefaultSettings()
	s.IdleTimeouts = IdleTimeouts{"a": Duration(5 * time.Minute)}
	if a, b, most := s.IdleTimeoutOf("a"), s.IdleTimeoutOf("b"), s.IdleTimeoutMost(); a != 5*time.Minute || b != time.Hour || most != time.Hour {
		t.Errorf("of a %s, of b %s, at most %s", a, b, most)
	}
	s.IdleTimeouts = IdleTimeouts{"a": Duration(5 * time.Minute), "c": Duration(3 * time.Hour)}
	if most := model.Duration(s.IdleTimeoutMost()); most.String() != "3h" {
		t.Errorf("at most %s", most)
	}
}
