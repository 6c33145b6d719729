package promql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/sketch"
)

// smallWorld has three series of users, two of which share ids, one of visitors,
// and a counter. Windows end at the seconds named.
func smallWorld() *world {
	series := func(name, country, device string, windows ...seen) worldSeries {
		return worldSeries{labels.FromStrings(model.MetricNameLabel, name, "country", country, "device", device), windows}
	}
	return &world{
		series: []worldSeries{
			series("users", "DE", "phone", seen{15_000, []uint64{1, 2}}, seen{30_000, []uint64{2, 3}}, seen{600_000, []uint64{4}}),
			series("users", "DE", "pc", seen{30_000, []uint64{1, 5}}),
			series("users", "FR", "pc", seen{30_000, []uint64{1}}, seen{45_000, []uint64{6, 7, 8}}),
			series("visitors", "DE", "phone", seen{700_000, []uint64{1, 9}}),
		},
		kinds: map[string]string{"hits_total": "counter"},
	}
}

// What the two functions give, as the table of the language reference would say.
func TestDistinctFunctions(t *testing.T) {
	for _, tc := range []struct {
		about, query string
		seconds      int64
		want         string
	}{
		{"ids in the range per series, without the name", `distinct_over_time(users[1m])`, 60,
			`{country="DE", device="pc"} 2; {country="DE", device="phone"} 3; {country="FR", device="pc"} 4`},
		{"a series without a window in range has no value", `distinct_over_time(users[15s])`, 45,
			`{country="FR", device="pc"} 3`},
		{"the range is open on the left", `distinct_over_time(users{device="phone"}[15s])`, 30,
			`{country="DE", device="phone"} 2`},
		{"and closed on the right", `distinct_over_time(users{device="phone"}[15s])`, 15,
			`{country="DE", device="phone"} 2`},
		{"nothing before the first window", `distinct_over_time(users[1h])`, 14, ``},
		{"offset moves the range, not the result", `timestamp(distinct_over_time(users{device="phone"}[15s] offset 10m))`, 630,
			`{country="DE", device="phone"} 630`},
		{"a negative offset looks ahead", `distinct_over_time(users{device="phone"}[15s] offset -10m)`, 0,
			`{country="DE", device="phone"} 1`},
		{"@ fixes the range", `distinct_over_time(users{device="phone"}[15s] @ 30)`, 5000,
			`{country="DE", device="phone"} 2`},
		{"@ and offset", `distinct_over_time(users{device="phone"}[15s] @ 45 offset 15s)`, 5000,
			`{country="DE", device="phone"} 2`},
		{"a duration may be an expression", `distinct_over_time(users{device="phone"}[2 * 15s])`, 30,
			`{country="DE", device="phone"} 3`},
		{"the union over all series", `count_distinct(users[1m])`, 60, `{} 7`},
		{"grouped by a label", `count_distinct(users[1m], "country")`, 60,
			`{country="DE"} 4; {country="FR"} 4`},
		{"grouped by two labels, in any order", `count_distinct(users[1m], "device", "country")`, 60,
			`{country="DE", device="pc"} 2; {country="DE", device="phone"} 3; {country="FR", device="pc"} 4`},
		{"a label that series lack groups as empty", `count_distinct(users[1m], "city")`, 60, `{} 7`},
		{"over several metrics", `count_distinct({__name__=~"users|visitors"}[20m])`, 800, `{} 9`},
		{"grouped by name", `count_distinct({__name__=~"users|visitors"}[20m], "__name__")`, 800,
			`{__name__="users"} 8; {__name__="visitors"} 2`},
		{"a union of nothing is nothing", `count_distinct(users[1m] offset 1d)`, 60, ``},
		{"inside an expression", `sum(distinct_over_time(users[1m])) - count_distinct(users[1m])`, 60, `{} 2`},
		{"in parentheses", `(count_distinct((users[1m]), ("country")))`, 60,
			`{country="DE"} 4; {country="FR"} 4`},
		{"negated", `-count_distinct(users[1m])`, 60, `{} -7`},
		{"two metrics that never meet are one series", `distinct_over_time({__name__=~"users|visitors",device="phone"}[1m])`, 610,
			`{country="DE", device="phone"} 1`},
		{"absent of a call has no labels", `absent(distinct_over_time(users{country="DE"}[1m]))`, 5000, `{} 1`},
		{"as a parameter", `topk(scalar(count_distinct(users[15s])) - 2, distinct_over_time(users[1m]))`, 45,
			`{country="FR", device="pc"} 4`},
	} {
		res := instant(t, NewEngine(EngineOptions{Distinct: smallWorld()}), &matrices{}, tc.query, tc.seconds)
		if res.Err != nil {
			t.Errorf("%s: %s: %v", tc.about, tc.query, res.Err)
			continue
		}
		if got := show(res.Value); got != tc.want {
			t.Errorf("%s: %s at %d\n got %s\nwant %s", tc.about, tc.query, tc.seconds, got, tc.want)
		}
	}
}

