package promql

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	upstream "github.com/prometheus/prometheus/promql"
)

// The sets of all intervals of a range query are in memory at once: they are held to the
// bytes of its samples.
func TestDistinctSetsAreBounded(t *testing.T) {
	const steps, ids = 5000, 600
	r := rand.New(rand.NewPCG(1, 1))
	s := worldSeries{labels: labels.FromStrings(model.MetricNameLabel, "users")}
	for i := range int64(steps) {
		win := seen{end: (i + 1) * tick}
		for range ids {
			win.ids = append(win.ids, r.Uint64())
		}
		s.windows = append(s.windows, win)
	}
	w := &world{series: []worldSeries{s}}
	ask := func(maxSamples int, qs string) error {
		e := NewEngine(EngineOptions{Distinct: w, MaxSamples: maxSamples})
		q, err := e.NewRangeQuery(t.Context(), &matrices{}, nil, qs, time.UnixMilli(tick), time.UnixMilli(steps*tick), tick*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		return q.Exec(t.Context()).Err
	}
	for _, qs := range []string{`distinct_over_time(users[15s])`, `sum(count_distinct(users[1m]))`} {
		err := ask(20_000, qs)
		if !errors.Is(err, upstream.ErrTooManySamples(where)) || !strings.Contains(err.Error(), "more than 64 MiB for the ids of 5000 intervals") &&
			!strings.Contains(err.Error(), "more than 64 MiB for the ids of 5003 intervals") {
			t.Errorf("%s: got %v", qs, err)
		}
	}
	if err := ask(50_000_000, `distinct_over_time(users[15s])`); err != nil {
		t.Errorf("with more room: %v", err)
	}
}
