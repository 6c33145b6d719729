package tsdb

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/tenant"
)

// compactRanges are the spans that blocks are merged to, each a multiple of the
// one before: a flush writes blocks of at most a day.
var compactRanges = []time.Duration{24 * time.Hour, 3 * 24 * time.Hour, 9 * 24 * time.Hour, 27 * 24 * time.Hour}

const (
	// compactQuiet is how long after its end a span is left alone: late events
	// still come.
	compactQuiet = time.Hour
	// compactBlocks is how many blocks a day that still grows collects before
	// they are merged; a span that is over is merged from two.
	compactBlocks = 4
	// compactGrowth is how much smaller blocks must hold together, as a part of
	// the largest, for it to be rewritten with them: a few late events do not
	// rewrite a month. What is left unmerged grows by 1/compactGrowth a block, so
	// that there are few.
	compactGrowth = 0.25
	// compactSettled is how long after the last block of a span was written it is merged to
	// one whatever that takes: what came late, once, does not stay apart for good.
	compactSettled = 7 * 24 * time.Hour
)

// compaction is blocks that are to be merged into one.
type compaction struct {
	blocks []blockInfo // none: nothing is worth it
	step   int64       // of the block that they make; 0: it is not coarse
}

// planCompaction returns what to merge. It is a function of what it is given: block
// infos, the present, and the tenant's retention and downsampling.
//
// A block has one step, so only those merge that have come to the same by their age: late
// ones with others that were downsampled long ago. What was downsampled stays so, whatever
// the settings become. Where nothing is to be merged, a block that is in smaller windows
// than it should be is rewritten alone.
//
// Spans are aligned to multiples of themselves since 1970, so that blocks of one
// span never straddle two of the next. Inside a span blocks are merged in tiers:
// the smaller ones first, the largest only when they add up to a part of it. Blocks
// with samples are merged only with their neighbours in the order of writing.
func planCompaction(blocks []blockInfo, now time.Time, settings *tenant.Settings) compaction {
	byStep := map[int64][]blockInfo{}
	for _, b := range blocks {
		step := stepByAge(&b, now, settings)
		byStep[step] = append(byStep[step], b)
	}
	steps := slices.Sorted(maps.Keys(byStep))
	for _, step := range steps {
		if merge := planMerge(byStep[step], blocks, step, now, settings); merge != nil {
			return compaction{merge, step}
		}
	}
	for _, step := range steps {
		for _, b := range byStep[step] {
			if b.Step < step {
				return compaction{[]blockInfo{b}, step}
			}
		}
	}
	return compaction{}
}

// planMerge returns those of some blocks to merge, of all that there are. They come to one
// step.
func planMerge(some, all []blockInfo, step int64, now time.Time, settings *tenant.Settings) []blockInfo {
	most := int64(math.MaxInt64)
	if settings.RetentionSize > 0 {
		most = int64(settings.RetentionSize) / 10
	}
	for i, r := range mergeSpans(settings) {
		if next := nextAge(step, settings); i > 0 && next > 0 && r > next/10 {
			break // a block is downsampled whole
		}
		tier := compactTier{span: r.Milliseconds(), growing: i == 0, bytesMax: most}
		if i == 0 {
			tier.bytesMax = math.MaxInt64
		}
		if merge := tier.plan(some, all, now); merge != nil {
			return merge
		}
	}
	return nil
}

// compactTier is how blocks are merged to one span.
type compactTier struct {
	span     int64 // milliseconds
	growing  bool  // also what is not over yet
	bytesMax int64 // of what is merged to one
}

func (c *compactTier) plan(blocks, all []blockInfo, now time.Time) []blockInfo {
	ms := c.span
	spans := map[int64][]blockInfo{}
	for _, b := range blocks {
		start := floorTo(b.MinTime, ms)
		if b.MaxTime <= start+ms {
			spans[start] = append(spans[start], b)
		}
	}
	starts := make([]int64, 0, len(spans))
	for s := range spans {
		starts = append(starts, s)
	}
	slices.Sort(starts)
	for _, start := range starts {
		group := spans[start]
		over := now.UnixMilli() >= start+ms+compactQuiet.Milliseconds()
		if !over && !c.growing {
			continue // only a day is merged while it still grows
		}
		if merge := c.pick(group, all, over); merge != nil {
			return merge
		}
		if over && len(group) > 1 && now.Sub(newestOf(group)) >= compactSettled && bytesOf(group) <= c.bytesMax && neighbours(group, all) {
			return group
		}
	}
	return nil
}

// newestOf is when the last of some blocks was written.
func newestOf(blocks []blockInfo) (at time.Time) {
	for _, b := range blocks {
		if t := ulid.Time(b.ULID.Time()); t.After(at) {
			at = t
		}
	}
	return at
}

func bytesOf(blocks []blockInfo) (total int64) {
	for _, b := range blocks {
		total += b.Bytes
	}
	return total
}

// pick returns the blocks of one span to merge, of all that there are; over says that the
// span is past.
func (c *compactTier) pick(group, all []blockInfo, over bool) []blockInfo {
	slices.SortFunc(group, func(a, b blockInfo) int {
		return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), a.ULID.Compare(b.ULID))
	})
	enough := compactBlocks
	if over {
		enough = 2
	}
	total := bytesOf(group)
	for n := len(group); n >= enough; n-- {
		largest := group[n-1].Bytes
		total -= largest
		if float64(total) >= compactGrowth*float64(largest) && total+largest <= c.bytesMax && neighbours(group[:n], all) {
			return group[:n]
		}
	}
	return nil
}

// neighbours reports whether one block can stand for those of pick: no other block with
// samples that overlaps them was written after one of them and before another.
func neighbours(pick, all []blockInfo) bool {
	var first, last uint64 // of those with samples
	mint, maxt := int64(math.MaxInt64), int64(math.MinInt64)
	picked := map[ulid.ULID]bool{}
	for _, b := range pick {
		picked[b.ULID] = true
		if !b.Samples {
			continue
		}
		if mint == math.MaxInt64 {
			first, last = b.Seq, b.Seq
		}
		first, last = min(first, b.Seq), max(last, b.Seq)
		mint, maxt = min(mint, b.MinTime), max(maxt, b.MaxTime)
	}
	return !slices.ContainsFunc(all, func(b blockInfo) bool {
		return b.Samples && !picked[b.ULID] && b.MinTime < maxt && b.MaxTime > mint && b.Seq > first && b.Seq < last
	})
}

// place is where in the order of writing the block goes that stands for those of pick:
// last of those with samples. The place of another would be after blocks that neighbours
// did not ask about.
func place(pick []blockInfo) uint64 {
	samples := slices.ContainsFunc(pick, func(b blockInfo) bool { return b.Samples })
	seq := uint64(0)
	for _, b := range pick {
		if b.Samples == samples {
			seq = max(seq, b.Seq)
		}
	}
	return seq
}
