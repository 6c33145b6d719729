package api

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/quipudb/quipu/api/auth"
)

// lockedLog is a log that a test reads while it is written.
type lockedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Nothing that a request carries as a secret, wherever that is and whether it is right or
// wrong, gets into the audit log, the process's log or an answer.
func TestSecretsAreNotLogged(t *testing.T) {
	log := &lockedLog{}
	p := newProvider(t)
	p.client("c", map[string]any{"tenant_id": "a"})
	g := newGuardedLog(t, auth.Config{Issuers: []auth.IssuerConfig{issuerOf(p)}}, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	token := p.token(t, "c", "metrics:read")
	g.awaitKeys(t, token)
	key := g.key(t, "a", "admin")
	forged := forge(t, jwt.SigningMethodHS256, []byte("x"), "PLANTEDkid", map[string]any{"iss": p.url, "tenant_id": "PLANTEDtenant", "sub": "PLANTEDsub", "aud": "PLANTEDaud"})
	secrets := []string{"PLANTED", key[16:], strings.Split(token, ".")[2], strings.Split(forged, ".")[1]}
	post := []string{"Content-Type", "application/json"}
	made := ""
	for i, c := range []struct {
		method, path, body string
		headers            []string
	}{
		{"GET", "/api/v1/labels", "", bearer(token)},
		{"GET", "/api/v1/labels", "", bearer(key)},
		{"GET", "/api/v1/labels", "", bearer(key[:64] + "x")},
		{"GET", "/api/v1/labels", "", bearer(forged)},
		{"GET", "/metrics", "", bearer(key)}, // known, and may not
		{"GET", "/metrics", "", bearer(token)},
		{"GET", "/api/v1/labels", "", bearer("PLANTEDbearer")},
		{"GET", "/api/v1/labels", "", []string{"Authorization", "PLANTEDscheme PLANTEDvalue"}},
		{"GET", "/api/v1/labels", "", []string{"Authorization", "Basic UExBTlRFRDpQTEFOVEVE"}},
		{"GET", "/api/v1/labels", "", []string{"X-API-Key", "PLANTEDkey"}},
		{"GET", "/api/v1/labels", "", []string{"X-ID-Token", "PLANTED.id.token"}},
		{"GET", "/api/v1/labels", "", []string{"Cookie", "session=PLANTEDcookie"}},
		{"GET", "/api/v1/labels", "", append(bearer(key), "X-Scope-OrgID", "PLANTEDorg")},
		{"GET", "/api/v1/labels?api_key=PLANTEDquery&token=" + token, "", nil},
		{"GET", "/api/v1/admin/keys/PLANTEDid", "", bearer(key)},
		{"DELETE", "/api/v1/admin/keys/PLANTEDid", "", bearer(key)},
		{"POST", "/api/v1/admin/keys", `{"name":"PLANTEDname","permissions":["PLANTEDpermission"]}`, bearer(key)},
		{"POST", "/api/v1/admin/keys", `{"name":"PLANTEDname","permissions":["admin"]}`, bearer(key)},
		{"PUT", "/api/v1/event-rules", "PLANTEDrules", bearer(key)},
		{"POST", "/v1/track", `{"type":"track","event":"x","userId":"u","writeKey":"PLANTEDwrite"}`, post},
		{"POST", "/capture/", `{"event":"x","distinct_id":"u","api_key":"PLANTEDapi"}`, post},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:99", i) // of one source a few lines are written
		for j := 0; j < len(c.headers); j += 2 {
			r.Header.Set(c.headers[j], c.headers[j+1])
		}
		answer := httptest.NewRecorder()
		g.srv.Config.Handler.ServeHTTP(answer, r)
		text := answer.Body.String()
		if strings.Contains(text, `"key":"qp_`) {
			_, made, _ = strings.Cut(text, `"key":"`)
			made = made[16:60]
			continue // the one answer that has a secret, which nobody else has yet
		}
		for _, secret := range secrets[1:] {
			if strings.Contains(text, secret) {
				t.Errorf("%s %s is answered %s", c.method, c.path, text)
			}
		}
	}
	if made == "" {
		t.Fatal("no key was made")
	}
	audit, err := os.ReadFile(g.audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range append(secrets, made) {
		if strings.Contains(string(audit), secret) {
			t.Errorf("the audit log has %q:\n%s", secret, audit)
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("the process's log has %q:\n%s", secret, log)
		}
	}
	if n := strings.Count(string(audit), `"act":"refuse"`); n < 15 {
		t.Errorf("only %d refusals are written:\n%s", n, audit)
	}
	for _, want := range []string{`"act":"create key"`, `"act":"refuse"`, `"act":"PUT /api/v1/event-rules"`} {
		if !strings.Contains(string(audit), want) {
			t.Errorf("the audit log has no %s:\n%s", want, audit)
		}
	}
}
