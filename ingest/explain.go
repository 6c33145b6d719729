package ingest

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Explanation is what would become of one event.
type Explanation struct {
	Verdict string            `json:"verdict"`          // accepted, filtered or rejected
	Reason  string            `json:"reason,omitempty"` // why it is rejected, or filtered before any rule
	Version string            `json:"version"`          // of the rules
	Time    int64             `json:"time,omitempty"`   // of the event, milliseconds since 1970
	Window  int64             `json:"window,omitempty"` // start of its window
	Rules   []RuleExplanation `json:"rules,omitempty"`
}

// RuleExplanation is what one rule makes of the event.
type RuleExplanation struct {
	Metric string `json:"metric"`
	Type   string `json:"type"`
	Line   int    `json:"line"` // of the rules
	Counts bool   `json:"counts"`
	Why    string `json:"why"`
	// Rejects says why the rule rejects the event; then no rule counts it.
	Rejects string `json:"rejects,omitempty"`
	// Series that it touches, and the number that goes into each.
	Series []SeriesExplanation `json:"series,omitempty"`
}

// SeriesExplanation is one series that an event touches. Value is what a counter
// adds, a histogram observes or a gauge is set to; of a distinct count there is
// none. From says what it was made of.
type SeriesExplanation struct {
	Series string             `json:"series"`
	Value  *float64           `json:"value,omitempty"`
	From   string             `json:"from"`
	Labels []LabelExplanation `json:"labels,omitempty"`
}

// LabelExplanation is where the value of a label comes from: what the event has at
// Path, then each transform and what it made, then the default or what the label
// allows. Value is "" where the label is absent.
type LabelExplanation struct {
	Name  string   `json:"name"`
	Path  string   `json:"path"`
	Found string   `json:"found"`
	Steps []string `json:"steps,omitempty"`
	Value string   `json:"value"`
}

// Explain says what would become of the one event of a post, without counting it.
func (g *Ingester) Explain(ctx context.Context, id tenant.ID, post *Post) (Explanation, error) {
	profile, err := g.store.Tenant(id)
	if err != nil {
		return Explanation{}, fmt.Errorf("open tenant %s: %w", id, err)
	}
	rules, err := g.book.get(id)
	if err != nil {
		return Explanation{}, err
	}
	return explain(newWorker(g.enricher), rules, profile, g.present(ctx), post)
}

// ExplainWith is Explain by the rules of a text, at the present now in
// milliseconds since 1970.
func ExplainWith(file string, text []byte, post *Post, now int64) (Explanation, error) {
	rules, err := parseRules(file, text)
	if err != nil {
		return Explanation{}, err
	}
	e, err := offlineEnricher()
	if err != nil {
		return Explanation{}, err
	}
	return explain(newWorker(e), rules, tenant.Profile{Settings: tenant.DefaultSettings()}, now, post)
}

func explain(w *worker, rules *ruleset, p tenant.Profile, now int64, post *Post) (Explanation, error) {
	out := Explanation{Version: rules.version, Verdict: "filtered"}
	raw, err := post.one()
	if err != nil {
		return out, err
	}
	w.begin(rules, p, now, post)
	w.coalescer.dry = true
	e, r := w.decoder.decode(raw)
	if r != nil {
		out.Verdict, out.Reason = "rejected", r.text
		return out, nil
	}
	if by := w.enriching.enrich(e); by != notFiltered {
		out.Reason = "it is filtered: " + by.String()
		return out, nil
	}
	out.Time, out.Window = e.ms, e.ms-e.ms%p.GridMillis()
	if e.ignored {
		return out, nil
	}
	for i := range rules.rules {
		ex, rejected := w.explainRule(i, e, out.Window)
		if ex.Counts && out.Verdict == "filtered" {
			out.Verdict = "accepted"
		}
		if rejected != nil && out.Verdict != "rejected" {
			out.Verdict, out.Reason = "rejected", rejected.text
		}
		out.Rules = append(out.Rules, ex)
	}
	if out.Verdict == "rejected" { // I2
		for i := range out.Rules {
			out.Rules[i].Counts, out.Rules[i].Series = false, nil
		}
	}
	return out, nil
}

