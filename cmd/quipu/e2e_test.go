package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/answer"
	"github.com/quipudb/quipu/internal/client"
)

var shuffleSeed = flag.Uint64("shuffle-seed", 0, "repeat the shuffle of a failed test; 0 makes a new one")

const realLog = "../../testdata/access_log_2015.log"

// afterLog is the first whole hour after the last line of the log, and logHours
// are the ends of its hours.
var (
	afterLog = time.Date(2015, time.May, 20, 22, 0, 0, 0, time.UTC)
	logHours = client.Range{Start: time.Date(2015, time.May, 17, 11, 0, 0, 0, time.UTC), End: afterLog, Step: time.Hour}
	// logRange is the same time in fewer steps, off the hours.
	logRange = client.Range{Start: logHours.Start.Add(7 * time.Minute), End: afterLog, Step: 5 * time.Hour}
)

// recount is what the log holds, counted here without any code that is tested.
type recount struct {
	lines                      int
	status, page, hour, method map[string]float64
	addresses                  map[string]float64
}

// recountLog cuts lines at spaces, as awk does: the first ten fields of this log
// never hold one.
func recountLog(t *testing.T) recount {
	t.Helper()
	content, err := os.ReadFile(realLog)
	if err != nil {
		t.Fatal(err)
	}
	r := recount{status: map[string]float64{}, page: map[string]float64{}, hour: map[string]float64{}, method: map[string]float64{}, addresses: map[string]float64{}}
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		r.lines++
		r.addresses[f[0]]++
		r.hour[f[3][1:len("[17/May/2015:10")]]++
		r.method[strings.TrimPrefix(f[5], `"`)]++
		r.page[f[6]]++
		r.status[f[8]]++
	}
	return r
}

// topTen returns the ten greatest counts.
func topTen(counts map[string]float64) []float64 {
	values := slices.Sorted(maps.Values(counts))
	slices.Reverse(values)
	return values[:10]
}

// importReal imports a file with the real binary and returns its output.
func importReal(t *testing.T, s *serverProcess, args ...string) string {
	t.Helper()
	stdout, stderr, err := runQuipu(t, append([]string{"import", "accesslog", "--server=" + s.URL}, args...)...)
	if err != nil {
		t.Fatalf("quipu import accesslog: %v\n%s%s", err, stdout, stderr)
	}
	return stdout
}

// asker asks one server, and fails the test for any error.
type asker struct {
	t *testing.T
	c *client.Client
}

func newAsker(t *testing.T, s *serverProcess) asker {
	t.Helper()
	c, err := client.New(client.Options{Server: s.URL, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return asker{t, c}
}

func (a asker) instant(expr string) client.Answer {
	a.t.Helper()
	got, err := a.c.Query(a.t.Context(), expr, afterLog)
	if err != nil {
		a.t.Fatalf("%s: %v", expr, err)
	}
	return got
}

func (a asker) over(r client.Range, expr string) client.Answer {
	a.t.Helper()
	got, err := a.c.QueryRange(a.t.Context(), expr, r)
	if err != nil {
		a.t.Fatalf("%s: %v", expr, err)
	}
	return got
}

func (a asker) vector(expr string) model.Vector {
	a.t.Helper()
	v, err := answer.Decode(a.instant(expr))
	if err != nil || v.Vector == nil {
		a.t.Fatalf("%s: %+v, %v; want a vector", expr, v, err)
	}
	return v.Vector
}

// byLabel returns a vector's values by one label.
func (a asker) byLabel(expr string, label model.LabelName) map[string]float64 {
	a.t.Helper()
	values := map[string]float64{}
	for _, s := range a.vector(expr) {
		values[string(s.Metric[label])] = float64(s.Value)
	}
	return values
}

// one returns the value of a vector of one.
func (a asker) one(expr string) float64 {
	a.t.Helper()
	v := a.vector(expr)
	if len(v) != 1 {
		a.t.Fatalf("%s has %d results, want 1", expr, len(v))
	}
	return float64(v[0].Value)
}

// wantCounts compares all counts, and names those that differ.
func wantCounts(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	for key, n := range want {
		if got[key] != n {
			t.Errorf("%s: %q has %g, the log has %g", what, key, got[key], n)
		}
	}
	for key, n := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: %q has %g, the log has none", what, key, n)
		}
	}
}

