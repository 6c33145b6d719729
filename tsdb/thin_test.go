package tsdb

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

const thinStep = 5 * 60_000

// scrapedDay is a day of samples of a counter or a gauge with resets, gaps and markers.
func scrapedDay(r *rand.Rand, counter bool) points {
	p := points{kind: increment.Sample}
	v := r.Float64() * 1000
	for at := dayStart(testStart.UnixMilli()) + r.Int64N(15_000); at < dayStart(testStart.UnixMilli())+dayMillis; at += 15_000 + r.Int64N(500) {
		switch n := r.IntN(600); {
		case n == 0:
			p.push(&entry{time: at, value: math.Float64frombits(value.StaleNaN)})
			continue
		case n == 1:
			at += r.Int64N(2 * thinStep)
		case n == 2:
			at += r.Int64N(4 * 3600_000)
			v *= float64(r.IntN(2)) // a reset after it, or none
		case n == 3:
			v = r.Float64()
		case n == 4:
			v = math.NaN()
		}
		if at >= dayStart(testStart.UnixMilli())+dayMillis {
			break
		}
		if math.IsNaN(v) && r.IntN(4) == 0 {
			v = 0
		}
		if counter {
			v += float64(r.IntN(5))
		} else {
			v += r.NormFloat64()
		}
		p.push(&entry{time: at, value: v})
	}
	return p
}

func copyPoints(p *points) points {
	out := *p
	out.win, out.value, out.at, out.native = slices.Clone(p.win), slices.Clone(p.value), slices.Clone(p.at), slices.Clone(p.native)
	return out
}

func samePoints(t *testing.T, what string, got, want *points) {
	t.Helper()
	bits := func(p *points) (out []string) {
		for i, w := range p.win {
			out = append(out, fmt.Sprintf("%d %x", w, math.Float64bits(p.value[i])))
		}
		return out
	}
	if a, b := bits(got), bits(want); !slices.Equal(a, b) {
		t.Errorf("%s: %d points are not the %d: %s", what, len(a), len(b), firstDifference(strings.Join(a, "\n"), strings.Join(b, "\n")))
	}
}

// shownAt is what a query sees at a time: the last sample of the five minutes before.
func (p *points) shownAt(at int64) (v float64, ok bool) {
	i, found := slices.BinarySearch(p.win, at)
	if !found {
		i--
	}
	if i < 0 || p.win[i] <= at-thinLookback || p.isMarker(i) {
		return 0, false
	}
	return p.value[i], true
}

// rise is what a counter rose from one time to another, resets added up.
func (p *points) rise(from, to int64) (sum float64) {
	last := math.NaN()
	for i, w := range p.win {
		if w > to || p.isMarker(i) {
			continue
		}
		if v := p.value[i]; w > from && !math.IsNaN(last) {
			if sum += v - last; v < last {
				sum += last
			}
		}
		last = p.value[i]
	}
	return sum
}

// Of samples few are left; there is a value where there was one and none where there was
// none, the value at the end of each step is what it was, a counter rises as much in each
// step, and thinning again, also in coarser steps, is as if it had been done once.
func TestThinnedSamples(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		counter := seed%2 == 0
		all := scrapedDay(r, counter)
		thin := copyPoints(&all)
		thin.thinSamples(thinStep, counter, nil)
		if n := thin.len(); n > all.len()/5 {
			t.Errorf("seed %d: %d of %d samples are left", seed, n, all.len())
		}
		part := thin.thinnedPart(thinStep, nil)
		again := copyPoints(&thin)
		again.thinSamples(thinStep, counter, []*thinnedPart{part})
		samePoints(t, fmt.Sprintf("seed %d, again", seed), &again, &thin)
		twice, once := copyPoints(&thin), copyPoints(&all)
		twice.thinSamples(12*thinStep, counter, []*thinnedPart{part})
		once.thinSamples(12*thinStep, counter, nil)
		samePoints(t, fmt.Sprintf("seed %d, in two steps", seed), &twice, &once)
		for step, kept := range map[int64]*points{thinStep: &thin, 12 * thinStep: &once} {
			shown := copyPoints(kept)
			shown.fillThinned([]*thinnedPart{kept.thinnedPart(step, nil)}, counter)
			for at := dayStart(testStart.UnixMilli()); at < dayStart(testStart.UnixMilli())+dayMillis; at += 7_000 {
				want, had := all.shownAt(at)
				got, has := shown.shownAt(at)
				if had != has || had && (at+1)%step == 0 && math.Float64bits(got) != math.Float64bits(want) {
					t.Fatalf("seed %d, step %d: at %d there is %v %v, was %v %v", seed, step, at, got, has, want, had)
				}
			}
			for end := dayStart(testStart.UnixMilli()) + step; end <= dayStart(testStart.UnixMilli())+dayMillis; end += step {
				if got, _ := shown.shownAt(end - 1); true {
					if want, had := all.shownAt(end - 1); had && math.Float64bits(got) != math.Float64bits(want) {
						t.Fatalf("seed %d, step %d: %v before %d, was %v", seed, step, got, end, want)
					}
				}
				if a, b := shown.rise(end-step-1, end-1), all.rise(end-step-1, end-1); counter && math.Abs(a-b) > 1e-9*math.Max(1, math.Abs(b)) {
					t.Fatalf("seed %d, step %d: a rise of %v to %d, was %v", seed, step, a, end, b)
				}
			}
		}
	}
}