// one is the text of the only event of a post.
func (p *Post) one() ([]byte, error) {
	var last []byte
	n := 0
	count := func(raw []byte) error { last = raw; n++; return nil }
	var err error
	switch p.form {
	case formValue:
		return p.body, nil
	case formArray:
		err = elements(p.body, valueLen, count)
	case formLines:
		err = lines(p.body, count)
	}
	if err == nil && n != 1 {
		err = fmt.Errorf("one event is explained at a time, these are %d", n)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return last, nil
}

// explainRule says what rule i makes of the event.
func (w *worker) explainRule(i int, e *event, window int64) (RuleExplanation, *rejection) {
	c, r := w.coalescer, &w.rules.rules[i]
	kind := r.kind
	if kind == increment.Buckets {
		kind = increment.Histogram // as rules have it
	}
	ex := RuleExplanation{Metric: r.metric, Type: kind.String(), Line: r.line}
	if r.session != nil {
		ex.Metric, ex.Type = r.session.Name, sessionType
	}
	hits, rejected := w.rules.matchRule(i, e, nil)
	if rejected != nil {
		ex.Rejects = rejected.text
		hits = nil
	}
	for _, h := range hits {
		s := SeriesExplanation{Series: seriesText(c.series(c.at(i, window, e, h.name)).Labels), From: r.from(e, w.rules.paths, h.name)}
		if r.kind != increment.Distinct && r.session == nil {
			s.Value = &h.value
		}
		for j := range r.labels {
			s.Labels = append(s.Labels, r.labels[j].explain(e, w.rules.paths, h.name))
		}
		ex.Series = append(ex.Series, s)
	}
	ex.Counts = len(hits) > 0
	ex.Why = r.why(e, w.rules.paths, ex.Counts || rejected != nil)
	return ex, rejected
}

// seriesText is a series as PromQL selects it.
func seriesText(ls labels.Labels) string {
	name := ls.Get(model.MetricNameLabel)
	if ls = labels.NewBuilder(ls).Del(model.MetricNameLabel).Labels(); ls.IsEmpty() {
		return name
	}
	return name + ls.String()
}

// from says what the rule's number is made of.
func (r *rule) from(e *event, paths []string, numberName []byte) string {
	var out string
	switch {
	case r.value == valueNone:
		out = "the event"
	case r.value == valueNumbers:
		out = "further_data." + string(numberName)
	case r.session != nil:
		return fmt.Sprintf("%s, as a keyed hash: its session, counted once it has ended, with the labels of its first event", paths[r.value])
	case r.kind == increment.Distinct:
		return paths[r.value] + ", as a keyed hash"
	default:
		out = fmt.Sprintf("%s, which is %s", paths[r.value], &e.fields[r.value])
	}
	if r.scale != 1 {
		out += fmt.Sprintf(", times %v", r.scale)
	}
	return out
}

// explain does what value does, and tells.
func (l *label) explain(e *event, paths []string, numberName []byte) LabelExplanation {
	ex := LabelExplanation{Name: l.name, Path: pathNumberName, Found: strconv.Quote(string(numberName))}
	if l.source >= 0 {
		ex.Path, ex.Found = paths[l.source], e.fields[l.source].String()
	}
	v := l.found(e, numberName)
	if v != nil {
		for i := range l.transforms {
			v, e.scratch = l.transforms[i].apply(v, e.scratch)
			ex.Steps = append(ex.Steps, fmt.Sprintf("%s: %q", &l.transforms[i], shorten(string(v))))
		}
	}
	if len(v) == 0 {
		if v = l.fallback(e); v != nil {
			ex.Steps = append(ex.Steps, fmt.Sprintf("default: %q", v))
		}
	} else {
		var by restriction
		if v, by = l.allowed.admit(v, e.valueBytesMax, true); by != notRestricted {
			ex.Steps = append(ex.Steps, fmt.Sprintf("%s: %q", by, v))
		}
	}
	ex.Value = string(v)
	return ex
}

// why says why the rule counts e or not.
func (r *rule) why(e *event, paths []string, counts bool) string {
	if r.when != nil {
		if why := r.when.failing(e); why != "" {
			return why
		}
	}
	switch {
	case counts && r.when == nil:
		return "every event counts"
	case counts:
		return "when: " + r.when.String()
	case r.value == valueNumbers:
		return "value: further_data has no number"
	case r.session != nil:
		return fmt.Sprintf("key: %s is %s", paths[r.value], &e.fields[r.value])
	default:
		return fmt.Sprintf("value: %s is %s", paths[r.value], &e.fields[r.value])
	}
}

// Write prints the explanation for a person.
func (x *Explanation) Write(w io.Writer) {
	fmt.Fprintf(w, "%s", x.Verdict)
	if x.Reason != "" {
		fmt.Fprintf(w, ": %s", x.Reason)
	}
	fmt.Fprintln(w)
	if x.Time > 0 {
		at := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano) }
		fmt.Fprintf(w, "time %s, in the window that begins at %s; rules %s\n", at(x.Time), at(x.Window), x.Version)
	}
	for _, r := range x.Rules {
		mark := "-"
		if r.Counts {
			mark = "+"
		}
		fmt.Fprintf(w, "%s %s (%s, line %d): %s\n", mark, r.Metric, r.Type, r.Line, r.Why)
		if r.Rejects != "" {
			fmt.Fprintf(w, "    rejects the event: %s\n", r.Rejects)
		}
		for _, s := range r.Series {
			s.write(w)
		}
	}
}

func (s *SeriesExplanation) write(w io.Writer) {
	fmt.Fprintf(w, "    %s", s.Series)
	if s.Value != nil {
		fmt.Fprintf(w, " %v", *s.Value)
	}
	fmt.Fprintf(w, "\n      of %s\n", s.From)
	for _, l := range s.Labels {
		fmt.Fprintf(w, "      %s: %s is %s", l.Name, l.Path, l.Found)
		for _, step := range l.Steps {
			fmt.Fprintf(w, ", %s", step)
		}
		if l.Value == "" {
			fmt.Fprint(w, ": no label")
		}
		fmt.Fprintln(w)
	}
}
