package promql

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	upstream "github.com/prometheus/prometheus/promql"
)

// directParts are the parts of a query that are computed directly, as written.
func directParts(p *Plan) []string {
	if p.Direct {
		return []string{p.Expr}
	}
	var out []string
	for _, part := range p.Parts {
		out = append(out, directParts(part)...)
	}
	return out
}

// Every function and operator that is meant to be computed directly is: in whole, with
// every modifier that upstream allows.
func TestPlannerTakes(t *testing.T) {
	var queries []string
	for _, f := range []string{
		"rate", "increase", "delta", "irate", "idelta", "changes", "resets", "sum_over_time", "avg_over_time", "min_over_time", "max_over_time",
		"count_over_time", "last_over_time", "first_over_time", "present_over_time", "stddev_over_time", "stdvar_over_time", "mad_over_time",
		"ts_of_max_over_time", "deriv", "distinct_over_time", "count_distinct",
	} {
		queries = append(queries, f+`(m[5m])`, f+`(m{a="b"}[5m] offset 1h)`, f+`(m[5m] @ 100)`, f+`(m[5m] @ end() offset -1h)`)
	}
	for _, f := range []string{"rate", "increase", "delta", "changes", "resets"} {
		queries = append(queries, f+`(m[5m] anchored)`)
	}
	for _, f := range []string{"rate", "increase", "delta"} {
		queries = append(queries, f+`(m[5m] smoothed)`, `sum(`+f+`(m[5m] smoothed offset 1m))`)
	}
	for _, op := range []string{"sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk(3, ", "bottomk(3, ", "quantile(0.9, "} {
		open, modified := op+"(", op+" by (a) ("
		if name, param, ok := strings.Cut(op, "("); ok {
			open, modified = op, name+" without (a) ("+param
		}
		queries = append(queries, open+`m)`, open+`rate(m[5m]))`, modified+`(increase(m[5m] offset 1m)))`, open+`max_over_time(m[1h] @ start()))`,
			open+`sum by (b) (m @ 100 offset 1m))`)
	}
	queries = append(queries, `quantile_over_time(0.9, m[5m])`, `predict_linear(m[5m], 600)`, `double_exponential_smoothing(m[5m], 0.1, 0.5)`,
		`topk(10, sum by (page) (increase(m[1h])))`, `sum by (le) (rate(h_bucket[5m]))`)
	for _, f := range []string{"histogram_count(", "histogram_sum(", "histogram_avg(", "histogram_stddev(", "histogram_stdvar(", "histogram_quantile(0.9, ",
		"histogram_fraction(-(1), (+Inf), ", `histogram_quantiles(`} {
		end := ")"
		if f == "histogram_quantiles(" {
			end = `, "q", 0.5, 0.9)`
		}
		queries = append(queries, f+`h`+end, f+`rate(h[5m])`+end, f+`sum by (a) (rate(h[5m] offset 1m))`+end, f+`(h @ 100)`+end, f+`sum by (le) (rate(h_bucket[5m]))`+end,
			`topk(3, `+f+`sum by (a) (increase(h[1h]))`+end+`)`, f+`sum(`+f+`h`+end+`)`+end)
	}
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	for _, qs := range queries {
		p, err := e.Plan(qs)
		switch {
		case err != nil:
			t.Error(err)
		case !p.Direct:
			t.Errorf("%s is not computed directly", qs)
		}
	}
	// No function of a range that upstream has is forgotten.
	for name, f := range parser.Functions {
		if len(f.ArgTypes) != 1 || f.ArgTypes[0] != parser.ValueTypeMatrix || name == "absent_over_time" {
			continue
		}
		if p, err := e.Plan(name + "(m[5m])"); err == nil && !p.Direct {
			t.Errorf("%s is not computed directly", name)
		}
	}
}