// show prints a vector, or a matrix with the second of each sample.
func show(v parser.Value) string {
	var out []string
	switch v := v.(type) {
	case upstream.Vector:
		for _, s := range v {
			out = append(out, fmt.Sprintf("%s %g", s.Metric, s.F))
		}
	case upstream.Matrix:
		for _, s := range v {
			line := s.Metric.String()
			for _, p := range s.Floats {
				line += fmt.Sprintf(" %g@%d", p.F, p.T/1000)
			}
			out = append(out, line)
		}
	default:
		return v.String()
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// I5: a step without a value is a gap, however short, and lookback never fills it.
func TestRangeQueryHasGapsWhereThereIsNoValue(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	for _, tc := range []struct{ query, want string }{
		{`distinct_over_time(users{device="phone"}[15s])`, `{country="DE", device="phone"} 2@15 2@30 1@600`},
		{`distinct_over_time({__name__=~"users|visitors",device="phone"}[15s])`, `{country="DE", device="phone"} 2@15 2@30 1@600 2@705`},
		{`distinct_over_time(users{device="phone"}[15s] @ 600)`, ``},
	} {
		query, err := e.NewRangeQuery(t.Context(), &matrices{}, nil, tc.query, at(0), at(1200), 15*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		res := query.Exec(t.Context())
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		if tc.want == "" { // fixed by @: the same at every step
			m := res.Value.(upstream.Matrix)
			if len(m) != 1 || len(m[0].Floats) != 81 || m[0].Floats[80].F != 1 {
				t.Errorf("%s: %s", tc.query, show(m))
			}
			continue
		}
		if got := show(res.Value); got != tc.want {
			t.Errorf("%s\n got %s\nwant %s", tc.query, got, tc.want)
		}
		query.Close()
	}
}

// Without their names users and visitors of DE are one series, with two values.
func TestSameLabelsetAtOneTimeIsUpstreamsError(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	const qs = `sum(distinct_over_time({__name__=~"users|visitors",device="phone"}[5m]))`
	res := instant(t, e, &matrices{}, qs, 800)
	if res.Err == nil || res.Err.Error() != "vector cannot contain metrics with the same labelset" {
		t.Errorf("got error %v", res.Err)
	}
}

// I1: what has no call of ours is not wrapped, even where it mentions one.
func TestOrdinaryQueryIsUntouched(t *testing.T) {
	w := smallWorld()
	e := NewEngine(EngineOptions{Distinct: w})
	for _, qs := range []string{`m`, `m{l="count_distinct"} or count_distinct`, `m{l!="distinct_over_time()"}`} {
		q := &matrices{byName: map[string]upstream.Matrix{"m": {{Floats: []upstream.FPoint{{T: 0, F: 3}}}}}}
		query, err := e.NewInstantQuery(t.Context(), q, nil, qs, at(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := query.(*plannedQuery); ok {
			t.Errorf("%s was planned", qs)
		}
		if query.String() != qs {
			t.Errorf("%s became %s", qs, query.String())
		}
		query.Exec(t.Context())
		if q.selects.Load() == 0 {
			t.Errorf("%s did not reach the storage", qs)
		}
	}
	if w.reads.Load() != 0 {
		t.Error("the distinct source was read")
	}
}

// A planned query reads real series beside synthetic ones, and shows as written.
func TestPlannedQueryShowsAsWritten(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	q := &matrices{byName: map[string]upstream.Matrix{"m": {{Floats: []upstream.FPoint{{T: 60_000, F: 3}}}}}}
	const qs = `m * on () count_distinct(users[1m])`
	query, err := e.NewRangeQuery(t.Context(), q, upstream.NewPrometheusQueryOpts(true, 0, nil), qs, at(60), at(60), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	if res := query.Exec(t.Context()); show(res.Value) != `{} 21@60` {
		t.Errorf("got %v, %v", res.Value, res.Err)
	}
	stmt := query.Statement().(*parser.EvalStmt)
	if query.String() != qs || stmt.Expr.String() != qs || !stmt.Start.Equal(at(60)) || stmt.Interval != time.Minute {
		t.Errorf("shows as %q, %q at %s", query.String(), stmt.Expr, stmt.Start)
	}
	if n := query.Stats().Samples.TotalSamples; n != 2 {
		t.Errorf("%d samples counted, want one of m and one of the call", n)
	}
}

// Nothing is read before Exec, nor for a part that the engine never evaluates.
func TestCallIsComputedOnDemandInTheQuerysContext(t *testing.T) {
	type key struct{}
	w := smallWorld()
	var got []any
	w.onRead = func(ctx context.Context, in []sketch.Interval) {
		got = append(got, ctx.Value(key{}))
		for _, v := range in {
			got = append(got, v.Lo/1000, v.Hi/1000)
		}
	}
	e := NewEngine(EngineOptions{Distinct: w})
	query, err := e.NewRangeQuery(t.Context(), &matrices{}, nil, `count_distinct(users[1m] offset 10s)`, at(100), at(170), 30*time.Second)
	if err != nil || len(got) > 0 {
		t.Fatalf("read before Exec: %v, %v", got, err)
	}
	query.Exec(context.WithValue(t.Context(), key{}, "mine"))
	// Steps at 100, 130 and 160: ranges of 30 to 90, 60 to 120 and 90 to 150.
	if want := "[mine 30 60 60 90 90 120 120 150]"; fmt.Sprint(got) != want {
		t.Errorf("source was asked for %v, want %v", got, want)
	}
}

func TestAnnotationOfTheSourcePointsAtTheCall(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	const qs = "1 +\n distinct_over_time(hits_total[1m])"
	res := instant(t, e, &matrices{}, qs, 60)
	if res.Err != nil || show(res.Value) != "" {
		t.Fatalf("%v, %v", res.Value, res.Err)
	}
	warnings, infos := res.Warnings.AsStrings(qs, 0, 0)
	want := `PromQL warning: metric "hits_total" is a counter, not a distinct metric (2:2)`
	if len(infos) > 0 || len(warnings) != 1 || warnings[0] != want {
		t.Errorf("got %q %q, want %q", warnings, infos, want)
	}
}

// I4: what upstream's engine warns of keeps its place behind a call.
func TestAnnotationOfTheEngineKeepsItsPosition(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	q := &matrices{byName: map[string]upstream.Matrix{"m": {{Floats: []upstream.FPoint{{T: 0, F: 3}, {T: 50_000, F: 4}}}}}}
	const qs = `count_distinct(users[1m]) + on () rate(m[1m])`
	res := instant(t, e, q, qs, 59)
	_, infos := res.Warnings.AsStrings(qs, 0, 0)
	if len(infos) != 1 || !strings.HasSuffix(infos[0], `"m" (1:40)`) {
		t.Errorf("got %q, %v", infos, res.Err)
	}
}

func TestQueryStops(t *testing.T) {
	big := &world{}
	for i := range 20 {
		s := worldSeries{labels: labels.FromStrings(model.MetricNameLabel, "users", "n", fmt.Sprint(i))}
		for end := int64(1); end <= 1000; end++ {
			s.windows = append(s.windows, seen{end * 1000, []uint64{uint64(end)}})
		}
		big.series = append(big.series, s)
	}
	run := func(t *testing.T, e *Engine, ctx context.Context) error {
		query, err := e.NewRangeQuery(t.Context(), &matrices{}, nil, `distinct_over_time(users[10s])`, at(0), at(1000), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer query.Close()
		return query.Exec(ctx).Err
	}
	t.Run("at too many samples", func(t *testing.T) {
		err := run(t, NewEngine(EngineOptions{Distinct: big, MaxSamples: 500}), t.Context())
		if !errors.Is(err, upstream.ErrTooManySamples("query execution")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when it is canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		big.onRead = func(context.Context, []sketch.Interval) { cancel() }
		err := run(t, NewEngine(EngineOptions{Distinct: big}), ctx)
		if !errors.Is(err, upstream.ErrQueryCanceled("query execution")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("at its timeout", func(t *testing.T) {
		big.onRead = func(ctx context.Context, _ []sketch.Interval) { <-ctx.Done() }
		err := run(t, NewEngine(EngineOptions{Distinct: big, Timeout: time.Millisecond}), t.Context())
		if !errors.Is(err, upstream.ErrQueryTimeout("query execution")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the source fails", func(t *testing.T) {
		w := smallWorld()
		w.err = errors.New("disk on fire")
		err := run(t, NewEngine(EngineOptions{Distinct: w}), t.Context())
		if !errors.Is(err, w.err) || !strings.Contains(err.Error(), "read distinct series for distinct_over_time: disk on fire") {
			t.Errorf("got %v", err)
		}
	})
}

// A recording or alerting rule may use the functions.
func TestRulesRunThroughTheEngine(t *testing.T) {
	query := rules.EngineQueryFunc(NewEngine(EngineOptions{Distinct: smallWorld()}), &matrices{})
	v, err := query(t.Context(), `count_distinct(users[1m], "country") > 3`, at(60))
	if err != nil || show(v) != `{country="DE"} 4; {country="FR"} 4` {
		t.Errorf("%v, %v", v, err)
	}
}

// An engine without the planner says so, instead of failing on a nil function.
func TestUpstreamsEngineRefusesOurFunctions(t *testing.T) {
	plain := upstream.NewEngine(upstream.EngineOpts{MaxSamples: 100, Timeout: time.Minute, Parser: NewParser()})
	m := upstream.Matrix{{Floats: []upstream.FPoint{{T: 0, F: 3}}}}
	for _, name := range []string{distinctOverTime, countDistinct} {
		res := instant(t, plain, &matrices{byName: map[string]upstream.Matrix{"m": m}}, name+"(m[1m])", 0)
		if res.Err == nil || res.Err.Error() != name+" cannot be computed from samples: the query must go through Quipu's engine" {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
}
