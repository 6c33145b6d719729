package tsdb

import (
	"bytes"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/sketch"
)

// unionsChecker verifies the unions of one series against its windows, which come in
// order.
type unionsChecker struct {
	*blockChecker
	labels labels.Labels
	rest   seriesUnions // those whose end was not reached

	hour, day           sketch.Union
	hourStart, dayStart int64
	encoded             []byte
}

// checkUnions begins with a series; nil where it has no unions.
func (c *blockChecker) checkUnions(ls labels.Labels) *unionsChecker {
	if c.unions == nil {
		return nil
	}
	u := &unionsChecker{blockChecker: c, labels: ls}
	err := readMapped(func() error { return u.rest.read(&c.unions.unionsContent, labels.StableHash(ls)) })
	if err != nil {
		c.bad(blockUnions, "%s: %v", ls, err)
		return nil
	}
	if len(u.rest.days)+len(u.rest.hours) == 0 {
		return nil
	}
	c.united++
	return u
}

// add takes the windows of a chunk.
func (u *unionsChecker) add(p *points) {
	if u == nil {
		return
	}
	for i, w := range p.win {
		if hour := floorTo(w, hourMillis); hour != u.hourStart {
			u.endHour()
			u.hourStart = hour
		}
		if day := dayStart(w); day != u.dayStart {
			u.endDay()
			u.dayStart = day
		}
		if err := u.hour.Add(p.ids[i]); err != nil {
			u.bad(blockUnions, "%s: %v", u.labels, err)
		}
	}
}

func (u *unionsChecker) endHour() {
	u.day.AddUnion(&u.hour)
	u.compare(&u.rest.hours, u.hourStart, &u.hour)
}

func (u *unionsChecker) endDay() { u.compare(&u.rest.days, u.dayStart, &u.day) }

// compare compares a union of windows with the stored one of the same time, if there
// is one, and empties it.
func (u *unionsChecker) compare(stored *[]unionCell, start int64, want *sketch.Union) {
	defer want.Reset()
	if want.Empty() || len(*stored) == 0 || (*stored)[0].start != start {
		return
	}
	cell := (*stored)[0]
	*stored = (*stored)[1:]
	want.Settle()
	u.encoded = want.AppendCell(u.encoded[:0])
	err := readMapped(func() error {
		have, err := u.unions.cell(&cell)
		if err == nil && !bytes.Equal(have, u.encoded) {
			u.bad(blockUnions, "%s: the union of %s at %d is not that of its windows", u.labels, cell.span(), start)
		}
		return err
	})
	if err != nil {
		u.bad(blockUnions, "%s: the union of %s at %d: %v", u.labels, cell.span(), start, err)
	}
}

// span names what the union is of.
func (c *unionCell) span() string {
	if c.day {
		return "the day"
	}
	return "the hour"
}

// end follows the last chunk of the series.
func (u *unionsChecker) end() {
	if u == nil {
		return
	}
	u.endHour()
	u.endDay()
	for _, c := range append(u.rest.hours, u.rest.days...) {
		u.bad(blockUnions, "%s: the union of %s at %d is of no windows, or out of order", u.labels, c.span(), c.start)
	}
}

// checkUnionsFile verifies what is not of one series.
func (c *blockChecker) checkUnionsFile() {
	if c.meta != nil && c.meta.Quipu.Unions != c.block.Unions {
		c.bad(blockMetaName, "says %d bytes of unions, the manifest %d", c.meta.Quipu.Unions, c.block.Unions)
	}
	if c.block.Unions == 0 {
		return
	}
	if c.unions == nil { // why is said by who opens it once more
		f, err := openUnions(c.block.dir(), c.block.Unions)
		if err == nil {
			err = f.close()
		}
		c.bad(blockUnions, "%v", err)
		return
	}
	if n := c.unions.series(); n != c.united {
		c.bad(blockUnions, "has unions of %d series, of which %d are in the index", n, c.united)
	}
}
