package tsdb

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
)

// Cost is what some series take.
type Cost struct {
	Name string
	Kind string // of a metric; "": nothing was read of it
	// Series is how many there are; one in several memtables and blocks counts once.
	Series int
	Chunks int // of blocks
	// Increments are windows with an increment, and samples, as they are stored: what is
	// added to one window is one, and in two blocks two.
	Increments  int64
	InBlocks    int64 // of them
	Bytes       int64 // of chunks, neither of index nor of unions
	MemoryBytes int64 // of what is in no block yet, about
}

// Add adds what others take, Sub takes it off.
func (c *Cost) Add(o *Cost) { c.add(o, 1) }

// Sub is Add in reverse.
func (c *Cost) Sub(o *Cost) { c.add(o, -1) }

func (c *Cost) add(o *Cost, sign int64) {
	c.Series += int(sign) * o.Series
	c.Chunks += int(sign) * o.Chunks
	c.Increments += sign * o.Increments
	c.InBlocks += sign * o.InBlocks
	c.Bytes += sign * o.Bytes
	c.MemoryBytes += sign * o.MemoryBytes
}

// LabelCost is how many values a label has, and how many series have it.
type LabelCost struct {
	Name   string
	Values int
	Series uint64
}

// Churn is how many series have their first and their last window on a day UTC. Those
// whose last is today have not ended.
type Churn struct {
	Day   string // 2006-01-02
	First int
	Last  int
}

// Stats say how many series a tenant has stored, which labels make them many, and what
// they take.
type Stats struct {
	Series uint64
	// Chunks are those of blocks, and one for each series of a memtable.
	Chunks int64
	// MinTime is the start of the oldest window and MaxTime the end of the newest, in
	// milliseconds since 1970; MinTime is the larger one where there is no data.
	MinTime, MaxTime int64
	Postings         index.PostingsStats

	Blocks      int
	BlockBytes  int64 // on disk, with index and unions
	MemoryBytes int64 // of memtables, about
	// Kinds are all kinds that there are, Metrics the limit largest, both by bytes, and
	// Named those that were asked for by name and are there.
	Kinds, Metrics []Cost
	Named          map[string]Cost
	Labels         []LabelCost // the limit with most values
	Churn          []Churn     // by day

	// Partial: there are more than StatsSeriesMax series to look at, of which the newest
	// were. CostsPartial: so many chunks that only the newest were read.
	Partial, CostsPartial bool
	// Damage says which blocks could not be read, or not whole, and why.
	Damage []string
}

// survey gathers the Stats of one version: the one loop over its series.
type survey struct {
	ctx    context.Context
	left   int // how many series may still be looked at; negative: there were more
	chunks int // how many chunks may still be read; negative: there were more

	out     Stats
	kinds   [256]Cost // by kind
	metrics map[string]*Cost
	values  map[string]map[string]uint64 // series by label name and value
	days    map[uint64]daySpan           // by hash
	metric  *Cost                        // that of the series before
}

// daySpan is the days since 1970 of a series' first and last window; none where the first
// is after the last.
type daySpan struct{ first, last int32 }

var noDays = daySpan{math.MaxInt32, math.MinInt32}

func daysOf(first, last int64) daySpan {
	return daySpan{int32(floorTo(first, dayMillis) / dayMillis), int32(floorTo(last, dayMillis) / dayMillis)}
}

// daysIn are those of a series in a memtable.
func daysIn(m *memtable, s *memSeries) (daySpan, error) {
	if of := daysOf(m.start, m.end-1); of.first == of.last {
		return of, nil // as all but that of what came late
	}
	p := points{kind: s.kind}
	if err := s.snapshot(&p, math.MinInt64, math.MaxInt64, newest); err != nil || p.len() == 0 {
		return noDays, err
	}
	return daysOf(p.win[0], p.win[p.len()-1]), nil
}

// seriesPart is what one memtable or block has of a series.
type seriesPart struct {
	Cost
	kind increment.Kind // 0: not known
	days daySpan
}

func newSurvey(ctx context.Context, series, chunks int) *survey {
	return &survey{
		ctx: ctx, left: series, chunks: chunks, metrics: map[string]*Cost{}, values: map[string]map[string]uint64{}, days: map[uint64]daySpan{},
		out: Stats{MinTime: math.MaxInt64, MaxTime: math.MinInt64},
	}
}

