package promql

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// grouping numbers the groups of an aggregation.
type grouping struct {
	a      *parser.AggregateExpr
	names  []string // sorted
	index  map[uint64]int
	labels []labels.Labels // of each group; not of topk, whose groups have none
	buf    []byte
	lb     *labels.Builder
}

func newGrouping(a *parser.AggregateExpr) grouping {
	names := slices.Clone(a.Grouping)
	if a.Without {
		names = append(names, model.MetricNameLabel, model.MetricTypeLabel, model.MetricUnitLabel)
	}
	slices.Sort(names)
	return grouping{a: a, names: names, index: make(map[uint64]int), lb: labels.NewBuilder(labels.EmptyLabels())}
}

// of returns the number of the group of a series, and whether it is a new one. Groups
// are told apart by hashes, as the engine does.
func (g *grouping) of(ls labels.Labels) (group int, isNew bool) {
	var key uint64
	switch {
	case g.a.Without:
		key, g.buf = ls.HashWithoutLabels(g.buf, g.names...)
	case len(g.names) > 0:
		key, g.buf = ls.HashForLabels(g.buf, g.names...)
	}
	group, ok := g.index[key]
	if ok {
		return group, false
	}
	group = len(g.index)
	g.index[key] = group
	if g.a.Op != parser.TOPK && g.a.Op != parser.BOTTOMK {
		g.labels = append(g.labels, g.groupLabels(ls))
	}
	return group, true
}

func (g *grouping) groupLabels(ls labels.Labels) labels.Labels {
	g.lb.Reset(ls)
	switch {
	case g.a.Without:
		g.lb.Del(g.names...)
	case len(g.names) > 0:
		g.lb.Keep(g.names...)
	default:
		return labels.EmptyLabels()
	}
	return g.lb.Labels()
}