// wantAnswersOfLog compares every answer with the recount.
func wantAnswersOfLog(t *testing.T, s *serverProcess, want recount) {
	t.Helper()
	ask := newAsker(t, s)
	const hits = `increase(events_total{event="http_request"}[4d] anchored)`
	if got := ask.one(`sum(` + hits + `)`); got != float64(want.lines) {
		t.Errorf("hits: %g, the log has %d", got, want.lines)
	}
	wantCounts(t, "by status", ask.byLabel(`sum by (status) (`+hits+`)`, "status"), want.status)
	wantCounts(t, "by method", ask.byLabel(`sum by (method) (`+hits+`)`, "method"), want.method)
	wantCounts(t, "by page", ask.byLabel(`sum by (page) (`+hits+`)`, "page"), want.page)

	top := ask.vector(`topk(10, sum by (page) (` + hits + `))`)
	for i, n := range topTen(want.page) {
		if i >= len(top) {
			t.Fatalf("top ten pages: only %d", len(top))
		}
		if page := string(top[i].Metric["page"]); float64(top[i].Value) != n || want.page[page] != n {
			t.Errorf("top ten pages: place %d is %q with %v, the log has %g there", i+1, page, top[i].Value, n)
		}
	}

	hourly, err := answer.Decode(ask.over(logHours, `sum(increase(events_total{event="http_request"}[1h] anchored))`))
	if err != nil || len(hourly.Matrix) != 1 {
		t.Fatalf("by hour: %+v, %v; want one series", hourly, err)
	}
	byHour := map[string]float64{}
	for _, sample := range hourly.Matrix[0].Values {
		if sample.Value != 0 {
			byHour[sample.Timestamp.Time().UTC().Add(-time.Hour).Format("02/Jan/2006:15")] = float64(sample.Value)
		}
	}
	wantCounts(t, "by hour", byHour, want.hour)

	// So few ids are counted exactly.
	if got := ask.one(`count_distinct(event_users{event="http_request"}[4d])`); got != float64(len(want.addresses)) {
		t.Errorf("client addresses: %g, the log has %d", got, len(want.addresses))
	}
}

func TestDemoAnswersEqualTheLog(t *testing.T) {
	want := recountLog(t)
	s := startServer(t)
	out := importReal(t, s, realLog)
	if !strings.HasPrefix(out, "10,000 lines read, 0 unparsed\n10,000 events accepted, 0 duplicate, 0 rejected\n") {
		t.Errorf("import printed\n%s", out)
	}
	wantAnswersOfLog(t, s, want)

	// The same import again counts nothing, and neither does a restart.
	out = importReal(t, s, realLog)
	if !strings.HasPrefix(out, "10,000 lines read, 0 unparsed\n0 events accepted, 10,000 duplicate, 0 rejected\n") {
		t.Errorf("the second import printed\n%s", out)
	}
	wantAnswersOfLog(t, s, want)
	s.stop()
	s = startServer(t, "--data.dir="+s.DataDir)
	wantAnswersOfLog(t, s, want)
	out = importReal(t, s, realLog)
	if !strings.Contains(out, "\n0 events accepted, 10,000 duplicate, 0 rejected\n") {
		t.Errorf("the import after a restart printed\n%s", out)
	}
	wantAnswersOfLog(t, s, want)
}

