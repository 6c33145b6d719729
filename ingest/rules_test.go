package ingest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

const testRules = `
metrics:
  - {name: views_total, type: counter, when: {event: view}, labels: {page: page, Name: {path: event, transform: upper, values: [VIEW]}}}
  - {name: revenue_total, type: counter, value: amount, scale: 2, labels: {plan: {path: plan, default: none}}}
  - {name: visitors, type: distinct, value: user_id, labels: {page: page}}
  - {name: load, type: histogram, value: amount, when: {not: {plan: free}}, buckets: [10, 50]}
  - {name: length, type: gauge, value: amount, when: {plan: {in: [pro]}}}
`

// pick is one of the texts, which may be "".
func pick(r *rand.Rand, texts ...string) string { return texts[r.IntN(len(texts))] }

// What a batch adds is what counting its events one by one, without the engine of
// rules, adds; and explain says of each event what it does by itself.
func TestRulesEqualARecount(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		views, revenue := map[string]float64{}, map[string]float64{}
		var events []string
		for range 1 + r.IntN(200) {
			name, page, plan := pick(r, "view", "click"), pick(r, "/a", "/b", ""), pick(r, "pro", "free", "")
			amount := r.IntN(100) - 10
			hasAmount := r.IntN(2) == 0
			e := fmt.Sprintf(`{"event":%q,"page":%q,"plan":%q,"user_id":%d,"timestamp":%d`, name, page, plan, r.IntN(9), present/1000-r.Int64N(40))
			if hasAmount {
				e += fmt.Sprintf(`,"amount":%d`, amount)
			}
			events = append(events, e+"}")
			if hasAmount && amount < 0 {
				continue
			}
			if name == "view" {
				views[page]++
			}
			if hasAmount {
				if plan == "" {
					plan = "none"
				}
				revenue[plan] += 2 * float64(amount)
			}
		}
		m, explained := newMemory(), newMemory()
		g, _ := newTestIngesterWith(t, m, &memoryRules{text: testRules})
		post(t, g, strings.Join(events, "\n"), "application/x-ndjson", "")
		gotViews, gotRevenue := map[string]float64{}, map[string]float64{}
		for _, s := range m.series {
			switch s.Labels.Get("__name__") {
			case "views_total":
				gotViews[s.Labels.Get("page")] += s.Value
			case "revenue_total":
				gotRevenue[s.Labels.Get("plan")] += s.Value
			}
		}
		if fmt.Sprint(gotViews, gotRevenue) != fmt.Sprint(views, revenue) {
			t.Fatalf("seed %d: counted %v %v, recounted %v %v", seed, gotViews, gotRevenue, views, revenue)
		}

		for _, e := range events {
			clear(explained.series)
			g, _ := newTestIngesterWith(t, explained, &memoryRules{text: testRules})
			verdict := post(t, g, e, "", "")
			x, err := g.Explain(context.Background(), tenant.Default, plainPost([]byte(e), ""))
			if err != nil {
				t.Fatal(err)
			}
			var said, happened []string
			for _, rule := range x.Rules {
				for _, s := range rule.Series {
					if b := labelsTold(s); seriesText(b.Set("__name__", rule.Metric).Labels()) != s.Series {
						t.Fatalf("seed %d: %s: labels %+v of %s", seed, e, s.Labels, s.Series)
					}
					said = append(said, fmt.Sprintf("%s @%d", s.Series, x.Window-present))
				}
			}
			for _, inc := range explained.series {
				happened = append(happened, fmt.Sprintf("%s @%d", seriesText(inc.Labels), inc.Time-present))
			}
			slices.Sort(said)
			slices.Sort(happened)
			want := map[string]int{"accepted": verdict.Accepted, "filtered": verdict.Filtered, "rejected": verdict.Rejected}
			if !slices.Equal(said, happened) || want[x.Verdict] != 1 {
				t.Fatalf("seed %d: %s: explained %s %q, happened %+v %q", seed, e, x.Verdict, said, verdict, happened)
			}
		}
	}
}

// labelsTold are the labels that an explanation gives the origin of.
func labelsTold(s SeriesExplanation) *labels.Builder {
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, l := range s.Labels {
		b.Set(l.Name, l.Value)
	}
	return b
}

