package tsdb

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Old data is kept in coarse windows (chunk_coarse.go) where the tenant's settings ask for
// it: compaction rewrites blocks when all that they have is old enough. No count is lost.

// stepByAge is the step that a block should have: the one that the settings give its newest
// data, or its own where that is coarser.
func stepByAge(b *blockInfo, now time.Time, settings *tenant.Settings) int64 {
	return max(b.Step, settings.DownsampleStep(time.UnixMilli(b.MaxTime), now))
}

// nextAge is the age at which what has some step comes to a coarser one; 0: it never does.
func nextAge(step int64, settings *tenant.Settings) time.Duration {
	for _, r := range settings.Downsample {
		if time.Duration(r.To).Milliseconds() > step {
			return time.Duration(r.After)
		}
	}
	return 0
}

// coarseSteps say in which steps the series of a block are that is downsampled.
type coarseSteps struct {
	step     int64 // of the block
	settings *tenant.Settings
}

// of is the step of a series; 0: the tenant's grid. It is at most the idle timeout, so that
// the first and the last window of each step say where runs begin and end: of a metric
// with a shorter one it is the largest of the tenant's steps that is.
func (c *coarseSteps) of(ls labels.Labels, k increment.Kind) int64 {
	if c == nil {
		return 0
	}
	if k == increment.Distinct { // it has no runs
		return c.step
	}
	idle := c.settings.IdleTimeoutOf(ls.Get(model.MetricNameLabel)).Milliseconds()
	if c.step <= idle {
		return c.step
	}
	best := int64(0)
	for _, r := range c.settings.Downsample {
		if to := time.Duration(r.To).Milliseconds(); to <= idle && to <= c.step {
			best = to
		}
	}
	return best
}

// merge merges what parts have of a day of one series.
func (spec *blockSpec) merge(ls labels.Labels, k increment.Kind, parts []points) (points, error) {
	if spec.coarse == 0 {
		return mergePoints(k, parts)
	}
	if !coarseKind(k) {
		return spec.mergeThinned(ls, k, parts)
	}
	step := spec.steps.of(ls, k)
	for i := range parts {
		step = max(step, parts[i].step)
	}
	if step > 0 {
		return coarsePoints(k, parts, step)
	}
	for i := range parts { // all are windows of the grid
		parts[i].raw, parts[i].last = false, nil
	}
	return mergePoints(k, parts)
}

// mergeThinned is merge of gauges and samples.
func (spec *blockSpec) mergeThinned(ls labels.Labels, k increment.Kind, parts []points) (points, error) {
	thinned := thinnedParts(parts)
	for i := range parts {
		parts[i].raw, parts[i].last = false, nil
	}
	p, err := mergePoints(k, parts)
	switch {
	case err != nil || p.len() == 0:
	case k == increment.Sample:
		p.thinSamples(spec.coarse, namesCounter(ls), thinned)
	default:
		if step := spec.steps.of(ls, k); step > 0 {
			p.thinGauges(step)
		}
	}
	return p, err
}

// end is where the last window begins that p has something of.
func (p *points) end() int64 {
	if p.raw {
		return p.last[len(p.last)-1]
	}
	return p.win[len(p.win)-1]
}

// coarse reports whether a selection has chunks of which a bare selector of distinct ids
// has no value.
func (sel *selection) coarse() bool {
	for i := range sel.chunks {
		if sel.chunks[i].block.Step > distinctSpan {
			return true
		}
	}
	return false
}
