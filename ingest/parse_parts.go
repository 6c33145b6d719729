package ingest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/tenant"
)

// labels compiles a rule's labels.
func (p *ruleParser) labels(r *rule, n *yaml.Node, path string) {
	p.fields(n, path, func(name string, k, v *yaml.Node) {
		at := join(path, name)
		if !model.LegacyValidation.IsValidLabelName(name) || strings.HasPrefix(name, "__") {
			p.fail(k, at, "not a label name: letters, digits and _, no digit and no __ first")
			return
		}
		if len(r.labels) == tenant.LabelsPerSeriesMax {
			p.fail(k, at, "one label more than the %d that a metric may have", tenant.LabelsPerSeriesMax)
			return
		}
		r.labels = append(r.labels, p.label(name, v, at))
	})
}

func (p *ruleParser) label(name string, n *yaml.Node, path string) label {
	l := label{name: name, line: n.Line}
	if n.Kind == yaml.ScalarNode {
		l.source = p.source(n, path)
		return l
	}
	found := false
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		at := join(path, key)
		switch key {
		case "path":
			found, l.source = true, p.source(v, at)
		case "default":
			l.otherwise = validUTF8([]byte(p.text(v, at)))
		case "transform":
			l.transforms = p.transforms(v, at)
		case "values":
			l.allowed.listed = map[string]struct{}{}
			for _, text := range p.texts(v, at) {
				l.allowed.listed[text] = struct{}{}
			}
		case "max_values":
			l.allowed.limit = &valueLimit{max: p.integer(v, at, limitValuesMax), seen: map[string]struct{}{}}
		case "max_bytes":
			l.allowed.bytesMax = p.integer(v, at, tenant.LabelValueBytesMax)
		default:
			p.fail(k, at, "unknown field: a label has path, default, transform, values, max_values and max_bytes")
		}
	})
	if n.Kind == yaml.MappingNode && !found {
		p.fail(n, join(path, "path"), "missing")
	}
	return l
}

// addresses are names of fields that have the address of a person's machine.
var addresses = []string{"ip", "ip_address", "client_ip", "remote_addr", "ipAddress", "cip", "uip"}

// source is where a label's value comes from.
func (p *ruleParser) source(n *yaml.Node, path string) int {
	text := p.text(n, path)
	if text == "" {
		return 0
	}
	if text == pathNumberName {
		return sourceNumberName
	}
	segments := strings.Split(text, ".")
	switch last := segments[len(segments)-1]; {
	case last == "user_id":
		p.fail(n, path, "%q cannot be a label: users are kept as hashes only, count them with type distinct", text)
		return 0
	case slices.Contains(addresses, strings.TrimPrefix(last, "$")):
		p.fail(n, path, "%q cannot be a label: addresses are not stored, use country or city, or count them with type distinct", text)
		return 0
	case text == "timestamp", last == "further_data":
		p.fail(n, path, "%q cannot be a label", text)
		return 0
	}
	return p.path(n, path, text)
}

func (p *ruleParser) transforms(n *yaml.Node, path string) []transform {
	if n.Kind != yaml.SequenceNode {
		return []transform{p.transform(n, path)}
	}
	var out []transform
	for i, v := range n.Content {
		out = append(out, p.transform(v, fmt.Sprintf("%s[%d]", path, i)))
	}
	return out
}

func (p *ruleParser) transform(n *yaml.Node, path string) (t transform) {
	const known = "lower, upper, host, path, {template: ...}, {replace: {regexp: ..., with: ...}} and {bucket: [...]}"
	if n.Kind == yaml.ScalarNode {
		switch n.Value {
		case "lower":
			t.lower = true
		case "upper":
			t.upper = true
		case "host":
			t.host = true
		case "path":
			t.path = true
		default:
			p.fail(n, path, "unknown transform %s: known are %s", describe(n), known)
		}
		return t
	}
	if n.Kind == yaml.MappingNode && len(n.Content) != 2 {
		p.fail(n, path, "has %d fields: a transform is one of %s, several are a list", len(n.Content)/2, known)
		return t
	}
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		at := join(path, key)
		switch key {
		case "template":
			t.templates = p.templates(v, at)
		case "replace":
			p.replace(&t, v, at)
		case "bucket":
			t.bounds = p.bounds(v, at)
			for _, b := range t.bounds {
				t.names = append(t.names, strconv.AppendFloat(nil, b, 'f', -1, 64))
			}
			t.names = append(t.names, []byte("+Inf"))
		default:
			p.fail(k, at, "unknown transform: known are %s", known)
		}
	})
	return t
}

func (p *ruleParser) templates(n *yaml.Node, path string) []template {
	texts := []string{n.Value}
	if n.Kind != yaml.ScalarNode {
		texts = p.texts(n, path)
	}
	var out []template
	for _, text := range texts {
		if !strings.HasPrefix(text, "/") {
			p.fail(n, path, "%q is not a path template such as /user/:id", text)
		}
		out = append(out, newTemplate(text))
	}
	return out
}

