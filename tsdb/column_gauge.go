package tsdb

import (
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/value"

	"github.com/quipudb/quipu/internal/column"
)

// readGauge sets c to the samples of a gauge, those of newGaugeView.
func (s *columnSet) readGauge(sel *selection, from, to int64, c *column.Column) error {
	p := &s.scratch(c).p
	if _, err := sel.readInto(p, from, to+1, s.q.cut, c); err != nil {
		return err
	}
	c.Bytes = p.bytes
	n := s.params.visible(p.win)
	win, values := p.win[:n], p.value[:n]
	grid := s.params.grid
	c.Stale = slices.ContainsFunc(values, value.IsStaleNaN)
	next := 0 // the first window that has not ended
	for _, st := range s.params.stretches(win, grid+s.params.of(sel.labels).idle) {
		if st.end() < s.mint {
			continue
		}
		first := st.first
		if first < s.mint {
			first += floorTo(s.mint-first+grid-1, grid)
		}
		for t := first; t <= min(st.last, s.maxt); t += grid {
			for next < n && win[next] < t {
				next++
			}
			c.T, c.V = append(c.T, t), append(c.V, values[next-1])
		}
		if st.open >= s.mint && st.open <= s.maxt && st.open != 0 {
			c.T, c.V = append(c.T, st.open), append(c.V, values[n-1])
		}
		if st.marker >= s.mint && st.marker <= s.maxt && st.marker != 0 {
			c.T, c.V, c.Stale = append(c.T, st.marker), append(c.V, math.Float64frombits(value.StaleNaN)), true
		}
	}
	return nil
}
