package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// file is a file of unit tests.
type file struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval,omitempty"`
	GroupEvalOrder     []string       `yaml:"group_eval_order"`
	Tests              []test         `yaml:"tests"`
	FuzzyCompare       bool           `yaml:"fuzzy_compare,omitempty"`
}

// test is input series and what is to come of them.
type test struct {
	Interval       model.Duration `yaml:"interval"`
	InputSeries    []inputSeries  `yaml:"input_series"`
	Alerts         []alertTest    `yaml:"alert_rule_test,omitempty"`
	Exprs          []exprTest     `yaml:"promql_expr_test,omitempty"`
	ExternalLabels labels.Labels  `yaml:"external_labels,omitempty"`
	ExternalURL    string         `yaml:"external_url,omitempty"`
	Name           string         `yaml:"name,omitempty"`
	StartTimestamp instant        `yaml:"start_timestamp,omitempty"`
}

type inputSeries struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// alertTest is which alerts of a name fire at a time.
type alertTest struct {
	EvalTime  model.Duration `yaml:"eval_time"`
	Alertname string         `yaml:"alertname"`
	Alerts    []struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

// exprTest is what an expression gives at a time.
type exprTest struct {
	Expr     string         `yaml:"expr"`
	EvalTime model.Duration `yaml:"eval_time"`
	Samples  []struct {
		Labels    string  `yaml:"labels"`
		Value     float64 `yaml:"value"`
		Histogram string  `yaml:"histogram"` // where it is not empty, Value means nothing
	} `yaml:"exp_samples"`
}

// instant is RFC 3339 or seconds since 1970.
type instant struct{ time.Time }

// UnmarshalYAML reads either form.
func (i *instant) UnmarshalYAML(n *yaml.Node) error {
	if s, err := strconv.ParseFloat(n.Value, 64); err == nil {
		whole, part := math.Modf(s)
		i.Time = time.Unix(int64(whole), int64(math.Round(part*1000)*1e6)).UTC()
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, n.Value)
	if err != nil {
		return fmt.Errorf("line %d: cannot parse %q to a valid timestamp", n.Line, n.Value)
	}
	i.Time = t
	return nil
}

// read reads a file and finds the files of rules that it names.
func read(name string) (*file, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f := &file{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.EvaluationInterval == 0 {
		f.EvaluationInterval = model.Duration(time.Minute)
	}
	var found []string
	for _, pattern := range f.RuleFiles {
		if pattern != "" && !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(name), pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: rule_files: %q: %w", name, pattern, err)
		}
		found = append(found, files...)
	}
	f.RuleFiles = found
	return f, nil
}

// order is the place of each group that the file orders.
func (f *file) order() (map[string]int, error) {
	out := map[string]int{}
	for i, g := range f.GroupEvalOrder {
		if _, ok := out[g]; ok {
			return nil, fmt.Errorf("group name repeated in evaluation order: %s", g)
		}
		out[g] = i
	}
	return out, nil
}

// load is the input series in the language of upstream's loader.
func (t *test) load() string {
	var b strings.Builder
	interval := t.Interval.String()
	fmt.Fprintf(&b, "load %s\n", interval)
	for _, s := range t.InputSeries {
		fmt.Fprintf(&b, "  %s %s\n", s.Series, s.Values)
	}
	return b.String()
}

// last is the latest time that something is looked at.
func (t *test) last() (d time.Duration) {
	for _, a := range t.Alerts {
		d = max(d, time.Duration(a.EvalTime))
	}
	for _, e := range t.Exprs {
		d = max(d, time.Duration(e.EvalTime))
	}
	return d
}
