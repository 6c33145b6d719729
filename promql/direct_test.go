package promql

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/column"
)

// columns is a storage of counters that rise by i at every step, handed out as columns.
type columns struct {
	n, samples int
	onRead     func(i int)
}

func (s *columns) Querier(int64, int64) (storage.Querier, error) {
	return columnsQuerier{storage.NoopQuerier(), s}, nil
}

type columnsQuerier struct {
	storage.Querier
	*columns
}

func (q columnsQuerier) Columns(context.Context, *storage.SelectHints, ...*labels.Matcher) (column.Set, annotations.Annotations, error) {
	return q.columns, nil, nil
}

func (s *columns) Len() int { return s.n }

func (s *columns) Labels(i int) labels.Labels {
	return labels.FromStrings(model.MetricNameLabel, "m_total", "i", fmt.Sprintf("%06d", i), "odd", fmt.Sprint(i%2))
}

func (s *columns) Reading(f func() error) error { return f() }

func (s *columns) Read(i int, c *column.Column) error {
	if s.onRead != nil {
		s.onRead(i)
	}
	c.Reset()
	for k := range s.samples {
		c.Float(int64(k)*15_000, float64(k*i), 0)
	}
	return nil
}

func columnsQuery(t *testing.T, e *Engine, s *columns, qs string) upstream.Query {
	t.Helper()
	end := time.UnixMilli(int64(s.samples-1) * 15_000)
	q, err := e.NewRangeQuery(t.Context(), s, nil, qs, time.UnixMilli(300_000), end, 15*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

// A query that is canceled stops at once, whichever way it is computed, and leaves no
// goroutine behind.
func TestDirectComputationStops(t *testing.T) {
	for _, qs := range []string{`sum(rate(m_total[5m]))`, `sum by (i) (rate(m_total[5m]))`, `stddev(rate(m_total[5m]))`, `rate(m_total[5m])`, `topk(2, m_total)`} {
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(t.Context())
		reads := make(chan struct{}, 1)
		var canceled time.Time
		s := &columns{n: 200_000, samples: 240}
		s.onRead = func(int) {
			select {
			case reads <- struct{}{}:
				canceled = time.Now()
				cancel()
			default:
			}
		}
		res := columnsQuery(t, NewEngine(EngineOptions{Distinct: smallWorld(), MaxSamples: 1 << 40}), s, qs).Exec(ctx)
		if took := time.Since(canceled); took > 100*time.Millisecond+slack {
			t.Errorf("%s: stopped %s after it was canceled", qs, took)
		}
		if !errors.Is(res.Err, upstream.ErrQueryCanceled(where)) {
			t.Errorf("%s: got %v", qs, res.Err)
		}
		for wait := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Since(wait) > 10*time.Second {
				t.Fatalf("%s: %d goroutines before, %d after", qs, before, runtime.NumGoroutine())
			}
		}
	}
}

// slack is for a machine that does other work: a query that does not stop takes many
// seconds.
const slack = time.Second

// What is held is bounded, and the error is the engine's.
func TestDirectComputationIsBounded(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld(), MaxSamples: 10_000})
	s := &columns{n: 2000, samples: 240}
	for qs, fits := range map[string]bool{
		`sum(rate(m_total[5m]))`:         true, // 480,000 values, never held
		`sum by (i) (rate(m_total[5m]))`: false,
		`quantile(0.5, m_total)`:         false,
		`rate(m_total[5m])`:              false,
		`stddev by (odd) (m_total)`:      true,
		`topk(2, m_total)`:               true,
	} {
		res := columnsQuery(t, e, s, qs).Exec(t.Context())
		if fits != (res.Err == nil) || !fits && !errors.Is(res.Err, upstream.ErrTooManySamples(where)) {
			t.Errorf("%s: got %v", qs, res.Err)
		}
	}
}

// Results do not depend on how goroutines are scheduled, to the last bit.
func TestDirectComputationIsTheSameEveryTime(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	s := &columns{n: 3001, samples: 100}
	for _, qs := range []string{`sum(rate(m_total[5m]) )`, `avg by (odd) (rate(m_total[2m]))`, `stdvar(increase(m_total[3m]))`, `topk by (odd) (3, m_total)`} {
		var first string
		for range 5 {
			res := columnsQuery(t, e, s, qs).Exec(t.Context())
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			got := fmt.Sprintf("%x", res.Value.String())
			if first == "" {
				first = got
			}
			if got != first {
				t.Errorf("%s: two results differ", qs)
			}
		}
	}
}

// An error of storage stops the query with what storage said.
func TestDirectComputationFails(t *testing.T) {
	e := NewEngine(EngineOptions{Distinct: smallWorld()})
	s := &failing{columns{n: 500, samples: 100}}
	q, err := e.NewInstantQuery(t.Context(), s, nil, `sum(rate(m_total[5m]))`, at(600))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if res := q.Exec(t.Context()); res.Err == nil || !strings.Contains(res.Err.Error(), "disk on fire") {
		t.Errorf("got %v", res.Err)
	}
}

type failing struct{ columns }

func (s *failing) Querier(int64, int64) (storage.Querier, error) {
	return failingQuerier{storage.NoopQuerier(), s}, nil
}

type failingQuerier struct {
	storage.Querier
	*failing
}

func (q failingQuerier) Columns(context.Context, *storage.SelectHints, ...*labels.Matcher) (column.Set, annotations.Annotations, error) {
	return q.failing, nil, nil
}

func (s *failing) Read(i int, c *column.Column) error {
	if i == 300 {
		return errors.New("disk on fire")
	}
	return s.columns.Read(i, c)
}
