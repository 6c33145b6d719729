package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/client"
)

// backupCommands are those of docs/backup.md under a heading: the indented lines.
func backupCommands(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/backup.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, command)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("section %q of docs/backup.md has no commands", heading)
	}
	return strings.Join(lines, "")
}

// backupSite is a directory with the servers' data in it, as the page has them.
type backupSite struct {
	t             *testing.T
	dir           string
	server, other *tenantServer
	name          string // of the last snapshot
}

func newBackupSite(t *testing.T) *backupSite {
	s := &backupSite{t: t, dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(s.dir, "backups"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.server = newTenantServer(t, "--data.dir="+filepath.Join(s.dir, "data"))
	s.other = newTenantServer(t, "--data.dir="+filepath.Join(s.dir, "other"))
	return s
}

// run runs commands as they are written, in one shell, which keeps $name.
func (s *backupSite) run(commands string) string {
	s.t.Helper()
	c := exec.Command("sh", "-euc", "name='"+s.name+"'\n"+commands+"\nprintf '\\nname=%s' \"$name\"")
	c.Dir = s.dir
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(buildQuipu(s.t))+":"+os.Getenv("PATH"), "QUIPU_SERVER="+s.server.URL, "OTHER="+s.other.URL)
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v of\n%s\n%s", err, commands, out)
	}
	text, name, _ := strings.Cut(string(out), "\nname=")
	s.name = name
	return text
}

// post posts events with ids and returns how many were counted and how many duplicates.
func (s *backupSite) post(to *tenantServer, from, until int) (accepted, duplicate int) {
	s.t.Helper()
	var lines []string
	for i := from; i < until; i++ {
		lines = append(lines, fmt.Sprintf(`{"specversion":"1.0","id":"e-%d","source":"/test","type":"view","data":{"page":"/%d","user_id":"u-%d"}}`, i, i%3, i%7))
	}
	req, err := http.NewRequest("POST", to.URL+"/api/v1/events", strings.NewReader("["+strings.Join(lines, ",")+"]"))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/cloudevents-batch+json"}, "X-Scope-Orgid": {"acme"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct{ Accepted, Duplicate int }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp.Status, err)
	}
	return v.Accepted, v.Duplicate
}

// count is how many views and users a server has.
func (s *backupSite) count(of *tenantServer) (views, users float64) {
	s.t.Helper()
	c, err := client.New(client.Options{Server: of.URL, Tenant: "acme", Timeout: time.Minute})
	if err != nil {
		s.t.Fatal(err)
	}
	ask := func(expr string) (n float64) {
		a, err := c.Query(s.t.Context(), expr, time.Time{})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, v := range vectorOf(s.t, a) {
			n += float64(v.Value)
		}
		return n
	}
	return ask(`sum(increase(views_total[1h] anchored))`), ask(`count_distinct(visitors[1h])`)
}

func (s *backupSite) wantCounts(of *tenantServer, views, users float64) {
	s.t.Helper()
	if v, u := s.count(of); v != views || u != users {
		s.t.Errorf("%v views of %v users, want %v of %v", v, u, views, users)
	}
}

const backupRules = `
metrics:
  - {name: views_total, type: counter, labels: {page: page}}
  - {name: visitors, type: distinct, value: user_id}
`

// What docs/backup.md says to do does what it says: a tenant comes back from a snapshot,
// and from a copy of it, with its rules, and counts no event twice.
func TestBackUpAndRestore(t *testing.T) {
	s := newBackupSite(t)
	s.server.expect(200, "", "acme", "PUT", "/api/v1/event-rules", backupRules)
	const groups = "/config/v1/rules/shop"
	s.server.expect(202, "", "acme", "POST", groups, "name: pages\ninterval: 1m\nrules: [{record: 'page:views:sum', expr: sum by (page) (views_total)}]")
	s.post(s.server, 0, 50)
	if out := s.run(backupCommands(t, "Back up")); !strings.Contains(out, "acme") {
		t.Errorf("the snapshot is shown without its tenant:\n%s", out)
	}
	s.server.expect(200, "", "acme", "PUT", "/api/v1/event-rules", `metrics: [{name: none_total, type: counter, when: {event: none}}]`)
	s.server.expect(200, "", "acme", "POST", "/api/v1/events", `{"event":"none"}`)
	s.server.expect(202, "", "acme", "DELETE", groups, "")
	commands := backupCommands(t, "Restore a tenant")
	first, rest, _ := strings.Cut(commands, "\n")
	for _, commands := range []string{first, rest} {
		s.run(commands)
		s.wantCounts(s.server, 50, 7)
		if accepted, duplicate := s.post(s.server, 20, 60); accepted != 10 || duplicate != 30 {
			t.Errorf("sent again: %d count and %d are duplicates, want 10 and 30", accepted, duplicate)
		}
		s.wantCounts(s.server, 60, 7)
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if _, got := s.server.ask("acme", "GET", "/api/v1/rules", ""); strings.Contains(got, "page:views:sum") {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the recording rule does not come back: %s", got)
			}
		}
		s.server.expect(202, "", "acme", "DELETE", groups, "")
	}
	s.server.stop()
	if out, errs, err := runQuipu(t, "check", s.server.DataDir); err != nil {
		t.Errorf("quipu check: %v\n%s%s", err, out, errs)
	}
}

