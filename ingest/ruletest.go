package ingest

import (
	"bytes"
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
	Tests []ruleTest `yaml:"tests"`
}

type ruleTest struct {
	Name   string `yaml:"name"`
	Events []any  `yaml:"events"`
	// Verdicts are compared where they are given.
	Accepted *int `yaml:"accepted"`
	Filtered *int `yaml:"filtered"`
	Rejected *int `yaml:"rejected"`
	// Increments are all that the events cause, over all windows.
	Increments []expectedIncrement `yaml:"increments"`
}

type expectedIncrement struct {
	Series string   `yaml:"series"`
	Value  *float64 `yaml:"value"` // of a counter or gauge
	Count  *uint64  `yaml:"count"` // of a histogram, with Sum
	Sum    float64  `yaml:"sum"`
	IDs    *int     `yaml:"ids"` // of a distinct count
}

// TestResult is what came of one test; Diff is "" where it passed.
type TestResult struct{ Name, Diff string }

// TestRules runs the tests of a file; read reads it and the rules it names.
func TestRules(name string, read func(name string) ([]byte, error)) ([]TestResult, error) {
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
	rulesName, rulesText := "default rules", DefaultRules
	if file.Rules != "" {
		rulesName = filepath.Join(filepath.Dir(name), file.Rules)
		if rulesText, err = read(rulesName); err != nil {
			return nil, fmt.Errorf("%s: rules: %w", name, err)
		}
	}
	rs, err := parseRules(rulesName, rulesText)
	if err != nil {
		return nil, err
	}
	var out []TestResult
	for i := range file.Tests {
		t := &file.Tests[i]
		if t.Name == "" {
			t.Name = fmt.Sprintf("tests[%d]", i)
		}
		diff, err := t.run(rs)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, t.Name, err)
		}
		out = append(out, TestResult{t.Name, diff})
	}
	return out, nil
}

// run returns how what the rules make of the events differs from what is expected.
func (t *ruleTest) run(rs *ruleset) (string, error) {
	w := newWorker()
	w.begin(rs, tenant.Profile{Settings: tenant.DefaultSettings()}, time.Now().UnixMilli())
	for i, e := range t.Events {
		raw, isText := e.(string)
		if !isText {
			b, err := json.Marshal(e)
			if err != nil {
				return "", fmt.Errorf("events[%d]: %w", i, err)
			}
			raw = string(b)
		}
		w.event([]byte(raw))
	}
	var diff strings.Builder
	for _, v := range []struct {
		name string
		want *int
		got  int
	}{{"accepted", t.Accepted, w.good}, {"filtered", t.Filtered, w.result.Filtered}, {"rejected", t.Rejected, w.result.Rejected}} {
		if v.want != nil && *v.want != v.got {
			fmt.Fprintf(&diff, "  %s: %d, want %d\n", v.name, v.got, *v.want)
		}
	}
	if t.Rejected == nil || diff.Len() > 0 {
		for _, e := range w.result.Errors {
			fmt.Fprintf(&diff, "  events[%d] is rejected: %s\n", e.Index, e.Reason)
		}
	}
	var batch increment.Batch
	w.coalescer.take(&batch)
	got, want := merged(batch.Increments), []string{}
	for i := range t.Increments {
		line, err := t.Increments[i].line()
		if err != nil {
			return "", fmt.Errorf("increments[%d]: %w", i, err)
		}
		want = append(want, line)
	}
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

// line is the expectation in the form of merged.
func (x *expectedIncrement) line() (string, error) {
	ls, err := parser.NewParser(parser.Options{}).ParseMetric(x.Series)
	if err != nil {
		return "", fmt.Errorf("series %q: %w", x.Series, err)
	}
	switch {
	case x.Value != nil && x.Count == nil && x.IDs == nil:
		return ls.String() + " value " + short(*x.Value), nil
	case x.Count != nil && x.Value == nil && x.IDs == nil:
		return fmt.Sprintf("%s count %d sum %s", ls, *x.Count, short(x.Sum)), nil
	case x.IDs != nil && x.Value == nil && x.Count == nil:
		return fmt.Sprintf("%s ids %d", ls, *x.IDs), nil
	}
	return "", errors.New("an increment has one of value, count (with sum) and ids")
}

// short is a number without what floating point adds to it.
func short(f float64) string { return strconv.FormatFloat(f, 'g', 12, 64) }

// merged are the increments over all windows, a line a series.
func merged(incs []increment.Increment) []string {
	all := map[string]*increment.Increment{}
	for i := range incs {
		inc := incs[i]
		key := inc.Labels.String()
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
