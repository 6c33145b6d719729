package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tenantServer is a running server with tenants, and who asks it.
type tenantServer struct {
	*serverProcess
	t *testing.T
}

func newTenantServer(t *testing.T, args ...string) *tenantServer {
	t.Helper()
	return &tenantServer{startServer(t, append(args, "--tenant.header=X-Scope-OrgID")...), t}
}

// ask sends a request as a tenant and returns status and body.
func (s *tenantServer) ask(tenant, method, path, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", tenant)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// expect is ask where status and a part of the body are known.
func (s *tenantServer) expect(code int, part, tenant, method, path, body string) string {
	s.t.Helper()
	have, got := s.ask(tenant, method, path, body)
	if have != code || !strings.Contains(got, part) {
		s.t.Errorf("%s %s %s as %q: %d %s\nwant %d with %s", method, path, body, tenant, have, got, code, part)
	}
	return got
}

// cli runs a command against the server.
func (s *tenantServer) cli(in string, args ...string) (status int, out, errs string) {
	s.t.Helper()
	var stdout, stderr strings.Builder
	status = run(append(args, "--server="+s.URL), &console{
		ctx: s.t.Context(), in: strings.NewReader(in), out: &stdout, err: &stderr, now: time.Now, width: widthDefault, getenv: os.Getenv,
	})
	return status, stdout.String(), stderr.String()
}

const oneEvent = `{"event": "e", "further_data": {"page": "/"}}`

// The life of a tenant over HTTP: made, changed, suspended, resumed; every error says
// which field is wrong.
func TestTenantsOverHTTP(t *testing.T) {
	name := filepath.Join(t.TempDir(), "q.yaml")
	config := "plans: {gold: {limits: {series: 5000}}}\ntenants: {acme: {limits: {query_steps: 500}}}\n"
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTenantServer(t, "--config.file="+name)
	const all, acme = "/api/v1/admin/tenants", "/api/v1/admin/tenants/acme"
	s.expect(404, `tenant acme does not exist`, "", "GET", acme, "")
	s.expect(404, `tenant acme does not exist`, "", "GET", acme+"/usage", "")
	s.expect(201, `"retention":"30d"`, "", "POST", all, `{"id": "acme", "settings": {"grid": "30s", "retention": "30d"}}`)
	s.expect(409, `tenant acme exists already`, "", "POST", all, `{"id": "acme"}`)
	s.expect(400, `id: tenant id \"a/b\"`, "", "POST", all, `{"id": "a/b"}`)
	s.expect(400, `unknown field \"name\"`, "", "POST", all, `{"name": "x"}`)
	s.expect(400, `limits.serie is no setting`, "", "POST", all, `{"id": "b", "settings": {"limits": {"serie": 1}}}`)
	s.expect(200, `"plan":"gold"`, "", "PATCH", acme, `{"plan": "gold"}`)
	s.expect(200, `"series":5000`, "", "GET", acme, "")
	s.expect(200, `"series":600`, "", "PATCH", acme, `{"limits": {"series": 600}}`)
	s.expect(200, `"series":5000`, "", "PATCH", acme, `{"limits": {"series": null}}`)
	s.expect(400, `plan is \"silver\", there is none of this name`, "", "PATCH", acme, `{"plan": "silver"}`)
	s.expect(400, `limits.json_depth is 1, it must be from 3 to 300`, "", "PATCH", acme, `{"limits": {"json_depth": 1}}`)
	s.expect(400, `retention: \"tomorrow\" is not right`, "", "PATCH", acme, `{"retention": "tomorrow"}`)
	s.expect(400, `grid is 15s, but the tenant was made with 30s, which cannot change`, "", "PATCH", acme, `{"grid": "15s"}`)
	s.expect(409, `limits.query_steps of tenant acme: the server's configuration decides it`, "", "PATCH", acme, `{"limits": {"query_steps": 10}}`)
	s.expect(200, `"pinned":["limits.query_steps"]`, "", "GET", acme, "")
	s.expect(400, `the range has 600 steps, which is too many`, "acme", "GET", "/api/v1/query_range?query=up&start=0&end=600&step=1", "")
	s.expect(405, `changed with PATCH`, "", "PUT", acme, "")

	s.expect(200, `"accepted":1`, "acme", "POST", "/api/v1/events", oneEvent)
	s.expect(200, `"state":"suspended"`, "", "POST", acme+"/suspend", "")
	for _, restarted := range []bool{false, true} {
		if restarted {
			s.stop()
			s = newTenantServer(t, "--config.file="+name, "--data.dir="+s.DataDir)
		}
		s.expect(403, `tenant acme is suspended`, "acme", "POST", "/api/v1/events", oneEvent)
		for _, path := range []string{"/api/v1/query?query=up", "/api/v1/series?match[]=up", "/api/v1/labels", "/api/v1/event-rules", "/api/v1/status/range", "/api/v1/status/usage"} {
			s.expect(403, `tenant acme is suspended`, "acme", "GET", path, "")
		}
		s.expect(200, `"accepted":1`, "other", "POST", "/api/v1/events", oneEvent)
	}
	s.expect(200, `"state":"active"`, "", "POST", acme+"/resume", "")
	s.expect(200, `"accepted":1`, "acme", "POST", "/api/v1/events", oneEvent)
	s.expect(200, `"2"]`, "acme", "GET", "/api/v1/query?query="+`sum(increase(events_total[1h]%20anchored))`, "")
}

// The list of tenants comes in pages, in order, each tenant once.
func TestTenantsList(t *testing.T) {
	s := newTenantServer(t)
	for i := range 7 {
		s.expect(201, "", "", "POST", "/api/v1/admin/tenants", fmt.Sprintf(`{"id": "t%d"}`, 6-i))
	}
	var got []string
	for after, pages := "", 0; pages < 10; pages++ {
		var answer struct {
			Data struct {
				Tenants []struct{ ID, State string }
				Next    string
			}
		}
		body := s.expect(200, "", "", "GET", "/api/v1/admin/tenants?limit=3&after="+after, "")
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		for _, tenant := range answer.Data.Tenants {
			got = append(got, tenant.ID+" "+tenant.State)
		}
		if after = answer.Data.Next; after == "" {
			break
		}
	}
	if want := "t0 active,t1 active,t2 active,t3 active,t4 active,t5 active,t6 active"; strings.Join(got, ",") != want {
		t.Errorf("listed are %q", got)
	}
	s.expect(400, `limit is \"0\"`, "", "GET", "/api/v1/admin/tenants?limit=0", "")
}

// "quipu tenants" does what the API does, for people and for programs.
func TestTenantsCommand(t *testing.T) {
	s := newTenantServer(t)
	for _, step := range []struct {
		args   string
		status int
		want   []string
	}{
		{"create acme retention=30d", 0, []string{"acme", "active", "retention", "30d", "set"}},
		{"create acme", 1, []string{"tenant acme exists already"}},
		{"set acme limits.series=200000 retention=10d exact_counts=true", 0, []string{"200000", "10d"}},
		{"set acme retention=", 0, []string{"0s"}},
		{"set acme limits.serie=1", 1, []string{"limits.serie is no setting"}},
		{"set acme limits.series=many", 1, []string{`limits.series: "many" is not a int`}},
		{"set acme limits.series", 1, []string{`"limits.series" is not of the form field=value`}},
		{"set nobody retention=1d", 1, []string{"tenant nobody does not exist"}},
		{"list", 0, []string{"TENANT", "acme", "active"}},
		{"list --output=json", 0, []string{`"id": "acme"`}},
		{"show acme --output=json", 0, []string{`"series": 200000`}},
		{"suspend acme", 0, []string{"suspended"}},
		{"resume acme", 0, []string{"active"}},
		{"usage acme", 0, []string{"accepted events", "samples read"}},
		{"usage acme --output=json", 0, []string{`"accepted_events": 0`}},
		{"delete a/b --yes", 1, []string{"only a-z A-Z 0-9"}},
		{"delete acme", 1, []string{"tenant acme is not deleted: its name was not typed"}},
	} {
		status, out, errs := s.cli("acm\n", append([]string{"tenants"}, strings.Fields(step.args)...)...)
		if status != step.status {
			t.Errorf("tenants %s: status %d\n%s%s", step.args, status, out, errs)
		}
		for _, want := range step.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("tenants %s: no %q in\n%s%s", step.args, want, out, errs)
			}
		}
	}
}

