package ingest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
)

// Slots number the fields that the decoder looks for. The first ones are the
// event model's own; the rest are the paths of the rules' labels.
const (
	slotEvent = iota
	slotUser
	slotTimestamp
	slotFurtherData
	slotsOfModel
)

// Sources of a label's value other than a slot of the event.
const (
	sourceMetric     = -1 - iota // the metric's name
	sourceNumberName             // the name of the number being counted
)

// ruleset is a tenant's rules, compiled once. It is never changed after.
type ruleset struct {
	slots map[string]int // by name of the field
	rules []compiledRule
}

type compiledRule struct {
	metric string
	kind   increment.Kind
	labels []compiledLabel // sorted by name, the metric's name among them
	shape  *increment.Shape
}

type compiledLabel struct {
	name   string
	source int // a slot or a source
}

func compile(rules []Rule) (*ruleset, error) {
	rs := &ruleset{slots: map[string]int{
		"event": slotEvent, "user_id": slotUser, "timestamp": slotTimestamp, "further_data": slotFurtherData,
	}}
	for _, r := range rules {
		c, err := rs.compile(r)
		if err != nil {
			return nil, fmt.Errorf("compile rule %q: %w", r.Metric, err)
		}
		rs.rules = append(rs.rules, c)
	}
	return rs, nil
}

func (rs *ruleset) compile(r Rule) (compiledRule, error) {
	c := compiledRule{metric: r.Metric, kind: r.Kind, shape: &increment.Shape{Keep: slices.Sorted(slices.Values(r.Keep))}}
	if !model.LegacyValidation.IsValidMetricName(r.Metric) {
		return c, fmt.Errorf("%q is not a metric name", r.Metric)
	}
	values := map[increment.Kind]string{increment.Counter: "", increment.Distinct: PathUser, increment.Histogram: PathNumbers}
	if want, ok := values[r.Kind]; !ok || r.Value != want {
		return c, fmt.Errorf("a %s cannot have the value %q, only %q", r.Kind, r.Value, want)
	}
	c.labels = append(c.labels, compiledLabel{model.MetricNameLabel, sourceMetric})
	for _, l := range r.Labels {
		source, err := rs.source(r, l)
		if err != nil {
			return c, fmt.Errorf("label %q: %w", l.Name, err)
		}
		c.labels = append(c.labels, compiledLabel{l.Name, source})
		c.shape.Names = append(c.shape.Names, l.Name)
	}
	slices.Sort(c.shape.Names)
	slices.SortFunc(c.labels, func(a, b compiledLabel) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(c.labels); i++ {
		if c.labels[i].name == c.labels[i-1].name {
			return c, fmt.Errorf("label %q appears twice", c.labels[i].name)
		}
	}
	return c, nil
}

func (rs *ruleset) source(r Rule, l Label) (int, error) {
	if !model.LegacyValidation.IsValidLabelName(l.Name) {
		return 0, fmt.Errorf("not a label name")
	}
	switch l.Path {
	case PathNumberName:
		if r.Value != PathNumbers {
			return 0, fmt.Errorf("path %q needs the value %q", PathNumberName, PathNumbers)
		}
		return sourceNumberName, nil
	case "", PathUser, PathNumbers, "timestamp", "further_data":
		return 0, fmt.Errorf("path %q cannot be a label", l.Path)
	}
	slot, ok := rs.slots[l.Path]
	if !ok {
		slot = len(rs.slots)
		rs.slots[l.Path] = slot
	}
	return slot, nil
}
