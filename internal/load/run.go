package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fastjson"
)

// Run sends events until the run's end, or ctx's. The error says that the run could not
// be made or that ctx ended it; what the server did is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	base, f, err := o.validate()
	if err != nil {
		return nil, err
	}
	r := &runner{options: o, base: base}
	run := rand.Uint64()
	for i := range o.Connections {
		r.senders = append(r.senders, &sender{
			runner:     r,
			connection: connection{base: base},
			batch:      newBatch(&o, f, base, o.Seed, uint64(i), run),
			chances:    rand.New(rand.NewPCG(o.Seed, uint64(i)<<32)),
		})
	}
	defer func() {
		for _, s := range r.senders {
			s.connection.close()
		}
	}()
	if o.Warmup > 0 {
		if report := r.phase(ctx, o.Warmup, 0); report.Answered == 0 {
			return report, fmt.Errorf("no batch was answered while warming up: %w", report.firstError())
		}
	}
	report := r.measured(ctx)
	if report.Batches > 0 && report.Answered == 0 {
		return report, fmt.Errorf("no batch was answered: %w", report.firstError())
	}
	return report, ctx.Err()
}

// runner is a run's state.
type runner struct {
	options Options
	base    *url.URL
	senders []*sender
}

// measured is the phase that the report is about.
func (r *runner) measured(ctx context.Context) *Report {
	before, serverErr := scrape(ctx, r.base)
	ownBefore, ownErr := OwnCPU()
	sampler := sampleResident(ctx, r.base)
	report := r.phase(ctx, r.options.Duration, r.options.Count)
	resident := sampler.end()
	ownAfter, err := OwnCPU()
	if ownErr == nil && err == nil {
		report.OwnCPU = ownAfter - ownBefore
	}
	if serverErr == nil {
		var after serverMetrics
		if after, serverErr = scrape(ctx, r.base); serverErr == nil {
			report.ServerCPU = time.Duration((after.cpuSeconds - before.cpuSeconds) * float64(time.Second))
			report.ServerResident = max(resident, after.residentBytes, before.residentBytes)
			report.serverMallocs = after.allocations - before.allocations
			report.ServerEvents = int(after.events - before.events)
		}
	}
	report.ServerErr = serverErr
	return report
}

// phase sends for a time or a number of events, 0 for no bound.
func (r *runner) phase(ctx context.Context, duration time.Duration, count int) *Report {
	size := r.options.Batch
	s := schedule{start: time.Now(), batches: int64((count + size - 1) / size), duration: duration}
	if r.options.Rate > 0 {
		s.every = time.Duration(float64(size) / r.options.Rate * float64(time.Second))
	}
	var wg sync.WaitGroup
	for _, one := range r.senders {
		one.report = Report{Statuses: map[int]int{}}
		wg.Go(func() { one.send(ctx, &s) })
	}
	wg.Wait()
	total := &Report{Statuses: map[int]int{}, Batch: size, Rate: r.options.Rate, Wall: time.Since(s.start)}
	for _, one := range r.senders {
		total.merge(&one.report)
	}
	return total
}

// schedule says when batches are due (I1).
type schedule struct {
	start    time.Time
	every    time.Duration // 0: at once
	batches  int64         // 0: any number
	duration time.Duration // 0: any
	taken    atomic.Int64
}

// take returns when the next batch is due; ok is false at the end of the run.
func (s *schedule) take() (due time.Time, ok bool) {
	n := s.taken.Add(1) - 1
	if s.batches > 0 && n >= s.batches {
		return due, false
	}
	at := time.Since(s.start)
	if s.every > 0 {
		at = time.Duration(n) * s.every
	}
	return s.start.Add(at), s.duration == 0 || at < s.duration
}

// pauseAfterError is how long a connection that broke stays closed: a server that does
// not listen is not asked as fast as it refuses.
const pauseAfterError = 100 * time.Millisecond

// sender is one connection and what is sent over it.
type sender struct {
	*runner
	connection connection
	batch      *batch
	chances    *rand.Rand // of sending a batch again
	parser     fastjson.Parser
	report     Report
	repeatable bool // the batch was answered and may be sent again
}

func (s *sender) send(ctx context.Context, schedule *schedule) {
	for {
		due, ok := schedule.take()
		if !ok || !sleepUntil(ctx, due) {
			return
		}
		again := s.repeatable && s.chances.Float64() < s.options.SameBatch
		if !again {
			s.batch.next(time.Now())
			if schedule.every == 0 {
				due = time.Now() // making it is not the server's time
			}
		}
		status, body, err := s.connection.exchange(ctx, s.batch.request)
		if ctx.Err() != nil {
			// Cut off, so that nothing can be said of it; the server may have it.
			s.report.cutOff++
			return
		}
		s.note(time.Since(due), status, body, err, again)
		if err != nil && !sleepUntil(ctx, time.Now().Add(pauseAfterError)) {
			return
		}
	}
}

// sleepUntil returns false where ctx ends before t.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// note counts an answer, or that there was none.
func (s *sender) note(took time.Duration, status int, body []byte, err error, again bool) {
	r, events := &s.report, s.batch.events
	r.Batches++
	r.Events += events
	if again {
		r.SentAgain++
	} else {
		r.SameIDs += s.batch.sameIDs
	}
	s.repeatable = false
	if err != nil {
		r.Unanswered += events
		r.complain(err)
		return
	}
	r.Answered++
	r.Latencies.add(took)
	r.Statuses[status]++
	v, said := readVerdicts(&s.parser, body)
	if said {
		r.Verdicts.add(v)
	} else {
		r.Silent += events
	}
	if err := checkAnswer(status, v, said, events, again); err != nil {
		r.Wrong++
		r.complain(err)
	}
	if status != http.StatusOK {
		r.complain(fmt.Errorf("status %d: %s", status, excerpt(body)))
		return
	}
	s.batch.stored()
	s.repeatable = true
}

// excerpt is the begin of an answer, for people.
func excerpt(body []byte) string {
	const shown = 300
	if len(body) > shown {
		return string(body[:shown]) + "..."
	}
	return string(body)
}
