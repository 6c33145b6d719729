package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Stored tells what a tenant's storage has already.
type Stored interface {
	// Kinds returns the kind of every metric, by name.
	Kinds(id tenant.ID) (map[string]increment.Kind, error)
	// LabelValues returns the values of a metric's label.
	LabelValues(ctx context.Context, id tenant.ID, metric, label string) ([]string, error)
	// Limits returns the tenant's limits; one that does not exist yet has those that it
	// would be made with.
	Limits(id tenant.ID) (tenant.Limits, error)
}

// classicSuffixes are of the names under which a histogram with buckets shows; no
// other metric can have them.
var classicSuffixes = [...]string{"_bucket", "_sum", "_count"}

// clash says which metrics of rs cannot be stored beside those of kinds, nil where
// all can. file is the name of the rules in the messages.
func (rs *ruleset) clash(file string, kinds map[string]increment.Kind) error {
	var errs []error
	for i := range rs.rules {
		r := &rs.rules[i]
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s:%d: metrics[%d]: %s", file, r.line, i, fmt.Sprintf(format, args...)))
		}
		for _, m := range r.made() {
			if have, ok := kinds[m.name]; ok && have != m.kind {
				fail("%q is stored as a %s, it cannot be a %s: give it another name", m.name, describeKind(have), describeKind(m.kind))
				continue
			}
			for _, suffix := range classicSuffixes {
				if base, ok := strings.CutSuffix(m.name, suffix); ok && kinds[base] == increment.Buckets {
					fail("%q is a name under which the stored histogram %q shows: give the metric another", m.name, base)
				}
				if _, ok := kinds[m.name+suffix]; ok && m.kind == increment.Buckets {
					fail("the histogram shows as %q, and a metric of that name is stored: give the histogram another", m.name+suffix)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// describeKind tells the two kinds of histograms apart.
func describeKind(k increment.Kind) string {
	switch k {
	case increment.Histogram:
		return "histogram without buckets"
	case increment.Distinct:
		return "distinct count"
	}
	return k.String()
}

// families checks that no metric of the rules has a name under which a histogram of
// theirs shows, and no histogram a label that its buckets have.
func (p *ruleParser) families() {
	for i := range p.rs.rules {
		r := &p.rs.rules[i]
		path, buckets := fmt.Sprintf("metrics[%d]", i), false
		for _, m := range r.made() {
			if m.kind != increment.Buckets {
				continue
			}
			buckets = true
			for _, suffix := range classicSuffixes {
				if other, ok := p.seen[m.name+suffix]; ok {
					p.failAt(p.rs.rules[other].line, fmt.Sprintf("metrics[%d].name", other), "%q is a name under which the histogram %s shows", m.name+suffix, path)
				}
			}
		}
		for _, l := range r.labels {
			if l.name == model.BucketLabel && buckets {
				p.failAt(l.line, join(path, "labels."+l.name), "a histogram with buckets has this label already: each bucket's bound")
			}
		}
	}
}

// clash asks what is stored.
func (b *ruleBook) clash(id tenant.ID, file string, rs *ruleset) error {
	if b.stored == nil {
		return nil
	}
	kinds, err := b.stored.Kinds(id)
	if err != nil {
		return fmt.Errorf("look up the types of the metrics of tenant %s: %w", id, err)
	}
	return rs.clash(file, kinds)
}
