package importer

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/accesslog"
	"github.com/quipudb/quipu/internal/client"
)

// fakeServer counts events as a server does: a batch of a known key is answered
// but not counted. Before it does, fault may do something else.
type fakeServer struct {
	*httptest.Server
	mu    sync.Mutex
	keys  map[string]bool
	posts int
	// counted is how often each event was counted, by its line's own number,
	// which the test logs carry in their page.
	counted map[string]int
	times   map[string]int64
	// fault is called with the number of the request, from 1, before the batch
	// is counted (and again after, with counted true); it returns true when it
	// has dealt with the request.
	fault func(w http.ResponseWriter, n int, counted bool) bool
	// reject gives the reason to reject an event, "" to accept it.
	reject func(e accesslog.Event) string
}

func newFakeServer(t *testing.T) *fakeServer {
	s := &fakeServer{keys: map[string]bool{}, counted: map[string]int{}, times: map[string]int64{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.post))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeServer) post(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts++
	n := s.posts
	if s.fault != nil && s.fault(w, n, false) {
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/api/v1/events" {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	unzipped, err := gzip.NewReader(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer client.Verdicts
	key := r.Header.Get("Idempotency-Key")
	decoder := json.NewDecoder(unzipped)
	decoder.DisallowUnknownFields()
	for i := 0; ; i++ {
		var e accesslog.Event
		if err := decoder.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reason := ""
		if s.reject != nil {
			reason = s.reject(e)
		}
		switch {
		case s.keys[key]:
			answer.Duplicate++
		case reason != "":
			answer.Rejected++
			answer.Errors = append(answer.Errors, client.Rejection{Index: i, Reason: reason})
		default:
			answer.Accepted++
			s.counted[e.FurtherData.Page]++
			s.times[e.FurtherData.Page] = e.Timestamp
		}
	}
	s.keys[key] = true
	if s.fault != nil && s.fault(w, n, true) {
		return
	}
	json.NewEncoder(w).Encode(answer)
}

// wantEachOnce fails unless every page was counted exactly once.
func (s *fakeServer) wantEachOnce(t *testing.T, lines int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.counted) != lines {
		t.Errorf("%d lines were counted, want %d", len(s.counted), lines)
	}
	for page, n := range s.counted {
		if n != 1 {
			t.Errorf("line %s was counted %d times", page, n)
		}
	}
}

// hangUp drops the connection in the middle of an answer.
func hangUp(w http.ResponseWriter) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	buf.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n{\"accept")
	buf.Flush()
	conn.Close()
}

var logStart = time.Date(2015, time.May, 17, 10, 0, 0, 0, time.UTC)

// logLines makes lines whose page is their number, a second apart.
func logLines(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "10.0.0.%d - - [%s] \"GET /%d HTTP/1.1\" 200 %d \"-\" \"test\"\n",
			i%250, logStart.Add(time.Duration(i)*time.Second).Format("02/Jan/2006:15:04:05 -0700"), i, i)
	}
	return b.String()
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeClock moves only when something waits.
type fakeClock struct {
	mu    sync.Mutex
	at    time.Time
	waits []time.Duration
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	c.waits = append(c.waits, d)
	return ctx.Err()
}

// importInto runs an import with small batches and a clock that does not wait.
func importInto(ctx context.Context, s *fakeServer, stderr io.Writer, change func(o *Options)) (Summary, error) {
	clock := &fakeClock{at: logStart}
	o := Options{
		BatchLines:  10,
		Concurrency: 3,
		Retry:       client.Retry{For: time.Minute, First: time.Second, Max: 10 * time.Second, Now: clock.now, Sleep: clock.sleep},
		Now:         logStart,
	}
	change(&o)
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		return Summary{}, err
	}
	return Run(ctx, c, NewProgress(stderr, false, time.Now), o)
}

