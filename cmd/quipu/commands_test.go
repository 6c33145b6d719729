package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ran is what a command left behind.
type ran struct {
	out, err string
	status   int
}

// runCommand runs a command line in this process.
func runCommand(t *testing.T, stdin string, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	cache := t.TempDir()
	status := run(args, &console{
		ctx:      t.Context(),
		in:       strings.NewReader(stdin),
		out:      &out,
		err:      &errs,
		width:    80,
		now:      func() time.Time { return time.Date(2015, time.May, 20, 22, 0, 0, 0, time.UTC) },
		cacheDir: func() (string, error) { return cache, nil },
		getenv:   func(string) string { return "" },
	})
	return ran{out.String(), errs.String(), status}
}

// cannedServer answers every request alike and keeps the form of the last one.
type cannedServer struct {
	*httptest.Server
	path string
	form url.Values
}

func newCannedServer(t *testing.T, status int, body string) *cannedServer {
	s := &cannedServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		s.path, s.form = r.URL.Path, r.Form
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

const cannedVector = `{"status":"success","data":{"resultType":"vector","result":[` +
	`{"metric":{"status":"200"},"value":[1432159200,"9126"]},{"metric":{"status":"404"},"value":[1432159200,"213"]}]},` +
	`"warnings":["results may be partial"],"infos":["metric might not be a counter"]}`

const cannedMatrix = `{"status":"success","data":{"resultType":"matrix","result":[` +
	`{"metric":{},"values":[[1432152000,"1"],[1432155600,"3"],[1432159200,"2"]]}]}}`

func TestQueryPrintsATable(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedVector)
	got := runCommand(t, "", "query", "--server="+s.URL, "--time=now-1h", "sum by (status) (hits)")
	want := ran{
		out: "status  value\n200      9126\n404       213\n",
		err: "warning: results may be partial\ninfo: metric might not be a counter\n",
	}
	if got != want {
		t.Errorf("query left\n%+v\nwant\n%+v", got, want)
	}
	if s.path != "/api/v1/query" || s.form.Get("query") != "sum by (status) (hits)" || s.form.Get("time") != "1432155600" {
		t.Errorf("asked %s with %v", s.path, s.form)
	}
}

func TestQueryExplained(t *testing.T) {
	const plan = `{"expr":"-sum(hits)","start":0,"end":10,"direct":false,"parts":[{"expr":"sum(hits)","start":1,"end":10,"direct":true,"series":2,"samples":4,"results":1,"seconds":0.25}]}`
	const data = `{"cachedSteps":7,"runs":[{"start":1432152000000,"end":1432159200000,"step":3600000,"plan":` + plan + `}]}`
	s := newCannedServer(t, http.StatusOK, `{"status":"success","data":`+data+`}`)
	const tree = "engine: -sum(hits)\n  direct: sum(hits)  [2 series, 0 chunks, 0 bytes, 4 samples, 1 results, 250ms]\n"
	for args, want := range map[string]string{
		"":                             tree,
		"--start=now-2h --step=1h":     "7 steps of the cache\nfrom 2015-05-20T20:00:00Z to 2015-05-20T22:00:00Z by 1h0m0s:\n" + tree,
		"--time=now-1h --output=json":  data + "\n",
		"--start=now-2h --output json": data + "\n",
	} {
		line := append([]string{"query", "--server=" + s.URL, "--explain"}, strings.Fields(args)...)
		if got := runCommand(t, "", append(line, "--", "-sum(hits)")...); got != (ran{out: want}) {
			t.Errorf("%q left\n%+v\nwant\n%s", args, got, want)
		}
		if s.path != "/api/v1/explain" || s.form.Get("query") != "-sum(hits)" || s.form.Has("start") != strings.Contains(args, "start") || s.form.Has("time") != strings.Contains(args, "time") {
			t.Errorf("%q asked %s with %v", args, s.path, s.form)
		}
	}
}

func TestQueryLeavesThePresentToTheServer(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedVector)
	if got := runCommand(t, "", "query", "--server="+s.URL, "hits"); got.status != 0 {
		t.Fatalf("query left %+v", got)
	}
	if s.form.Has("time") {
		t.Errorf("asked for the time %s", s.form.Get("time"))
	}
}

