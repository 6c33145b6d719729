package tsdb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	g      = 15_000
	minute = 60_000
	hour   = 60 * minute
	never  = int64(math.MaxInt64) / 4 // a present after everything
)

// at is the time of day hh:mm:ss[.ms] on the second of January 1970.
func at(s string) int64 {
	layout := "15:04:05"
	d, err := time.Parse(layout, s)
	if err != nil {
		panic(err)
	}
	return dayMillis + int64(d.Hour())*hour + int64(d.Minute())*minute + int64(d.Second())*1000 + int64(d.Nanosecond())/1e6
}

// clock prints a time as at reads it, with +1d after the day.
func clock(t int64) string {
	s := time.UnixMilli(t).UTC().Format("15:04:05.000")
	s = strings.TrimSuffix(s, ".000")
	if d := dayStart(t)/dayMillis - 1; d != 0 {
		s = fmt.Sprintf("%+dd %s", d, s)
	}
	return s
}

// counts makes the points of a counter; each pair is a time of day and a count.
func counts(pairs ...any) *points {
	p := &points{kind: increment.Counter}
	for i := 0; i < len(pairs); i += 2 {
		inc := increment.Increment{Time: floorTo(at(pairs[i].(string)), g), Value: float64(pairs[i+1].(int))}
		if err := p.add(&inc); err != nil {
			panic(err)
		}
	}
	return p
}

func present(now int64) viewParams { return viewParams{grid: g, idle: hour, now: now, evalEnd: now} }

// samples lists a float view: "time value", stale markers as "stale"; stretches
// of the same value on the grid are shortened to "time value ... time".
func samples(it chunkenc.Iterator) string {
	type sample struct {
		t int64
		v string
	}
	var all []sample
	for it.Next() == chunkenc.ValFloat {
		t, v := it.At()
		s := fmt.Sprint(v)
		if value.IsStaleNaN(v) {
			s = "stale"
		}
		all = append(all, sample{t, s})
	}
	var out []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1].v == all[i].v && all[j+1].t == all[j].t+g {
			j++
		}
		s := clock(all[i].t) + " " + all[i].v
		if j > i {
			s += " ... " + clock(all[j].t)
		}
		out = append(out, s)
		i = j + 1
	}
	return strings.Join(out, "; ")
}

func expectView(t *testing.T, p *points, v viewParams, want string) {
	t.Helper()
	if got := samples(newView(p, v, math.MinInt64/2, never)); got != want {
		t.Errorf("view is\n %s\nwant\n %s", got, want)
	}
}

// An event shows in the sample at the first grid point after it, so that an event
// on a grid point belongs to the window that begins there.
func TestViewWindowHoldsItsStart(t *testing.T) {
	p := counts("10:00:00", 1, "10:00:14", 2, "10:00:15", 4)
	v := present(never)
	v.idle = g
	expectView(t, p, v, "10:00:00 0; 10:00:15 3; 10:00:30 7 ... 10:00:45; 10:01:00 stale")
}

// A run begins with a zero one step before its first increment shows, so that the
// first event of a new series counts.
func TestViewZeroSampleBeforeFirstIncrement(t *testing.T) {
	expectView(t, counts("10:00:20", 5), present(never), "10:00:15 0; 10:00:30 5 ... 11:00:30; 11:00:45 stale")
}

// The total shows at every grid point until the idle timeout after the last
// increment, then a staleness marker.
func TestViewRunEndsAfterIdleTimeout(t *testing.T) {
	expectView(t, counts("10:00:00", 1, "10:30:00", 2), present(never),
		"10:00:00 0; 10:00:15 1 ... 10:30:00; 10:30:15 3 ... 11:30:15; 11:30:30 stale")
}

// Windows at most the idle timeout apart are one run, further apart two; the
// second starts from zero again.
func TestViewGapLongerThanIdleTimeoutStartsANewRun(t *testing.T) {
	expectView(t, counts("10:00:00", 1, "11:00:15", 2), present(never),
		"10:00:00 0; 10:00:15 1 ... 11:00:15; 11:00:30 3 ... 12:00:30; 12:00:45 stale")
	// One step more: the zero comes when the marker would, and replaces it.
	expectView(t, counts("10:00:00", 1, "11:00:30", 2), present(never),
		"10:00:00 0; 10:00:15 1 ... 11:00:15; 11:00:30 0; 11:00:45 2 ... 12:00:45; 12:01:00 stale")
	expectView(t, counts("10:00:00", 1, "11:00:45", 2), present(never),
		"10:00:00 0; 10:00:15 1 ... 11:00:15; 11:00:30 stale; 11:00:45 0; 11:01:00 2 ... 12:01:00; 12:01:15 stale")
}