// A tenant that is moved to another server as docs/backup.md says has all that it had, and
// what is sent there again counts once.
func TestMoveKeepsCounts(t *testing.T) {
	s := newBackupSite(t)
	s.server.expect(200, "", "acme", "PUT", "/api/v1/event-rules", backupRules)
	s.post(s.server, 0, 500)
	for i := range 3 { // the other has a life of its own
		s.other.expect(200, "", "globex", "POST", "/api/v1/events", fmt.Sprintf(`{"event":"e%d"}`, i))
	}
	s.server.kill() // what it acknowledged is in its log alone
	s.server = newTenantServer(t, "--data.dir="+filepath.Join(s.dir, "data"))
	move, cleanup, ok := strings.Cut(backupCommands(t, "Move a tenant to another server"), "quipu tenants delete")
	if !ok {
		t.Fatal("the page does not say to delete the tenant")
	}
	s.run(move)
	s.server.expect(403, "suspended", "acme", "POST", "/api/v1/events", `{"event":"late"}`)
	s.wantCounts(s.other, 500, 7)
	if accepted, duplicate := s.post(s.other, 0, 600); accepted != 100 || duplicate != 500 {
		t.Errorf("sent again: %d count and %d are duplicates, want 100 and 500", accepted, duplicate)
	}
	s.wantCounts(s.other, 600, 7)
	s.run("quipu tenants delete" + cleanup)
	s.server.expect(200, `"result":[]`, "acme", "GET", "/api/v1/query?query=views_total", "")
	s.other.kill()
	s.other = newTenantServer(t, "--data.dir="+filepath.Join(s.dir, "other"))
	s.wantCounts(s.other, 600, 7)
	if accepted, _ := s.post(s.other, 0, 600); accepted != 0 {
		t.Errorf("%d events count again after a restart", accepted)
	}
	s.other.stop()
	if out, errs, err := runQuipu(t, "check", s.other.DataDir); err != nil {
		t.Errorf("quipu check: %v\n%s%s", err, out, errs)
	}
}

// The command line deletes what a rule made, waits until it is gone, and erases users.
func TestErase(t *testing.T) {
	s := newTenantServer(t)
	s.expect(200, "", "acme", "PUT", "/api/v1/event-rules", backupRules)
	event := func() { s.expect(200, `"accepted":1`, "acme", "POST", "/api/v1/events", `{"page":"/a","user_id":"u"}`) }
	event()
	if status, out, errs := s.cli("", "erase", "rule", "views_total", "--wait", "--tenant=acme"); status != 0 || out != "metrics of the rule: views_total\ndeleted; in no answer any more, deletion 1\non the disk no more\n" {
		t.Errorf("erase rule: %d %s%s", status, out, errs)
	}
	s.expect(200, `"result":[]`, "acme", "GET", "/api/v1/query?query=views_total", "")
	s.expect(200, `"value":[`, "acme", "GET", "/api/v1/query?query=visitors", "")
	if status, _, errs := s.cli("", "erase", "rule", "none", "--tenant=acme"); status != 1 || !strings.Contains(errs, `no event rule in force is named "none"`) {
		t.Errorf("erase of no rule: %d %s", status, errs)
	}
	if status, out, errs := s.cli("", "erase", "series", `visitors{page="/none"}`, "--start=now-1h", "--end=now", "--tenant=acme"); status != 0 || !strings.Contains(out, "deletion 2\n") {
		t.Errorf("erase series: %d %s%s", status, out, errs)
	}
	if status, _, errs := s.cli("", "erase", "series", `{}`, "--tenant=acme"); status != 1 || !strings.Contains(errs, "selects everything") {
		t.Errorf("erase of all: %d %s", status, errs)
	}
	if status, _, errs := s.cli("", "erase", "series", "visitors", "--start=x", "--tenant=acme"); status != 1 || !strings.Contains(errs, "--start: ") {
		t.Errorf("erase from no time: %d %s", status, errs)
	}
	if status, out, errs := s.cli("", "erase", "status", "--tenant=acme"); status != 0 || !strings.Contains(out, `{__name__="views_total"}`) || !strings.Contains(out, "done") {
		t.Errorf("erase status: %d %s%s", status, out, errs)
	}
	if status, out, errs := s.cli("", "erase", "status", "1", "--tenant=acme", "-o", "json"); status != 0 || !strings.Contains(out, `"state": "done"`) {
		t.Errorf("erase status of one: %d %s%s", status, out, errs)
	}
	if status, _, errs := s.cli("no\n", "erase", "users", "--tenant=acme"); status != 1 || !strings.Contains(errs, "nothing is erased") {
		t.Errorf("erase users without a yes: %d %s", status, errs)
	}
	status, name, errs := s.cli("", "snapshot", "create", "acme")
	if status != 0 {
		t.Fatalf("snapshot: %s", errs)
	}
	name = strings.TrimSpace(name)
	if status, out, errs := s.cli("yes\n", "erase", "users", "--tenant=acme"); status != 0 || !strings.Contains(out, name) || !strings.Contains(out, "no event, session or user can be subtracted") {
		t.Errorf("erase users: %d %s%s", status, out, errs)
	}
	event()
	count := "/api/v1/query?query=" + "count_distinct(visitors[1h])"
	if got := s.expect(200, `"2"]`, "acme", "GET", count, ""); !strings.Contains(got, "users were erased at") {
		t.Errorf("a count over the erasure has no warning: %s", got)
	}
	if status, _, errs := s.cli("", "snapshot", "restore", name, "acme"); status != 1 || !strings.Contains(errs, "409") {
		t.Errorf("restore over a tenant: %d %s", status, errs)
	}
	if status, _, errs := s.cli("", "snapshot", "delete", "none"); status != 1 || !strings.Contains(errs, "no such snapshot") {
		t.Errorf("delete of no snapshot: %d %s", status, errs)
	}
}
