package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/accesslog"
	"github.com/quipudb/quipu/internal/answer"
	"github.com/quipudb/quipu/internal/client"
)

// demoCmd is what "make demo" runs: a server on a temporary directory, a real
// log imported into it, and PromQL's answers.
type demoCmd struct {
	Exit bool   `help:"Stop after the answers ($$DEMO_EXIT=1)."`
	Log  string `default:"testdata/access_log_2015.log" placeholder:"FILE" help:"Access log to import."`
}

func (c *demoCmd) Run(con *console) (err error) {
	span, err := spanOfLog(c.Log)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "quipu-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	server, err := startDemoServer(con.ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	fmt.Fprintf(con.out, "quipu serves %s at %s\n\n", filepath.Join(dir, "data"), server.url)

	fmt.Fprintf(con.out, "$ quipu import accesslog %s\n", c.Log)
	load := importAccesslogCmd{remote: remote{Server: server.url}, Files: []string{c.Log}, BatchSize: 1000, Concurrency: 2, RetryFor: time.Minute}
	if err := load.Run(con); err != nil {
		return fmt.Errorf("import %s: %w", c.Log, err)
	}
	if err := demoAnswers(con, server.client, span); err != nil {
		return err
	}
	if exit := con.getenv("DEMO_EXIT"); c.Exit || exit != "" && exit != "0" {
		return nil
	}
	fmt.Fprintf(con.out, "\nAsk more in another terminal (the log is of the past, so say when):\n"+
		"  %s query --server=%s --time=%s 'topk(5, sum by (referrer) (increase(events_total[%s] anchored)))'\n"+
		"or open %s/ in a browser. Ctrl-C ends the demo and removes its data.\n",
		os.Args[0], server.url, span.end.Format(time.RFC3339), span.window, server.url)
	select {
	case <-con.ctx.Done():
		fmt.Fprintln(con.out, "\nstopping")
		return nil
	case <-server.exited:
		return fmt.Errorf("the server ended by itself: %w", server.failure())
	}
}

// logSpan are the times of a log, on whole hours.
type logSpan struct {
	oldest, newest time.Time
	// start and end are the whole hours around the log, window what covers it
	// back from end, as a range of PromQL.
	start, end time.Time
	window     string
}

func spanOfLog(name string) (logSpan, error) {
	file, err := os.Open(name)
	if err != nil {
		return logSpan{}, fmt.Errorf("open the demo's log: %w; run the demo where it is, or name one with --log", err)
	}
	defer file.Close()
	var s logSpan
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e, err := accesslog.Parse(lines.Bytes())
		if err != nil {
			continue // the import reports it
		}
		at := time.UnixMilli(e.TimeMillis).UTC()
		if s.oldest.IsZero() || at.Before(s.oldest) {
			s.oldest = at
		}
		if at.After(s.newest) {
			s.newest = at
		}
	}
	if err := lines.Err(); err != nil {
		return logSpan{}, fmt.Errorf("read %s: %w", name, err)
	}
	if s.oldest.IsZero() {
		return logSpan{}, fmt.Errorf("no line of %s is an access log's", name)
	}
	s.start = s.oldest.Truncate(time.Hour)
	// An hour holds the events before its end, so the end is after the newest.
	s.end = s.newest.Truncate(time.Hour).Add(time.Hour)
	day := 24 * time.Hour
	s.window = fmt.Sprintf("%dd", (s.end.Sub(s.start)+day-1)/day)
	return s, nil
}

// question is one query of the demo. Window stands for the range that covers
// the whole log.
type question struct {
	title, expr string
}

const window = "WINDOW"

// demoQuestions are asked at the first whole hour after the log. "anchored"
// makes increase count from the beginning of the range to its end, without
// extrapolation, so that it returns the number of events.
var demoQuestions = []question{
	{"Hits", `sum(increase(events_total{event="http_request"}[` + window + `] anchored))`},
	{"Top ten pages", `topk(10, sum by (page) (increase(events_total{event="http_request"}[` + window + `] anchored)))`},
	{"Hits by status", `sort_desc(sum by (status) (increase(events_total{event="http_request"}[` + window + `] anchored)))`},
	{"Unique visitors (client addresses)", `count_distinct(event_users{event="http_request"}[` + window + `])`},
	{"Bytes of a response: half are below", `histogram_quantile(0.5, sum(increase(event_value{event="http_request",field="bytes"}[` + window + `] anchored)))`},
	{"Bytes of a response: 95% are below", `histogram_quantile(0.95, sum(increase(event_value{event="http_request",field="bytes"}[` + window + `] anchored)))`},
}

// demoHourly is asked for every whole hour of the log.
const demoHourly = `sum(increase(events_total{event="http_request"}[1h] anchored))`

// demoAnswers shows every query and its answer, from oldest to newest hour.
func demoAnswers(con *console, server *client.Client, span logSpan) error {
	layout := "2 Jan 2006 15:04"
	fmt.Fprintf(con.out, "\nAsked of %s to %s UTC, at %s:\n", span.oldest.Format(layout), span.newest.Format(layout), span.end.Format(layout))
	for _, q := range demoQuestions {
		expr := strings.ReplaceAll(q.expr, window, span.window)
		fmt.Fprintf(con.out, "\n%s\n> %s\n", q.title, expr)
		a, err := server.Query(con.ctx, expr, span.end)
		if err != nil {
			return fmt.Errorf("ask %s: %w", expr, err)
		}
		if string(a.Result) == "[]" {
			return fmt.Errorf("ask %s: there is no answer", expr)
		}
		if err := show(con, a, "table", answer.Plot{}); err != nil {
			return err
		}
	}
	fmt.Fprintf(con.out, "\nHits per hour\n> %s\n", demoHourly)
	hours := client.Range{Start: span.start.Add(time.Hour), End: span.end, Step: time.Hour}
	a, err := server.QueryRange(con.ctx, demoHourly, hours)
	if err != nil {
		return fmt.Errorf("ask %s: %w", demoHourly, err)
	}
	return showHours(con, a, hours)
}