// Midnight UTC ends every run; the window that ends at midnight still shows in
// the sample there.
func TestViewMidnightEndsARun(t *testing.T) {
	expectView(t, counts("23:59:50", 7), present(never), "23:59:45 0; +1d 00:00:00 7; +1d 00:00:15 stale")
	expectView(t, counts("23:30:00", 7), present(never), "23:30:00 0; 23:30:15 7 ... +1d 00:00:00; +1d 00:00:15 stale")
}

// Where the zero of the next day's run would fall on the last sample of the day
// before, it comes 1 ms later and replaces the marker.
func TestViewZeroSampleAfterMidnightComesOneMillisecondLater(t *testing.T) {
	p := counts("23:59:50", 7)
	inc := increment.Increment{Time: 2 * dayMillis, Value: 3}
	if err := p.add(&inc); err != nil {
		t.Fatal(err)
	}
	v := present(2*dayMillis + 40_000)
	expectView(t, p, v, "23:59:45 0; +1d 00:00:00 7; +1d 00:00:00.001 0; +1d 00:00:15 3 ... +1d 00:00:30")
	// The present is that midnight: nothing of the new day shows.
	expectView(t, p, present(2*dayMillis), "23:59:45 0; +1d 00:00:00 7")
}

// Late increments change the totals of their own day only.
func TestViewLateIncrementsChangeTheirOwnDayOnly(t *testing.T) {
	two := func(first int) *points {
		p := counts("10:00:00", first, "12:00:00", 1)
		for _, h := range []int64{10, 12} {
			inc := increment.Increment{Time: 2*dayMillis + h*hour, Value: 1}
			if err := p.add(&inc); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	later := func(p *points) string { return samples(newView(p, present(never), 2*dayMillis, never)) }
	if a, b := later(two(1)), later(two(1000)); a != b || a == "" {
		t.Errorf("the day after shows\n %s\nand with late data on the day before\n %s", a, b)
	}
}

// The open window shows what it has so far at the present.
func TestViewOpenWindowShowsAtThePresent(t *testing.T) {
	p := counts("10:00:00", 1, "10:00:30", 5)
	expectView(t, p, present(at("10:00:37")), "10:00:00 0; 10:00:15 1 ... 10:00:30; 10:00:37 6")
	// As the first window of a run.
	expectView(t, counts("10:00:30", 5), present(at("10:00:37")), "10:00:30 0; 10:00:37 5")
	// A query that evaluates a little before the present still sees it.
	v := present(at("10:00:37"))
	v.evalEnd = at("10:00:36")
	expectView(t, p, v, "10:00:00 0; 10:00:15 1 ... 10:00:30; 10:00:36 6")
	// One that evaluates before the open window does not.
	v.evalEnd = at("10:00:30")
	expectView(t, p, v, "10:00:00 0; 10:00:15 1 ... 10:00:30")
}

// Windows that begin after the present do not show, nor does any sample.
func TestViewNothingShowsAfterThePresent(t *testing.T) {
	p := counts("10:00:00", 1, "10:01:00", 2, "10:02:00", 4)
	expectView(t, p, present(at("10:00:50")), "10:00:00 0; 10:00:15 1 ... 10:00:45")
	expectView(t, p, present(at("09:59:59")), "")
	expectView(t, counts("10:00:00", 1), present(at("11:00:29")), "10:00:00 0; 10:00:15 1 ... 11:00:15")
}

// oracleSample is a sample of the view as its definition has it: the total of the
// windows [from, to), or a staleness marker.
type oracleSample struct {
	t        int64
	from, to int
	stale    bool
}

// oracle is the view by its definition, one grid point at a time: what a
// Prometheus that scrapes the counter every step would hold.
func oracle(win []int64, v viewParams) []oracleSample {
	var out []oracleSample
	emit := func(s oracleSample) {
		if s.t <= v.now {
			out = append(out, s)
		}
	}
	visible := func(w int64) bool { return w <= v.now }
	// starts: no increment before w, of its day and at most idle before it.
	starts := map[int64]bool{}
	for _, w := range win {
		starts[w] = !slices.ContainsFunc(win, func(o int64) bool {
			return o < w && dayStart(o) == dayStart(w) && w-(o+v.grid) <= v.idle
		})
	}
	// total at t: the windows of the run that is alive then.
	total := func(t int64) (from, to int, alive bool) {
		after, _ := slices.BinarySearch(win, t)
		for i := after - 1; i >= 0; i-- {
			w := win[i]
			if w+v.grid > t || !visible(w) {
				continue
			}
			if !alive {
				if t > w+v.grid+v.idle || t > dayStart(w)+dayMillis {
					return 0, 0, false
				}
				alive, to = true, i+1
			}
			from = i
			if starts[w] {
				break
			}
		}
		return from, to, alive
	}
	if len(win) == 0 {
		return nil
	}
	wasAlive := false
	for t := win[0]; t <= min(v.now, win[len(win)-1]+v.grid+v.idle+v.grid); t += v.grid {
		from, to, alive := total(t)
		begins := starts[t] && visible(t)
		switch {
		case alive && begins:
			emit(oracleSample{t: t, from: from, to: to})
			emit(oracleSample{t: t + 1})
		case alive:
			emit(oracleSample{t: t, from: from, to: to})
		case begins:
			emit(oracleSample{t: t})
		case wasAlive:
			emit(oracleSample{t: t, stale: true})
		}
		wasAlive = alive || begins
	}
	openWin := floorTo(v.now, v.grid)
	for i, w := range win {
		if at := min(v.now, v.evalEnd); w == openWin && at > w {
			from, _, alive := total(w)
			if starts[w] || !alive {
				from = i
			}
			emit(oracleSample{t: at, from: from, to: i + 1})
		}
	}
	return out
}

// plainOracle prints a counter's view by its definition as plain prints a view.
func plainOracle(p *points, v viewParams) string {
	var parts []string
	for _, s := range oracle(p.win, v) {
		val := 0.0
		for _, n := range p.value[s.from:s.to] {
			val += n
		}
		if s.stale {
			val = math.NaN()
		}
		parts = append(parts, fmt.Sprintf("%d=%v", s.t, val))
	}
	return strings.Join(parts, " ")
}

func plain(it chunkenc.Iterator) string {
	var parts []string
	for it.Next() == chunkenc.ValFloat {
		t, v := it.At()
		parts = append(parts, fmt.Sprintf("%d=%v", t, v))
	}
	return strings.Join(parts, " ")
}

func TestViewEqualsItsDefinition(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 11))
		v := viewParams{grid: g, idle: []int64{g, 2 * g, 10 * minute, hour}[r.IntN(4)]}
		p := &points{kind: increment.Counter}
		start := dayMillis + dayMillis - int64(r.IntN(120))*g // near a midnight
		w := start
		for range 1 + r.IntN(12) {
			inc := increment.Increment{Time: w, Value: float64(1 + r.IntN(9))}
			if err := p.add(&inc); err != nil {
				t.Fatal(err)
			}
			w += g * int64(1+r.IntN(3)*r.IntN(int(v.idle/g)+3))
		}
		v.now = start + int64(r.IntN(int(w-start)+3*int(v.idle)))
		v.evalEnd = v.now - int64(r.IntN(20_000))*int64(r.IntN(2))
		if r.IntN(4) == 0 {
			v.now, v.evalEnd = never, never
		}
		want := plainOracle(p, v)
		if got := plain(newView(p, v, math.MinInt64/2, never)); got != want {
			t.Fatalf("seed %d: now %d, idle %d, windows %v:\n got %s\nwant %s", seed, v.now, v.idle, p.win, got, want)
		}
		seekEqualsNext(t, seed, r, p, v)
	}
}

