package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/ingest/session"
	"github.com/quipudb/quipu/internal/increment"
)

const (
	rulesBytesMax = 1 << 20
	rulesMax      = 1000
	// limitValuesMax is the largest limit of a label's values, which are in memory.
	limitValuesMax = 10_000
)

// ruleParser compiles the text of rules and gathers what is wrong with it.
type ruleParser struct {
	file string
	rs   *ruleset
	errs []error
	seen map[string]int // rule by metric
}

// parseRules compiles the YAML of a tenant's rules. The errors, joined, name the
// file, the line and the field of each thing that is wrong.
func parseRules(file string, src []byte) (*ruleset, error) {
	if len(src) > rulesBytesMax {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", file, len(src), rulesBytesMax)
	}
	sum := sha256.Sum256(src)
	p := &ruleParser{file: file, rs: newRuleset(hex.EncodeToString(sum[:8])), seen: map[string]int{}}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(src))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: no metrics: a file of rules begins with \"metrics:\"", file)
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", file)
	}
	found := false
	p.fields(doc.Content[0], "", func(key string, k, v *yaml.Node) {
		switch key {
		case "metrics":
			found = true
			p.metrics(v)
		case "dedup":
			if text := p.text(v, key); text != "" {
				p.rs.dedup = p.path(v, key, text)
			}
		default:
			p.fail(k, key, "unknown field, only \"metrics\" and \"dedup\" are known")
		}
	})
	if !found && len(p.errs) == 0 {
		p.fail(doc.Content[0], "metrics", "missing")
	}
	if len(p.errs) == 0 {
		p.families()
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	p.rs.derive()
	return p.rs, nil
}

func (p *ruleParser) fail(n *yaml.Node, path, format string, args ...any) {
	p.failAt(n.Line, path, format, args...)
}

func (p *ruleParser) failAt(line int, path, format string, args ...any) {
	if path != "" {
		path += ": "
	}
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s%s", p.file, line, path, fmt.Sprintf(format, args...)))
}

// fields calls f with each field of a mapping.
func (p *ruleParser) fields(n *yaml.Node, path string, f func(key string, k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, path, "is %s, not a mapping", describe(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			p.fail(k, path, "a field's name is %s", describe(k))
		case seen[k.Value]:
			p.fail(k, join(path, k.Value), "appears twice")
		case v.Kind == yaml.AliasNode:
			p.fail(v, join(path, k.Value), "aliases are not supported")
		default:
			seen[k.Value] = true
			f(k.Value, k, v)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if n.Tag == "!!null" {
		return "empty"
	}
	return strconv.Quote(shorten(n.Value))
}

func (p *ruleParser) metrics(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "metrics", "is %s, not a list", describe(n))
		return
	}
	if len(n.Content) > rulesMax {
		p.fail(n, "metrics", "%d rules, at most %d are allowed", len(n.Content), rulesMax)
		return
	}
	for i, m := range n.Content {
		p.metric(m, i)
	}
}

// metric compiles one rule.
func (p *ruleParser) metric(n *yaml.Node, index int) {
	path := fmt.Sprintf("metrics[%d]", index)
	r := rule{value: valueNone, scale: 1, shape: &increment.Shape{}, line: n.Line}
	if isSession(n) {
		r.session = &session.Rule{Gap: session.GapDefault}
	}
	at := map[string]*yaml.Node{}
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		at[key] = v
		if r.session == nil || !p.sessionField(&r, path, key, v) {
			p.field(&r, path, key, k, v)
		}
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	for _, required := range []string{"name", "type"} {
		if at[required] == nil {
			p.fail(n, join(path, required), "missing")
		}
	}
	if r.session == nil {
		p.consistent(&r, path, n, at)
	} else {
		p.consistentSession(&r, path, n, at)
	}
	if r.buckets != nil && r.session == nil {
		r.kind = increment.Buckets
	}
	slices.SortFunc(r.labels, func(a, b label) int { return strings.Compare(a.name, b.name) })
	for _, l := range r.labels {
		r.shape.Names = append(r.shape.Names, l.name)
	}
	slices.Sort(r.shape.Keep)
	for _, k := range r.shape.Keep {
		if !slices.Contains(r.shape.Names, k) {
			p.fail(at["keep"], join(path, "keep"), "%q is not a label of the metric", k)
		}
	}
	if r.session != nil {
		r.becomeSession()
	}
	if r.metric != "" {
		for _, m := range r.made() {
			if first, ok := p.seen[m.name]; ok {
				p.fail(at["name"], join(path, "name"), "%q is the name of metrics[%d] already: join the two with \"when: {any: [...]}\"", m.name, first)
			}
			p.seen[m.name] = index
		}
	}
	p.rs.rules = append(p.rs.rules, r)
}

