package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// testFile is a file of tests: events in, increments out.
type testFile struct {
	Rules string     `yaml:"rules"` // path, from the file's directory; "": the defaults
	Now   *time.Time `yaml:"now"`   // the present of all tests; nil: the clock's
	Tests []ruleTest `yaml:"tests"`
}

type ruleTest struct {
	Name   string `yaml:"name"`
	Events []any  `yaml:"events"`
	// Verdicts are compared where they are given.
	Accepted  *int `yaml:"accepted"`
	Duplicate *int `yaml:"duplicate"`
	Filtered  *int `yaml:"filtered"`
	Rejected  *int `yaml:"rejected"`
	// Increments are all that the events cause: over all windows, or in each where they
	// say so.
	Increments []expectedIncrement `yaml:"increments"`
}

type expectedIncrement struct {
	Series string     `yaml:"series"`
	Window *time.Time `yaml:"window"` // its start
	Value  *float64   `yaml:"value"`  // of a counter or gauge
	Count  *uint64    `yaml:"count"`  // of a histogram, with Sum
	Sum    float64    `yaml:"sum"`
	IDs    *int       `yaml:"ids"` // of a distinct count

	line int
}

// UnmarshalYAML keeps the line. Decoding a node does not look for unknown fields.
func (x *expectedIncrement) UnmarshalYAML(n *yaml.Node) error {
	x.line = n.Line
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains([]string{"series", "window", "value", "count", "sum", "ids"}, k.Value) {
			return fmt.Errorf("line %d: field %s not found: an increment has series, window, value, count, sum and ids", k.Line, k.Value)
		}
	}
	type fields expectedIncrement
	return n.Decode((*fields)(x))
}

// TestResult is what came of one test; Diff is "" where it passed.
type TestResult struct{ Name, Diff string }

// TestRules runs the tests of a file; read reads it and the rules it names, now is
// their present where the file names none.
func TestRules(name string, read func(name string) ([]byte, error), now time.Time) ([]TestResult, error) {
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	var file testFile
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(file.Tests) == 0 {
		return nil, fmt.Errorf("%s: no tests", name)
	}
	if file.Now != nil {
		now = *file.Now
	}
	rulesName, rulesText := "default rules", DefaultRules
	if file.Rules != "" {
		rulesName = filepath.Join(filepath.Dir(name), file.Rules)
		if rulesText, err = read(rulesName); err != nil {
			return nil, fmt.Errorf("%s: rules: %w", name, err)
		}
	}
	var out []TestResult
	for i := range file.Tests {
		t := &file.Tests[i]
		if t.Name == "" {
			t.Name = fmt.Sprintf("tests[%d]", i)
		}
		rs, err := parseRules(rulesName, rulesText) // anew: limits of values fill up
		if err != nil {
			return nil, err
		}
		diff, err := t.run(name, rs, now.UnixMilli())
		if err != nil {
			return nil, err
		}
		out = append(out, TestResult{t.Name, diff})
	}
	return out, nil
}

// seenIDs are the ids of a test's events.
type seenIDs []bool

func (s seenIDs) Duplicate(i int) bool { return s[i] }
func (seenIDs) Settle(bool)            {}

// reserveNew knows of no id but those of the batch.
func reserveNew(ids [][16]byte) (increment.Reservation, error) {
	out, seen := make(seenIDs, len(ids)), map[[16]byte]bool{}
	for i, id := range ids {
		out[i], seen[id] = seen[id], true
	}
	return out, nil
}

// body is the events as lines of JSON.
func (t *ruleTest) body() ([]byte, error) {
	if len(t.Events) == 0 {
		return nil, errors.New("no events")
	}
	var body bytes.Buffer
	for i, e := range t.Events {
		switch text, isText := e.(string); {
		case !isText:
			line, err := json.Marshal(e)
			if err != nil {
				return nil, fmt.Errorf("events[%d]: %w", i, err)
			}
			body.Write(line)
		case json.Compact(&body, []byte(text)) != nil: // no JSON, which it may be meant to be
			body.WriteString(strings.ReplaceAll(text, "\n", " "))
		}
		body.WriteByte('\n')
	}
	return body.Bytes(), nil
}

