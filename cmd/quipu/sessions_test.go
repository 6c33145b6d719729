package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/answer"
	"github.com/quipudb/quipu/internal/client"
)

// sessionRules count the sessions of the log's client addresses.
const sessionRules = `
metrics:
  - {name: hits_total, type: counter}
  - {name: site, type: session, key: user_id, gap: 30m, labels: {landing: page, method: method}}
`

// sessionsOfLog are the sessions of the log, counted here without any code that is
// tested.
type sessionsOfLog struct {
	sessions, bounces, fresh float64
	seconds, events          float64
	landing, bouncedFrom     map[string]float64
	longer                   map[string]float64 // by bound: sessions of at most as many seconds
	byHour                   map[string]float64
}

type logHit struct {
	address, page, method string
	at                    time.Time
}

// labels orders hits of one address and second as storage does: by the labels as bytes.
func (h *logHit) labels() []byte {
	out := append(binary.AppendUvarint(nil, uint64(len(h.page))), h.page...)
	return append(binary.AppendUvarint(out, uint64(len(h.method))), h.method...)
}

func recountSessions(t *testing.T) sessionsOfLog {
	t.Helper()
	content, err := os.ReadFile(realLog)
	if err != nil {
		t.Fatal(err)
	}
	hits := map[string][]logHit{}
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		at, err := time.Parse("[02/Jan/2006:15:04:05 -0700]", f[3]+" "+f[4])
		if err != nil {
			t.Fatal(err)
		}
		hits[f[0]] = append(hits[f[0]], logHit{f[0], f[6], strings.TrimPrefix(f[5], `"`), at})
	}
	r := sessionsOfLog{landing: map[string]float64{}, bouncedFrom: map[string]float64{}, longer: map[string]float64{}, byHour: map[string]float64{}}
	for _, of := range hits {
		slices.SortStableFunc(of, func(a, b logHit) int { return cmp.Or(a.at.Compare(b.at), bytes.Compare(a.labels(), b.labels())) })
		r.fresh++
		for len(of) > 0 {
			n := 1
			for n < len(of) && of[n].at.Sub(of[n-1].at) <= 30*time.Minute {
				n++
			}
			first, length := of[0], of[n-1].at.Sub(of[0].at).Seconds()
			r.sessions++
			r.seconds += length
			r.events += float64(n)
			r.landing[first.page+" "+first.method]++
			r.byHour[first.at.UTC().Format("02/Jan/2006:15")]++
			for _, bound := range []float64{0, 60, 600, 1800} {
				if length <= bound {
					r.longer[fmt.Sprint(bound, ".0")]++
				}
			}
			if n == 1 {
				r.bounces++
				r.bouncedFrom[first.page]++
			}
			of = of[n:]
		}
	}
	return r
}

// Sessions of a real log are those of a recount of the file: in its order, in any other,
// and where the server is killed while it is read.
func TestSessionsEqualTheLog(t *testing.T) {
	want := recountSessions(t)
	if want.sessions < 1000 || want.sessions == want.fresh || want.bounces == want.sessions {
		t.Fatalf("the log has %v sessions of %v addresses, %v bounces: too simple", want.sessions, want.fresh, want.bounces)
	}
	t.Logf("%v sessions of %v addresses, %v bounces, %v s in all", want.sessions, want.fresh, want.bounces, want.seconds)
	buildQuipu(t)
	for name, load := range map[string]func(t *testing.T, s *serverProcess) *serverProcess{
		"in order": func(t *testing.T, s *serverProcess) *serverProcess { importReal(t, s, realLog); return s },
		"shuffled": func(t *testing.T, s *serverProcess) *serverProcess {
			importReal(t, s, "--batch-size=333", "--concurrency=4", shuffledLog(t, 1))
			return s
		},
		"killed": importKillingTheServer,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "default"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "default", "events.yaml"), []byte(sessionRules), 0o600); err != nil {
				t.Fatal(err)
			}
			s := load(t, startServer(t, "--data.dir="+dir, "--wal.budget=64KiB", "--sessions.quiet=1h"))
			if v := newAsker(t, s).vectorOrNone(`site_sessions_total`); len(v) > 0 {
				t.Errorf("sessions are counted before they are quiet: %v", v)
			}
			s.stop()
			if out, errs, err := runQuipu(t, "check", dir); err != nil {
				t.Fatalf("quipu check: %v\n%s%s", err, out, errs)
			}
			s = startServer(t, "--data.dir="+dir, "--sessions.quiet=1ms")
			wantSessions(t, s, want)
			s.kill()
			wantSessions(t, startServer(t, "--data.dir="+dir, "--sessions.quiet=1ms"), want)
		})
	}
}

