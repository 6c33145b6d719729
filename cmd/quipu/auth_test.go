package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Without credentials the server is for its own machine, unless it is told otherwise.
func TestServeWithoutCredentialsStaysLocal(t *testing.T) {
	for _, c := range []struct{ flags, want string }{
		{"--listen=0.0.0.0:0", "ask for them with --auth=required, or let everybody who reaches it read, write and delete everything with --auth.none-anywhere"},
		{"--listen=:0", "--listen=:0 is no loopback address"},
		{"--listen=0.0.0.0:0 --auth.none-anywhere --tenant.header=X-Scope-OrgID", "--tenant.header lets every client choose its tenant"},
		{"--listen=127.0.0.1:0 --auth=required --auth.none-anywhere", "--auth.none-anywhere is for --auth=none"},
		{"--listen=127.0.0.1:0 --web.config.file=/does/not/exist", "--web.config.file: "},
	} {
		got := runCommand(t, "", append([]string{"serve", "--data.dir=" + t.TempDir()}, strings.Fields(c.flags)...)...)
		if got.status != 1 || !strings.Contains(got.err, c.want) {
			t.Errorf("serve %s left %+v, want %q", c.flags, got, c.want)
		}
	}
}

// ask sends a request with a bearer and returns the answer.
func (s *serverProcess) ask(t *testing.T, client *http.Client, method, path, body, key string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// awaitStatus waits until a request is answered with a status, and returns how long that
// took.
func (s *serverProcess) awaitStatus(t *testing.T, want int, method, path, body, key string) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		code, text := s.ask(t, http.DefaultClient, method, path, body, key)
		if code == want {
			return time.Since(began)
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s %s is answered %d %s, want %d", method, path, code, text, want)
		}
	}
}

// An operator makes the first key in the directory of a server that runs, all others with
// it, and a tenant's administrator those of the tenant.
func TestKeysOfAServer(t *testing.T) {
	s := startServer(t, "--auth=required")
	key := func(args ...string) string {
		t.Helper()
		out, errs, err := runQuipu(t, append([]string{"keys", "create"}, args...)...)
		if err != nil {
			t.Fatalf("quipu keys create %v: %v\n%s", args, err, errs)
		}
		return strings.TrimSpace(out)
	}
	if _, errs, err := runQuipu(t, "keys", "list", "--server="+s.URL); err == nil || !strings.Contains(errs, "give one with --token or in QUIPU_TOKEN") {
		t.Errorf("without a key: %v %s", err, errs)
	}
	if hint := "make the first one with"; !strings.Contains(s.log.String(), hint) {
		t.Errorf("the log does not say how to begin: %q", hint)
	}
	operator := key("--data.dir="+s.DataDir, "--of=*", "--permission=admin", "--name=first")
	took := s.awaitStatus(t, 200, "GET", "/metrics", "", operator)
	t.Logf("the server took the key after %s", took)
	admin := key("--server="+s.URL, "--token="+operator, "--of=acme", "-p", "admin")
	tracker := key("--server="+s.URL, "--token="+admin, "-p", "events:write,metrics:read", "--expires-in=30d")
	if code, text := s.ask(t, http.DefaultClient, "POST", "/api/v1/events", `{"event":"x"}`, tracker); code != 200 {
		t.Errorf("an event: %d %s", code, text)
	}
	out, errs, err := runQuipu(t, "query", "--server="+s.URL, "--token="+tracker, "sum(events_total)")
	if err != nil || !strings.Contains(out, "1") {
		t.Errorf("a query: %s %s %v", out, errs, err)
	}
	out, _, err = runQuipu(t, "keys", "list", "--server="+s.URL, "--token="+admin)
	if err != nil || strings.Count(out, "\n") != 3 || strings.Contains(out, "first") || strings.Contains(out, "qp_") {
		t.Errorf("the tenant's administrator sees\n%s%v", out, err)
	}
	if _, errs, err := runQuipu(t, "keys", "create", "--server="+s.URL, "--token="+admin, "--of=other", "-p", "admin"); err == nil || !strings.Contains(errs, "only make keys of its own tenant") {
		t.Errorf("a key of another tenant: %v %s", err, errs)
	}
	id := strings.Split(tracker, "_")[1]
	if _, errs, err := runQuipu(t, "keys", "revoke", "--server="+s.URL, "--token="+admin, id); err != nil {
		t.Errorf("revoke: %v %s", err, errs)
	}
	if code, _ := s.ask(t, http.DefaultClient, "POST", "/api/v1/events", `{"event":"x"}`, tracker); code != 401 {
		t.Errorf("an event of a key that is revoked: %d", code)
	}
	if _, errs, err := runQuipu(t, "keys", "revoke", "--server="+s.URL, "--token="+admin, strings.Split(operator, "_")[1]); err == nil || !strings.Contains(errs, "no such key") {
		t.Errorf("the operator's key is another's to revoke: %v %s", err, errs)
	}
	if code, text := s.ask(t, http.DefaultClient, "DELETE", "/api/v1/admin/tenants/acme", "", operator); code != 200 {
		t.Errorf("delete a tenant: %d %s", code, text)
	}
	if code, _ := s.ask(t, http.DefaultClient, "GET", "/api/v1/labels", "", admin); code != 401 {
		t.Errorf("a key of a tenant that is deleted: %d", code)
	}
	s.stop()
	audit, err := os.ReadFile(filepath.Join(s.DataDir, "@audit", "audit.log"))
	if err != nil || strings.Count(string(audit), `"act":"create key"`) != 2 || !strings.Contains(string(audit), `"act":"revoke key"`) ||
		!strings.Contains(string(audit), `"act":"DELETE /api/v1/admin/tenants/{id}"`) || !strings.Contains(string(audit), `"detail":"acme"`) {
		t.Errorf("the audit log has\n%s%v", audit, err)
	}
	if out, errs, err := runQuipu(t, "check", s.DataDir); err != nil {
		t.Errorf("check: %v\n%s%s", err, out, errs)
	}
}

