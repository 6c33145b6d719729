package tsdb

import (
	"math"
	"slices"
)

// memReader reads the series of a memtable that takes no appends any more, a part of its
// time after the other, and decodes each series once. The zero value is ready.
type memReader struct {
	series *memSeries // that all is of; nil: none
	all    points
}

// parts is what a series has between two times, less what was deleted. It is valid until
// another series is read, and may be changed; each time is read once.
func (r *memReader) parts(ser *memSeries, mint, maxt int64, dead []span) ([]points, error) {
	if r.series != ser {
		r.series = nil
		if err := ser.snapshot(&r.all, math.MinInt64, math.MaxInt64, newest); err != nil {
			return nil, err
		}
		r.all.without(0, dead)
		r.series = ser
	}
	p := r.all
	p.between(mint, maxt)
	if p.len() == 0 {
		return nil, nil
	}
	p.clip()
	return []points{p}, nil
}

// clip makes who appends to p leave alone what is behind it in memory.
func (p *points) clip() {
	p.win, p.value, p.at = slices.Clip(p.win), slices.Clip(p.value), slices.Clip(p.at)
	p.hist, p.ids, p.native = slices.Clip(p.hist), slices.Clip(p.ids), slices.Clip(p.native)
}