// addVersion looks at memtables and blocks, the newest first. What is damaged of a block
// is noted and left out.
func (c *survey) addVersion(v *version) error {
	if mint, maxt, ok := v.times(); ok {
		c.out.MinTime, c.out.MaxTime = mint, maxt
	}
	c.out.Blocks = len(v.blocks)
	for _, b := range v.blocks {
		c.out.BlockBytes += b.Bytes
	}
	for _, m := range v.mems {
		c.out.MemoryBytes += m.bytes.Load()
	}
	for _, m := range slices.Backward(v.mems) {
		if err := c.addMemtable(m); err != nil || c.left < 0 {
			return err
		}
	}
	blocks := slices.SortedFunc(slices.Values(v.blocks), func(a, b *block) int { return cmp.Compare(b.MaxTime, a.MaxTime) })
	for _, b := range blocks {
		if c.left < 0 {
			return nil
		}
		if err := readMapped(func() error { return c.addBlock(b) }); err != nil {
			if err = c.damage(b, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// damage notes that a block cannot be read, once; another error is returned.
func (c *survey) damage(b *block, err error) error {
	damaged := isDamage(err)
	if err = b.readError(err); !damaged {
		return err
	}
	if n := len(c.out.Damage); n == 0 || c.out.Damage[n-1] != err.Error() {
		c.out.Damage = append(c.out.Damage, err.Error())
	}
	return nil
}

func (c *survey) addMemtable(m *memtable) error {
	for i, s := range m.all() {
		if i%lookEvery == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		p := seriesPart{kind: s.kind, days: noDays}
		windows, bytes := s.size()
		if p.Increments, p.MemoryBytes = int64(windows), int64(bytes)+int64(s.labels.ByteSize())+seriesBytes; windows > 0 {
			days, err := daysIn(m, s)
			if err != nil {
				return err
			}
			p.days = days
		}
		if !c.add(s.labels, s.hash, 1, &p) {
			return nil
		}
	}
	return nil
}

// size is how many windows s has, about how many where some came late, and what they take.
func (s *memSeries) size() (windows, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	windows = int(s.log.n)
	if s.open.time != noWindow {
		windows++
	}
	return windows, s.bytes()
}

func (c *survey) addBlock(b *block) error {
	files, err := b.cache.acquire(b)
	if err != nil {
		return err
	}
	defer b.cache.release(b)
	name, value := index.AllPostingsKey()
	p, err := files.index.Postings(c.ctx, name, value)
	if err != nil {
		return err
	}
	d := newSeriesDecoder(files.index)
	broken := false
	for n := 0; p.Next(); n++ {
		if n%lookEvery == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err := d.decode(p.At()); err != nil {
			return err
		}
		ls, err := d.labels()
		if err != nil {
			return err
		}
		part, err := c.partOf(d.metas, files.chunks)
		if err != nil && !broken {
			broken = true // the first of a block is enough
			if err := c.damage(b, fmt.Errorf("series %s: %w", ls, err)); err != nil {
				return err
			}
		}
		if !c.add(ls, ls.Hash(), len(d.metas), &part) {
			return nil
		}
	}
	return p.Err()
}

// partOf reads what the chunks of a series say of themselves at their beginning.
func (c *survey) partOf(metas []chunkAt, files *chunkFiles) (p seriesPart, err error) {
	p.days = noDays
	if n := len(metas); n > 0 {
		p.days = daysOf(metas[0].MinTime, metas[n-1].MaxTime)
	}
	for i := range metas {
		if c.chunks--; c.chunks < 0 {
			return p, nil
		}
		encoding, src, err := files.chunk(metas[i].ref)
		if err != nil {
			return p, err
		}
		n, err := chunkWindows(encoding, src)
		if err != nil {
			return p, err
		}
		if p.kind, err = kindOf(encoding); err != nil {
			return p, err
		}
		p.Chunks, p.InBlocks, p.Bytes = p.Chunks+1, p.InBlocks+int64(n), p.Bytes+int64(len(src))
		p.Increments = p.InBlocks
	}
	return p, nil
}

// chunkWindows is how many windows or samples a chunk has, which it begins with.
func chunkWindows(e chunkenc.Encoding, src []byte) (int, error) {
	if isSampleEncoding(e) {
		if len(src) < 2 {
			return 0, errChunkShort
		}
		return int(binary.BigEndian.Uint16(src)), nil
	}
	var h chunkHeader
	_, err := h.decode(src)
	return h.n, err
}

// add counts a part of a series; it reports whether more may be looked at. It keeps ls.
func (c *survey) add(ls labels.Labels, hash uint64, chunks int, p *seriesPart) bool {
	if c.left--; c.left < 0 {
		return false
	}
	c.out.Chunks += int64(chunks)
	days, seen := c.days[hash]
	if !seen {
		days = p.days
		p.Series = 1
		ls.Range(func(l labels.Label) {
			values := c.values[l.Name]
			if values == nil {
				values = map[string]uint64{}
				c.values[l.Name] = values
			}
			values[l.Value]++
		})
	}
	if next := (daySpan{min(days.first, p.days.first), max(days.last, p.days.last)}); !seen || next != days {
		c.days[hash] = next
	}
	c.kinds[p.kind].Add(&p.Cost)
	if name := ls.Get(model.MetricNameLabel); c.metric == nil || c.metric.Name != name {
		if c.metric = c.metrics[name]; c.metric == nil {
			c.metric = &Cost{Name: name}
			c.metrics[name] = c.metric
		}
	}
	if c.metric.Add(&p.Cost); c.metric.Kind == "" && p.kind.Valid() {
		c.metric.Kind = p.kind.String()
	}
	return true
}

// stats are what was gathered, with the limit largest of each list and the metrics of some
// names.
func (c *survey) stats(limit int, names []string) Stats {
	c.out.Series, c.out.Partial, c.out.CostsPartial = uint64(len(c.days)), c.left < 0, c.chunks < 0
	for k := range c.kinds {
		if one := c.kinds[k]; one != (Cost{}) {
			one.Name = increment.Kind(k).String() // unknown where nothing was read
			c.out.Kinds = append(c.out.Kinds, one)
		}
	}
	slices.SortFunc(c.out.Kinds, compareCosts)
	c.out.Named = map[string]Cost{}
	for _, name := range names {
		if one := c.metrics[name]; one != nil {
			c.out.Named[name] = *one
		}
	}
	for _, one := range c.metrics {
		c.out.Metrics = append(c.out.Metrics, *one)
	}
	slices.SortFunc(c.out.Metrics, compareCosts)
	c.out.Metrics = c.out.Metrics[:min(limit, len(c.out.Metrics))]
	c.out.Labels, c.out.Churn, c.out.Postings = c.labels(limit), c.churn(), c.postings(limit)
	return c.out
}

// compareCosts sorts the largest first.
func compareCosts(a, b Cost) int {
	return cmp.Or(cmp.Compare(b.Bytes+b.MemoryBytes, a.Bytes+a.MemoryBytes), cmp.Compare(a.Name, b.Name))
}

func (c *survey) labels(limit int) []LabelCost {
	var out []LabelCost
	for name, values := range c.values {
		l := LabelCost{Name: name, Values: len(values)}
		for _, n := range values {
			l.Series += n
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b LabelCost) int { return cmp.Or(cmp.Compare(b.Values, a.Values), cmp.Compare(a.Name, b.Name)) })
	return out[:min(limit, len(out))]
}

// churn are the days on which series begin or end, in order.
func (c *survey) churn() []Churn {
	days := map[int32]*Churn{}
	at := func(day int32) *Churn {
		if days[day] == nil {
			days[day] = &Churn{Day: time.UnixMilli(int64(day) * dayMillis).UTC().Format(time.DateOnly)}
		}
		return days[day]
	}
	for _, d := range c.days {
		if d.first <= d.last {
			at(d.first).First++
			at(d.last).Last++
		}
	}
	var out []Churn
	for _, day := range slices.Sorted(maps.Keys(days)) {
		out = append(out, *days[day])
	}
	return out
}

// postings are what upstream's MemPostings.Stats says of series.
func (c *survey) postings(limit int) index.PostingsStats {
	metrics, names, bytes, pairs := largest{limit: limit}, largest{limit: limit}, largest{limit: limit}, largest{limit: limit}
	out := index.PostingsStats{}
	for name, values := range c.values {
		out.NumLabelPairs += len(values)
		names.add(uint64(len(values)), name, "", "")
		size := uint64(0)
		for value, series := range values {
			if name == model.MetricNameLabel {
				metrics.add(series, value, "", "")
			}
			pairs.add(series, name, "=", value)
			size += uint64(len(value)) * series
		}
		bytes.add(size, name, "", "")
	}
	out.CardinalityMetricsStats, out.CardinalityLabelStats = metrics.get(), names.get()
	out.LabelValueStats, out.LabelValuePairsStats = bytes.get(), pairs.get()
	return out
}

// largest keeps the entries with the largest counts; of equal ones those whose names
// come first.
type largest struct {
	limit int
	stats []index.Stat
	floor index.Stat // the least of those that are kept, once there are limit
}

// largestSpare is how many entries are gathered before the least are dropped.
const largestSpare = 1024

// add offers an entry, whose name is in three parts so that only one that is kept is put
// together.
func (l *largest) add(count uint64, a, b, c string) {
	if count < l.floor.Count || count == l.floor.Count && l.floor.Name != "" && a+b+c > l.floor.Name {
		return
	}
	l.stats = append(l.stats, index.Stat{Name: a + b + c, Count: count})
	if len(l.stats) >= l.limit+largestSpare {
		l.get()
	}
}

func (l *largest) get() []index.Stat {
	slices.SortFunc(l.stats, func(a, b index.Stat) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	if len(l.stats) >= l.limit {
		l.stats = l.stats[:l.limit]
		l.floor = l.stats[l.limit-1]
	}
	return l.stats
}
