package promql

import (
	"testing"

	"github.com/quipudb/quipu/internal/past"
)

// Which times an expression is touched at by a change of one moment, in seconds before
// and after it.
func TestDependenceOnAChange(t *testing.T) {
	const change = int64(1_000_000_000)
	for text, want := range map[string]struct {
		first, last int64
		none, all   bool
	}{
		"x":                                  {last: 300},
		"rate(x[10m])":                       {last: 600},
		"increase(x[10m] anchored)":          {last: 900},
		"x offset 1h":                        {first: 3600, last: 3900},
		"x offset -1h":                       {first: -3600, last: -3300},
		"max_over_time(rate(x[5m])[1h:1m])":  {last: 3900},
		`label_replace(x, "a", "b", "", "")`: {last: 300},
		"vector(time())":                     {none: true},
		"x @ 1000000":                        {all: true},
		"x @ 5000000":                        {none: true},
		"x @ end()":                          {all: true},
		"info(x)":                            {all: true},
	} {
		expr, err := NewParser().ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		first, last, ok := DependenceOf(expr).Touched([]past.Interval{{From: change, To: change}})
		switch {
		case want.none:
			if ok {
				t.Errorf("%s: touched from %d to %d, it does not depend on the change", text, first-change, last-change)
			}
		case want.all:
			if !ok || first > 0 || last < 2*change {
				t.Errorf("%s: touched from %d to %d, it may be at any time", text, first, last)
			}
		case !ok || first != change+want.first*1000 || last > change+want.last*1000 || last < change+want.last*1000-2:
			t.Errorf("%s: touched from %d to %d ms after the change, want %d to %d s", text, first-change, last-change, want.first, want.last)
		}
	}
}