func TestImportCountsEveryLineOnce(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(w http.ResponseWriter, n int, counted bool) bool
	}{
		{name: "when all goes well"},
		{name: "when the server is busy now and then", fault: func(w http.ResponseWriter, n int, counted bool) bool {
			if counted || n%3 != 0 {
				return false
			}
			w.Header().Set("Retry-After", "2")
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return true
		}},
		{name: "when the tenant is over its rate", fault: func(w http.ResponseWriter, n int, counted bool) bool {
			if counted || n%4 != 1 {
				return false
			}
			http.Error(w, "slow down", http.StatusTooManyRequests)
			return true
		}},
		{name: "when the connection drops before the batch is counted", fault: func(w http.ResponseWriter, n int, counted bool) bool {
			if counted || n%3 != 1 {
				return false
			}
			hangUp(w)
			return true
		}},
		{name: "when the connection drops after the batch is counted", fault: func(w http.ResponseWriter, n int, counted bool) bool {
			if !counted || n%3 != 1 {
				return false
			}
			hangUp(w)
			return true
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFakeServer(t)
			s.fault = tc.fault
			file := writeFile(t, "access.log", logLines(1, 205))
			summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} })
			if err != nil {
				t.Fatalf("Run: %v", err)
			}
			s.wantEachOnce(t, 205)
			if summary.Lines != 205 || summary.Accepted+summary.Duplicate != 205 || summary.Unsent() != 0 {
				t.Errorf("summary %+v", summary)
			}
		})
	}
}

// TestImportRunAgainCountsOnlyTheRest interrupts an import after every possible
// number of requests, and then runs it again from the start.
func TestImportRunAgainCountsOnlyTheRest(t *testing.T) {
	file := writeFile(t, "access.log", logLines(1, 95))
	for stopAt := 1; stopAt <= 10; stopAt++ {
		t.Run(fmt.Sprint("interrupted at request ", stopAt), func(t *testing.T) {
			s := newFakeServer(t)
			ctx, interrupt := context.WithCancel(t.Context())
			s.fault = func(w http.ResponseWriter, n int, counted bool) bool {
				if n != stopAt {
					return false
				}
				// Odd requests are counted before the interruption.
				if counted == (stopAt%2 == 1) {
					interrupt()
					hangUp(w)
					return true
				}
				return false
			}
			// One at a time, so that nothing else is on its way.
			if _, err := importInto(ctx, s, io.Discard, func(o *Options) { o.Files = []string{file}; o.Concurrency = 1 }); err == nil {
				t.Fatal("the interrupted import reports no error")
			}
			s.mu.Lock()
			s.fault = nil
			before := len(s.counted)
			s.mu.Unlock()
			summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} })
			if err != nil {
				t.Fatalf("Run again: %v", err)
			}
			s.wantEachOnce(t, 95)
			if summary.Duplicate != before || summary.Accepted != 95-before {
				t.Errorf("%d lines were counted before; the second run says %d duplicate, %d accepted", before, summary.Duplicate, summary.Accepted)
			}
		})
	}
}

func TestImportGivesUpOnAServerThatStaysBusy(t *testing.T) {
	s := newFakeServer(t)
	s.fault = func(w http.ResponseWriter, _ int, _ bool) bool {
		http.Error(w, "the write-ahead log is full", http.StatusServiceUnavailable)
		return true
	}
	file := writeFile(t, "access.log", logLines(1, 25))
	summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file}; o.Concurrency = 1 })
	if err == nil || !strings.Contains(err.Error(), "lines 1 to 10") || !strings.Contains(err.Error(), "the write-ahead log is full") {
		t.Errorf("error %v names neither lines nor reason", err)
	}
	if summary.Accepted != 0 || summary.Unsent() == 0 {
		t.Errorf("summary %+v", summary)
	}
	// 1+2+4+8+10+10+10+10 s of waits fit into a minute.
	if s.posts != 9 {
		t.Errorf("%d requests in a minute, want 9", s.posts)
	}
}