// TestImportKilledAndRunAgainCountsOnce kills the importing process with a batch
// counted whose answer it never got, and then runs the same command again.
func TestImportKilledAndRunAgainCountsOnce(t *testing.T) {
	want := recountLog(t)
	s := startServer(t)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	var first *exec.Cmd
	var mu sync.Mutex
	posts := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		posts++
		if posts != 5 {
			forward.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(httptest.NewRecorder(), r)
		first.Process.Kill()
	}))
	defer proxy.Close()
	cache := t.TempDir()
	command := func() *exec.Cmd {
		c := exec.Command(buildQuipu(t), "import", "accesslog", "--shift-to-now", "--server="+proxy.URL, realLog)
		c.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
		return c
	}
	mu.Lock() // until first is set and started
	first = command()
	err = first.Start()
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Fatal("the first import was not killed")
	}
	out, err := command().CombinedOutput()
	if err != nil {
		t.Fatalf("import again: %v\n%s", err, out)
	}
	for _, line := range []string{"resuming: times are shifted as in the import that was interrupted", "10,000 lines read, 0 unparsed"} {
		if !strings.Contains(string(out), line+"\n") {
			t.Errorf("import again printed\n%swant %q", out, line)
		}
	}
	if strings.Contains(string(out), " 0 duplicate") {
		t.Errorf("import again found nothing of the first one:\n%s", out)
	}
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Query(t.Context(), `sum(increase(events_total{event="http_request"}[5d] anchored))`, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := answer.Decode(a)
	if err != nil || len(v.Vector) != 1 || float64(v.Vector[0].Value) != float64(want.lines) {
		t.Errorf("hits: %s, %v; the log has %d", a.Result, err, want.lines)
	}
}

func TestDemoPrintsItsAnswersAndLeavesNothing(t *testing.T) {
	want := recountLog(t)
	buildQuipu(t) // before its directory would be that of the demo
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	stdout, stderr, err := runQuipu(t, "demo", "--exit", "--log="+realLog)
	if err != nil {
		t.Fatalf("quipu demo: %v\n%s%s", err, stdout, stderr)
	}
	printed := strings.Split(stdout, "\n")
	for i, line := range printed {
		printed[i] = strings.Join(strings.Fields(line), " ")
	}
	for _, line := range []string{
		"10,000 lines read, 0 unparsed",
		"10,000 events accepted, 0 duplicate, 0 rejected",
		fmt.Sprint(want.lines),
		fmt.Sprint(len(want.addresses)),
		fmt.Sprint("404 ", want.status["404"]),
		fmt.Sprint("/favicon.ico ", want.page["/favicon.ico"]),
		fmt.Sprint("10:00 ", want.hour["17/May/2015:10"], want.hour["18/May/2015:10"], want.hour["19/May/2015:10"], want.hour["20/May/2015:10"]),
	} {
		if !slices.Contains(printed, line) {
			t.Errorf("the demo does not print the line %q:\n%s", line, stdout)
		}
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("the demo leaves %v, %v", left, err)
	}
}

func TestDemoStaysUntilItIsInterrupted(t *testing.T) {
	temporary := t.TempDir()
	out := &lockedBuffer{}
	demo := exec.Command(buildQuipu(t), "demo", "--log="+realLog)
	demo.Env = append(os.Environ(), "TMPDIR="+temporary)
	demo.Stdout, demo.Stderr = out, out
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- demo.Wait() }()
	t.Cleanup(func() { demo.Process.Kill() })
	deadline := time.After(readyTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(out.String(), "Ctrl-C") {
		select {
		case err := <-exited:
			t.Fatalf("the demo ended by itself: %v\n%s", err, out.String())
		case <-deadline:
			t.Fatalf("the demo did not finish its answers within %s:\n%s", readyTimeout, out.String())
		case <-tick.C:
		}
	}
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(out.String())
	c, err := client.New(client.Options{Server: address})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); err != nil {
		t.Errorf("while the demo stays: %v", err)
	}
	if err := demo.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the interrupted demo ended with %v:\n%s", err, out.String())
		}
	case <-time.After(stopTimeout):
		t.Fatalf("the demo still runs %s after the interrupt:\n%s", stopTimeout, out.String())
	}
	if err := c.Ready(t.Context()); err == nil {
		t.Errorf("something answers at %s after the demo", address)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("the demo leaves %v, %v", left, err)
	}
}

