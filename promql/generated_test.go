package promql

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	upstream "github.com/prometheus/prometheus/promql"
)

// Every time in a generated query is a multiple of tick, so that a dense series
// with a sample at every tick stands for a call at whatever time the engine
// evaluates it.
const (
	tick       = 15_000
	worldStart = 1_699_999_200_000 // a full hour
	worldSpan  = 2 * 3_600_000
)

// randomWorld has windows in bursts with gaps longer than lookback between them.
func randomWorld(r *rand.Rand) *world {
	w := &world{}
	for _, name := range []string{"users", "visitors"} {
		for _, country := range []string{"DE", "FR", "PE"} {
			for _, device := range []string{"pc", "phone"} {
				s := worldSeries{labels: labels.FromStrings(model.MetricNameLabel, name, "country", country, "device", device)}
				for t, on := int64(worldStart), true; t < worldStart+worldSpan; t += tick {
					if r.IntN(30) == 0 {
						on = !on
					}
					if on && r.IntN(3) == 0 {
						win := seen{end: t}
						for range 1 + r.IntN(4) {
							win.ids = append(win.ids, r.Uint64N(40))
						}
						s.windows = append(s.windows, win)
					}
				}
				w.series = append(w.series, s)
			}
		}
	}
	return w
}

// spec is a generated call.
type spec struct {
	function, selector string
	by                 []string
	width, offset      int64  // milliseconds
	at                 string // "", "start()", "end()" or seconds
}

func (s spec) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s(%s[%dms]", s.function, s.selector, s.width)
	if s.at != "" {
		fmt.Fprintf(&b, " @ %s", s.at)
	}
	if s.offset != 0 {
		fmt.Fprintf(&b, " offset %dms", s.offset)
	}
	for _, l := range s.by {
		fmt.Fprintf(&b, ", %q", l)
	}
	return b.String() + ")"
}