func TestImportDoesNotRepeatWhatIsWrongForGood(t *testing.T) {
	s := newFakeServer(t)
	s.fault = func(w http.ResponseWriter, _ int, _ bool) bool {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"status":"error","error":"token is not valid"}`)
		return true
	}
	file := writeFile(t, "access.log", logLines(1, 5))
	_, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} })
	if err == nil || !strings.Contains(err.Error(), "token is not valid") {
		t.Errorf("error %v does not say why", err)
	}
	if s.posts != 1 {
		t.Errorf("%d requests, want 1", s.posts)
	}
}

func TestImportNamesUnparsedLines(t *testing.T) {
	s := newFakeServer(t)
	file := writeFile(t, "access.log", logLines(1, 3)+"log was rotated\n"+logLines(4, 12)+strings.Repeat("x", lineBytesMax+10)+"\n"+logLines(13, 17)+"cut 1.2.3")
	var stderr bytes.Buffer
	summary, err := importInto(t.Context(), s, &stderr, func(o *Options) { o.Files = []string{file} })
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	s.wantEachOnce(t, 17)
	if summary.Lines != 20 || summary.Unparsed != 3 || summary.Accepted != 17 {
		t.Errorf("summary %+v", summary)
	}
	want := file + ":4: not counted: no time in [dd/Mon/yyyy:hh:mm:ss zone]\n" +
		file + ":14: not counted: longer than 1 MiB\n" +
		file + ":20: not counted: no time in [dd/Mon/yyyy:hh:mm:ss zone]\n"
	if stderr.String() != want {
		t.Errorf("stderr\n%swant\n%s", stderr.String(), want)
	}
}

func TestImportNamesOnlyTheFirstUnparsedLines(t *testing.T) {
	s := newFakeServer(t)
	file := writeFile(t, "error.log", strings.Repeat("not an access log\n", 100))
	var stderr bytes.Buffer
	summary, err := importInto(t.Context(), s, &stderr, func(o *Options) { o.Files = []string{file} })
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if lines := strings.Count(stderr.String(), "\n"); lines != 21 || summary.Unparsed != 100 {
		t.Errorf("%d lines on stderr and %d unparsed, want 21 and 100", lines, summary.Unparsed)
	}
	if s.posts != 0 {
		t.Errorf("%d requests without an event", s.posts)
	}
}

func TestImportNamesRejectedLines(t *testing.T) {
	s := newFakeServer(t)
	s.reject = func(e accesslog.Event) string {
		if e.FurtherData.Page == "/7" {
			return "timestamp is older than the retention"
		}
		return ""
	}
	file := writeFile(t, "access.log", "no hit\n"+logLines(1, 15))
	summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} })
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	var text strings.Builder
	summary.Took = 2 * time.Second
	if err := summary.Fprint(&text); err != nil {
		t.Fatal(err)
	}
	want := "16 lines read, 1 unparsed\n" +
		"14 events accepted, 0 duplicate, 1 rejected\n" +
		"took 2s, 7 events/s\n" +
		file + ":8: rejected: timestamp is older than the retention\n"
	if text.String() != want {
		t.Errorf("summary\n%swant\n%s", text.String(), want)
	}
}

func TestImportReadsGzipAndStandardInput(t *testing.T) {
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	io.WriteString(zip, logLines(1, 30))
	zip.Close()
	s := newFakeServer(t)
	file := writeFile(t, "access.log.1.gz", zipped.String())
	summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) {
		o.Files = []string{file, stdinName}
		o.Stdin = strings.NewReader(logLines(31, 45))
	})
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	s.wantEachOnce(t, 45)
	if summary.Accepted != 45 {
		t.Errorf("summary %+v", summary)
	}
}

// TestImportSendsNoBatchThatABrokenFileCut repairs a file after an import of it
// has failed: no line may then be in two batches.
func TestImportSendsNoBatchThatABrokenFileCut(t *testing.T) {
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	for i := 1; i <= 50; i++ {
		io.WriteString(zip, logLines(i, i))
		zip.Flush()
	}
	zip.Close()
	s := newFakeServer(t)
	file := writeFile(t, "access.log.gz", zipped.String()[:zipped.Len()*3/5])
	summary, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} })
	if err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Fatalf("error %v of a file that is cut off", err)
	}
	if summary.Accepted == 0 || summary.Accepted%10 != 0 {
		t.Errorf("%d lines accepted of the broken file, want whole batches of 10", summary.Accepted)
	}
	if err := os.WriteFile(file, zipped.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} }); err != nil {
		t.Fatalf("Run: %v", err)
	}
	s.wantEachOnce(t, 50)
}

func TestImportChecksAllFilesBeforeItSends(t *testing.T) {
	s := newFakeServer(t)
	file := writeFile(t, "access.log", logLines(1, 5))
	if _, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file, file + ".none"} }); err == nil {
		t.Error("a missing file is no error")
	}
	if s.posts != 0 {
		t.Errorf("%d requests before the missing file was noticed", s.posts)
	}
}