func TestQueryOfARangePlots(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedMatrix)
	got := runCommand(t, "", "query", "--server="+s.URL, "--start=now-2h", "--end=2015-05-20T22:00:00Z", "--step=1h", "hits")
	if got.status != 0 || !strings.Contains(got.out, "┼") || !strings.Contains(got.out, "2015-05-20 20:00:00 to 2015-05-20 22:00:00 UTC, step 1h") {
		t.Errorf("query left %d and\n%s%s", got.status, got.out, got.err)
	}
	for name, want := range map[string]string{"query": "hits", "start": "1432152000", "end": "1432159200", "step": "3600"} {
		if got := s.form.Get(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	table := runCommand(t, "", "query", "--server="+s.URL, "--start=now-2h", "--output=table", "hits")
	want := "time                 value\n2015-05-20 20:00:00      1\n2015-05-20 21:00:00      3\n2015-05-20 22:00:00      2\n"
	if table.out != want {
		t.Errorf("table\n%swant\n%s", table.out, want)
	}
}

func TestQueryPrintsTheServersJSON(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedVector)
	if got := runCommand(t, "", "query", "--server="+s.URL, "-o", "json", "hits"); got.out != cannedVector+"\n" {
		t.Errorf("query printed %s", got.out)
	}
}

func TestQueryShowsTheServersError(t *testing.T) {
	s := newCannedServer(t, http.StatusBadRequest, `{"status":"error","errorType":"bad_data","error":"1:4: parse error: unexpected end of input"}`)
	got := runCommand(t, "", "query", "--server="+s.URL, "sum")
	want := ran{err: "quipu: the server answered 400: 1:4: parse error: unexpected end of input\n", status: 1}
	if got != want {
		t.Errorf("query left %+v, want %+v", got, want)
	}
}

func TestQueryRefusesWhatDoesNotFitTogether(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedVector)
	for _, tc := range []struct{ args, want string }{
		{"--end=now", "belong to a range"},
		{"--step=5m", "belong to a range"},
		{"--output=plot", "needs a range"},
		{"--start=now-1h --time=now", "give one of them"},
		{"--start=now --end=now-1h", "before it begins"},
		{"--start=soon", "--start: time \"soon\""},
		{"--start=now-1h --end=late", "--end: time \"late\""},
		{"--start=now-1h --step=0", "shorter than a millisecond"},
		{"--start=now-1h --step=often", "--step: duration \"often\""},
		{"--time=then", "--time: time \"then\""},
		{"--server=nowhere", "http://host:port"},
	} {
		args := append([]string{"query", "--server=" + s.URL, "hits"}, strings.Fields(tc.args)...)
		if got := runCommand(t, "", args...); got.status != 1 || !strings.Contains(got.err, tc.want) {
			t.Errorf("query %s left %+v, want status 1 and %q", tc.args, got, tc.want)
		}
	}
}

func TestNothingListensIsSaidClearly(t *testing.T) {
	url := "http://" + freeAddress(t)
	got := runCommand(t, "", "query", "--server="+url, "hits")
	want := "quipu: nothing listens at " + url + ": start a server with \"quipu serve\", or name another with --server\n"
	if got.status != 1 || got.err != want {
		t.Errorf("query left %+v, want %s", got, want)
	}
}

const oneLine = `1.2.3.4 - - [20/May/2015:21:00:00 +0000] "GET / HTTP/1.1" 200 5` + "\n"

func TestImportPrintsItsSummary(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, `{"accepted":1,"duplicate":1,"filtered":0,"rejected":0,"errors":[]}`)
	got := runCommand(t, oneLine+"no hit here\n"+oneLine, "import", "accesslog", "--server="+s.URL, "-")
	if got.status != 0 || !strings.HasPrefix(got.out, "3 lines read, 1 unparsed\n1 event accepted, 1 duplicate, 0 rejected\n") {
		t.Errorf("import left %+v", got)
	}
	want := "-:2: not counted: no time in [dd/Mon/yyyy:hh:mm:ss zone]\n" +
		"-: the last 3 lines are one short batch: if this file still grows, import it again only after it is rotated\n"
	if got.err != want {
		t.Errorf("stderr %q, want %q", got.err, want)
	}
}