// run returns how what the rules make of the events differs from what is expected.
func (t *ruleTest) run(file string, rs *ruleset, now int64) (string, error) {
	body, err := t.body()
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", file, t.Name, err)
	}
	e, err := offlineEnricher()
	if err != nil {
		return "", err
	}
	w := newWorker(e)
	err = w.read(context.Background(), rs, tenant.Profile{Settings: tenant.DefaultSettings()}, now, &Post{body: body, form: formLines})
	if err == nil {
		err = w.reserve(reserveNew)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", file, t.Name, err)
	}
	var diff strings.Builder
	for _, v := range []struct {
		name string
		want *int
		got  int
	}{
		{"accepted", t.Accepted, w.good}, {"duplicate", t.Duplicate, w.result.Duplicate},
		{"filtered", t.Filtered, w.result.Filtered}, {"rejected", t.Rejected, w.result.Rejected},
	} {
		if v.want != nil && *v.want != v.got {
			fmt.Fprintf(&diff, "  %s: %d, want %d\n", v.name, v.got, *v.want)
		}
	}
	if t.Rejected == nil || diff.Len() > 0 {
		for _, e := range w.result.Errors {
			fmt.Fprintf(&diff, "  events[%d] is rejected: %s\n", e.Index, e.Reason)
		}
	}
	want, byWindow, err := t.lines()
	if err != nil {
		return "", fmt.Errorf("%s:%w", file, err)
	}
	var batch increment.Batch
	w.coalescer.take(&batch)
	sessions, err := settledSessions(batch.State, now)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", file, t.Name, err)
	}
	got := merged(append(batch.Increments, sessions...), byWindow)
	for _, line := range got {
		if !slices.Contains(want, line) {
			fmt.Fprintf(&diff, "  + %s\n", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			fmt.Fprintf(&diff, "  - %s\n", line)
		}
	}
	return diff.String(), nil
}

// lines are the expectations in the form of merged. An error begins with its line.
func (t *ruleTest) lines() (lines []string, byWindow bool, err error) {
	for i := range t.Increments {
		x := &t.Increments[i]
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%d: %s: increments[%d]: %s", x.line, t.Name, i, fmt.Sprintf(format, args...))
		}
		if byWindow = byWindow || x.Window != nil; byWindow && (x.Window == nil || t.Increments[0].Window == nil) {
			return nil, false, bad("either all increments of a test have a window or none")
		}
		line, err := x.text()
		if err != nil {
			return nil, false, bad("%v", err)
		}
		if slices.Contains(lines, line) {
			return nil, false, bad("%s is there already", x.Series)
		}
		lines = append(lines, line)
	}
	return lines, byWindow, nil
}

// text is the expectation in the form of merged.
func (x *expectedIncrement) text() (string, error) {
	ls, err := parser.NewParser(parser.Options{}).ParseMetric(x.Series)
	if err != nil {
		return "", fmt.Errorf("series %q: %w", x.Series, err)
	}
	at := seriesText(ls)
	if x.Window != nil {
		at += windowText(x.Window.UnixMilli())
	}
	switch {
	case x.Value != nil && x.Count == nil && x.IDs == nil:
		return at + " value " + short(*x.Value), nil
	case x.Count != nil && x.Value == nil && x.IDs == nil:
		return fmt.Sprintf("%s count %d sum %s", at, *x.Count, short(x.Sum)), nil
	case x.IDs != nil && x.Value == nil && x.Count == nil:
		return fmt.Sprintf("%s ids %d", at, *x.IDs), nil
	}
	return "", errors.New("it has one of value, count (with sum) and ids")
}

func windowText(start int64) string {
	return " window " + time.UnixMilli(start).UTC().Format(time.RFC3339)
}

// short is a number without what floating point adds to it.
func short(f float64) string { return strconv.FormatFloat(f, 'g', 12, 64) }

// merged are the increments, a line a series, or a series and window.
func merged(incs []increment.Increment, byWindow bool) []string {
	all := map[string]*increment.Increment{}
	for i := range incs {
		inc := incs[i]
		key := seriesText(inc.Labels)
		if byWindow {
			key += windowText(inc.Time)
		}
		sum, ok := all[key]
		if !ok {
			all[key] = &inc
			continue
		}
		switch inc.Kind {
		case increment.Counter:
			sum.Value += inc.Value
		case increment.Gauge:
			if inc.At >= sum.At {
				sum.Value, sum.At = inc.Value, inc.At
			}
		case increment.Histogram, increment.Buckets:
			sum.Hist.Merge(inc.Hist)
		case increment.Distinct:
			sum.IDs = append(sum.IDs, inc.IDs...)
		}
	}
	out := make([]string, 0, len(all))
	for key, inc := range all {
		switch inc.Kind {
		case increment.Histogram, increment.Buckets:
			key += fmt.Sprintf(" count %d sum %s", inc.Hist.Count(), short(inc.Hist.Sum))
		case increment.Distinct:
			slices.Sort(inc.IDs)
			key += fmt.Sprintf(" ids %d", len(slices.Compact(inc.IDs)))
		default:
			key += " value " + short(inc.Value)
		}
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}
