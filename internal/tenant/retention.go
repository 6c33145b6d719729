package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// RetentionRule says of which series data goes earlier.
type RetentionRule struct {
	// Matchers select series as they are stored: a histogram by its own name.
	Matchers []*labels.Matcher
	// Retention is the age past which their data is dropped; 0: that of the tenant.
	Retention time.Duration
}

// RetentionRules are a list of rules, of which the first that selects a series decides.
// They are kept as the JSON that they are written as, so that settings can be compared; ""
// is none.
type RetentionRules string

type retentionRuleFields struct {
	Match     string    `json:"match" yaml:"match"`
	Retention *Duration `json:"retention" yaml:"retention"`
}

// fields is what was written.
func (r RetentionRules) fields() []retentionRuleFields {
	out := []retentionRuleFields{}
	if r == "" {
		return out
	}
	if err := json.Unmarshal([]byte(r), &out); err != nil {
		panic(err) // keep wrote it
	}
	return out
}

func (r *RetentionRules) keep(rules []retentionRuleFields) {
	*r = ""
	if len(rules) > 0 {
		src, err := json.Marshal(rules)
		if err != nil {
			panic(err) // it has nothing that cannot be written
		}
		*r = RetentionRules(src)
	}
}

// UnmarshalJSON reads a list of objects; another field is an error.
func (r *RetentionRules) UnmarshalJSON(src []byte) error {
	var rules []retentionRuleFields
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rules); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the list of rules")
	}
	r.keep(rules)
	return nil
}

// MarshalJSON writes the list.
func (r RetentionRules) MarshalJSON() ([]byte, error) { return json.Marshal(r.fields()) }

// UnmarshalYAML reads a list of mappings; another field is an error.
func (r *RetentionRules) UnmarshalYAML(n *yaml.Node) error {
	for _, rule := range n.Content {
		for i := 0; rule.Kind == yaml.MappingNode && i < len(rule.Content); i += 2 {
			if k := rule.Content[i]; k.Value != "match" && k.Value != "retention" {
				return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: field %s is not known: a rule has match and retention", k.Line, k.Value)}}
			}
		}
	}
	var rules []retentionRuleFields
	if err := n.Decode(&rules); err != nil {
		return err
	}
	r.keep(rules)
	return nil
}

// MarshalYAML writes the list.
func (r RetentionRules) MarshalYAML() (any, error) { return r.fields(), nil }

// Rules are the rules with their selectors parsed; an error names the field.
func (r RetentionRules) Rules() ([]RetentionRule, error) {
	if r == "" {
		return nil, nil
	}
	p := parser.NewParser(parser.Options{})
	var out []RetentionRule
	for i, f := range r.fields() {
		matchers, err := p.ParseMetricSelector(f.Match)
		if err == nil && len(matchers) == 0 {
			err = errors.New("it has no matcher")
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("retention_rules[%d].match is %q, which is no selector of series: %w", i, f.Match, err)
		case f.Retention == nil:
			return nil, fmt.Errorf("retention_rules[%d].retention is missing; 0s is that of the tenant", i)
		case *f.Retention < 0:
			return nil, fmt.Errorf("retention_rules[%d].retention is %s, it must not be negative", i, model.Duration(*f.Retention))
		}
		out = append(out, RetentionRule{matchers, time.Duration(*f.Retention)})
	}
	return out, nil
}

// validateRetention says what is wrong with what decides how long data is kept.
func (s *Settings) validateRetention() error {
	if s.Retention < 0 {
		return fmt.Errorf("retention is %s, it must not be negative", s.Retention)
	}
	if s.RetentionSize < 0 {
		return fmt.Errorf("retention_size is %s, it must not be negative", s.RetentionSize)
	}
	rules, err := s.RetentionRules.Rules()
	if err != nil {
		return err
	}
	for i, r := range rules {
		if s.Retention > 0 && r.Retention > time.Duration(s.Retention) {
			return fmt.Errorf("retention_rules[%d].retention is %s, it must be at most the tenant's retention (%s): a rule can only shorten it", i, model.Duration(r.Retention), s.Retention)
		}
	}
	return nil
}

// ByteSize is a number of bytes, written as 10GiB. A plain number is one of bytes.
type ByteSize int64

// ParseByteSize reads one.
func ParseByteSize(text string) (ByteSize, error) {
	if strings.TrimLeft(text, "0123456789") == "" && text != "" {
		text += "B"
	}
	n, err := units.ParseBase2Bytes(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of bytes: write it as 512MiB or 10GiB", text)
	}
	return ByteSize(n), nil
}

// String writes it as it is read.
func (b ByteSize) String() string { return units.Base2Bytes(b).String() }

// UnmarshalYAML reads 10GiB; an error says on which line it is.
func (b *ByteSize) UnmarshalYAML(n *yaml.Node) (err error) {
	if *b, err = ParseByteSize(n.Value); err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	return nil
}

// MarshalYAML writes 10GiB.
func (b ByteSize) MarshalYAML() (any, error) { return b.String(), nil }

// UnmarshalJSON reads "10GiB" in quotes, or a number.
func (b *ByteSize) UnmarshalJSON(src []byte) (err error) {
	text := string(src)
	if len(src) > 0 && src[0] == '"' {
		if err := json.Unmarshal(src, &text); err != nil {
			return err
		}
	}
	*b, err = ParseByteSize(text)
	return err
}

// MarshalJSON writes "10GiB" in quotes.
func (b ByteSize) MarshalJSON() ([]byte, error) { return json.Marshal(b.String()) }