// importKillingTheServer kills the server while the log is imported, twice, and imports
// the rest of it into another on the same directory.
func importKillingTheServer(t *testing.T, s *serverProcess) *serverProcess {
	for range 2 {
		c := exec.Command(buildQuipu(t), "import", "accesslog", "--batch-size=100", "--concurrency=1", "--retry-for=1ms", "--server="+s.URL, realLog)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		ask := newAsker(t, s)
		for before := ask.hits(); ask.hits() < before+1500; {
			if time.Now().After(deadline) {
				t.Fatal("the import does not go on")
			}
			time.Sleep(5 * time.Millisecond)
		}
		s.kill()
		if err := c.Wait(); err == nil {
			t.Fatal("the import ended before the server was killed")
		}
		s = startServer(t, "--data.dir="+s.DataDir, "--wal.budget=64KiB", "--sessions.quiet=1h")
	}
	importReal(t, s, "--batch-size=100", realLog)
	if got := newAsker(t, s).hits(); got != 10_000 {
		t.Errorf("%v hits are counted, the log has 10,000", got)
	}
	return s
}

// vectorOrNone is vector of an expression that may have no answer.
func (a asker) vectorOrNone(expr string) model.Vector {
	a.t.Helper()
	return vectorOf(a.t, a.instant(expr))
}

func vectorOf(t *testing.T, a client.Answer) model.Vector {
	t.Helper()
	v, err := answer.Decode(a)
	if err != nil {
		t.Fatal(err)
	}
	return v.Vector
}

func (a asker) hits() (n float64) {
	for _, s := range a.vectorOrNone(`sum(increase(hits_total[4d] anchored))`) {
		n += float64(s.Value)
	}
	return n
}

// wantSessions waits until no session is open and compares what is counted.
func wantSessions(t *testing.T, s *serverProcess, want sessionsOfLog) {
	t.Helper()
	ask := newAsker(t, s)
	count := func(expr string) (n float64) {
		for _, v := range ask.vectorOrNone(expr) {
			n += float64(v.Value)
		}
		return n
	}
	deadline := time.Now().Add(time.Minute)
	for count(`sum(increase(site_sessions_total[4d] anchored))`) < want.sessions && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	for expr, want := range map[string]float64{
		`sum(increase(site_sessions_total[4d] anchored))`:                           want.sessions,
		`sum(increase(site_sessions_total{visitor="new"}[4d] anchored))`:            want.fresh,
		`sum(increase(site_sessions_total{visitor="returning"}[4d] anchored))`:      want.sessions - want.fresh,
		`sum(increase(site_bounces_total[4d] anchored))`:                            want.bounces,
		`histogram_sum(sum(increase(site_session_seconds[4d] anchored)))`:           want.seconds,
		`histogram_count(sum(increase(site_session_seconds[4d] anchored)))`:         want.sessions,
		`sum(increase(site_session_events_sum[4d] anchored))`:                       want.events,
		`sum(increase(site_session_events_bucket{le="1.0"}[4d] anchored))`:          want.bounces,
		`sum(increase(site_session_events_bucket{le="+Inf"}[4d] anchored))`:         want.sessions,
		`sum(increase(site_sessions_total{landing="/",method="GET"}[4d] anchored))`: want.landing["/ GET"],
	} {
		if got := count(expr); got != want {
			t.Errorf("%s: %v, the log has %v", expr, got, want)
		}
	}
	landing := map[string]float64{}
	for _, v := range ask.vector(`sum by (landing, method) (increase(site_sessions_total[4d] anchored))`) {
		landing[string(v.Metric["landing"]+" "+v.Metric["method"])] = float64(v.Value)
	}
	wantCounts(t, "sessions by landing page", landing, want.landing)
	wantCounts(t, "bounces by landing page", ask.byLabel(`sum by (landing) (increase(site_bounces_total[4d] anchored)) > 0`, "landing"), want.bouncedFrom)
	for bound, n := range want.longer {
		if got := count(`sum(increase(site_session_seconds_bucket{le="` + bound + `"}[4d] anchored))`); got != n {
			t.Errorf("sessions of at most %s s: %v, the log has %v", bound, got, n)
		}
	}
	byHour := map[string]float64{}
	for hour := logHours.Start; !hour.After(logHours.End); hour = hour.Add(time.Hour) {
		v, err := ask.c.Query(t.Context(), `sum(increase(site_sessions_total[1h] anchored))`, hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range vectorOf(t, v) {
			if s.Value > 0 {
				byHour[hour.Add(-time.Hour).Format("02/Jan/2006:15")] = float64(s.Value)
			}
		}
	}
	wantCounts(t, "sessions by hour", byHour, want.byHour)
}
