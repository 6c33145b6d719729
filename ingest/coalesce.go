package ingest

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	// coalescedKept is the most increments whose bookkeeping is kept for the next
	// batch.
	coalescedKept = 1 << 16
	// incrementsMax and touchedMax bound the memory of one batch: how many increments it
	// has, some 500 bytes each with its series, and how often its events are counted, up
	// to 68 bytes each with what is noted of the event. They are several times what
	// the largest body has of events of a usual size.
	incrementsMax = 1 << 20
	touchedMax    = 4 << 20
	// exemplarsMax is how many exemplars one batch has.
	exemplarsMax = 100
)

// coalescer gathers the increments of a batch, one for each series and window
// however many events add to it. It is reused; the increments are not (I5).
type coalescer struct {
	rules *ruleset
	grid  int64 // milliseconds
	dry   bool  // nothing is kept but this batch
	// incrementsMax and touchedMax are the constants, or a test's.
	incrementsMax, touchedMax int
	increments                []increment.Increment

	// An open hash table of positions in slots, less one, by key and window.
	table []int32
	slots []slot // by position in increments
	keys  []byte // of slots, one after the other

	key     []byte // rule and label values of an increment, each after its length
	builder labels.ScratchBuilder
	create  func(h *handle) // once: a method value allocates
	handles []*handle       // for resolve
	read    byte            // of memory that is needed next; means nothing

	// touched are the positions in increments that each event added to, one after the
	// other. later is what those events add of which it is not yet known whether they
	// count, in the same order.
	touched []int32
	later   []addition

	sessions sessionEvents

	exemplars   []exemplar
	exemplified map[*increment.Series]bool
}

// slot is what the table knows of an increment.
type slot struct {
	hash, mixed uint64 // of the key; of the key and the window
	window      int64
	start, end  int // in keys
	kind        increment.Kind
	exemplified bool
}

// exemplar is an increment's.
type exemplar struct {
	at     int // in increments
	touch  int // in touched: of its event
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
	c := &coalescer{
		builder: labels.NewScratchBuilder(16), exemplified: map[*increment.Series]bool{}, table: make([]int32, 1024),
		incrementsMax: incrementsMax, touchedMax: touchedMax,
	}
	c.create = c.newSeries
	return c
}

// begin forgets the batch before and sets the rules and the grid of the next.
func (c *coalescer) begin(rules *ruleset, grid int64) {
	c.rules, c.grid = rules, grid
	// As many as the batch before had: growing would copy each of them twice.
	c.increments = make([]increment.Increment, 0, min(len(c.slots), coalescedKept))
	if len(c.table) > 4*coalescedKept {
		c.table, c.slots, c.keys, c.handles = make([]int32, 1024), nil, nil, nil
	} else {
		clear(c.table)
	}
	if cap(c.touched) > 4*coalescedKept {
		c.touched, c.later = nil, nil
	}
	c.slots, c.keys, c.touched, c.later = c.slots[:0], c.keys[:0], c.touched[:0], c.later[:0]
	c.sessions.reset()
	clear(c.exemplified)
	c.exemplars = c.exemplars[:0]
}

// take puts the batch's increments and exemplars into b, whose they are from
// here on.
func (c *coalescer) take(b *increment.Batch) {
	c.resolve()
	b.Increments, b.State = c.increments, c.sessions.encode()
	for _, e := range c.exemplars {
		if s := c.increments[e.at].Series; !c.exemplified[s] { // in no other window
			c.exemplified[s] = true
			b.Exemplars = append(b.Exemplars, increment.Exemplar{Series: s.Labels, Labels: e.labels, Time: e.time, Value: e.value})
		}
	}
	c.increments = nil
}

// resolve finds the series of all increments. Of many series those of a batch are in no
// cache, and each step to one waits for memory: the table, the handle, its key. Looked
// up one by one, between events, that took a third of the time of a batch with 900
// series of 170,000; here each loop waits for many at once.
func (c *coalescer) resolve() {
	t := c.rules.handles.table.Load()
	c.handles = c.handles[:0]
	for i := range c.slots {
		c.handles = append(c.handles, t.first(c.slots[i].hash))
	}
	for _, h := range c.handles {
		if h != nil {
			c.read ^= h.key[0]
		}
	}
	for i, h := range c.handles {
		s := &c.slots[i]
		if key := c.keys[s.start:s.end]; h == nil || h.key != string(key) {
			h = c.rules.handles.get(key, s.hash, c.creator(key))
		}
		c.increments[i].Series = &h.Series
	}
	clear(c.handles) // they may be dropped
}

// series is that of the increment at a position.
func (c *coalescer) series(at int) *increment.Series {
	s := &c.slots[at]
	key := c.keys[s.start:s.end]
	return &c.rules.handles.get(key, s.hash, c.creator(key)).Series
}

// creator returns what makes the handle of a key.
func (c *coalescer) creator(key []byte) func(h *handle) {
	c.key = append(c.key[:0], key...)
	return c.create
}

// full says why the batch cannot have more events, nil where it can.
func (c *coalescer) full() error {
	switch {
	case len(c.increments) > c.incrementsMax:
		return fmt.Errorf("the events up to here make more than %d increments of series and windows: send them in several requests", c.incrementsMax)
	case len(c.touched) > c.touchedMax:
		return fmt.Errorf("the events up to here are counted more than %d times in all: send them in several requests", c.touchedMax)
	case len(c.sessions.events) > sessionEventsMax:
		return fmt.Errorf("the events up to here are counted more than %d times in sessions: send them in several requests", sessionEventsMax)
	}
	return nil
}