// seekEqualsNext checks that every way through the view meets the same samples.
func seekEqualsNext(t *testing.T, seed uint64, r *rand.Rand, p *points, v viewParams) {
	t.Helper()
	type sample struct {
		t int64
		v float64
	}
	var all []sample
	for it := newView(p, v, math.MinInt64/2, never); it.Next() == chunkenc.ValFloat; {
		ts, val := it.At()
		all = append(all, sample{ts, val})
	}
	if len(all) == 0 {
		return
	}
	mint := all[0].t - 1000 + int64(r.IntN(int(all[len(all)-1].t-all[0].t)+1000))
	it := newView(p, v, mint, never)
	i := 0
	for {
		target := mint
		typ := chunkenc.ValFloat
		if r.IntN(2) == 0 {
			if i > 0 {
				target = all[i-1].t + 1
			}
			typ = it.Next()
		} else {
			if i > 0 {
				target = all[i-1].t + int64(r.IntN(5*g))
				if r.IntN(5) == 0 {
					target = all[i-1].t
				}
			}
			typ = it.Seek(target)
		}
		for i = max(0, i-1); i < len(all) && all[i].t < target; {
			i++
		}
		if i == len(all) {
			if typ != chunkenc.ValNone {
				t.Fatalf("seed %d: a sample at %d after the last", seed, it.AtT())
			}
			return
		}
		if typ != chunkenc.ValFloat {
			t.Fatalf("seed %d: no sample at or after %d", seed, target)
		}
		if ts, val := it.At(); ts != all[i].t || val != all[i].v && !(math.IsNaN(val) && math.IsNaN(all[i].v)) {
			t.Fatalf("seed %d: at or after %d: %d=%v, want %d=%v", seed, target, ts, val, all[i].t, all[i].v)
		}
		i++
	}
}