// generator writes a query twice: with calls, and with the dense series
// model_0, model_1, ... in their place.
type generator struct {
	r     *rand.Rand
	specs []spec
	leaf  func() string // what to read instead of calls; nil: calls
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// moment is a time inside the world, in seconds.
func (g *generator) moment() string {
	return fmt.Sprint((worldStart + g.r.Int64N(worldSpan/tick)*tick) / 1000)
}

func (g *generator) call() (own, model string) {
	if g.leaf != nil {
		return g.leaf(), ""
	}
	s := spec{
		function: pick(g.r, distinctOverTime, countDistinct),
		width:    pick[int64](g.r, 1, 2, 4, 20, 80) * tick,
		offset:   pick[int64](g.r, 0, 0, 0, 4, 29, -8) * tick,
		at:       pick(g.r, "", "", "", "", "start()", "end()", g.moment()),
		selector: pick(g.r, `users`, `users{country="DE"}`, `visitors{device!="pc"}`),
	}
	if s.function == countDistinct {
		s.by = pick(g.r, nil, []string{"country"}, []string{"device", "country"})
		s.selector = pick(g.r, s.selector, `{__name__=~"users|visitors"}`)
	}
	g.specs = append(g.specs, s)
	return s.String(), fmt.Sprintf("model_%d", len(g.specs)-1)
}

// fill puts generated expressions into a template.
func (g *generator) fill(depth int, template string) (own, model string) {
	n := strings.Count(template, "%s")
	a, b := make([]any, n), make([]any, n)
	for i := range n {
		x, y := g.expr(depth - 1)
		if depth > 1 {
			x, y = "("+x+")", "("+y+")"
		}
		a[i], b[i] = x, y
	}
	return fmt.Sprintf(template, a...), fmt.Sprintf(template, b...)
}

// expr is a random expression. It keeps to operations whose result does not
// depend on the order of series, which the engine leaves to its maps: values stay
// small multiples of a power of two, and topk, which breaks ties by order, stands
// directly above calls.
func (g *generator) expr(depth int) (own, model string) {
	if depth == 0 {
		return g.call()
	}
	if depth == 1 && g.r.IntN(6) == 0 {
		return g.fill(depth, pick(g.r, `topk(2, %s)`, `topk(scalar(%s) / 8, %s)`))
	}
	switch g.r.IntN(6) {
	case 0:
		return g.fill(depth, pick(g.r, `sum by (country) (%s)`, `max(%s)`, `quantile(0.5, %s)`, `count_values("n", %s)`))
	case 1, 2:
		return g.subquery(depth)
	case 3:
		return g.fill(depth, pick(g.r, `%s + %s`, `%s and %s`, `%s or %s`, `%s unless %s`, `%s - on (country, device) %s`,
			`%s + on () group_left () sum(%s)`))
	case 4:
		return g.fill(depth, pick(g.r, `%s > 3`, `-%s`, `2 * %s`, `(%s) - 1`, `%s > bool 2`, `%s != 4`))
	default:
		return g.fill(depth, pick(g.r, `abs(%s)`, `timestamp(%s)`, `absent(%s)`, `vector(scalar(%s))`, `time() - %s`,
			`label_replace(%s, "country", "$1$1", "country", "(.*)")`, `label_replace(%s, "device", "any", "country", "DE|FR")`,
			`label_join(%s, "country", "-", "country", "device")`, `clamp_max(%s, step())`, `sort(%s)`))
	}
}

func (g *generator) subquery(depth int) (own, model string) {
	template := pick(g.r, "max", "min", "sum", "count", "first", "last") + "_over_time(%s["
	template += fmt.Sprintf("%ds:", pick(g.r, 15, 45, 300, 1200, 2400))
	template += pick(g.r, "", "15s", "30s", "45s", "5m", "20m") + "]"
	if g.r.IntN(4) == 0 {
		template += " @ " + pick(g.r, "start()", "end()", g.moment())
	}
	if g.r.IntN(3) == 0 {
		template += " offset " + pick(g.r, "15s", "150s", "-60s", "10m", "-20m")
	}
	return g.fill(depth, template+")")
}

// dense is the series that stands for s in a query over [start, end]: a sample at
// every tick, a stale marker where there is no value. Values come from memo by
// the end of their range.
func dense(s spec, w *world, start, end int64, memo map[string]map[int64]map[string]float64) upstream.Matrix {
	matchers, err := NewParser().ParseMetricSelector(s.selector)
	if err != nil {
		panic(err)
	}
	fixed := int64(-1)
	switch s.at {
	case "":
	case "start()":
		fixed = start
	case "end()":
		fixed = end
	default:
		if _, err := fmt.Sscan(s.at, &fixed); err != nil {
			panic(err)
		}
		fixed *= 1000
	}
	key := fmt.Sprint(s.function, s.selector, s.by, s.width)
	if memo[key] == nil {
		memo[key] = make(map[int64]map[string]float64)
	}
	points := make(map[string][]upstream.FPoint)
	const margin = 5 * 3_600_000 // more than any range, subqueries and offset reach
	for t := int64(worldStart - margin); t < worldStart+worldSpan+margin; t += tick {
		hi := t - s.offset
		if fixed >= 0 {
			hi = fixed - s.offset
		}
		values, ok := memo[key][hi]
		if !ok {
			values = w.value(s.function, matchers, s.by, hi, s.width)
			memo[key][hi] = values
		}
		for l := range values {
			if points[l] == nil {
				points[l] = []upstream.FPoint{}
			}
		}
		for l := range points {
			v, ok := values[l]
			if !ok {
				v = stale
			}
			points[l] = append(points[l], upstream.FPoint{T: t, F: v})
		}
	}
	var out upstream.Matrix
	for l, p := range points {
		metric := labels.EmptyLabels()
		if l != "{}" {
			if metric, err = NewParser().ParseMetric(l); err != nil {
				panic(err)
			}
		}
		out = append(out, upstream.Series{Metric: metric, Floats: p})
	}
	return out
}

// Generated queries give bit for bit what upstream's engine gives where each
// call is an ordinary series with the model's values. That proves the values and
// the evaluation times: of subqueries, nested and aligned, with offset and @, of
// ranges and instants.
func TestGeneratedQueriesAgainstUpstream(t *testing.T) {
	const queries = 600
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	w := randomWorld(r)
	memo := make(map[string]map[int64]map[string]float64)
	own := NewEngine(EngineOptions{Distinct: w})
	plain := NewEngine(EngineOptions{Distinct: &world{}})
	failed, full := 0, 0
	for i := range queries {
		g := &generator{r: r}
		ours, theirs := g.expr(r.IntN(4))
		start := worldStart + r.Int64N(worldSpan/tick)*tick
		end, step := start, int64(0)
		if r.IntN(2) == 0 {
			step = pick[int64](r, 1, 2, 3, 20, 40) * tick
			end = start + r.Int64N(worldSpan/step)*step + pick[int64](r, 0, 0, tick, step/2/tick*tick)
		}
		q := &matrices{byName: make(map[string]upstream.Matrix), unnamed: true}
		for k, s := range g.specs {
			q.byName[fmt.Sprintf("model_%d", k)] = dense(s, w, start, end, memo)
		}
		got, gotErr := evaluate(t, own, &matrices{}, ours, start, end, step)
		want, wantErr := evaluate(t, plain, q, theirs, start, end, step)
		if (gotErr == nil) != (wantErr == nil) || !slices.Equal(got, want) {
			t.Fatalf("seed %d, query %d: %s\nat %d to %d by %d s\n%s\n got error %v\nwant error %v", seed, i, ours,
				start/1000, end/1000, step/1000, difference(got, want), gotErr, wantErr)
		}
		if gotErr != nil {
			failed++
		} else if len(got) > 0 {
			full++
		}
	}
	t.Logf("%d queries: %d with a result, %d with an error", queries, full, failed)
	if full < queries/2 || failed > queries/5 {
		t.Errorf("seed %d: too few queries say something: %d of %d have a result, %d fail", seed, full, queries, failed)
	}
}

// difference is where two results first differ.
func difference(got, want []string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("%d and %d lines differ from line %d:\n got %q\nwant %q", len(got), len(want), i,
		got[i:min(i+3, len(got))], want[i:min(i+3, len(want))])
}

// evaluate returns the result as sorted lines that hold every bit.
func evaluate(t *testing.T, e *Engine, q *matrices, qs string, start, end, step int64) ([]string, error) {
	t.Helper()
	var (
		query upstream.Query
		err   error
	)
	if step == 0 {
		query, err = e.NewInstantQuery(t.Context(), q, nil, qs, time.UnixMilli(start))
	} else {
		query, err = e.NewRangeQuery(t.Context(), q, nil, qs, time.UnixMilli(start), time.UnixMilli(end), time.Duration(step)*time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", qs, err)
	}
	defer query.Close()
	res := query.Exec(t.Context())
	if res.Err != nil {
		return nil, res.Err
	}
	var lines []string
	line := func(l labels.Labels, t int64, v float64) {
		lines = append(lines, fmt.Sprintf("%s %d %g %x", l, t, v, math.Float64bits(v)))
	}
	switch v := res.Value.(type) {
	case upstream.Vector:
		for _, s := range v {
			line(s.Metric, s.T, s.F)
		}
	case upstream.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				line(s.Metric, p.T, p.F)
			}
		}
	case upstream.Scalar:
		line(labels.EmptyLabels(), v.T, v.V)
	default:
		t.Fatalf("%s: unexpected %s", qs, parser.DocumentedType(v.Type()))
	}
	slices.Sort(lines)
	return lines, nil
}