// add applies what e's match found (I2), or keeps it for apply.
func (c *coalescer) add(e *event, hits []hit, later bool) {
	window := e.ms - e.ms%c.grid // e.ms is not negative
	for i := range hits {
		h := &hits[i]
		if c.rules.rules[h.rule].session != nil {
			c.addSession(h, e)
			continue
		}
		kind := c.rules.rules[h.rule].kind
		at := c.at(h.rule, window, e, h.name)
		c.touched = append(c.touched, int32(at))
		if a := (addition{h.value, h.id, e.ms}); later {
			c.later = append(c.later, a)
		} else {
			c.apply(at, &a)
		}
		if e.hasTrace && len(c.exemplars) < exemplarsMax && (kind == increment.Counter || kind == increment.Histogram || kind == increment.Buckets) {
			c.exemplify(at, e, h.value)
		}
	}
}

// apply adds to the increment at a position.
func (c *coalescer) apply(at int, a *addition) {
	inc := &c.increments[at]
	switch c.slots[at].kind {
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

// dropUntouched drops the increments that no event is left of. Nothing can be added
// after: the table does not know where the others went.
func (c *coalescer) dropUntouched() {
	moved := make([]int32, len(c.increments)) // to where, plus one
	for _, at := range c.touched {
		moved[at] = 1
	}
	n := 0
	for at := range moved {
		if moved[at] > 0 {
			c.increments[n], c.slots[n] = c.increments[at], c.slots[at]
			n++
			moved[at] = int32(n)
		}
	}
	clear(c.increments[n:])
	c.increments, c.slots = c.increments[:n], c.slots[:n]
	for i, at := range c.touched {
		c.touched[i] = moved[at] - 1
	}
	exemplars := c.exemplars[:0]
	for _, x := range c.exemplars {
		if x.at = int(moved[x.at]) - 1; x.at >= 0 {
			exemplars = append(exemplars, x)
		}
	}
	c.exemplars = exemplars
}

func (c *coalescer) exemplify(at int, e *event, value float64) {
	if c.slots[at].exemplified {
		return
	}
	c.slots[at].exemplified = true
	c.builder.Reset()
	for slot := slotCorrelation; slot <= slotSpan; slot++ {
		if f := &e.fields[slot]; f.isScalar() && len(f.text) > 0 && len(f.text) <= exemplarValueBytesMax {
			c.builder.Add(modelPaths[slot], string(validUTF8(f.text)))
		}
	}
	c.builder.Sort()
	c.exemplars = append(c.exemplars, exemplar{at, len(c.touched) - 1, c.builder.Labels(), e.ms, value})
}

// setKey sets key to that of rule i's series for e.
func (c *coalescer) setKey(i int, e *event, numberName []byte) {
	r := &c.rules.rules[i]
	c.key = binary.AppendUvarint(c.key[:0], uint64(i))
	for j := range r.labels {
		value := r.labels[j].value(e, numberName, c.dry)
		c.key = binary.AppendUvarint(c.key, uint64(len(value)))
		c.key = append(c.key, value...)
	}
}

// at returns the position of the increment of rule i's series for e, numberName
// being the name of the number that is counted. Its series is found by resolve.
func (c *coalescer) at(i int, window int64, e *event, numberName []byte) int {
	r := &c.rules.rules[i]
	c.setKey(i, e, numberName)
	hash := maphash.Bytes(c.rules.handles.seed, c.key)
	mixed := (hash ^ uint64(window/c.grid)) * 0x9e3779b97f4a7c15
	mask := uint64(len(c.table) - 1)
	place := mixed >> 32 & mask
	for ; c.table[place] != 0; place = (place + 1) & mask {
		at := c.table[place] - 1
		s := &c.slots[at]
		if s.mixed == mixed && s.window == window && string(c.keys[s.start:s.end]) == string(c.key) {
			return int(at)
		}
	}
	inc := increment.Increment{Time: window}
	if r.kind == increment.Histogram || r.kind == increment.Buckets {
		inc.Hist = &increment.Hist{Bounds: r.buckets}
	}
	c.slots = append(c.slots, slot{hash: hash, mixed: mixed, window: window, start: len(c.keys), end: len(c.keys) + len(c.key), kind: r.kind})
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
		place := c.slots[i].mixed >> 32 & mask
		for c.table[place] != 0 {
			place = (place + 1) & mask
		}
		c.table[place] = int32(i + 1)
	}
}

// newSeries makes the handle of the rule and the label values in c.key, which it
// copies (I5).
func (c *coalescer) newSeries(h *handle) {
	h.key = string(c.key)
	number, at := binary.Uvarint(c.key)
	r := &c.rules.rules[number]
	c.builder.Reset()
	c.builder.Add(model.MetricNameLabel, r.metric)
	for i := range r.labels {
		length, n := binary.Uvarint(c.key[at:])
		at += n
		if value := h.key[at : at+int(length)]; value != "" {
			c.builder.Add(r.labels[i].name, value)
		}
		at += int(length)
	}
	c.builder.Sort() // names of upper case come before __name__
	h.Name(c.builder.Labels(), r.kind, r.shape)
}
