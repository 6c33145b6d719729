package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb"
)

// leakTenant is one of two tenants who use the same names for metrics and labels. All of
// its values have its word or number in them, and nobody else's have.
type leakTenant struct {
	id, word string
	number   float64
	blocks   []string // the names of its blocks
	key      string   // where there are keys
	keyID    string
}

// secrets are what no answer to somebody else may have.
func (l *leakTenant) secrets() [][]byte {
	number := strconv.FormatFloat(l.number, 'f', -1, 64)
	exponent := strconv.FormatFloat(l.number, 'e', -1, 64)
	out := [][]byte{[]byte(l.id), []byte(l.word), []byte(number), []byte(exponent), binary.LittleEndian.AppendUint64(nil, math.Float64bits(l.number))}
	for _, text := range append([]string{l.key, l.keyID}, l.blocks...) {
		if text != "" {
			out = append(out, []byte(text))
		}
	}
	return out
}

// dress makes a request one of a tenant's.
type dress func(r *http.Request, as *leakTenant)

// dressHeader is how tenants are told apart where --tenant.header names a header.
func dressHeader(r *http.Request, as *leakTenant) { r.Header.Set("X-Scope-OrgID", as.id) }

// dressKey is how they are where credentials are required.
func dressKey(r *http.Request, as *leakTenant) { r.Header.Set("Authorization", "Bearer "+as.key) }

// leakWorld is the server as it is put together, with two tenants' events in it.
type leakWorld struct {
	t       *testing.T
	handler *api.Handler
	db      *tsdb.DB
	dir     string
	now     time.Time
	tenants [2]*leakTenant
	dress   dress
	keys    bool // requests have keys, which open nothing of the process
}

// newLeakWorld starts a server whose tenants are told apart by a header, or by keys.
func newLeakWorld(t *testing.T, keys bool) *leakWorld {
	w := &leakWorld{t: t, dir: t.TempDir(), now: time.Now(), dress: dressHeader, keys: keys, tenants: [2]*leakTenant{
		{id: "pluto", word: "zanzibar", number: 271828183}, {id: "neptune", word: "quetzal", number: 314159265},
	}}
	c := &serveCmd{Listen: "127.0.0.1:9480", MetricsTenants: 100, TenantHeader: "X-Scope-OrgID"}
	c.DataDir, c.QueryCache, c.IngestMemory, c.WALBudget = w.dir, 32<<20, 64<<20, 64<<20
	if keys {
		c.Auth, w.dress = "required", dressKey
		w.makeKeys()
	}
	reg, logger := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	conf, err := newConfigs("", logger, time.Now, reg)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.open(logger, reg, conf, tenant.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.close(); err != nil {
			t.Error(err)
		}
	})
	w.db, w.handler = o.db, o.handler.(*api.Handler)
	for _, as := range w.tenants {
		w.must(as, leakRequest{method: "PUT", path: "/api/v1/event-rules", body: leakRules})
		var events []string
		for i := range 20 {
			at := w.now.Add(-time.Duration(i) * time.Minute).UnixMilli()
			events = append(events, fmt.Sprintf(`{"data":{"timestamp":%d,"correlation_id":"trace-{me}-%d","user_id":"user-{me}-%d","further_data":{"event":"view","page":"/{me}/%d","amount":{number}}}}`, at, i, i, i%2))
		}
		w.must(as, leakRequest{method: "POST", path: "/api/v1/events", body: strings.Join(events, "\n")})
	}
	return w
}

