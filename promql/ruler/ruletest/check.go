package ruletest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
)

// Check parses a file of rules. It returns how many rules it has, and those that record
// or alert under a name and labels that another one has: they are no error, but what
// they record may be of either.
func Check(name string, p parser.Parser) (n int, duplicates []string, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, nil, err
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, p, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		for i := range errs {
			errs[i] = fmt.Errorf("%s: %w", name, errs[i])
		}
		return 0, nil, errors.Join(errs...)
	}
	seen := map[string]bool{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			n++
			ls := rules.FromMaps(g.Labels, r.Labels)
			key := labels.NewBuilder(ls).Set(model.MetricNameLabel, r.Record+r.Alert).Labels().String()
			if seen[key] {
				duplicates = append(duplicates, fmt.Sprintf("%s: group %q: %s", name, g.Name, key))
			}
			seen[key] = true
		}
	}
	return n, duplicates, nil
}