// shuffledLog writes the lines of the log in another order.
func shuffledLog(t *testing.T, seed uint64) string {
	t.Helper()
	content, err := os.ReadFile(realLog)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(content)))
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	path := filepath.Join(t.TempDir(), "shuffled.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// orderQueries are asked at the end of the log and over its time. None may
// depend on the order in which events came.
var orderQueries = []string{
	`events_total`,
	`sum(events_total)`,
	`sum(increase(events_total{event="http_request"}[4d] anchored))`,
	`sum by (status) (increase(events_total[1d] anchored))`,
	`sum by (page) (increase(events_total[4d] anchored))`,
	`sum by (method, status) (increase(events_total[90m] anchored))`,
	`increase(events_total{status="404"}[2h])`,
	`rate(events_total{status="500"}[4d])`,
	`sum(rate(events_total[5m]))`,
	`sum by (referrer) (rate(events_total{referrer!=""}[3h]))`,
	`irate(events_total{page="/favicon.ico"}[2h])`,
	`topk(10, sum by (page) (increase(events_total[4d] anchored)))`,
	`bottomk(3, sum by (status) (increase(events_total[4d] anchored)))`,
	`count(count by (page) (increase(events_total[4d] anchored)))`,
	`events_total{page="/"} - events_total{page="/"} offset 1h`,
	`resets(events_total{page="/robots.txt"}[4d])`,
	`changes(events_total{page="/robots.txt"}[1d])`,
	`max_over_time(events_total{page="/style2.css"}[1d])`,
	`last_over_time(events_total{status="301"}[6h])`,
	`avg_over_time(sum(rate(events_total[10m]))[6h:10m])`,
	`event_users`,
	`distinct_over_time(event_users[4d])`,
	`count_distinct(event_users{event="http_request"}[1d])`,
	`sum by (field) (increase(event_value[4d]))`,
	`histogram_quantile(0.95, sum(increase(event_value{field="bytes"}[4d])))`,
	`histogram_count(sum(increase(event_value{field="bytes"}[6h])))`,
	`histogram_sum(sum(rate(event_value{field="bytes"}[1d])))`,
}

func TestShuffledImportGivesTheSameAnswers(t *testing.T) {
	seed := *shuffleSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -shuffle-seed=%d", seed)
	inOrder, shuffled := startServer(t), startServer(t)
	importReal(t, inOrder, realLog)
	importReal(t, shuffled, "--batch-size=333", "--concurrency=4", shuffledLog(t, seed))
	first, second := newAsker(t, inOrder), newAsker(t, shuffled)
	answered := 0
	for _, expr := range orderQueries {
		for what, ask := range map[string]func(asker) client.Answer{
			"at the end":    func(a asker) client.Answer { return a.instant(expr) },
			"over its time": func(a asker) client.Answer { return a.over(logRange, expr) },
		} {
			want, got := seriesOf(t, ask(first)), seriesOf(t, ask(second))
			if len(want) > 0 {
				answered++
			}
			if i := firstDifference(got, want); i >= 0 {
				t.Errorf("%s %s: shuffled gives %d series, in order %d; they differ first in\n%s\n%s", expr, what, len(got), len(want), at(got, i), at(want, i))
			}
		}
	}
	// Answers without series are equal too easily.
	if most := 2 * len(orderQueries) * 9 / 10; answered < most {
		t.Errorf("only %d of %d answers have series, want %d", answered, 2*len(orderQueries), most)
	}
}

// seriesOf returns the series of an answer as text, in an order of their own.
func seriesOf(t *testing.T, a client.Answer) []string {
	t.Helper()
	var series []json.RawMessage
	if err := json.Unmarshal(a.Result, &series); err != nil {
		t.Fatalf("read an answer: %v", err)
	}
	slices.SortFunc(series, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	text := make([]string, len(series))
	for i, s := range series {
		text[i] = string(s)
	}
	return text
}

// firstDifference returns the first index at which a and b differ, or -1.
func firstDifference(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

func at(series []string, i int) string {
	if i >= len(series) {
		return "(nothing)"
	}
	return series[i]
}