// Where only an administrator makes tenants, events of others are refused and make
// nothing; the configuration may change that while the server runs.
func TestTenantsByAdmin(t *testing.T) {
	name := filepath.Join(t.TempDir(), "q.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("create_tenants: by_admin\n")
	s := newTenantServer(t, "--config.file="+name)
	s.expect(404, "tenants made by an administrator only", "new", "POST", "/api/v1/events", oneEvent)
	s.expect(404, "tenants made by an administrator only", "new", "PUT", "/api/v1/event-rules", "metrics: []")
	s.expect(404, "tenants made by an administrator only", "new", "POST", "/config/v1/rules/n", "{name: g, rules: [{record: r, expr: up}]}")
	if _, err := os.Stat(filepath.Join(s.DataDir, "new")); !os.IsNotExist(err) {
		t.Errorf("a directory was made: %v", err)
	}
	s.expect(201, "", "", "POST", "/api/v1/admin/tenants", `{"id": "new"}`)
	s.expect(200, `"accepted":1`, "new", "POST", "/api/v1/events", oneEvent)
	write("create_tenants: on_first_event\n")
	s.expect(200, "", "", "POST", "/-/reload", "")
	s.expect(200, `"accepted":1`, "newer", "POST", "/api/v1/events", oneEvent)
}

// What cannot be deleted or copied is the client's mistake, and says why.
func TestAdminOfStorageSaysWhatIsWrong(t *testing.T) {
	s := newTenantServer(t)
	s.expect(200, "", "a", "PUT", "/api/v1/event-rules", "metrics: [{name: h, type: histogram, value: v, buckets: [1, 2]}]")
	s.expect(200, `"accepted":1`, "a", "POST", "/api/v1/events", `{"event": "e", "further_data": {"v": 1.5}}`)
	const admin = "/api/v1/admin/tsdb/"
	s.expect(400, "part of the histogram", "a", "POST", admin+"delete_series?match[]=h_bucket", "")
	s.expect(400, "before it begins", "a", "POST", admin+"delete_series?match[]=h&start=10&end=5", "")
	s.expect(400, "number 2, those before it are deleted", "a", "POST", admin+"delete_series?match[]=other&match[]=h_sum", "")
	s.expect(404, "tenant nobody does not exist", "nobody", "POST", admin+"snapshot", "")
}

// A lower limit that comes while batches do refuses some of them and loses none: what was
// acknowledged is counted, each event once. The limit is in force without a restart.
func TestLowerLimitUnderLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "q.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{}\n")
	s := newTenantServer(t, "--config.file="+name)
	const clients, batch = 4, 50
	body := strings.Repeat(oneEvent+"\n", batch)
	stop, refused := make(chan struct{}), make(chan struct{}, clients)
	var mu sync.Mutex
	acknowledged := 0
	var posting sync.WaitGroup
	for range clients {
		posting.Go(func() {
			for saw := false; ; {
				select {
				case <-stop:
					return
				default:
				}
				code, answer := s.ask("busy", "POST", "/api/v1/events", body)
				switch {
				case code == 200 && strings.Contains(answer, fmt.Sprintf(`"accepted":%d,`, batch)):
					mu.Lock()
					acknowledged += batch
					mu.Unlock()
				case code == 429 && strings.Contains(answer, "limits.events_per_second"):
					if !saw {
						saw = true
						refused <- struct{}{}
					}
				default:
					t.Errorf("a batch: %d %s", code, answer)
					return
				}
			}
		})
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); {
			if time.Now().After(end) {
				t.Fatalf("%s did not come", what)
			}
		}
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return acknowledged
	}
	await("a batch without a limit", func() bool { s.ask("", "GET", "/-/healthy", ""); return count() > 10*batch })
	write("defaults: {limits: {events_per_second: 20}}\n")
	s.expect(200, "", "", "POST", "/-/reload", "")
	for range clients {
		select {
		case <-refused:
		case <-time.After(60 * time.Second):
			t.Fatal("the limit is not in force")
		}
	}
	write("defaults: {limits: {events_per_second: 0, series: 3}}\n") // wrong: the one before stays
	s.expect(500, "defaults.limits.series is 3", "", "POST", "/-/reload", "")
	s.expect(200, `"events_per_second":20`, "", "GET", "/api/v1/admin/tenants/busy", "")
	close(stop)
	posting.Wait()
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	got := s.expect(200, "", "busy", "GET", "/api/v1/query?query="+`sum(increase(events_total[1h]%20anchored))`, "")
	if err := json.Unmarshal([]byte(got), &answer); err != nil || len(answer.Data.Result) != 1 {
		t.Fatalf("%v: %s", err, got)
	}
	if have := answer.Data.Result[0].Value[1]; have != fmt.Sprint(acknowledged) {
		t.Errorf("%v events are counted, %d were acknowledged", have, acknowledged)
	}
}