// What is computed directly inside of what is not.
func TestPlannerTakesParts(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	for qs, want := range map[string]string{
		`histogram_quantile(scalar(m), sum by (le) (rate(h_bucket[5m])))`:   `sum by (le) (rate(h_bucket[5m]))`,
		`histogram_quantile(0.95, 2 * rate(h[5m]))`:                         `rate(h[5m])`,
		`histogram_sum(sum(h)) / histogram_count(sum(rate(h[5m])))`:         `histogram_count(sum(rate(h[5m])))`, // hints of the first would show
		`histogram_avg(last_over_time(h[5m])) + histogram_count(h)`:         `histogram_count(h)`,
		`histogram_fraction(0, 1, sum(h)) + histogram_avg(increase(h[5m]))`: `histogram_fraction(0, 1, sum(h)); histogram_avg(increase(h[5m]))`,
		`histogram_quantiles(rate(h[5m]), "q", 0.5, scalar(m))`:             `rate(h[5m])`,
		`absent(histogram_quantile(0.5, h))`:                                ``,
		`max_over_time(sum(rate(m[1m]))[1h:1m] offset 5m)`:                  `sum(rate(m[1m]))`,
		`rate(m[5m]) / on (a) group_left () sum by (a) (n)`:                 `rate(m[5m]); sum by (a) (n)`,
		`topk(scalar(count(m)), rate(m[5m]))`:                               `rate(m[5m]); count(m)`,
		`sum(m + rate(n[5m]))`:                                              `rate(n[5m])`,
		`sum(m) > 1 or -avg(n)`:                                             `sum(m); avg(n)`,
		`label_replace(increase(m[1h]), "a", "b", "c", "d")`:                `increase(m[1h])`,
		`count_values("v", last_over_time(m[5m]))`:                          `last_over_time(m[5m])`,
		`sum(m @ 100 + n)`:                                                  ``,
		`m`:                                                                 ``,
		`absent(sum(m)) + timestamp(sum(n)) + absent_over_time(m[5m])`:      ``,
		`info(sum(rate(m[5m])))`:                                            ``,
		`topk(0, m) + topk(NaN, m)`:                                         ``,
		`rate(m[5m:1m])`:                                                    ``,
		`quantile_over_time(scalar(m), n[5m])`:                              ``,
		`max_over_time(m[5m] anchored)`:                                     ``,
		`limitk(2, m)`:                                                      ``,
		`sum(m smoothed)`:                                                   ``,
		`max_over_time(sum(m @ 100)[5m:1m] offset 1m)`:                      ``, // the engine's @ is another there
	} {
		p, err := e.Plan(qs)
		if err != nil {
			t.Error(err)
		} else if got := strings.Join(directParts(p), "; "); got != want {
			t.Errorf("%s\n takes %s\nwant %s", qs, got, want)
		}
	}
}

// Where names are dropped last, what drops them is taken only below what forgets them.
func TestPlannerKeepsNamesThatMayBeNeeded(t *testing.T) {
	p := planner{namesLast: true}
	for qs, want := range map[string]bool{
		`rate(m[5m])`:                     false,
		`sum by (__name__) (rate(m[5m]))`: false,
		`topk(2, rate(m[5m]))`:            false,
		`sum by (a) (rate(m[5m]))`:        true,
		`histogram_count(h)`:              false,
		`histogram_quantile(0.9, sum by (le) (rate(h_bucket[5m])))`: true,
		`sum(histogram_quantile(0.9, h))`:                           true,
		`sum without (a) (topk(2, rate(m[5m])))`:                    true,
		`last_over_time(m[5m])`:                                     true,
		`sum by (__name__) (m)`:                                     true,
	} {
		expr, err := NewParser().ParseExpr(qs)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.takes(expr); got != want {
			t.Errorf("%s: taken is %t", qs, got)
		}
	}
}

// A plan says what was read, and how the rest is computed.
func TestExplain(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	q := &matrices{byName: map[string]upstream.Matrix{"m": {{Floats: []upstream.FPoint{{T: 0, F: 3}, {T: 60_000, F: 9}}}}}}
	ctx, x := WithExplanation(t.Context())
	query, err := e.NewInstantQuery(ctx, q, nil, `abs(sum(increase(m[2m]))) + 1`, at(60))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	if res := query.Exec(ctx); res.Err != nil {
		t.Fatal(res.Err)
	}
	if len(x.Runs) != 1 || x.CachedSteps != 0 || x.Runs[0].Start != 60_000 || x.Runs[0].End != 60_000 || x.Runs[0].Step != 0 {
		t.Fatalf("%+v", x)
	}
	var b strings.Builder
	if err := x.Runs[0].Plan.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `engine: abs(sum(increase(m[2m]))) + 1
  engine: abs(sum(increase(m[2m])))
    direct: sum(increase(m[2m]))  [1 series, 0 chunks, 0 bytes, 2 samples, 1 results, `
	if got := b.String(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "]\n  engine: 1\n") {
		t.Errorf("got\n%s\nwant\n%s...", got, want)
	}
}