func TestImportFailsWhenSomethingIsRejected(t *testing.T) {
	for n, want := range map[int]string{1: "1 event was rejected", 2: "2 events were rejected"} {
		s := newCannedServer(t, http.StatusOK, fmt.Sprintf(`{"accepted":0,"duplicate":0,"filtered":0,"rejected":%d,"errors":[{"index":0,"reason":"too old"}]}`, n))
		got := runCommand(t, strings.Repeat(oneLine, n), "import", "accesslog", "--server="+s.URL, fmt.Sprintf("--batch-size=%d", n), "-")
		if got.status != 1 || !strings.Contains(got.out, "-:1: rejected: too old\n") || got.err != "quipu: "+want+"\n" {
			t.Errorf("import left %+v, want %q", got, want)
		}
	}
}

func TestImportOfAnotherFormatFails(t *testing.T) {
	got := runCommand(t, "no hit\n", "import", "accesslog", "--server=http://"+freeAddress(t), "-")
	if got.status != 1 || !strings.HasPrefix(got.out, "1 line read, 1 unparsed\n") || !strings.HasSuffix(got.err, "\nquipu: no line of - could be parsed: is it an access log in the combined or common format?\n") {
		t.Errorf("import left %+v", got)
	}
}

func TestImportOfNothingSaysSo(t *testing.T) {
	got := runCommand(t, "", "import", "accesslog", "--server=http://"+freeAddress(t), "-")
	if got.status != 0 || !strings.HasPrefix(got.out, "0 lines read, 0 unparsed\n") || got.err != "" {
		t.Errorf("import left %+v", got)
	}
}

func TestImportThatCannotSendSaysHowToGoOn(t *testing.T) {
	got := runCommand(t, oneLine, "import", "accesslog", "--server=http://"+freeAddress(t), "--retry-for=0s", "-")
	if got.status != 1 || !strings.Contains(got.out, "1 not sent") || !strings.Contains(got.err, "nothing listens") || !strings.Contains(got.err, "run it again") {
		t.Errorf("import left %+v", got)
	}
}

func TestImportRefusesSettingsOutOfRange(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.log")
	for _, args := range [][]string{{"--batch-size=0", "-"}, {"--concurrency=0", "-"}, {"-", "-"}, {missing}, {t.TempDir()}} {
		if got := runCommand(t, "", append([]string{"import", "accesslog"}, args...)...); got.status != 1 || got.err == "" {
			t.Errorf("import %v left %+v", args, got)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	if got := runCommand(t, "", "--version"); got.status != 0 || !strings.HasPrefix(got.out, "quipu ") {
		t.Errorf("--version left %+v", got)
	}
	help := runCommand(t, "", "--help")
	for _, command := range []string{"serve", "import accesslog", "query"} {
		if !strings.Contains(help.out, command) {
			t.Errorf("--help does not mention %q:\n%s", command, help.out)
		}
	}
	if help.status != 0 || strings.Contains(help.out, "demo") {
		t.Errorf("--help left %+v; the demo is not for users", help)
	}
	if got := runCommand(t, "", "qerry"); got.status != 80 || got.err == "" {
		t.Errorf("an unknown command left %+v", got)
	}
}

func TestHelpAndVersionAreCommandsToo(t *testing.T) {
	help, version := runCommand(t, "", "--help"), runCommand(t, "", "--version")
	if got := runCommand(t, "", "help"); got != help {
		t.Errorf("help left %+v, want %+v", got, help)
	}
	if got := runCommand(t, "", "version"); got != version {
		t.Errorf("version left %+v, want %+v", got, version)
	}
	if got := runCommand(t, "", "help", "query"); got.status != 0 || !strings.Contains(got.out, "quipu query -- '-1'") {
		t.Errorf("help query left %+v", got)
	}
	if got := runCommand(t, ""); got.status != 80 || got.out != "" || got.err != help.out {
		t.Errorf("no arguments left %+v, want the usage on stderr", got)
	}
}

func TestAnExpressionMayBeginWithAMinus(t *testing.T) {
	s := newCannedServer(t, http.StatusOK, cannedVector)
	if got := runCommand(t, "", "query", "--server="+s.URL, "--", "-1"); got.status != 0 || s.form.Get("query") != "-1" {
		t.Errorf("query -- -1 left %+v and asked %v", got, s.form)
	}
}