// What a tenant does is counted for it alone, in its own answers, the operator's and the
// process's metrics.
func TestTenantUsage(t *testing.T) {
	s := newTenantServer(t, "--metrics.tenants=1")
	for range 3 {
		s.expect(200, `"accepted":1`, "large", "POST", "/api/v1/events", oneEvent)
	}
	s.expect(200, `"accepted":1`, "small", "POST", "/api/v1/events", oneEvent)
	s.expect(400, `"rejected":1`, "large", "POST", "/api/v1/events", `{"event": "e", "timestamp": "never"}`)
	s.expect(200, "", "large", "GET", "/api/v1/query?query=events_total", "")
	for _, path := range []string{"/api/v1/status/usage", "/api/v1/admin/tenants/large/usage"} {
		got := s.expect(200, `"since_start":{"accepted_events":3,"duplicate_events":0,"filtered_events":0,"rejected_events":1,"queries":1,`, "large", "GET", path, "")
		if !strings.Contains(got, `"state":"active","series":`) || strings.Contains(got, `"samples_read":0}`) {
			t.Errorf("%s: %s", path, got)
		}
	}
	got := s.expect(200, `quipu_tenant_events_total{tenant="large",verdict="accepted"} 3`, "", "GET", "/metrics", "")
	for _, want := range []string{`quipu_tenant_events_total{tenant="(other)",verdict="accepted"} 1`, `quipu_tenant_queries_total{tenant="large"} 1`, `quipu_tenant_series{tenant="(other)"} `} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if strings.Contains(got, `tenant="small"`) {
		t.Error("the metrics name more than one tenant")
	}
}

