package tsdb

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/tenant"
)

// viewParams are what a view depends on besides the increments.
type viewParams struct {
	grid int64 // ms
	idle int64 // T, ms, a multiple of grid
	// own are the idle timeouts of metrics that have one of their own; nil: of what is
	// viewed none has.
	own tenant.IdleTimeouts
	now int64 // the pinned present
	// evalEnd is the last time the query evaluates at: the open window shows at
	// min(now, evalEnd).
	evalEnd int64
}

// of returns v of a series, whose labels have its name where v.own is not nil.
func (v viewParams) of(series labels.Labels) viewParams {
	if v.own == nil {
		return v
	}
	return v.ofMetric(series.Get(model.MetricNameLabel))
}

// ofMetric returns v of the series of one metric.
func (v viewParams) ofMetric(name string) viewParams {
	if idle, ok := v.own[name]; ok {
		v.idle = time.Duration(idle).Milliseconds()
	}
	v.own = nil
	return v
}

// selecting returns v of the series that matchers select, where their name is one.
func (v viewParams) selecting(matchers []*labels.Matcher) viewParams {
	if v.own == nil {
		return v
	}
	for _, m := range matchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			return v.ofMetric(m.Value)
		}
	}
	return v
}

// idleMost is the longest idle timeout of what is viewed.
func (v viewParams) idleMost() int64 {
	most := v.idle
	for _, idle := range v.own {
		most = max(most, time.Duration(idle).Milliseconds())
	}
	return most
}

// run is a stretch of increments of one day with no gap longer than the idle
// timeout. Its view has the samples
//
//	zero           0, one step before the first increment shows
//	(zero, last]   totals, at every grid point
//	open           the total with the open window, where it has increments
//	marker         a staleness marker; 0 where the next run replaces it or the
//	               present comes first
//
// all at or before the present.
type run struct {
	from, to int // windows of the run: [from, to)
	zero     int64
	first    int64 // the first grid point with a total
	last     int64 // the last one; before first where there is none yet
	open     int64 // 0: no open sample
	marker   int64
}

// end is the time of the run's last sample.
func (r *run) end() int64 {
	switch {
	case r.marker != 0:
		return r.marker
	case r.open != 0:
		return r.open
	}
	return max(r.zero, r.last)
}

// visible cuts off the windows that begin after the present.
func (v viewParams) visible(win []int64) int {
	n, found := slices.BinarySearch(win, v.now)
	if found {
		n++
	}
	return n
}

// runs cuts window starts, all visible, into runs. It is a function of the
// windows and v alone: of neither the query's start nor of how data is stored. A run
// ends where same, if it is not nil, says that a window's buckets are not those of the
// one before: it then shows up to where the next run begins.
func (v viewParams) runs(win []int64, same func(i int) bool) []run {
	return v.appendRuns(nil, win, same)
}

// appendRuns is runs; the first of them is appended to none of what out has.
func (v viewParams) appendRuns(out []run, win []int64, same func(i int) bool) []run {
	for i := 0; i < len(win); {
		midnight := dayStart(win[i]) + dayMillis
		j := i + 1
		if same == nil {
			j = v.follow(win, i, midnight)
		}
		for j < len(win) && win[j] < midnight && win[j]-(win[j-1]+v.grid) <= v.idle && (same == nil || same(j)) {
			j++
		}
		last := min(win[j-1]+v.grid+v.idle, midnight)
		if j < len(win) && win[j] < last {
			last = win[j] // of other buckets
		}
		r := run{from: i, to: j, zero: win[i], first: win[i] + v.grid, last: last, marker: last + v.grid}
		if n := len(out); n > 0 {
			prev := &out[n-1]
			if r.zero <= prev.last {
				r.zero = prev.last + 1
				if r.zero > v.now {
					break // the day has just begun: nothing of it shows yet
				}
				prev.marker = 0
			} else if r.zero == prev.marker {
				prev.marker = 0
			}
		}
		v.cut(&r, win[j-1])
		out = append(out, r)
		i = j
	}
	return out
}

// follow returns a window up to which no gap after the i-th is longer than the idle
// timeout: where many together take no longer, none between them does.
func (v viewParams) follow(win []int64, i int, midnight int64) int {
	j := i + 1
	for _, stride := range [...]int{240, 16} {
		for j+stride <= len(win) && win[j+stride-1] < midnight && win[j+stride-1]-win[j-1] <= v.idle+v.grid {
			j += stride
		}
	}
	return j
}

// cut applies the present to a run whose last window starts at lastWin.
func (v viewParams) cut(r *run, lastWin int64) {
	if r.marker > v.now {
		r.marker = 0
	}
	open := floorTo(v.now, v.grid)
	if r.last > open {
		r.last = open
	}
	if lastWin == open {
		if at := min(v.now, v.evalEnd); at > open && at > r.zero {
			r.open = at
		}
	}
}
