package promql

import (
	"errors"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func TestParserRefuses(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	for _, tc := range []struct{ query, want string }{
		{`distinct_over_time(users[1h:5m])`, `1:20: parse error: distinct_over_time needs a range selector over a distinct metric, such as users[1d], not a subquery: counts of ids do not add up`},
		{`1 + count_distinct((users[1h:5m]), "a")`, `1:21: parse error: count_distinct needs a range selector over a distinct metric, such as users[1d], not a subquery: counts of ids do not add up`},
		{`distinct_over_time(users[1h] anchored)`, `1:20: parse error: distinct_over_time counts the windows in its range, the anchored modifier has no meaning for it`},
		{`count_distinct(users[1h] smoothed)`, `1:16: parse error: count_distinct counts the windows in its range, the smoothed modifier has no meaning for it`},
		{`count_distinct(users[1h], "")`, `1:27: parse error: count_distinct cannot group by "": it is not a label name`},
		{`count_distinct(users[1h], country)`, `1:27: parse error: expected type string in call to function "count_distinct", got instant vector`},
		{`count_distinct(users)`, `1:16: parse error: expected type range vector in call to function "count_distinct", got instant vector`},
		{`count_distinct()`, `1:1: parse error: expected at least 1 argument(s) in call to "count_distinct", got 0`},
		{`distinct_over_time(users[1h], "a")`, `1:1: parse error: expected 1 argument(s) in call to "distinct_over_time", got 2`},
		{`__quipu_planned_0`, `1:1: parse error: metric name "__quipu_planned_0" is reserved: names must not begin with "__quipu_planned_"`},
		{`count_distinct(users[1h]) + {"__quipu_planned_0"}`, `1:29: parse error: metric name "__quipu_planned_0" is reserved: names must not begin with "__quipu_planned_"`},
		{`info(count_distinct(users[1h]), {__name__="__quipu_planned_5"})`, `1:33: parse error: metric name "__quipu_planned_5" is reserved: names must not begin with "__quipu_planned_"`},
		{`sum(`, `1:5: parse error: unclosed left parenthesis`},
	} {
		_, perr := NewParser().ParseExpr(tc.query)
		_, qerr := e.NewInstantQuery(t.Context(), &matrices{}, nil, tc.query, at(0))
		for _, err := range []error{perr, qerr} {
			var errs parser.ParseErrors
			if !errors.As(err, &errs) || err.Error() != tc.want {
				t.Errorf("%s\n got %v\nwant %s", tc.query, err, tc.want)
			}
		}
	}
}

// A synthetic selector is spelled by no regular expression either: only an exact
// name is served.
func TestSyntheticSelectorCannotBeMatched(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	const qs = `count_distinct(users[1m]) + on () group_left () {__name__=~"__quipu_planned_.*"}`
	if res := instant(t, e, &matrices{}, qs, 60); res.Err != nil || show(res.Value) != "" {
		t.Errorf("got %v, %v", res.Value, res.Err)
	}
}

func TestParserTakes(t *testing.T) {
	for _, qs := range []string{
		`increase(events_total[1h] anchored)`,
		`rate(events_total[1h] smoothed)`,
		`sum by (page) (increase(events_total[1h] anchored offset 5m))`,
		`distinct_over_time(users[1d])`,
		`count_distinct(users[1d])`,
		`count_distinct(users[1d], "country", "page")`,
		`max_over_time(count_distinct(users[1d])[1h:5m])`,
		`a + on (x) fill (0) b`,
		`sort_by_label(a, "x")`,
		`limitk(2, a)`,
		`fill + fill_left`,
	} {
		if _, err := NewParser().ParseExpr(qs); err != nil {
			t.Errorf("%s: %v", qs, err)
		}
	}
}