func TestRulesAreReloaded(t *testing.T) {
	rules, now := &memoryRules{text: "metrics: [{name: a, type: counter}]"}, time.UnixMilli(present)
	m := newMemory()
	g, err := New(Options{Store: m, Registerer: prometheus.NewRegistry(), Rules: rules, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	counts := func(metric string) {
		t.Helper()
		clear(m.series)
		if r := post(t, g, `{}`, "", ""); r.Accepted != 1 {
			t.Fatalf("%+v", r)
		}
		for at := range m.series {
			if want := fmt.Sprintf(`{__name__="%s"}`, metric); !strings.HasPrefix(at, want) {
				t.Errorf("counted %s, want %s", at, want)
			}
		}
	}
	counts("a")
	rules.text = "metrics: [{name: b, type: counter}]"
	counts("a") // not asked again yet
	now = now.Add(reloadEvery)
	counts("b")
	rules.text = "metrics: [{name: c, type: countr}]"
	now = now.Add(reloadEvery)
	counts("b")
	if n := testutil.ToFloat64(g.book.bad); n != 1 {
		t.Errorf("%v tenants with bad rules, want 1", n)
	}
	if r, err := g.Rules(tenant.Default); err != nil || !strings.Contains(r.Error, `events.yaml:1: metrics[0].type: "countr"`) || !strings.Contains(r.Text, "name: b") {
		t.Errorf("rules in force %+v, %v", r, err)
	}
	if _, err := g.SetRules(tenant.Default, []byte("metrics: [{}]")); !errors.Is(err, ErrBadRequest) {
		t.Errorf("bad rules are set: %v", err)
	}
	if r, err := g.SetRules(tenant.Default, []byte("metrics: [{name: d, type: counter}]")); err != nil || r.Error != "" {
		t.Errorf("set rules: %+v, %v", r, err)
	}
	counts("d")
	if n := testutil.ToFloat64(g.book.bad); n != 0 {
		t.Errorf("%v tenants with bad rules, want none", n)
	}
}

// A tenant whose only rules are wrong is not counted by others.
func TestBadRulesAtTheStart(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: "metrics: [{}]"})
	if _, err := g.Events(context.Background(), tenant.Default, plainPost([]byte(`{}`), ""), ""); err == nil || errors.Is(err, ErrBadRequest) || m.batches > 0 {
		t.Errorf("%v, %d batches stored", err, m.batches)
	}
}

// storedKinds is a Stored of all tenants alike.
type storedKinds map[string]increment.Kind

func (s storedKinds) Kinds(tenant.ID) (map[string]increment.Kind, error) { return s, nil }

func (storedKinds) LabelValues(context.Context, tenant.ID, string, string) ([]string, error) {
	return []string{"/stored", increment.Other}, nil
}

func (storedKinds) Limits(tenant.ID) (tenant.Limits, error) { return tenant.DefaultLimits(), nil }