// A histogram's view is that of a counter for each of its buckets.
func TestViewHistogramIsCumulative(t *testing.T) {
	p := &points{kind: increment.Histogram}
	for i, vals := range [][]float64{{1, 2}, {2}, {100}} {
		inc := increment.Increment{Time: dayMillis + int64(i)*g, Hist: &increment.Hist{}}
		for _, v := range vals {
			inc.Hist.Observe(v)
		}
		if err := p.add(&inc); err != nil {
			t.Fatal(err)
		}
	}
	it := newView(p, present(never), 0, never)
	var got []string
	for i := 0; i < 5 && it.Next() == chunkenc.ValFloatHistogram; i++ {
		_, h := it.AtFloatHistogram(nil)
		got = append(got, fmt.Sprintf("%v/%v", h.Count, h.Sum))
		if err := h.Validate(); err != nil {
			t.Error(err)
		}
	}
	if s := strings.Join(got, " "); s != "0/0 2/3 3/5 4/105 4/105" {
		t.Errorf("count/sum of the first samples: %s", s)
	}
	if it.Seek(dayMillis+3*g+hour+g) != chunkenc.ValFloatHistogram {
		t.Fatal("no staleness marker")
	}
	if _, h := it.AtFloatHistogram(nil); !value.IsStaleNaN(h.Sum) {
		t.Errorf("marker has the sum %v", h.Sum)
	}
}

// A bare distinct selector is the number of ids in the trailing five minutes, at
// the grid points where that is not empty.
func TestViewDistinctIsTheTrailingFiveMinutes(t *testing.T) {
	p := &points{kind: increment.Distinct}
	add := func(clock string, ids ...uint64) {
		inc := increment.Increment{Time: floorTo(at(clock), g), IDs: ids}
		if err := p.add(&inc); err != nil {
			t.Fatal(err)
		}
	}
	add("10:00:00", 1, 2)
	add("10:01:00", 2, 3)
	add("10:08:00", 9)
	view := func(v viewParams) string { return samples(newDistinctView(p, v, 0, never)) }
	want := "10:00:15 2 ... 10:01:00; 10:01:15 3 ... 10:05:00; 10:05:15 2 ... 10:06:00; 10:06:15 stale; " +
		"10:08:15 1 ... 10:13:00; 10:13:15 stale"
	if got := view(present(never)); got != want {
		t.Errorf("view is\n %s\nwant\n %s", got, want)
	}
	if got, want := view(present(at("10:08:05"))), "10:00:15 2 ... 10:01:00; 10:01:15 3 ... 10:05:00; 10:05:15 2 ... 10:06:00; 10:06:15 stale; 10:08:05 1"; got != want {
		t.Errorf("with an open window\n %s\nwant\n %s", got, want)
	}
	if got, want := view(present(at("10:01:05"))), "10:00:15 2 ... 10:01:00; 10:01:05 3"; got != want {
		t.Errorf("with an open window\n %s\nwant\n %s", got, want)
	}
	for ts := at("10:00:00"); ts < at("10:14:00"); ts += 7000 {
		it := newDistinctView(p, present(never), ts, never)
		a := samples(it)
		if !strings.HasSuffix(want, a[strings.Index(a+";", ";"):]) {
			t.Errorf("from %s: %s", clock(ts), a)
		}
	}
	coarse := present(never)
	coarse.grid = 10 * minute
	if it := newDistinctView(p, coarse, 0, never); it.Next() != chunkenc.ValNone {
		t.Error("a grid coarser than five minutes has a value")
	}
}