// makeKeys makes a key of each tenant's that lets do all that a tenant's may.
func (w *leakWorld) makeKeys() {
	keys, err := auth.OpenKeys(vfs.OS{}, w.dir, time.Now, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, as := range w.tenants {
		k, text, err := keys.Create(auth.NewKey{Tenant: as.id, Name: "key of " + as.word, Permissions: []string{"admin"}})
		if err != nil {
			w.t.Fatal(err)
		}
		as.key, as.keyID = text, k.ID
	}
}

const leakRules = `
metrics:
  - {name: revenue_total, type: counter, value: amount, labels: {page: page}, help: "Revenue of {me}."}
  - {name: load_seconds, type: histogram, value: amount, buckets: [1, 2], labels: {page: page}, help: "Loads of {me}."}
  - {name: size_bytes, type: histogram, value: amount, labels: {page: page}, help: "Sizes of {me}."}
  - {name: visitors, type: distinct, value: user_id, labels: {page: page}, help: "Visitors of {me}."}
  - {name: doomed_total, type: counter, value: amount, labels: {page: page}, help: "What is deleted of {me}."}
`

// flush makes blocks of what memory has.
func (w *leakWorld) flush() {
	w.t.Helper()
	for _, as := range w.tenants {
		id, err := tenant.Parse(as.id)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.db.Flush(context.Background(), id); err != nil {
			w.t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(w.dir, as.id, "*", "meta.json"))
		if err != nil || len(found) == 0 {
			w.t.Fatal("no blocks", err)
		}
		for _, path := range found {
			as.blocks = append(as.blocks, filepath.Base(filepath.Dir(path)))
		}
	}
}

// other is the tenant that is not as.
func (w *leakWorld) other(as *leakTenant) *leakTenant {
	if as == w.tenants[0] {
		return w.tenants[1]
	}
	return w.tenants[0]
}

// fill puts what is a tenant's in the place of {me}, {other}, {number} and times.
func (w *leakWorld) fill(text string, as *leakTenant) string {
	block := "blocks"
	if len(as.blocks) > 0 {
		block = as.blocks[0]
	}
	return strings.NewReplacer(
		"{id}", as.id, "{me}", as.word, "{other}", w.other(as).word, "{block}", block, "{key}", as.keyID, "{otherkey}", w.other(as).keyID, "{number}", strconv.FormatFloat(as.number, 'f', -1, 64),
		"{start}", strconv.FormatInt(w.now.Add(-30*time.Minute).Unix(), 10), "{end}", strconv.FormatInt(w.now.Unix(), 10),
	).Replace(text)
}

// do makes a request of a tenant's.
func (w *leakWorld) do(as *leakTenant, q leakRequest) (int, []byte, http.Header) {
	r := httptest.NewRequest(q.method, w.fill(q.path, as), strings.NewReader(w.fill(q.body, as)))
	if q.body != "" && q.contentType == "" {
		q.contentType = "application/json"
	}
	r.Header.Set("Content-Type", q.contentType)
	if q.accept != "" {
		r.Header.Set("Accept", q.accept)
	}
	w.dress(r, as)
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	if rec.Header().Get("Content-Encoding") == "snappy" {
		plain, err := snappy.Decode(nil, body)
		if err != nil {
			w.t.Errorf("%s: %v", q, err)
		}
		body = plain
	}
	return rec.Code, body, rec.Header()
}

func (w *leakWorld) must(as *leakTenant, q leakRequest) {
	w.t.Helper()
	if code, body, _ := w.do(as, q); code != http.StatusOK {
		w.t.Fatalf("%s as %s: %d %s", q, as.id, code, body)
	}
}

// leaks makes a request as each tenant, twice and in turns so that whatever is kept of
// one is there when the other asks, and returns what is wrong with the answers.
func (w *leakWorld) leaks(q leakRequest) (found []string) {
	for range 2 {
		for _, as := range w.tenants {
			code, body, header := w.do(as, q)
			where := fmt.Sprintf("%s as %s: %d %.1000s", q, as.id, code, body)
			if code >= 500 && !q.fails {
				found = append(found, "fails: "+where)
			}
			refused := q.process && w.keys
			if refused != (code == http.StatusForbidden) {
				found = append(found, "is refused, or is not: "+where)
			}
			if own := w.fill(q.own, as); !refused && !bytes.Contains(body, []byte(own)) {
				found = append(found, fmt.Sprintf("does not have its own %q: %s", own, where))
			}
			var all bytes.Buffer
			if err := header.Write(&all); err != nil {
				w.t.Error(err)
			}
			all.Write(body)
			for _, secret := range w.other(as).secrets() {
				switch {
				case q.process && string(secret) == w.other(as).id: // may be named, but not its values
				case strings.Contains(q.path+q.body, "{other}") && string(secret) == w.other(as).word: // was said by who asks
				case bytes.Contains(all.Bytes(), secret):
					found = append(found, fmt.Sprintf("has the other's %q: %s", secret, where))
				}
			}
		}
	}
	return found
}

// leakRequest is a request of either tenant's, with {id}, {me}, {other}, {number}, {block},
// {key}, {otherkey}, {start} and {end} in its texts.
type leakRequest struct {
	method, path, body, contentType, accept string
	// own is what of the tenant's own the answer must have.
	own string
	// process: the answer is of the whole server, which may name tenants; no key of a
	// tenant's opens it.
	process bool
	fails   bool // with a status of 500 or more
}

func (q leakRequest) String() string { return q.method + " " + q.path }

// TestLeakMatrix asks every route as each of two tenants, and no answer has anything of
// the other. A route that is not in the matrix fails the test.
func TestLeakMatrix(t *testing.T) {
	rows, routes := leakMatrix(), map[string]bool{"/": true} // the page
	for _, how := range []struct {
		name string
		keys bool
	}{{"header", false}, {"keys", true}} {
		t.Run(how.name, func(t *testing.T) {
			w := newLeakWorld(t, how.keys)
			for _, r := range w.handler.Routes() {
				routes[r.Path] = true
				if len(rows[r.Path]) == 0 {
					t.Errorf("route %s is not in the matrix: say what is asked of it, and what of a tenant's own it answers", r.Path)
				}
			}
			for _, where := range []string{"in memory", "in blocks"} {
				w.askAll(where, rows)
				w.flush()
			}
		})
	}
	for path := range rows {
		if !routes[path] {
			t.Errorf("the matrix has %s, which is no route", path)
		}
	}
}

// askAll makes every request of the matrix for the routes that there are.
func (w *leakWorld) askAll(where string, rows map[string][]leakRequest) {
	there := map[string]bool{"/": true}
	for _, r := range w.handler.Routes() {
		there[r.Path] = true
	}
	for _, path := range sortedPaths(rows) {
		for _, q := range rows[path] {
			for _, prefix := range []string{"", "/prometheus"} {
				asked := q
				asked.path = prefix + q.path
				if !there[path] || path == "/" && prefix != "" {
					continue
				}
				for _, l := range w.leaks(asked) {
					w.t.Errorf("%s: %s", where, l)
				}
			}
		}
	}
}

// The matrix notices a server that takes one tenant for the other, at every request that
// says what of the tenant's own it must be answered.
func TestLeakMatrixNotices(t *testing.T) {
	w := newLeakWorld(t, false)
	w.dress = func(r *http.Request, _ *leakTenant) { dressHeader(r, w.tenants[1]) }
	rows := leakMatrix()
	for _, path := range sortedPaths(rows) {
		for _, q := range rows[path] {
			if strings.Contains(q.own, "{me}") && !strings.Contains(q.path+q.body, "{me}") && len(w.leaks(q)) == 0 {
				t.Errorf("%s: nothing is noticed", q)
			}
		}
	}
}

// Who has a key of one tenant's and names another is answered nothing of either.
func TestKeysDoNotReachAnotherTenant(t *testing.T) {
	w := newLeakWorld(t, true)
	rows := leakMatrix()
	for _, path := range sortedPaths(rows) {
		for _, q := range rows[path] {
			if q.own == "" || !strings.Contains(q.own, "{me}") || strings.Contains(q.path+q.body, "{me}") {
				continue
			}
			for _, as := range w.tenants {
				w.dress = func(r *http.Request, as *leakTenant) {
					dressKey(r, as)
					dressHeader(r, w.other(as))
				}
				code, body, _ := w.do(as, q)
				for _, l := range w.tenants {
					if code < 400 || bytes.Contains(body, []byte(l.word)) {
						t.Errorf("%s with the key of %s and the name of the other: %d %.300s", q, as.id, code, body)
					}
				}
			}
		}
	}
}

// Keys and ids say nothing of whether another tenant has used them.
func TestKeysAreATenantsOwn(t *testing.T) {
	w := newLeakWorld(t, false)
	for _, as := range w.tenants {
		for i, want := range []string{`"accepted":1,"duplicate":0`, `"accepted":0,"duplicate":1`} {
			r := httptest.NewRequest("POST", "/api/v1/events", strings.NewReader(`{"data":{"further_data":{"event":"view","amount":1}}}`))
			r.Header.Set("Idempotency-Key", "the same")
			w.dress(r, as)
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, r)
			if body, err := io.ReadAll(rec.Body); err != nil || !strings.Contains(string(body), want) {
				t.Errorf("batch %d of %s: %s %v, want %s", i, as.id, body, err, want)
			}
		}
	}
	if entries, err := os.ReadDir(w.dir); err != nil || !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == w.tenants[0].id }) {
		t.Errorf("the tenants' directories are not there: %v %v", entries, err)
	}
}