// consistent checks what one field says against another.
func (p *ruleParser) consistent(r *rule, path string, n *yaml.Node, at map[string]*yaml.Node) {
	switch r.kind {
	case increment.Histogram, increment.Distinct, increment.Gauge:
		if at["value"] == nil {
			p.fail(n, join(path, "value"), "missing: a %s needs one", r.kind)
		}
	}
	if r.kind == increment.Counter && at["scale"] != nil && r.scale < 0 {
		p.fail(at["scale"], join(path, "scale"), "is %g, a counter cannot go down", r.scale)
	}
	if r.kind == increment.Distinct && at["scale"] != nil {
		p.fail(at["scale"], join(path, "scale"), "a distinct count has none")
	}
	if b := at["buckets"]; b != nil && r.kind != increment.Histogram {
		p.fail(b, join(path, "buckets"), "only a histogram has buckets")
	}
	if len(r.buckets) > increment.BoundsMax {
		p.fail(at["buckets"], join(path, "buckets"), "%d bounds, at most %d are allowed", len(r.buckets), increment.BoundsMax)
	}
	if r.value == valueNumbers && r.kind != increment.Histogram {
		p.fail(at["value"], join(path, "value"), "%q is for histograms", pathNumbers)
	}
	for _, l := range r.labels {
		if l.source == sourceNumberName && r.value != valueNumbers {
			p.failAt(l.line, join(path, "labels."+l.name), "path %q needs \"value: %s\"", pathNumberName, pathNumbers)
		}
	}
}

var kindNames = map[string]increment.Kind{
	"counter": increment.Counter, "histogram": increment.Histogram, "distinct": increment.Distinct, "gauge": increment.Gauge,
}

// field takes one field of a rule.
func (p *ruleParser) field(r *rule, path, key string, k, v *yaml.Node) {
	at := join(path, key)
	switch key {
	case "name":
		if r.metric = p.text(v, at); r.metric != "" && !model.LegacyValidation.IsValidMetricName(r.metric) {
			p.fail(v, at, "%q is not a metric name: letters, digits, _ and :, no digit first", r.metric)
		}
	case "type":
		text := p.text(v, at)
		if r.kind = kindNames[text]; text != "" && r.kind == 0 {
			p.fail(v, at, "%q is none of counter, histogram, distinct, gauge and session", text)
		}
	case "help":
		r.help = p.text(v, at)
	case "unit":
		r.unit = p.text(v, at)
	case "value":
		text := p.text(v, at)
		if text == pathNumbers {
			r.value, p.rs.numbers = valueNumbers, true
		} else if text != "" {
			r.value = p.path(v, at, text)
		}
	case "scale":
		if r.scale = p.number(v, at); r.scale == 0 {
			p.fail(v, at, "is 0")
		}
	case "when":
		c := p.condition(v, at)
		r.when = &c
	case "labels":
		p.labels(r, v, at)
	case "keep":
		r.shape.Keep = p.texts(v, at)
	case "buckets":
		r.buckets = p.bounds(v, at)
	default:
		known := "name, type, help, unit, when, value, scale, buckets, labels, keep"
		if r.session != nil {
			known = "name, type, when, key, gap, buckets, labels, keep"
		}
		p.fail(k, at, "unknown field: known are %s", known)
	}
}

// text is a scalar's text, which is not empty.
func (p *ruleParser) text(n *yaml.Node, path string) string {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		p.fail(n, path, "is %s, not a text", describe(n))
		return ""
	}
	return n.Value
}

func (p *ruleParser) texts(n *yaml.Node, path string) []string {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, path, "is %s, not a list", describe(n))
		return nil
	}
	var out []string
	for i, v := range n.Content {
		out = append(out, p.text(v, fmt.Sprintf("%s[%d]", path, i)))
	}
	return out
}

func (p *ruleParser) number(n *yaml.Node, path string) float64 {
	f, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		p.fail(n, path, "is %s, not a number", describe(n))
		return 1
	}
	return f
}

// integer is a number of 1 to max.
func (p *ruleParser) integer(n *yaml.Node, path string, max int) int {
	i, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || i < 1 || i > max {
		p.fail(n, path, "is %s, not an integer from 1 to %d", describe(n), max)
		return 1
	}
	return i
}

// bounds are ascending numbers.
func (p *ruleParser) bounds(n *yaml.Node, path string) []float64 {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.fail(n, path, "is %s, not a list of numbers", describe(n))
		return nil
	}
	var out []float64
	for i, v := range n.Content {
		f := p.number(v, fmt.Sprintf("%s[%d]", path, i))
		if i > 0 && f <= out[i-1] {
			p.fail(v, fmt.Sprintf("%s[%d]", path, i), "%g does not come after %g: bounds ascend", f, out[i-1])
		}
		out = append(out, f)
	}
	return out
}

// path returns the slot of a path.
func (p *ruleParser) path(n *yaml.Node, at, text string) int {
	segments := strings.Split(text, ".")
	if slices.Contains(segments, "") || slices.Contains(segments, "*") {
		p.fail(n, at, "%q is not a path: names of fields with dots between them", text)
		return 0
	}
	if segments[0] == "data" && len(segments) > 1 {
		segments = segments[1:]
		text = strings.TrimPrefix(text, "data.")
	}
	return p.rs.slot(text, segments)
}