// Of native histograms resets are kept, and hints that would be about a sample that is not
// there any more are not.
func TestThinnedNativeHistograms(t *testing.T) {
	p := points{kind: increment.Sample}
	h := &increment.Hist{}
	start := dayStart(testStart.UnixMilli())
	for i := range int64(240) {
		if i%100 == 99 {
			h = &increment.Hist{}
		}
		h.Observe(1)
		p.push(&entry{time: start + i*15_000, native: &increment.Native{Float: h.Float(nil).Copy()}})
	}
	p.thinSamples(thinStep, false, nil)
	var counts []float64
	for _, n := range p.native {
		counts = append(counts, n.Float.Count)
		if n.Float.CounterResetHint != histogram.UnknownCounterReset {
			t.Errorf("hint %v", n.Float.CounterResetHint)
		}
	}
	want := []float64{1, 20, 40, 60, 80, 99, 1, 21, 41, 61, 81, 100, 1, 21, 41}
	if !slices.Equal(counts, want) {
		t.Errorf("counts %v, want %v", counts, want)
	}
}

// Of a gauge each step keeps the first, the last, the least and the largest, and both sides
// of markers.
func TestThinnedGauges(t *testing.T) {
	stale := math.Float64frombits(value.StaleNaN)
	p := points{kind: increment.Gauge}
	for i, v := range []float64{5, 3, 9, 4, 9, 6, 1, 1, 2, math.NaN(), 7, stale, 8, 8, 8} {
		p.push(&entry{time: int64(i) * 60_000, value: v})
	}
	p.thinGauges(thinStep)
	var got []string
	for i, v := range p.value {
		got = append(got, fmt.Sprintf("%d:%v", p.win[i]/60_000, v))
	}
	want := []string{"0:5", "1:3", "2:9", "4:9", "5:6", "6:1", "9:NaN", "10:7", "11:NaN", "12:8", "14:8"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	again := copyPoints(&p)
	again.thinGauges(thinStep)
	samePoints(t, "again", &again, &p)
}

// A tenant's gauges and samples are thinned once they are old enough, show what they did,
// take in what comes late, and lose what is deleted; it is sound and so after a restart.
func TestDownsampledGaugesAndSamples(t *testing.T) {
	settings := retaining(t, "downsample: [{after: 1d, to: 5m}, {after: 10d, to: 1h}]")
	db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
	day := testStart.Truncate(24 * time.Hour)
	*db.now = day.Add(25 * time.Hour)
	r := rand.New(rand.NewPCG(1, 1))
	day0 := scrapedDay(r, true)
	var batch []increment.Increment
	for i, w := range day0.win {
		batch = append(batch, increment.Increment{Series: series(increment.Sample, "requests_total"), Time: w, Value: day0.value[i]})
		batch = append(batch, gaugeInc(floorTo(w, g)+1, float64(i%37), "room", "a"))
	}
	db.mustAppend(tenant.Default, batch...)
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	before := db.mustStore(tenant.Default).usage().BlockBytes
	for i, age := range []time.Duration{3 * 24 * time.Hour, 20 * 24 * time.Hour} {
		*db.now = day.Add(age)
		db.mustMaintain(t)
		if b := db.mustStore(tenant.Default).man.Blocks; len(b) != 1 || b[0].Step != []int64{300_000, 3_600_000}[i] {
			t.Fatalf("blocks %+v", b)
		}
		shown := db.samplesOf(t, "requests_total")
		for at := dayStart(day.UnixMilli()); at < day.Add(24*time.Hour).UnixMilli(); at += 11_000 {
			if _, had := day0.shownAt(at); had {
				if _, has := shown.shownAt(at); !has {
					t.Fatalf("after %s nothing shows at %d", age, at)
				}
			}
		}
		if got, want := shown.rise(math.MinInt64, math.MaxInt64), day0.rise(math.MinInt64, math.MaxInt64); math.Abs(got-want) > 1e-6 {
			t.Errorf("after %s a rise of %v, was %v", age, got, want)
		}
	}
	if after := db.mustStore(tenant.Default).usage().BlockBytes; after > before/4 {
		t.Errorf("%d bytes of %d are left", after, before)
	}
	now := *db.now
	db = db.reopen(func(o *Options) { o.Defaults = settings })
	*db.now = now
	from, to := day.Add(6*time.Hour+10*time.Minute), day.Add(6*time.Hour+40*time.Minute)
	if _, err := db.Delete(context.Background(), tenant.Default, from.UnixMilli(), to.UnixMilli(), equal("__name__", "requests_total")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		shown := db.samplesOf(t, "requests_total")
		for i, w := range shown.win {
			if w >= from.UnixMilli() && w <= to.UnixMilli() && !shown.isMarker(i) {
				t.Fatalf("a sample shows at %s, in what was deleted", time.UnixMilli(w).UTC())
			}
		}
		if err := db.CleanTombstones(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
	}
	late := day.Add(9*time.Hour + 30*time.Minute + 10*time.Second)
	db.mustAppend(tenant.Default, increment.Increment{Series: series(increment.Sample, "requests_total"), Time: late.UnixMilli(), Value: -1})
	if v, ok := db.samplesOf(t, "requests_total").shownAt(late.UnixMilli() + 1); !ok || v != -1 {
		t.Errorf("what came late shows as %v %v", v, ok)
	}
	mustBeSoundAfter(t, db)
}

// What shows is a function of what is stored, not of the range that is asked for: also
// beside what was thinned, where samples came late.
func TestThinnedSamplesInAnyRange(t *testing.T) {
	settings := retaining(t, "downsample: [{after: 1d, to: 5m}]")
	for seed := range uint64(10) {
		db := openTestDB(t, "", func(o *Options) { o.Defaults = settings })
		r := rand.New(rand.NewPCG(seed, 2))
		all := scrapedDay(r, true)
		start := all.win[0]
		*db.now = time.UnixMilli(start).Add(25 * time.Hour)
		var first, late []increment.Increment
		for i, w := range all.win {
			inc := increment.Increment{Series: series(increment.Sample, "requests_total"), Time: w, Value: all.value[i]}
			if r.IntN(15) == 0 {
				late = append(late, inc)
			} else {
				first = append(first, inc)
			}
		}
		db.mustAppend(tenant.Default, first...)
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		*db.now = time.UnixMilli(start).Add(3 * 24 * time.Hour)
		db.mustMaintain(t)
		db.mustAppend(tenant.Default, late...)
		if seed%2 == 0 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
		whole := db.samplesOf(t, "requests_total")
		for range 200 {
			from := start + r.Int64N(dayMillis)
			to := from + r.Int64N([]int64{30_000, 3600_000, dayMillis}[r.IntN(3)])
			got, want := db.samplesIn(t, "requests_total", from, to), copyPoints(whole)
			want.between(from, to+1)
			samePoints(t, fmt.Sprintf("seed %d, from %d to %d", seed, from, to), got, &want)
		}
		if t.Failed() {
			return
		}
	}
}

// samplesOf are the float samples of a metric's only series, as a query selects them.
func (d *testDB) samplesOf(t *testing.T, name string) *points {
	t.Helper()
	return d.samplesIn(t, name, math.MinInt64/4, d.now.UnixMilli())
}

// samplesIn are those in a range.
func (d *testDB) samplesIn(t *testing.T, name string, from, to int64) *points {
	t.Helper()
	q, err := d.Querier(from, to)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(scoped(d), true, nil, equal("__name__", name))
	out := &points{kind: increment.Sample}
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() == chunkenc.ValFloat {
			at, v := it.At()
			out.push(&entry{time: at, value: v})
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
	}
	if set.Err() != nil {
		t.Fatal(set.Err())
	}
	return out
}
