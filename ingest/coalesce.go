package ingest

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	// coalescedKept is the most increments whose bookkeeping is kept for the next
	// batch.
	coalescedKept = 1 << 16
	// exemplarsMax is how many exemplars one batch has.
	exemplarsMax = 100
)

// coalescer gathers the increments of a batch, one for each series and window
// however many events add to it. It is reused; the increments are not (I5).
type coalescer struct {
	rules      *ruleset
	grid       int64 // milliseconds
	dry        bool  // nothing is kept but this batch
	increments []increment.Increment

	// An open hash table of positions in slots, less one, by key and window.
	table []int32
	slots []slot // by position in increments
	keys  []byte // of slots, one after the other

	key     []byte // rule and label values of an increment, each after its length
	builder labels.ScratchBuilder
	create  func() *increment.Series // once: a method value allocates
	rule    *rule                    // for create

	// touched are the positions in increments that each event added to, one after the
	// other. later is what those events add of which it is not yet known whether they
	// count, in the same order.
	touched []int32
	later   []addition

	exemplars   []exemplar
	exemplified map[*increment.Series]bool
}

// slot is what the table knows of an increment.
type slot struct {
	hash       uint64
	start, end int // in keys
}

// exemplar is an increment's; its labels are made when the batch is complete.
type exemplar struct {
	series *increment.Series
	labels labels.Labels
	time   int64
	value  float64
}

// addition is what an event adds to an increment.
type addition struct {
	value float64 // of a Distinct nothing
	id    uint64  // of a Distinct
	ms    int64   // the event's time, milliseconds since 1970
}

func newCoalescer() *coalescer {
	c := &coalescer{builder: labels.NewScratchBuilder(16), exemplified: map[*increment.Series]bool{}, table: make([]int32, 1024)}
	c.create = c.newSeries
	return c
}

// begin forgets the batch before and sets the rules and the grid of the next.
func (c *coalescer) begin(rules *ruleset, grid int64) {
	c.rules, c.grid = rules, grid
	// As many as the batch before had: growing would copy each of them twice.
	c.increments = make([]increment.Increment, 0, min(len(c.slots), coalescedKept))
	if len(c.table) > 4*coalescedKept {
		c.table, c.slots, c.keys = make([]int32, 1024), nil, nil
	} else {
		clear(c.table)
	}
	c.slots, c.keys, c.touched, c.later = c.slots[:0], c.keys[:0], c.touched[:0], c.later[:0]
	c.later = c.later[:0]
	clear(c.exemplified)
	c.exemplars = c.exemplars[:0]
}

// take puts the batch's increments and exemplars into b, whose they are from
// here on.
func (c *coalescer) take(b *increment.Batch) {
	b.Increments = c.increments
	c.increments = nil
	for _, e := range c.exemplars {
		b.Exemplars = append(b.Exemplars, increment.Exemplar{Series: e.series.Labels, Labels: e.labels, Time: e.time, Value: e.value})
	}
}

// add applies what e's match found (I2), or keeps it for apply.
func (c *coalescer) add(e *event, hits []hit, later bool) {
	window := e.ms - e.ms%c.grid // e.ms is not negative
	for i := range hits {
		h := &hits[i]
		at := c.at(h.rule, window, e, h.name)
		c.touched = append(c.touched, int32(at))
		if a := (addition{h.value, h.id, e.ms}); later {
			c.later = append(c.later, a)
		} else {
			c.apply(at, &a)
		}
		if inc := &c.increments[at]; e.hasTrace && len(c.exemplars) < exemplarsMax && (inc.Kind == increment.Counter || inc.Hist != nil) {
			c.exemplify(inc.Series, e, h.value)
		}
	}
}

// apply adds to the increment at a position.
func (c *coalescer) apply(at int, a *addition) {
	inc := &c.increments[at]
	switch inc.Kind {
	case increment.Counter:
		inc.Value += a.value
	case increment.Histogram, increment.Buckets:
		inc.Hist.Observe(a.value)
	case increment.Distinct:
		inc.IDs = append(inc.IDs, a.id)
	case increment.Gauge:
		later := a.ms > inc.At || a.ms == inc.At && math.Float64bits(a.value) > math.Float64bits(inc.Value)
		if later || inc.At == 0 {
			inc.At, inc.Value = a.ms, a.value
		}
	}
}

