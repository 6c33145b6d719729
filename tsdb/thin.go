package tsdb

import (
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/quipudb/quipu/internal/increment"
)

// In a block that was downsampled gauges and samples are thinned: of each step some are
// kept as they were, in chunks like any others.
//
// Gauges keep the first, the last, the least and the largest window of a step, so that
// minima and maxima over whole steps stay what they were; a gauge shows what it had last
// until its idle timeout, which is at least a step.
//
// Samples keep the last of a step, the first of a day, staleness markers, and both sides of
// them, of a counter's reset and of a gap that is longer than queries look back. After such
// a gap begins, a marker is put where they stop seeing the last sample: then two samples
// that follow one another in a block have had others between them, and readers are shown
// some there, see fillThinned.

// thinLookback is what a query looks back if it does not say.
const thinLookback = 5 * 60 * 1000

// fillEvery is how far apart the samples are that readers see between two that were kept.
const fillEvery = 60_000

// thinGauges keeps of the windows of a gauge, ascending, some of each step.
func (p *points) thinGauges(step int64) {
	n, kept := p.len(), 0
	for i := 0; i < n; {
		j := i + 1
		for j < n && floorTo(p.win[j], step) == floorTo(p.win[i], step) {
			j++
		}
		var keep []int
		for from := i; from < j; { // what markers cut a step into
			if value.IsStaleNaN(p.value[from]) {
				keep = append(keep, from)
				from++
				continue
			}
			to, least, most := from, from, from
			for ; to < j && !value.IsStaleNaN(p.value[to]); to++ {
				if v := p.value[to]; v < p.value[least] || math.IsNaN(p.value[least]) {
					least = to
				}
				if v := p.value[to]; v > p.value[most] || math.IsNaN(p.value[most]) {
					most = to
				}
			}
			keep = append(keep, from, least, most, to-1)
			from = to
		}
		slices.Sort(keep)
		for _, k := range slices.Compact(keep) {
			p.move(kept, k)
			kept++
		}
		i = j
	}
	p.cut(0, kept)
}