func (p *ruleParser) replace(t *transform, n *yaml.Node, path string) {
	found := false
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		switch at := join(path, key); {
		case key == "regexp":
			found, t.re = true, p.regexp(v, at, "%s")
		case key == "with" && v.Kind == yaml.ScalarNode:
			t.with = []byte(v.Value)
		case key == "with":
			p.fail(v, at, "is %s, not a text", describe(v))
		default:
			p.fail(k, at, "unknown field: a replacement has regexp and with")
		}
	})
	if n.Kind == yaml.MappingNode && !found {
		p.fail(n, join(path, "regexp"), "missing")
	}
}

// regexp compiles a text put into the format that frames it.
func (p *ruleParser) regexp(n *yaml.Node, path, format string) *regexp.Regexp {
	text := p.text(n, path)
	_, err := regexp.Compile(text) // first, so that the message has no more than the text
	var re *regexp.Regexp
	if err == nil {
		re, err = regexp.Compile(fmt.Sprintf(format, text))
	}
	if err != nil {
		p.fail(n, path, "%q is not a regular expression: %v", text, err)
		return nil
	}
	return re
}

// condition compiles a mapping: all of its fields have to hold.
func (p *ruleParser) condition(n *yaml.Node, path string) condition {
	all := condition{kind: conditionAll}
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		at := join(path, key)
		switch key {
		case "any", "all":
			if v.Kind != yaml.SequenceNode || len(v.Content) == 0 {
				p.fail(v, at, "is %s, not a list of conditions", describe(v))
				return
			}
			c := condition{kind: map[string]conditionKind{"any": conditionAny, "all": conditionAll}[key]}
			for i, kid := range v.Content {
				c.kids = append(c.kids, p.condition(kid, fmt.Sprintf("%s[%d]", at, i)))
			}
			all.kids = append(all.kids, c)
		case "not":
			all.kids = append(all.kids, condition{kind: conditionNot, kids: []condition{p.condition(v, at)}})
		default:
			all.kids = append(all.kids, p.comparisons(key, k, v, at)...)
		}
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		p.fail(n, path, "is empty")
	}
	if len(all.kids) == 1 {
		return all.kids[0]
	}
	return all
}

// comparisons are those of one field: {status: 200}, {status: {ge: 200, lt: 300}}.
func (p *ruleParser) comparisons(field string, k, n *yaml.Node, path string) []condition {
	base := condition{slot: p.path(k, path, field), path: field}
	switch n.Kind {
	case yaml.ScalarNode:
		return []condition{p.operand(base, conditionEquals, n, path)}
	case yaml.SequenceNode:
		return []condition{p.in(base, n, path)}
	}
	var out []condition
	p.fields(n, path, func(key string, k, v *yaml.Node) {
		at := join(path, key)
		c := base
		switch key {
		case "in":
			out = append(out, p.in(base, v, at))
		case "regexp":
			c.kind, c.text, c.re = conditionRegexp, v.Value, p.regexp(v, at, "^(?s:%s)$")
			out = append(out, c)
		case "exists":
			if c.kind = conditionExists; v.Value == "false" {
				c.kind = conditionMissing
			} else if v.Value != "true" {
				p.fail(v, at, "is %s, neither true nor false", describe(v))
			}
			out = append(out, c)
		case "ne":
			out = append(out, p.operand(base, conditionNotEquals, v, at))
		case "gt", "ge", "lt", "le":
			kinds := map[string]conditionKind{"gt": conditionGreater, "ge": conditionAtLeast, "lt": conditionLess, "le": conditionAtMost}
			c.kind, c.text, c.number = kinds[key], v.Value, p.number(v, at)
			out = append(out, c)
		default:
			p.fail(k, at, "unknown comparison: known are in, regexp, exists, ne, gt, ge, lt, le")
		}
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		p.fail(n, path, "is empty")
	}
	return out
}

func (p *ruleParser) in(c condition, n *yaml.Node, path string) condition {
	c.kind = conditionIn
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.fail(n, path, "is %s, not a list of values", describe(n))
		return c
	}
	for i, v := range n.Content {
		c.set = append(c.set, p.operand(c, conditionEquals, v, fmt.Sprintf("%s[%d]", path, i)))
	}
	return c
}

// operand is the value that a field is to equal.
func (p *ruleParser) operand(c condition, kind conditionKind, n *yaml.Node, path string) condition {
	c.kind, c.set = kind, nil
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.fail(n, path, "is %s, not a value: for a field that must be missing say {exists: false}", describe(n))
		return c
	}
	c.text = n.Value
	if slices.Contains([]string{"!!int", "!!float"}, n.Tag) {
		c.number, c.isNum = p.number(n, path), true
	}
	return c
}