// The view depends on the idle timeout, so answers that are kept of before a change are
// kept no longer; nor is a change of exact_counts hidden by them.
func TestSettingsChangeAnswersThatAreKept(t *testing.T) {
	s := newTenantServer(t)
	at := time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour) // far from midnight
	s.expect(200, `"accepted":1`, "a", "POST", "/api/v1/events", fmt.Sprintf(`{"event": "e", "timestamp": %d}`, at.Unix()))
	values := func(expr string) []string {
		t.Helper()
		var answer struct {
			Data struct{ Result []struct{ Values [][2]any } }
		}
		got := s.expect(200, "", "a", "GET", fmt.Sprintf("/api/v1/query_range?query=%s&start=%d&end=%d&step=60", expr, at.Add(-time.Hour).Unix(), at.Add(3*time.Hour).Unix()), "")
		if err := json.Unmarshal([]byte(got), &answer); err != nil || len(answer.Data.Result) != 1 {
			t.Fatalf("%v: %s", err, got)
		}
		var out []string
		for _, v := range answer.Data.Result[0].Values {
			out = append(out, fmt.Sprint(v[1]))
		}
		return out
	}
	for _, step := range []struct {
		settings string
		samples  int // of an hour or of five minutes, and the one at the start
	}{{`{}`, 61}, {`{}`, 61}, {`{"idle_timeout": "5m"}`, 6}, {`{}`, 6}, {`{"idle_timeout": "1h"}`, 61},
		{`{"idle_timeouts": {"events_total": "10m"}}`, 11}, {`{"idle_timeouts": {"events_total": "2h"}}`, 121},
		{`{"idle_timeouts": {"other_total": "10m", "events_total": null}}`, 61}} {
		s.expect(200, "", "", "PATCH", "/api/v1/admin/tenants/a", step.settings)
		if got := len(values("events_total")); got != step.samples {
			t.Errorf("after %s there are %d samples, want %d", step.settings, got, step.samples)
		}
	}
	const increase = "increase(events_total[10m])"
	plain := strings.Join(values(increase), " ")
	s.expect(200, "", "", "PATCH", "/api/v1/admin/tenants/a", `{"exact_counts": true}`)
	if exact := strings.Join(values(increase), " "); exact == plain || strings.ContainsRune(exact, '.') {
		t.Errorf("exact counts are %s, those before were %s", exact, plain)
	}
}

