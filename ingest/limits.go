package ingest

import (
	"errors"
	"fmt"

	"github.com/quipudb/quipu/internal/tenant"
)

// checkLimits says which rules make series of more labels than a tenant may have, nil
// where none does. Rules are where all labels come from, so that no event need be
// asked. file is the name of the rules in the messages.
func (rs *ruleset) checkLimits(file string, l *tenant.Limits) error {
	var errs []error
	for i := range rs.rules {
		r := &rs.rules[i]
		if n := len(r.labels); n > l.LabelsPerSeries {
			errs = append(errs, fmt.Errorf("%s:%d: metrics[%d].labels: %d labels, at most %d are allowed (limits.labels_per_series)",
				file, r.line, i, n, l.LabelsPerSeries))
		}
	}
	return errors.Join(errs...)
}

// checkLimits asks for the tenant's limits.
func (b *ruleBook) checkLimits(id tenant.ID, file string, rs *ruleset) error {
	limits := tenant.DefaultLimits()
	if b.stored != nil {
		var err error
		if limits, err = b.stored.Limits(id); err != nil {
			return fmt.Errorf("look up the limits of tenant %s: %w", id, err)
		}
	}
	return rs.checkLimits(file, &limits)
}
