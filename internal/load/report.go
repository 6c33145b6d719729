package load

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Report is what came of a run.
type Report struct {
	Batch int     // events in each
	Rate  float64 // events a second that were due; 0: as fast as answers came
	Wall  time.Duration

	Batches, Answered int // requests
	Events            int // in all requests
	// Silent are the events of answers without verdicts, Unanswered those of requests
	// without an answer.
	Silent, Unanswered int
	// SameIDs are events with an id that was used before, SentAgain batches that were
	// stored before.
	SameIDs, SentAgain int
	Statuses           map[int]int // requests
	Verdicts           Verdicts
	// Wrong are answers that contradict what was sent.
	Wrong     int
	Complaint error // the first; nil: none
	Latencies Latencies
	cutOff    int // requests whose answer was not waited for

	OwnCPU time.Duration // 0: not known
	// ServerErr is why what the server says of itself is not known.
	ServerErr      error
	ServerCPU      time.Duration
	ServerResident float64 // bytes, the most that was seen
	serverMallocs  float64
	ServerEvents   int // that the server counted by verdicts, whoever sent them
}

func (r *Report) merge(o *Report) {
	r.Batches += o.Batches
	r.Answered += o.Answered
	r.Events += o.Events
	r.Silent += o.Silent
	r.Unanswered += o.Unanswered
	r.SameIDs += o.SameIDs
	r.SentAgain += o.SentAgain
	for status, n := range o.Statuses {
		r.Statuses[status] += n
	}
	r.Verdicts.add(o.Verdicts)
	r.Wrong += o.Wrong
	r.complain(o.Complaint)
	r.Latencies.merge(&o.Latencies)
	r.cutOff += o.cutOff
}

// complain keeps the first thing that was wrong.
func (r *Report) complain(err error) {
	if r.Complaint == nil {
		r.Complaint = err
	}
}

func (r *Report) firstError() error {
	if r.Complaint == nil {
		return errors.New("none was sent")
	}
	return r.Complaint
}

// Err says what of the run was not as it must be: answers that contradict what was
// sent, requests without an answer or with another status than 200 (I2).
func (r *Report) Err() error {
	switch refused := r.Answered - r.Statuses[http.StatusOK]; {
	case r.Wrong > 0:
		return fmt.Errorf("%d answers contradict what was sent: %w", r.Wrong, r.Complaint)
	case r.Unanswered > 0:
		return fmt.Errorf("%d events were not answered: %w", r.Unanswered, r.Complaint)
	case refused > 0:
		return fmt.Errorf("%d requests were refused: %w", refused, r.Complaint)
	case r.ServerErr == nil && r.cutOff == 0 && r.ServerEvents < r.Events-r.Unanswered:
		return fmt.Errorf("the server counted %d events by verdict, it answered for %d", r.ServerEvents, r.Events)
	}
	return nil
}

// EventsPerSecond is what was answered for in the time that the run took.
func (r *Report) EventsPerSecond() float64 {
	return float64(r.Events-r.Unanswered) / r.Wall.Seconds()
}

// RequestsPerSecond is what was answered in that time.
func (r *Report) RequestsPerSecond() float64 { return float64(r.Answered) / r.Wall.Seconds() }

// ServerCPUPerMillion is CPU seconds of the server for a million events.
func (r *Report) ServerCPUPerMillion() float64 {
	return r.ServerCPU.Seconds() / float64(r.Events-r.Unanswered) * 1e6
}

// ServerAllocations is how many objects the server allocated for an event, whatever for.
func (r *Report) ServerAllocations() float64 {
	return r.serverMallocs / float64(r.Events-r.Unanswered)
}

// OwnCPUPerMillion is the same of the generator.
func (r *Report) OwnCPUPerMillion() float64 { return r.OwnCPU.Seconds() / float64(r.Events) * 1e6 }

// Fprint prints the report for people.
func (r *Report) Fprint(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s "+format+"\n", append([]any{name}, args...)...)
	}
	due := "as fast as answers came"
	if r.Rate > 0 {
		due = fmt.Sprintf("%.0f/s were due", r.Rate)
	}
	line("events", "%d in %.1fs, %.0f/s (%s)", r.Events, r.Wall.Seconds(), r.EventsPerSecond(), due)
	line("requests", "%d of %d events each, %.0f/s", r.Batches, r.Batch, r.RequestsPerSecond())
	since := "sent"
	if r.Rate > 0 {
		since = "due"
	}
	l := &r.Latencies
	line("latency", "p50 %s, p90 %s, p99 %s, max %s, from when a batch was %s", millis(l.Quantile(.5)), millis(l.Quantile(.9)), millis(l.Quantile(.99)), millis(l.Max()), since)
	for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
		line(fmt.Sprintf("status %d", status), "%d requests", r.Statuses[status])
	}
	v := r.Verdicts
	line("verdicts", "%d accepted, %d duplicate, %d filtered, %d rejected", v.Accepted, v.Duplicate, v.Filtered, v.Rejected)
	if r.Silent > 0 {
		line("", "%d events are in answers without verdicts", r.Silent)
	}
	if r.Unanswered > 0 {
		line("", "%d events were not answered", r.Unanswered)
	}
	if r.SentAgain+r.SameIDs > 0 {
		line("sent again", "%d batches, %d events by their id", r.SentAgain, r.SameIDs)
	}
	if r.ServerErr != nil {
		line("server", "%v", r.ServerErr)
	} else {
		line("server", "%.2f CPU-s in a million events, %.0f MiB at most, %d events counted", r.ServerCPUPerMillion(), r.ServerResident/(1<<20), r.ServerEvents)
	}
	if r.OwnCPU > 0 {
		line("generator", "%.2f CPU-s in a million events", r.OwnCPUPerMillion())
	}
	if r.Complaint != nil {
		line("first wrong", "%v", r.Complaint)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
}
