package auth

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/scope"
)

// auditLines are the lines of a log.
func auditLines(t testing.TB, name string) []auditLine {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []auditLine
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var l auditLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		out = append(out, l)
	}
	return out
}

func openTestAudit(t testing.TB, c *clock) *AuditLog {
	t.Helper()
	l, err := OpenAuditLog(filepath.Join(t.TempDir(), "@audit", "audit.log"), c.time, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A line says when who did what to what, from where, and how it ended.
func TestAudit(t *testing.T) {
	l := openTestAudit(t, newClock())
	ctx := With(context.Background(), &Request{
		Subject: &Subject{ID: "abc", Issuer: issuerKey, Tenant: mustTenant(t, "a")}, Client: "192.0.2.1", Route: "/r", Log: l,
	})
	Audit(ctx, "create key", "key xyz", nil)
	AuditAnswer(ctx, "POST", 200, "") // its handler has said what was done
	operator := func() context.Context {
		return With(context.Background(), &Request{Subject: &Subject{ID: "op", Operator: true}, Route: "/q", Log: l})
	}
	Audit(scope.With(operator(), scope.Scope{Tenant: mustTenant(t, "b")}), "delete", "", errors.New("no"))
	AuditAnswer(operator(), "PUT", 200, "acme")
	AuditAnswer(operator(), "DELETE", 409, "anything")
	Audit(l.Context(context.Background()), "reload configuration", "", nil)
	Audit(context.Background(), "of nobody", "", nil)
	want := []auditLine{
		{Act: "create key", Who: "abc", Issuer: "key", Tenant: "a", Client: "192.0.2.1", Route: "/r", Outcome: "done", Detail: "key xyz"},
		{Act: "delete", Who: "op", Tenant: "b", Route: "/q", Outcome: "failed"},
		{Act: "PUT /q", Who: "op", Route: "/q", Outcome: "done", Detail: "acme"},
		{Act: "DELETE /q", Who: "op", Route: "/q", Outcome: "failed with 409"},
		{Act: "reload configuration", Who: "quipu", Issuer: "process", Outcome: "done"},
	}
	got := auditLines(t, l.name)
	for i := range got {
		if !got[i].Time.Equal(testStart) {
			t.Errorf("line %d is of %s", i, got[i].Time)
		}
		got[i].Time = time.Time{}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the log has\n%+v, want\n%+v", got, want)
	}
}

// The log takes so much of the disk and no more, and loses the oldest.
func TestAuditLogIsBounded(t *testing.T) {
	l := openTestAudit(t, newClock())
	l.bytesMax = 1000
	const lines = 200
	for i := range lines {
		l.write(&auditLine{Act: fmt.Sprint("act ", i), Outcome: "done"}, false)
	}
	var acts []string
	files, err := filepath.Glob(l.name + "*")
	if err != nil || len(files) != 1+auditFilesMax {
		t.Fatalf("there are the files %v, %v", files, err)
	}
	for i := auditFilesMax; i >= 0; i-- {
		name := l.name
		if i > 0 {
			name = fmt.Sprintf("%s.%d", l.name, i)
		}
		if info, err := os.Stat(name); err != nil || info.Size() > l.bytesMax || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		for _, line := range auditLines(t, name) {
			acts = append(acts, line.Act)
		}
	}
	for i, act := range acts {
		if want := fmt.Sprint("act ", lines-len(acts)+i); act != want {
			t.Errorf("act %d is %q, want %q", i, act, want)
		}
	}
	if len(acts) < 40 {
		t.Errorf("only %d acts are kept", len(acts))
	}
}

// Of a source that is refused again and again a few lines are written, then how many more
// there were; a flood from everywhere takes no more memory than that of many.
func TestRefusalsAreSuppressed(t *testing.T) {
	c := newClock()
	l := openTestAudit(t, c)
	a, err := New(Options{DataDir: t.TempDir(), Now: c.time, Registerer: prometheus.NewRegistry(), Audit: l})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	refuseFor := func(client, credential string) {
		r, _ := http.NewRequest("GET", "/", nil)
		r.RemoteAddr = client + ":99"
		r.Header.Set("Authorization", credential)
		identify(a, r, MetricsRead)
	}
	refuse := func(client string) { refuseFor(client, "Bearer nothing") }
	for range 100 {
		refuse("192.0.2.1")
	}
	refuseFor("192.0.2.1", "Bearer "+keyPrefix+strings.Repeat("a", keyLen-len(keyPrefix))) // behind the same proxy
	refuse("192.0.2.2")
	c.forward(gateWindow)
	a.flushGate()
	refuse("192.0.2.1")
	written, reasons := map[string]int{}, map[string]int{}
	suppressed := 0
	for _, line := range auditLines(t, l.name) {
		written[line.Client]++
		reasons[line.Detail]++
		suppressed += line.Suppressed
	}
	if written["192.0.2.1"] != gateLines+3 || reasons[reasonKey] != 1 || reasons[reasonUnknown] != gateLines+3 || written["192.0.2.2"] != 1 || suppressed != 100-gateLines {
		t.Errorf("written are %v, for %v, %d suppressed", written, reasons, suppressed)
	}
	for i := range 2 * gateSourcesMax {
		refuse(fmt.Sprintf("198.51.%d.%d", i/256, i%256))
	}
	if n := len(a.gate.sources); n > gateSourcesMax+1 {
		t.Errorf("%d sources are told apart", n)
	}
}

// A log that could not be opened when it was rotated is opened again for the next line.
func TestAuditGoesOnAfterAFailedRotation(t *testing.T) {
	l := openTestAudit(t, newClock())
	dir := filepath.Dir(l.name)
	l.bytesMax = 1
	ctx := With(context.Background(), &Request{Subject: &Subject{ID: "abc", Issuer: issuerKey}, Log: l})
	Audit(ctx, "first", "", nil)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	Audit(ctx, "lost", "", nil)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	Audit(ctx, "second", "", nil)
	text, err := os.ReadFile(l.name)
	if err != nil || !strings.Contains(string(text), `"second"`) || strings.Contains(string(text), `"lost"`) {
		t.Errorf("the log has %q, %v", text, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	Audit(ctx, "closed", "", nil)
	if again, err := os.ReadFile(l.name); err != nil || string(again) != string(text) {
		t.Errorf("after it is closed the log has %q, %v", again, err)
	}
}