// The section auth of the configuration is applied when the file changes.
func TestPlansAreReloaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quipu.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("auth: {plans: {free: {requests_per_day: 1000}}}\n")
	s := startServer(t, "--auth=required", "--config.file="+file)
	operator, _, err := runQuipu(t, "keys", "create", "--data.dir="+s.DataDir, "--of=*", "-p", "admin")
	if err != nil {
		t.Fatal(err)
	}
	operator = strings.TrimSpace(operator)
	s.awaitStatus(t, 200, "GET", "/metrics", "", operator)
	small, errs, err := runQuipu(t, "keys", "create", "--server="+s.URL, "--token="+operator, "--of=a", "-p", "metrics:read", "--plan=free")
	if err != nil {
		t.Fatal(err, errs)
	}
	small = strings.TrimSpace(small)
	if code, text := s.ask(t, http.DefaultClient, "GET", "/api/v1/labels", "", small); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	write("auth: {plans: {free: {requests_per_day: 1}}}\n")
	if code, text := s.ask(t, http.DefaultClient, "POST", "/-/reload", "", small); code != 403 {
		t.Errorf("a reload by a tenant: %d %s", code, text)
	}
	if code, text := s.ask(t, http.DefaultClient, "POST", "/-/reload", "", operator); code != 200 {
		t.Fatalf("a reload: %d %s", code, text)
	}
	if code, text := s.ask(t, http.DefaultClient, "GET", "/api/v1/labels", "", small); code != 429 || !strings.Contains(text, "of its 1 requests of the day") {
		t.Errorf("past the new quota: %d %s", code, text)
	}
	write("auth: {issuers: [{issuer: 'http://issuer.example', audiences: [quipu]}]}\n")
	out, errs, err := runQuipu(t, "config", "check", file)
	if err == nil || !strings.Contains(out+errs, "auth.issuers[0].issuer: ") || !strings.Contains(out+errs, "is not https") {
		t.Errorf("config check says %s%s%v", out, errs, err)
	}
}

// certificates are files of a server's certificate, a client's, and who signed both.
func certificates(t *testing.T) (dir string, pool *x509.CertPool, client tls.Certificate) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, kind string, der []byte) []byte {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		return text
	}
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: i == 0, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if i == 0 {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		cert, text := write(name+".crt", "CERTIFICATE", der), write(name+".key", "EC PRIVATE KEY", private)
		if client, err = tls.X509KeyPair(cert, text); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			pool = x509.NewCertPool()
			pool.AppendCertsFromPEM(cert)
		}
	}
	return dir, pool, client
}

// TLS, client certificates and users come from --web.config.file. A certificate lets
// connect; who then asks still needs a credential.
func TestServeByAWebConfig(t *testing.T) {
	dir, pool, cert := certificates(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	withTLS := "tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}\n"
	for _, c := range []struct {
		name, config string
		check        func(ask func(path, user string) int, anonymous func() error)
	}{
		{"tls", withTLS, func(ask func(path, user string) int, anonymous func() error) {
			if err := anonymous(); err == nil {
				t.Error("who has no certificate may connect")
			}
			if code := ask("/-/healthy", ""); code != 200 {
				t.Errorf("health: %d", code)
			}
			if code := ask("/api/v1/labels", ""); code != 401 {
				t.Errorf("a certificate alone reads: %d", code)
			}
			if code := ask("/api/v1/labels", "ann"); code != 401 {
				t.Errorf("a user that there is not reads: %d", code)
			}
		}},
		{"users", withTLS + "basic_auth_users: {ann: '" + string(hash) + "'}\n", func(ask func(path, user string) int, _ func() error) {
			for path, want := range map[string]int{"/api/v1/labels": 200, "/metrics": 200, "/api/v1/admin/keys": 200} {
				if code := ask(path, "ann"); code != want {
					t.Errorf("a user is answered %d at %s, want %d", code, path, want)
				}
				if code := ask(path, "bob"); code != 401 {
					t.Errorf("nobody is answered %d at %s", code, path)
				}
			}
		}},
	} {
		file := filepath.Join(dir, c.name+".yaml")
		if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}
		s := startServerWith(t, client, "--auth=required", "--web.config.file="+file)
		c.check(func(path, user string) int {
			req, err := http.NewRequest("GET", s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if user != "" {
				req.SetBasicAuth(user, "secret")
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode
		}, func() error {
			other := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
			resp, err := other.Get(s.URL + "/-/healthy")
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
		if log := []byte(s.log.String()); !bytes.Contains(log, []byte("address=https://")) {
			t.Errorf("the log says where the server is:\n%s", log)
		}
		s.stop()
	}
}
