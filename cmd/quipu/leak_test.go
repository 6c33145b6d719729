package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// leakTenant is one of two tenants who use the same names for metrics and labels. All of
// its values have its word or number in them, and nobody else's have.
type leakTenant struct {
	id, word string
	number   float64
	blocks   []string // the names of its blocks
}

// secrets are what no answer to somebody else may have.
func (l *leakTenant) secrets() [][]byte {
	number := strconv.FormatFloat(l.number, 'f', -1, 64)
	exponent := strconv.FormatFloat(l.number, 'e', -1, 64)
	out := [][]byte{[]byte(l.id), []byte(l.word), []byte(number), []byte(exponent), binary.LittleEndian.AppendUint64(nil, math.Float64bits(l.number))}
	for _, b := range l.blocks {
		out = append(out, []byte(b))
	}
	return out
}

// dress makes a request one of a tenant's.
type dress func(r *http.Request, as *leakTenant)

// dressHeader is how tenants are told apart where --tenant.header names a header.
func dressHeader(r *http.Request, as *leakTenant) { r.Header.Set("X-Scope-OrgID", as.id) }

// leakWorld is the server as it is put together, with two tenants' events in it.
type leakWorld struct {
	t       *testing.T
	handler *api.Handler
	db      *tsdb.DB
	dir     string
	now     time.Time
	tenants [2]*leakTenant
	dress   dress
}

func newLeakWorld(t *testing.T, dress dress) *leakWorld {
	w := &leakWorld{t: t, dir: t.TempDir(), now: time.Now(), dress: dress, tenants: [2]*leakTenant{
		{id: "pluto", word: "zanzibar", number: 271828183}, {id: "neptune", word: "quetzal", number: 314159265},
	}}
	c := &serveCmd{DataDir: w.dir, QueryCache: 32 << 20, IngestMemory: 64 << 20, WALBudget: 64 << 20, TenantHeader: "X-Scope-OrgID"}
	logger, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	conf, err := newConfigs("", logger, time.Now, reg)
	if err != nil {
		t.Fatal(err)
	}
	c.MetricsTenants = 100
	o, err := c.open(logger, reg, conf, tenant.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(o.guards.close(), o.db.Close()); err != nil {
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
		"{me}", as.word, "{other}", w.other(as).word, "{block}", block, "{number}", strconv.FormatFloat(as.number, 'f', -1, 64),
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
			if own := w.fill(q.own, as); !bytes.Contains(body, []byte(own)) {
				found = append(found, fmt.Sprintf("does not have its own %q: %s", own, where))
			}
			var all bytes.Buffer
			if err := header.Write(&all); err != nil {
				w.t.Error(err)
			}
			all.Write(body)
			for _, secret := range w.other(as).secrets() {
				switch {
				case q.operator && string(secret) == w.other(as).id: // may be named, but not its values
				case strings.Contains(q.path+q.body, "{other}") && string(secret) == w.other(as).word: // was said by who asks
				case bytes.Contains(all.Bytes(), secret):
					found = append(found, fmt.Sprintf("has the other's %q: %s", secret, where))
				}
			}
		}
	}
	return found
}

// leakRequest is a request of either tenant's, with {me}, {other}, {number}, {block},
// {start} and {end} in its texts.
type leakRequest struct {
	method, path, body, contentType, accept string
	// own is what of the tenant's own the answer must have.
	own string
	// operator: the answer is of the whole server, which may name tenants.
	operator bool
	fails    bool // with a status of 500 or more
}

func (q leakRequest) String() string { return q.method + " " + q.path }

// TestLeakMatrix asks every route as each of two tenants, and no answer has anything of
// the other. A route that is not in the matrix fails the test.
func TestLeakMatrix(t *testing.T) {
	w := newLeakWorld(t, dressHeader)
	rows := leakMatrix()
	known := map[string]bool{}
	for _, r := range w.handler.Routes() {
		known[r.Path] = true
		if len(rows[r.Path]) == 0 {
			t.Errorf("route %s is not in the matrix: say what is asked of it, and what of a tenant's own it answers", r.Path)
		}
	}
	for path := range rows {
		if !known[path] && path != "/" {
			t.Errorf("the matrix has %s, which is no route", path)
		}
	}
	for _, where := range []string{"in memory", "in blocks"} {
		for _, path := range sortedPaths(rows) {
			for _, q := range rows[path] {
				for _, prefix := range []string{"", "/prometheus"} {
					asked := q
					asked.path = prefix + q.path
					for _, l := range w.leaks(asked) {
						t.Errorf("%s: %s", where, l)
					}
				}
			}
		}
		w.flush()
	}
}

// The matrix notices a server that takes one tenant for the other, at every request that
// says what of the tenant's own it must be answered.
func TestLeakMatrixNotices(t *testing.T) {
	w := newLeakWorld(t, dressHeader)
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

// Keys and ids say nothing of whether another tenant has used them.
func TestKeysAreATenantsOwn(t *testing.T) {
	w := newLeakWorld(t, dressHeader)
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
