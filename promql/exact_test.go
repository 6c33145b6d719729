package promql

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"
)

// textEngine is a QueryEngine that keeps the text it was asked.
type textEngine struct{ text string }

func (e *textEngine) NewInstantQuery(_ context.Context, _ storage.Queryable, _ upstream.QueryOpts, qs string, _ time.Time) (upstream.Query, error) {
	e.text = qs
	return nil, nil
}

func (e *textEngine) NewRangeQuery(ctx context.Context, q storage.Queryable, o upstream.QueryOpts, qs string, start, _ time.Time, _ time.Duration) (upstream.Query, error) {
	return e.NewInstantQuery(ctx, q, o, qs, start)
}

// What increase and rate mean where counts are exact, by all that parses the query: as if
// anchored had been written there. All else stays.
func TestExactCountsAreAnchored(t *testing.T) {
	inner := &textEngine{}
	x := NewExact(inner, func(_ context.Context, metric string) (bool, error) { return strings.HasPrefix(metric, "c"), nil })
	for _, tc := range [][2]string{
		{`increase(c[5m])`, `increase(c[5m] anchored)`},
		{`sum by (a) (rate(c{a="b"}[5m] offset 1h))`, `sum by (a) (rate(c{a="b"}[5m] anchored offset 1h))`},
		{`increase({__name__="c"}[5m]) / increase(c2[1h] @ end())`, `increase({__name__="c"}[5m] anchored) / increase(c2[1h] anchored @ end())`},
		{`max_over_time(rate((c[5m]))[1h:]) # why`, `max_over_time(rate((c[5m] anchored))[1h:])`},
		{`increase(c[5m]) + increase(g[5m])`, `increase(c[5m] anchored) + increase(g[5m])`},
		{`increase(c[5m] anchored) - increase(c[5m] smoothed)`, `increase(c[5m] anchored) - increase(c[5m] smoothed)`},
		{`delta(c[5m]) + irate(c[5m]) + rate(g[5m])`, `delta(c[5m]) + irate(c[5m]) + rate(g[5m])`},
		{`increase({__name__=~"c.*"}[5m]) + rate(sum(c)[5m:])`, `increase({__name__=~"c.*"}[5m]) + rate(sum(c)[5m:])`},
		{"label_replace(increase(g[5m]), 'x', `\n# anchored at 23`, '', '')", "label_replace(increase(g[5m]), 'x', `\n# anchored at 23`, '', '')"},
	} {
		for _, build := range []func() error{
			func() error { _, err := x.NewInstantQuery(t.Context(), nil, nil, tc[0], time.Time{}); return err },
			func() error {
				_, err := x.NewRangeQuery(t.Context(), nil, nil, tc[0], time.Time{}, time.Time{}, time.Minute)
				return err
			},
		} {
			if err := build(); err != nil {
				t.Fatal(err)
			}
			got, err := NewParser().ParseExpr(inner.text)
			if err != nil {
				t.Fatal(err)
			}
			want, err := NewParser().ParseExpr(tc[1])
			if err != nil {
				t.Fatal(err)
			}
			written, err := NewParser().ParseExpr(tc[0])
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() || got.PositionRange() != written.PositionRange() {
				t.Errorf("%s is %s at %v, want %s at %v", tc[0], got, got.PositionRange(), want, written.PositionRange())
			}
		}
	}
	if _, err := x.NewInstantQuery(t.Context(), nil, nil, `increase(`, time.Time{}); err != nil || inner.text != `increase(` {
		t.Errorf("what cannot be parsed becomes %q, %v", inner.text, err)
	}
	failing := NewExact(inner, func(context.Context, string) (bool, error) { return false, errors.New("damaged") })
	if _, err := failing.NewInstantQuery(t.Context(), nil, nil, `rate(c[5m])`, time.Time{}); err == nil {
		t.Error("where nothing is known of the metric, the query goes on")
	}
}

// A query that was marked shows what was written, and computes what was meant.
func TestExactQueryShowsWhatWasWritten(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	q := &matrices{byName: map[string]upstream.Matrix{"c": {{Floats: []upstream.FPoint{{T: 0, F: 3}, {T: 50_000, F: 9}, {T: 70_000, F: 10}}}}}}
	x := NewExact(e, func(context.Context, string) (bool, error) { return true, nil })
	query, err := x.NewInstantQuery(t.Context(), q, nil, `increase(c[1m])`, at(60))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	res := query.Exec(t.Context())
	if v, err := res.Vector(); err != nil || len(v) != 1 || v[0].F != 6 {
		t.Errorf("%v, %v", res, err)
	}
	if query.String() != `increase(c[1m])` {
		t.Errorf("it shows %q", query.String())
	}
	if stmt := query.Statement().(*parser.EvalStmt).Expr.String(); stmt != `increase(c[1m] anchored)` {
		t.Errorf("it computes %s", stmt)
	}
}
