package promql

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"
)

// The times computed for a synthetic selector are those, all and no others, at
// which upstream's engine evaluates what stands in its place: here a function
// that notes when it is called, under subqueries of all kinds.
func TestEvaluationTimesAgainstUpstream(t *testing.T) {
	var noted []int64
	upstream.FunctionCalls["spy"] = func(v []upstream.Vector, _ upstream.Matrix, _ parser.Expressions, enh *upstream.EvalNodeHelper) (upstream.Vector, annotations.Annotations) {
		noted = append(noted, enh.Ts)
		return append(enh.Out, upstream.Sample{F: 1}), nil
	}
	defer delete(upstream.FunctionCalls, "spy")
	o := language()
	o.Functions = maps.Clone(parser.Functions)
	o.Functions["spy"] = &parser.Function{Name: "spy", ArgTypes: []parser.ValueType{parser.ValueTypeVector}, ReturnType: parser.ValueTypeVector}
	spying := upstream.NewEngine(upstream.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: subqueryStep, Parser: parser.NewParser(o),
	})
	planning := NewEngine(EngineOptions{Distinct: &world{}})

	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 2))
	sameStart, several := 0, 0
	for range 3000 {
		template := "%s"
		for range r.IntN(4) {
			template = randomSubquery(r, template)
		}
		start := int64(worldStart) + r.Int64N(8)*30_000
		end, step := start, time.Duration(0)
		if r.IntN(3) > 0 {
			step = pick(r, 20*time.Second, time.Minute, 7*time.Minute)
			end = start + r.Int64N(1_800_000)
		}
		noted = nil
		build := func(e upstream.QueryEngine, leaf string) (upstream.Query, error) {
			qs := fmt.Sprintf(template, leaf)
			if step == 0 {
				return e.NewInstantQuery(t.Context(), &matrices{}, nil, qs, time.UnixMilli(start))
			}
			return e.NewRangeQuery(t.Context(), &matrices{}, nil, qs, time.UnixMilli(start), time.UnixMilli(end), step)
		}
		query, err := build(spying, "spy(m)")
		if err != nil {
			t.Fatal(err)
		}
		if res := query.Exec(t.Context()); res.Err != nil {
			t.Fatalf("%s: %v", query, res.Err)
		}
		planned, err := build(planning.engine, "count_distinct(m[5m])")
		if err != nil {
			t.Fatal(err)
		}
		var times steps
		for _, c := range evaluationPlaces(planned.Statement().(*parser.EvalStmt), subqueryStep) {
			times = c.steps
		}
		got := make([]int64, times.count())
		for i := range got {
			got[i] = times.at(i)
		}
		if !slices.Equal(got, noted) {
			t.Fatalf("seed %d: %s from %d to %d by %s\nengine evaluates at %v\nplanned for         %v", seed, planned, start, end, step, noted, got)
		}
		if len(got) > 1 {
			several++
		}
		if len(got) > 0 && got[0] == start && template != "%s" {
			sameStart++
		}
	}
	t.Logf("%d with several times, %d with a subquery that starts where the query does", several, sameStart)
	if several < 1000 || sameStart < 30 {
		t.Errorf("seed %d: too few cases tell anything: %d and %d", seed, several, sameStart)
	}
}

// randomSubquery wraps inner. One in three has an offset that lets the subquery
// start at or next to the start of what is around it.
func randomSubquery(r *rand.Rand, inner string) string {
	width, step := pick(r, 60, 300, 1200), pick(r, 0, 30, 60, 90)
	// Unlike max_over_time, predict_linear depends on the step even under @.
	function, end := "max_over_time", ")"
	if r.IntN(3) == 0 {
		function, end = "predict_linear", ", 60)"
	}
	out := fmt.Sprintf("%s(%s[%ds:", function, inner, width)
	if step > 0 {
		out += fmt.Sprintf("%ds", step)
	}
	out += "]"
	switch r.IntN(6) {
	case 0:
		out += " @ start()"
	case 1:
		out += " @ end()"
	case 2:
		out += fmt.Sprintf(" @ %d", worldStart/1000+30*r.IntN(40))
	}
	switch r.IntN(3) {
	case 0:
		out += fmt.Sprintf(" offset -%ds", width-30)
	case 1:
		out += fmt.Sprintf(" offset %ds", pick(r, 30, -30, 100, 600))
	}
	return out + end
}
