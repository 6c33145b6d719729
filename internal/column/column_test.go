package column

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
)

// randomRuns are runs as a counter has them: dense and sparse, of whole numbers or not,
// the last one perhaps with an open window.
func randomRuns(r *rand.Rand) *Column {
	c := &Column{Step: 15_000, Whole: r.IntN(2) == 0}
	at := int64(1_700_000_000_000) / c.Step * c.Step
	for n := 1 + r.IntN(4); n > 0; n-- {
		run := Run{Zero: at, First: at + c.Step, From: len(c.Win)}
		for k := 1 + r.IntN(40); k > 0; k-- {
			v := float64(r.IntN(9))
			if !c.Whole {
				v += r.Float64()
			}
			c.Win, c.Inc = append(c.Win, at), append(c.Inc, v)
			at += c.Step
			if r.IntN(3) == 0 {
				at += r.Int64N(20) * c.Step
			}
		}
		run.To = len(c.Win)
		run.Last = c.Win[run.To-1] + c.Step*(1+r.Int64N(30))
		if n == 1 && r.IntN(2) == 0 {
			run.Last = c.Win[run.To-1]
			run.Open = run.Last + 1 + r.Int64N(c.Step-1)
		} else if r.IntN(2) == 0 {
			run.Marker = run.Last + c.Step
		}
		c.Runs = append(c.Runs, run)
		at = max(run.Last, run.Marker, run.Open)/c.Step*c.Step + c.Step*(1+r.Int64N(300))
	}
	return c
}

// What arithmetic on the grid says of runs is what their samples are, which are the sums
// of their increments.
func TestRunsAreTheirSamples(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 3))
	for range 2000 {
		c := randomRuns(r)
		runs, step := append([]Run(nil), c.Runs...), c.Step
		grid := *c
		grid.Runs = runs
		c.Expand()
		k := 0
		for i := range runs {
			run := &runs[i]
			var cursor Cursor
			n := 0
			for ; k < len(c.T) && (i+1 == len(runs) || c.T[k] < runs[i+1].Zero); k++ {
				at := c.T[k]
				if value.IsStaleNaN(c.V[k]) {
					if at != run.Marker {
						t.Fatalf("seed %d: marker at %d, want %d", seed, at, run.Marker)
					}
					continue
				}
				n++
				upTo := at - step
				if at == run.Open {
					upTo = at
				}
				want := 0.0
				for j := run.From; j < run.To && at > run.Zero; j++ {
					if c.Win[j] <= upTo {
						want += c.Inc[j]
					}
				}
				got := cursor.At(&grid, i, at)
				if diff := c.V[k] - want; diff > 1e-9 || diff < -1e-9 || got != c.V[k] {
					t.Fatalf("seed %d: run %d has %g at %d, by its cursor %g, want %g", seed, i, c.V[k], at, got, want)
				}
				if run.CountUpTo(at, step) != n || run.LastUpTo(at, step) != at || run.LastUpTo(at+1, step) != at || run.FirstAfter(at-1, step) != at {
					t.Fatalf("seed %d: run %+v: %d samples up to %d, want %d; last %d, first %d", seed, *run, run.CountUpTo(at, step), at, n,
						run.LastUpTo(at, step), run.FirstAfter(at-1, step))
				}
			}
			if run.Samples(step) != n {
				t.Fatalf("seed %d: run %+v has %d samples, want %d", seed, *run, run.Samples(step), n)
			}
		}
		if k != len(c.T) {
			t.Fatalf("seed %d: %d samples are of no run", seed, len(c.T)-k)
		}
	}
}

// A series that is counted all the time leaves its times for the next one like it, and
// reading it takes no memory.
func TestExpandSharesTimes(t *testing.T) {
	c := &Column{}
	fill := func(windows int) {
		c.Reset()
		c.Step, c.Whole = 15_000, true
		for i := range windows {
			c.Win, c.Inc = append(c.Win, int64(i)*c.Step), append(c.Inc, 1)
		}
		c.Runs = append(c.Runs, Run{First: c.Step, Last: int64(windows) * c.Step, To: windows})
		c.Expand()
	}
	for i, step := range []struct {
		windows int
		same    bool
	}{{100, false}, {100, true}, {99, false}, {99, true}, {100, false}} {
		if fill(step.windows); c.SameTimes != step.same || len(c.T) != step.windows+1 || c.V[step.windows] != float64(step.windows) {
			t.Errorf("series %d: same times %t, %d samples, total %g", i, c.SameTimes, len(c.T), c.V[len(c.V)-1])
		}
	}
	if n := testing.AllocsPerRun(100, func() { fill(100) }); n > 0 {
		t.Errorf("a series allocates %g times", n)
	}
}
