package ingest

import (
	"context"
	"fmt"
	"io"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Explanation is what would become of one event.
type Explanation struct {
	Verdict string            `json:"verdict"`          // accepted, filtered or rejected
	Reason  string            `json:"reason,omitempty"` // why it is rejected
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
	// Series that it touches, and the number that goes into each.
	Series []SeriesExplanation `json:"series,omitempty"`
}

// SeriesExplanation is one series that an event touches. Value is what a counter
// adds, a histogram observes or a gauge is set to; of a distinct count there is
// none.
type SeriesExplanation struct {
	Series string   `json:"series"`
	Value  *float64 `json:"value,omitempty"`
}

// Explain says what would become of the one event in raw, without counting it.
func (g *Ingester) Explain(ctx context.Context, id tenant.ID, raw []byte) (Explanation, error) {
	profile, err := g.store.Tenant(id)
	if err != nil {
		return Explanation{}, fmt.Errorf("open tenant %s: %w", id, err)
	}
	rules, err := g.book.get(id)
	if err != nil {
		return Explanation{}, err
	}
	return explain(rules, profile, g.present(ctx), raw), nil
}

// ExplainWith is Explain by the rules of a text, at the present now in
// milliseconds since 1970.
func ExplainWith(file string, text, raw []byte, now int64) (Explanation, error) {
	rules, err := parseRules(file, text)
	if err != nil {
		return Explanation{}, err
	}
	return explain(rules, tenant.Profile{Settings: tenant.DefaultSettings()}, now, raw), nil
}

func explain(rules *ruleset, p tenant.Profile, now int64, raw []byte) Explanation {
	out := Explanation{Version: rules.version, Verdict: "rejected"}
	w := newWorker()
	w.begin(rules, p, now)
	w.coalescer.dry = true
	e := &w.decoder.event
	if r := w.decoder.decode(trimBody(raw)); r != nil {
		out.Reason = r.text
		return out
	}
	out.Time, out.Window = e.ms, e.ms-e.ms%p.GridMillis()
	hits, rejected := rules.match(e, nil)
	switch {
	case rejected != nil:
		out.Reason = rejected.text
		return out
	case len(hits) == 0:
		out.Verdict = "filtered"
	default:
		out.Verdict = "accepted"
	}
	for i := range rules.rules {
		r := &rules.rules[i]
		kind := r.kind
		if kind == increment.Buckets {
			kind = increment.Histogram // as rules have it
		}
		ex := RuleExplanation{Metric: r.metric, Type: kind.String(), Line: r.line}
		for _, h := range hits {
			if h.rule != i {
				continue
			}
			s := SeriesExplanation{Series: w.coalescer.increments[w.coalescer.at(i, out.Window, e, h.name)].Labels.String()}
			if r.kind != increment.Distinct {
				s.Value = &h.value
			}
			ex.Series = append(ex.Series, s)
		}
		ex.Counts = len(ex.Series) > 0
		ex.Why = r.why(e, rules.paths, ex.Counts)
		out.Rules = append(out.Rules, ex)
	}
	return out
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
	for _, r := range x.Rules {
		mark := "-"
		if r.Counts {
			mark = "+"
		}
		fmt.Fprintf(w, "%s %s (%s, line %d): %s\n", mark, r.Metric, r.Type, r.Line, r.Why)
		for _, s := range r.Series {
			fmt.Fprintf(w, "    %s", s.Series)
			if s.Value != nil {
				fmt.Fprintf(w, " %v", *s.Value)
			}
			fmt.Fprintln(w)
		}
	}
}