// namesCounter reports whether a metric is a counter by its name, as Prometheus's naming
// has it: what is stored of samples does not say.
func namesCounter(ls labels.Labels) bool {
	name := ls.Get(model.MetricNameLabel)
	for _, suffix := range []string{"_total", "_count", "_sum", "_bucket"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// isMarker reports whether the i-th sample is a staleness marker.
func (p *points) isMarker(i int) bool {
	switch n := p.native[i]; {
	case n == nil:
		return value.IsStaleNaN(p.value[i])
	case n.Int != nil:
		return value.IsStaleNaN(n.Int.Sum)
	default:
		return value.IsStaleNaN(n.Float.Sum)
	}
}

// resets reports whether something ends between the i-th sample, which is no marker, and
// the one before it, so that both are kept.
func (p *points) resets(i int, counter bool) bool {
	before, now := p.native[i-1], p.native[i]
	switch {
	case (before == nil) != (now == nil) || p.at[i] != p.at[i-1]:
		return true
	case now == nil:
		return counter && (p.value[i] < p.value[i-1] || math.IsNaN(p.value[i]) != math.IsNaN(p.value[i-1]))
	}
	a, b := floatOf(before), floatOf(now)
	if b.CounterResetHint == histogram.GaugeType {
		return a.CounterResetHint != histogram.GaugeType
	}
	return b.CounterResetHint == histogram.CounterReset || b.DetectReset(a)
}

func floatOf(n *increment.Native) *histogram.FloatHistogram {
	if n.Int != nil {
		return n.Int.ToFloat(nil)
	}
	return n.Float
}

// thinSamples keeps of the samples of one day, ascending, some of each step. Between some
// there were others that were left out earlier: thinned says where.
func (p *points) thinSamples(step int64, counter bool, thinned []*thinnedPart) {
	n := p.len()
	keep := make([]bool, n)
	gap := make([]bool, n) // after this one
	for i := range n {
		last := i == n-1
		keep[i] = keep[i] || i == 0 || last || floorTo(p.win[i+1], step) != floorTo(p.win[i], step) || p.isMarker(i)
		if last {
			break
		}
		gap[i] = p.win[i+1]-p.win[i] > thinLookback && !p.isMarker(i) && !isThinned(thinned, p.win[i], p.win[i+1])
		if gap[i] || p.isMarker(i) || p.isMarker(i+1) || p.resets(i+1, counter) {
			keep[i], keep[i+1] = true, true
		}
	}
	out := points{kind: p.kind, fractions: p.fractions, bytes: p.bytes}
	left := false
	for i := range n {
		if !keep[i] {
			left = true
			continue
		}
		out.take(p, i)
		if k := out.len() - 1; left {
			out.native[k] = unknownReset(out.native[k])
		}
		if left = gap[i]; left {
			out.push(&entry{time: p.win[i] + thinLookback, value: math.Float64frombits(value.StaleNaN), native: markerLike(p.native[i])})
		}
	}
	*p = out
}

// markerLike is a staleness marker of the same sort as a sample; nil: a float.
func markerLike(n *increment.Native) *increment.Native {
	stale := math.Float64frombits(value.StaleNaN)
	switch {
	case n == nil:
		return nil
	case n.Int != nil:
		return &increment.Native{Int: &histogram.Histogram{Sum: stale, Schema: n.Int.Schema, CustomValues: n.Int.CustomValues}}
	}
	return &increment.Native{Float: &histogram.FloatHistogram{Sum: stale, Schema: n.Float.Schema, CustomValues: n.Float.CustomValues}}
}

// thinnedPart is where a block has thinned samples of a series.
type thinnedPart struct {
	step   int64
	win    []int64 // also what was deleted since
	marker []bool
	dead   []span // none shows there
}

// thinnedPart says where the samples of p are, which may be changed afterwards.
func (p *points) thinnedPart(step int64, dead []span) *thinnedPart {
	t := &thinnedPart{step: step, win: slices.Clone(p.win), marker: make([]bool, p.len()), dead: dead}
	for i := range t.marker {
		t.marker[i] = p.isMarker(i)
	}
	return t
}

// thinnedParts are those of some points of blocks.
func thinnedParts(parts []points) (out []*thinnedPart) {
	for i := range parts {
		if t := parts[i].thin; t != nil {
			out = append(out, t)
		}
	}
	return out
}

// covers reports whether there were samples between two times, of one day, that were left
// out.
func (t *thinnedPart) covers(from, to int64) bool {
	i, found := slices.BinarySearch(t.win, from)
	if !found {
		i--
	}
	if i < 0 || dayStart(from) != dayStart(to) {
		return false
	}
	for ; i < len(t.win) && t.win[i] < to; i++ {
		if t.marker[i] {
			return false
		}
	}
	return i < len(t.win) && dayStart(t.win[i]) == dayStart(to)
}

func isThinned(parts []*thinnedPart, from, to int64) bool {
	return slices.ContainsFunc(parts, func(t *thinnedPart) bool { return t.covers(from, to) })
}

// fillThinned adds samples between those that were kept, a minute apart: a counter's rise
// evenly from the end of one's step to the next, others stay what they were. They depend on
// the two kept samples alone.
func (p *points) fillThinned(thinned []*thinnedPart, counter bool) {
	out := points{kind: p.kind, fractions: p.fractions, bytes: p.bytes}
	for i := range p.win {
		if i > 0 && out.native[out.len()-1] != nil {
			p.native[i] = unknownReset(p.native[i])
		}
		out.take(p, i)
		if i+1 == len(p.win) || p.win[i+1]-p.win[i] <= fillEvery || p.isMarker(i) || p.isMarker(i+1) {
			continue // before a marker nothing is left out
		}
		from, to := p.win[i], p.win[i+1]
		k := slices.IndexFunc(thinned, func(t *thinnedPart) bool { return t.covers(from, to) })
		if k < 0 {
			continue
		}
		e := entry{at: p.at[i], value: p.value[i], native: unknownReset(p.native[i])}
		rises := counter && e.native == nil && p.native[i+1] == nil && p.at[i] == p.at[i+1] && p.value[i] < p.value[i+1]
		begin := from // of the rise
		if end := floorTo(from, thinned[k].step) + thinned[k].step; end <= to {
			begin = end
		}
		for e.time = from + fillEvery; e.time < to; e.time += fillEvery {
			if slices.ContainsFunc(thinned[k].dead, func(s span) bool { return s.has(e.time) }) {
				continue
			}
			if rises && e.time > begin {
				e.value = p.value[i] + (p.value[i+1]-p.value[i])*(float64(e.time-begin)/float64(to-begin))
			}
			out.push(&e)
		}
	}
	*p = out
}

// appendThinned is appendChunks for chunks of a block whose samples were thinned. Where p is
// raw it is for who writes them anew: what was deleted then leaves gaps that are seen.
func (sel *selection) appendThinned(all []blockChunk, mint, maxt int64, dead []span, p *points) error {
	step := all[0].block.Step
	if err := appendChunks(all, mint, maxt, nil, p); err != nil || p.len() == 0 {
		return err
	}
	p.thin = p.thinnedPart(step, dead)
	p.without(0, dead)
	if p.raw && len(dead) > 0 {
		p.fillThinned([]*thinnedPart{p.thin}, namesCounter(sel.labels))
	}
	return nil
}

// thinned reports whether samples of a selection are in blocks that have only some.
func (sel *selection) thinned() bool { return sel.thinnedReach() > 0 }

// thinnedReach is that of a selection; 0: nothing of it was thinned.
func (sel *selection) thinnedReach() (reach int64) {
	if sel.kind != increment.Sample {
		return 0
	}
	for i := range sel.chunks {
		reach = max(reach, sel.chunks[i].block.thinnedReach())
	}
	return reach
}

// thinnedReach is how far apart two samples of a block may be between which others show
// that were left out.
func (b *block) thinnedReach() int64 {
	if b.Step == 0 {
		return 0
	}
	return b.Step + max(b.Step, thinLookback)
}

// thinnedReach is the largest of a version's blocks in a window.
func thinnedReach(v *version, win window) (reach int64) {
	for _, b := range v.blocks {
		if b.Samples && b.Step > 0 && b.MaxTime > win.sampleMin && b.MinTime <= win.sampleMax {
			reach = max(reach, b.thinnedReach())
		}
	}
	return reach
}
