package ingest

import (
	"encoding/binary"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

// indexKept is the largest index that is cleared for the next batch instead of
// dropped: clearing costs what the map once held.
const indexKept = 1 << 14

// coalescer gathers the increments of a batch, one for each series and window
// however many events add to it. It is reused; the increments are not (I5).
type coalescer struct {
	rules      *ruleset
	grid       int64 // milliseconds
	increments []increment.Increment

	index   map[string]int // position in increments by key
	key     []byte         // rule, window and label values of an increment
	values  [][2]int       // where the label values are in key
	builder labels.ScratchBuilder
}

func newCoalescer(rules *ruleset) *coalescer {
	return &coalescer{rules: rules, index: map[string]int{}, builder: labels.NewScratchBuilder(16)}
}

// begin forgets the batch before and sets the grid of the next.
func (c *coalescer) begin(grid int64) {
	c.grid, c.increments = grid, nil
	if len(c.index) > indexKept {
		c.index = map[string]int{}
	}
	clear(c.index)
}

// take returns the batch's increments, which are the caller's from here on.
func (c *coalescer) take() []increment.Increment {
	taken := c.increments
	c.increments = nil
	return taken
}

// add applies every rule to e and reports whether any counted it.
func (c *coalescer) add(e *event) (counted bool) {
	window := e.ms - e.ms%c.grid // e.ms is not negative
	for i := range c.rules.rules {
		switch c.rules.rules[i].kind {
		case increment.Counter:
			c.at(i, window, e, nil).Value++
			counted = true
		case increment.Distinct:
			if e.hasUser {
				inc := c.at(i, window, e, nil)
				inc.IDs = append(inc.IDs, e.user)
				counted = true
			}
		case increment.Histogram:
			for _, n := range e.numbers {
				c.at(i, window, e, n.name).Hist.Observe(n.value)
				counted = true
			}
		}
	}
	return counted
}

// at returns the increment of rule i's series for e, numberName being the name
// of the number that is counted. It is good until the next call.
func (c *coalescer) at(i int, window int64, e *event, numberName []byte) *increment.Increment {
	r := &c.rules.rules[i]
	c.key = binary.AppendUvarint(c.key[:0], uint64(i))
	c.key = binary.BigEndian.AppendUint64(c.key, uint64(window))
	c.values = c.values[:0]
	for _, l := range r.labels {
		var value []byte
		switch l.source {
		case sourceMetric:
			continue // rule i says it
		case sourceNumberName:
			value = numberName
		default:
			value = e.fields[l.source]
		}
		c.key = binary.AppendUvarint(c.key, uint64(len(value)))
		c.values = append(c.values, [2]int{len(c.key), len(c.key) + len(value)})
		c.key = append(c.key, value...)
	}
	if at, ok := c.index[string(c.key)]; ok {
		return &c.increments[at]
	}
	// The labels are cut out of the copy of the key that the index keeps (I5).
	key := string(c.key)
	c.index[key] = len(c.increments)
	inc := increment.Increment{Series: increment.NewSeries(c.labels(r, key), r.kind, r.shape), Time: window}
	if r.kind == increment.Histogram {
		inc.Hist = &increment.Hist{}
	}
	c.increments = append(c.increments, inc)
	return &c.increments[len(c.increments)-1]
}

func (c *coalescer) labels(r *compiledRule, key string) labels.Labels {
	c.builder.Reset()
	values := c.values
	for _, l := range r.labels {
		if l.source == sourceMetric {
			c.builder.Add(l.name, r.metric)
			continue
		}
		if v := key[values[0][0]:values[0][1]]; v != "" {
			c.builder.Add(l.name, v)
		}
		values = values[1:]
	}
	return c.builder.Labels()
}