// A tenant that is deleted leaves nothing: neither its directory, rules and settings nor
// an answer that was kept, also of one that is made again under its name, and after a
// restart. The answer says what was freed.
func TestTenantDeleted(t *testing.T) {
	s := newTenantServer(t)
	const acme = "/api/v1/admin/tenants/acme"
	at := time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour)
	asked := fmt.Sprintf("/api/v1/query_range?query=hits_total&start=%d&end=%d&step=60", at.Add(-time.Hour).Unix(), at.Add(time.Hour).Unix())
	exemplars := fmt.Sprintf("/api/v1/query_exemplars?query=hits_total&start=%d&end=%d", at.Add(-time.Hour).Unix(), at.Add(time.Hour).Unix())
	post := func() {
		t.Helper()
		s.expect(200, "", "acme", "PUT", "/api/v1/event-rules", "metrics: [{name: hits_total, type: counter}]")
		s.expect(202, "", "acme", "POST", "/config/v1/rules/n", "{name: g, rules: [{record: r, expr: up}, {alert: secret-alert, expr: up}]}")
		s.expect(200, "secret-alert", "acme", "GET", "/api/v1/rules", "")
		s.expect(200, `"accepted":1`, "acme", "POST", "/api/v1/events", fmt.Sprintf(`{"event": "e", "timestamp": %d, "correlation_id": "secret-trace"}`, at.Unix()))
	}
	empty := func(what string) {
		t.Helper()
		for path, want := range map[string]string{asked: `"result":[]`, "/api/v1/labels": `"data":[]`, exemplars: `"data":[]`, "/api/v1/event-rules": `"default":true`, "/api/v1/rules": `"groups":[]`, "/config/v1/rules": "{}"} {
			if code, got := s.ask("acme", "GET", path, ""); code != 200 || !strings.Contains(got, want) || strings.Contains(got, "secret") {
				t.Errorf("%s: %s: %d %s", what, path, code, got)
			}
		}
	}
	s.expect(404, "tenant acme does not exist", "", "DELETE", acme, "")
	for round := range 2 {
		post()
		s.expect(200, "", "", "PATCH", acme, `{"retention": "30d"}`)
		first := s.expect(200, `"__name__":"hits_total"`, "acme", "GET", asked, "")
		if again := s.expect(200, "", "acme", "GET", asked, ""); again != first {
			t.Errorf("asked again: %s", again)
		}
		if round == 0 {
			got := s.expect(200, `"directory_gone":true`, "", "DELETE", acme, "")
			if !strings.Contains(got, `"series":1,`) || strings.Contains(got, `"disk_bytes":0`) {
				t.Errorf("deleted: %s", got)
			}
		} else {
			status, out, errs := s.cli("acme\n", "tenants", "delete", "acme")
			if status != 0 || !strings.Contains(out, "freed on disk") || !strings.Contains(out, "gone") {
				t.Errorf("deleted by the command: %d %s%s", status, out, errs)
			}
		}
		if _, err := os.Stat(filepath.Join(s.DataDir, "acme")); !os.IsNotExist(err) {
			t.Errorf("the directory: %v", err)
		}
		s.expect(404, "tenant acme does not exist", "", "GET", acme, "")
		empty("deleted")
		s.expect(201, `"retention":"0s"`, "", "POST", "/api/v1/admin/tenants", `{"id": "acme"}`)
		empty("made again")
		s.expect(200, `"since_start":{"accepted_events":0,`, "", "GET", acme+"/usage", "")
	}
	s.stop()
	s = newTenantServer(t, "--data.dir="+s.DataDir)
	empty("restarted")
	s.stop()
	if status := run([]string{"check", s.DataDir}, &console{ctx: t.Context(), out: io.Discard, err: io.Discard, now: time.Now}); status != 0 {
		t.Errorf("quipu check ends with %d", status)
	}
}

// Settings that are inside of others are written with dots, names of metrics as they are.
func TestSettingsObject(t *testing.T) {
	got, err := settingsObject([]string{"retention=30d", "limits.series=20", "idle_timeouts.a:b_total=3h", "idle_timeouts.c.d=", "limits.exemplars="})
	if want := `{"idle_timeouts":{"a:b_total":"3h","c.d":null},"limits":{"exemplars":null,"series":20},"retention":"30d"}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	for _, wrong := range []string{"idle_timeouts.=3h", "idle_timeout.a=3h", "limits.limits=3"} {
		if _, err := settingsObject([]string{wrong}); err == nil || !strings.Contains(err.Error(), "is no setting") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// Queries of tenants that do not exist leave nothing behind.
func TestQueriesOfUnknownTenantsAreNotCounted(t *testing.T) {
	s := newTenantServer(t)
	s.expect(200, `"result":[]`, "nobody", "GET", "/api/v1/query?query=events_total", "")
	if _, got := s.ask("", "GET", "/metrics", ""); strings.Contains(got, `tenant="nobody"`) {
		t.Errorf("the metrics name a tenant that does not exist")
	}
}