// dropUntouched drops the increments that no event is left of. Nothing can be added after.
func (c *coalescer) dropUntouched() {
	moved := make([]int32, len(c.increments)) // to where, plus one
	for _, at := range c.touched {
		moved[at] = 1
	}
	kept := c.increments[:0]
	for at := range moved {
		if moved[at] > 0 {
			kept = append(kept, c.increments[at])
			moved[at] = int32(len(kept))
		}
	}
	clear(c.increments[len(kept):])
	c.increments = kept
	for i, at := range c.touched {
		c.touched[i] = moved[at] - 1
	}
	c.exemplars = slices.DeleteFunc(c.exemplars, func(x exemplar) bool {
		return !slices.ContainsFunc(kept, func(inc increment.Increment) bool { return inc.Series == x.series })
	})
}

func (c *coalescer) exemplify(s *increment.Series, e *event, value float64) {
	if c.exemplified[s] {
		return
	}
	c.exemplified[s] = true
	c.builder.Reset()
	for slot := slotCorrelation; slot <= slotSpan; slot++ {
		if f := &e.fields[slot]; f.isScalar() && len(f.text) > 0 && len(f.text) <= exemplarValueBytesMax {
			c.builder.Add(modelPaths[slot], string(validUTF8(f.text)))
		}
	}
	c.builder.Sort()
	c.exemplars = append(c.exemplars, exemplar{s, c.builder.Labels(), e.ms, value})
}

// at returns the position of the increment of rule i's series for e, numberName
// being the name of the number that is counted.
func (c *coalescer) at(i int, window int64, e *event, numberName []byte) int {
	r := &c.rules.rules[i]
	c.key = binary.AppendUvarint(c.key[:0], uint64(i))
	for j := range r.labels {
		value := r.labels[j].value(e, numberName, c.dry)
		c.key = binary.AppendUvarint(c.key, uint64(len(value)))
		c.key = append(c.key, value...)
	}
	hash := maphash.Bytes(c.rules.handles.seed, c.key)
	mixed := (hash ^ uint64(window/c.grid)) * 0x9e3779b97f4a7c15
	mask := uint64(len(c.table) - 1)
	place := mixed >> 32 & mask
	for ; c.table[place] != 0; place = (place + 1) & mask {
		at := c.table[place] - 1
		s := &c.slots[at]
		if s.hash == mixed && c.increments[at].Time == window && string(c.keys[s.start:s.end]) == string(c.key) {
			return int(at)
		}
	}
	c.rule = r
	inc := increment.Increment{Series: c.rules.handles.get(c.key, hash, c.create), Time: window}
	if r.kind == increment.Histogram || r.kind == increment.Buckets {
		inc.Hist = &increment.Hist{Bounds: r.buckets}
	}
	c.slots = append(c.slots, slot{mixed, len(c.keys), len(c.keys) + len(c.key)})
	c.keys = append(c.keys, c.key...)
	c.increments = append(c.increments, inc)
	c.table[place] = int32(len(c.increments))
	if 2*len(c.slots) > len(c.table) {
		c.grow()
	}
	return len(c.increments) - 1
}

func (c *coalescer) grow() {
	c.table = make([]int32, 2*len(c.table))
	mask := uint64(len(c.table) - 1)
	for i := range c.slots {
		place := c.slots[i].hash >> 32 & mask
		for c.table[place] != 0 {
			place = (place + 1) & mask
		}
		c.table[place] = int32(i + 1)
	}
}

// newSeries makes the series of c.rule and the label values in c.key, which it
// copies (I5).
func (c *coalescer) newSeries() *increment.Series {
	c.builder.Reset()
	c.builder.Add(model.MetricNameLabel, c.rule.metric)
	key := string(c.key)
	_, at := binary.Uvarint(c.key) // the rule
	for i := range c.rule.labels {
		length, n := binary.Uvarint(c.key[at:])
		at += n
		if value := key[at : at+int(length)]; value != "" {
			c.builder.Add(c.rule.labels[i].name, value)
		}
		at += int(length)
	}
	c.builder.Sort() // names of upper case come before __name__
	return increment.NewSeries(c.builder.Labels(), c.rule.kind, c.rule.shape)
}