// Rules that would count what storage has as another type are refused, so that it does
// not refuse the events.
func TestRulesMustFitWhatIsStored(t *testing.T) {
	rules, now := &memoryRules{text: "metrics: [{name: a, type: counter}]"}, time.UnixMilli(present)
	stored := storedKinds{"a": increment.Counter, "h": increment.Buckets, "g_sum": increment.Gauge}
	g, err := New(Options{Store: newMemory(), Registerer: prometheus.NewRegistry(), Rules: rules, Stored: stored, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := g.Rules(tenant.Default); err != nil || r.Error != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	const clashing = `metrics:
  - {name: a, type: gauge, value: v}
  - {name: h, type: histogram, value: v}
  - {name: h_count, type: counter}
  - {name: g, type: histogram, value: v, buckets: [1]}
  - {name: fine, type: counter}
`
	want := `events.yaml:2: metrics[0]: "a" is stored as a counter, it cannot be a gauge: give it another name
events.yaml:3: metrics[1]: "h" is stored as a histogram with buckets, it cannot be a histogram without buckets: give it another name
events.yaml:4: metrics[2]: "h_count" is a name under which the stored histogram "h" shows: give the metric another
events.yaml:5: metrics[3]: the histogram shows as "g_sum", and a metric of that name is stored: give the histogram another`
	_, err = g.SetRules(tenant.Default, []byte(clashing))
	if !errors.Is(err, ErrBadRequest) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("set: %v, want\n%s", err, want)
	}
	// In the file they leave those before in force.
	rules.text, now = clashing, now.Add(reloadEvery)
	if r, err := g.Rules(tenant.Default); err != nil || r.Error != want || !strings.Contains(r.Text, "name: a, type: counter") {
		t.Errorf("reloaded: %+v, %v", r, err)
	}
	// Where there are none before they are better than none.
	g, err = New(Options{Store: newMemory(), Registerer: prometheus.NewRegistry(), Rules: rules, Stored: stored})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := g.Rules(tenant.Default); err != nil || r.Error != want || r.Text != clashing {
		t.Errorf("at the start: %+v, %v", r, err)
	}
}

// A label with a limit keeps the values that are stored, lets new ones pass until it is
// full, and names itself; explain takes no place.
func TestLabelValuesAreLimited(t *testing.T) {
	rules := &memoryRules{text: "metrics: [{name: a, type: counter, labels: {page: {path: page, max_values: 2}}}]"}
	m := newMemory()
	g, err := New(Options{Store: m, Registerer: prometheus.NewRegistry(), Rules: rules, Stored: storedKinds{}, Now: func() time.Time { return time.UnixMilli(present) }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		x, err := g.Explain(context.Background(), tenant.Default, plainPost([]byte(`{"page":"/explained"}`), ""))
		if err != nil || !strings.Contains(x.Rules[0].Series[0].Series, "/explained") {
			t.Errorf("%+v, %v", x, err)
		}
	}
	post(t, g, `{"page":"/new"}`, "", "")
	post(t, g, `[{"page":"/more"},{"page":"/stored"},{"page":"/new"},{"page":"/most"},{}]`, "", "")
	want := []string{
		`{__name__="a", page="(other)"} @-5000 +2`, `{__name__="a", page="/new"} @-5000 +2`,
		`{__name__="a", page="/stored"} @-5000 +1`, `{__name__="a"} @-5000 +1`,
	}
	if got := m.lines(); !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if n := testutil.ToFloat64(g.book.over.WithLabelValues("default", "a", "page")); n != 2 {
		t.Errorf("%v over the limit, want 2", n)
	}
}

// Handles that are dropped are made again, and what is counted is the same.
func TestHandlesAreBounded(t *testing.T) {
	m := newMemory()
	g, _ := newTestIngesterWith(t, m, &memoryRules{text: "metrics: [{name: a, type: counter, labels: {page: page}}]"})
	g.book.handles.max = 10_000
	for range 3 {
		for i := range 100 {
			post(t, g, fmt.Sprintf(`[{"page":"/%d"},{"page":"/%d"}]`, i, i), "", "")
		}
	}
	rs, err := g.book.get(tenant.Default)
	if err != nil {
		t.Fatal(err)
	}
	if kept := rs.handles.len(); kept == 0 || kept > 10_000/handleBytes {
		t.Errorf("%d handles are kept", kept)
	}
	if lines := m.lines(); len(lines) != 100 || lines[0] != `{__name__="a", page="/0"} @-5000 +6` {
		t.Errorf("%d series, the first %s", len(lines), lines[0])
	}
}

// limitedTo is a Stored of tenants with these limits.
type limitedTo struct {
	storedKinds
	limits tenant.Limits
}

func (l limitedTo) Limits(tenant.ID) (tenant.Limits, error) { return l.limits, nil }

// Rules that make series of more labels than the tenant may have are wrong, wherever
// they come from; the offline check knows the default limit.
func TestRulesMustKeepToTheLimitOfLabels(t *testing.T) {
	limits := tenant.DefaultLimits()
	limits.LabelsPerSeries = 2
	const few = "metrics: [{name: a, type: counter, labels: {x: x, y: y}}]"
	const many = "metrics:\n  - {name: a, type: counter}\n  - {name: b, type: counter, labels: {x: x, y: y, z: z}}\n"
	const want = "events.yaml:3: metrics[1].labels: 3 labels, at most 2 are allowed (limits.labels_per_series)"
	rules, now := &memoryRules{text: few}, time.UnixMilli(present)
	g, err := New(Options{
		Store: newMemory(), Registerer: prometheus.NewRegistry(), Rules: rules, Stored: limitedTo{storedKinds{}, limits}, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := g.Rules(tenant.Default); err != nil || r.Error != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := g.CheckRules(tenant.Default, []byte(many)); !errors.Is(err, ErrBadRequest) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("check: %v, want %s", err, want)
	}
	if _, err := g.SetRules(tenant.Default, []byte(many)); !errors.Is(err, ErrBadRequest) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("set: %v, want %s", err, want)
	}
	rules.text, now = many, now.Add(reloadEvery)
	if r, err := g.Rules(tenant.Default); err != nil || r.Error != want || r.Text != few {
		t.Errorf("reloaded: %+v, %v", r, err)
	}

	if n, err := CheckRules("events.yaml", []byte(many)); err != nil || n != 2 {
		t.Errorf("offline: %d metrics, %v", n, err)
	}
	var labels []string
	for i := range 31 {
		labels = append(labels, fmt.Sprintf("l%d: x", i))
	}
	_, err = CheckRules("events.yaml", []byte("metrics: [{name: a, type: counter, labels: {"+strings.Join(labels, ", ")+"}}]"))
	if err == nil || !strings.Contains(err.Error(), "31 labels, at most 30 are allowed") {
		t.Errorf("offline: %v", err)
	}
}
