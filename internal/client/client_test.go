package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func newClient(t *testing.T, o Options, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	o.Server = server.URL + o.Server
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewRefusesWhatIsNoAddress(t *testing.T) {
	for _, server := range []string{"", "localhost:9480", "127.0.0.1", "ftp://host", "http://", "http://[::1"} {
		if _, err := New(Options{Server: server}); err == nil {
			t.Errorf("New(%q) is no error", server)
		}
	}
}

func TestRequestCarriesTokenTenantAndPath(t *testing.T) {
	var got *http.Request
	c := newClient(t, Options{Server: "/prefix/", Token: "secret", Tenant: "acme"}, func(w http.ResponseWriter, r *http.Request) { got = r })
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got.URL.Path != "/prefix/-/ready" || got.Header.Get("Authorization") != "Bearer secret" || got.Header.Get("X-Scope-OrgID") != "acme" {
		t.Errorf("request to %s with %v", got.URL.Path, got.Header)
	}
}

func TestRequestWithoutTokenAndTenantHasNoSuchHeaders(t *testing.T) {
	var got http.Header
	c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) { got = r.Header })
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := got["Authorization"]; ok {
		t.Error("a token is sent where there is none")
	}
	if _, ok := got["X-Scope-Orgid"]; ok {
		t.Error("a tenant is sent where there is none")
	}
}

func TestNothingListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	l.Close()
	c, err := New(Options{Server: address})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Ready(t.Context())
	want := "nothing listens at " + address + ": start a server with \"quipu serve\", or name another with --server"
	if err == nil || err.Error() != want {
		t.Errorf("error\n got %v\nwant %s", err, want)
	}
}

func TestErrorsShowWhatTheServerSaid(t *testing.T) {
	for _, tc := range []struct {
		name, body, want string
	}{
		{"JSON", `{"status":"error","errorType":"bad_data","error":"1:5: parse error: unexpected end"}`, "the server answered 400: 1:5: parse error: unexpected end"},
		{"text", "no such page\nmore\n", "the server answered 400: no such page"},
		{"nothing", "", "the server answered 400: (no message)"},
		{"a long page", strings.Repeat("x", 1000), "the server answered 400: " + strings.Repeat("x", 300) + "..."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, tc.body)
			})
			if _, err := c.Query(t.Context(), "up", time.Unix(0, 0)); err == nil || err.Error() != tc.want {
				t.Errorf("error\n got %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"soon":                          0,
		"Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("Retry-After: %s is %s, want %s", value, got, want)
		}
	}
}

func TestPostEvents(t *testing.T) {
	batch := Batch{NDJSON: []byte("zipped"), Events: 3, Key: "k1"}
	var got http.Header
	var body string
	answer := `{"accepted":1,"duplicate":1,"filtered":0,"rejected":1,"errors":[{"index":2,"reason":"no event name"}]}`
	c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Header, string(b)
		io.WriteString(w, answer)
	})
	v, err := c.PostEvents(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	if v.Accepted != 1 || v.Duplicate != 1 || v.Rejected != 1 || len(v.Errors) != 1 || v.Errors[0] != (Rejection{2, "no event name"}) {
		t.Errorf("verdicts %+v", v)
	}
	if body != "zipped" || got.Get("Idempotency-Key") != "k1" || got.Get("Content-Encoding") != "gzip" || got.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("body %q with headers %v", body, got)
	}
	answer = `{"accepted":2}`
	if _, err := c.PostEvents(t.Context(), batch); err == nil {
		t.Error("an answer for 2 of 3 events is taken")
	}
	answer = `<html>`
	if _, err := c.PostEvents(t.Context(), batch); err == nil {
		t.Error("an answer that is no JSON is taken")
	}
}

func TestPostEventsThatAreAllRejected(t *testing.T) {
	answer := `{"accepted":0,"duplicate":0,"filtered":0,"rejected":2,"errors":[{"index":0,"reason":"no event name"},{"index":1,"reason":"no event name"}]}`
	c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, answer)
	})
	v, err := c.PostEvents(t.Context(), Batch{Events: 2})
	if err != nil || v.Rejected != 2 || len(v.Errors) != 2 {
		t.Errorf("verdicts %+v, %v; want both events rejected", v, err)
	}
	answer = `{"status":"error","errorType":"bad_data","error":"the body is not gzip"}`
	if _, err := c.PostEvents(t.Context(), Batch{Events: 2}); err == nil || !strings.Contains(err.Error(), "the body is not gzip") {
		t.Errorf("error %v of a batch that was not read", err)
	}
}

func TestQueryRange(t *testing.T) {
	var form map[string][]string
	c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form = r.Form
		io.WriteString(w, `{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["w"],"infos":["i"]}`)
	})
	a, err := c.QueryRange(t.Context(), `rate(x{a="&"}[5m])`, Range{Start: time.UnixMilli(1500), End: time.Unix(1431857103, 0), Step: 90 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if a.Type != "matrix" || string(a.Result) != "[]" || len(a.Warnings) != 1 || len(a.Infos) != 1 {
		t.Errorf("answer %+v", a)
	}
	for name, want := range map[string]string{"query": `rate(x{a="&"}[5m])`, "start": "1.5", "end": "1431857103", "step": "90"} {
		if len(form[name]) != 1 || form[name][0] != want {
			t.Errorf("%s is %v, want %s", name, form[name], want)
		}
	}
}

func TestQueryAtAnInstantOrAtTheServersPresent(t *testing.T) {
	var form map[string][]string
	c := newClient(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form = r.Form
		io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
	})
	if _, err := c.Query(t.Context(), "up", time.UnixMilli(1431857103250)); err != nil {
		t.Fatal(err)
	}
	if at := form["time"]; len(at) != 1 || at[0] != "1431857103.25" {
		t.Errorf("time is %v, want 1431857103.25", at)
	}
	if _, err := c.Query(t.Context(), "up", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if at, ok := form["time"]; ok {
		t.Errorf("time is %v where the server's present is asked for", at)
	}
}

func TestRetryWaits(t *testing.T) {
	busy := &StatusError{Code: http.StatusServiceUnavailable}
	for _, tc := range []struct {
		name  string
		errs  []error // of the calls, the last one for ever
		waits []time.Duration
		fails bool
	}{
		{"not after a success", []error{nil}, nil, false},
		{"twice as long each time, up to Max", []error{busy, busy, busy, busy, nil}, []time.Duration{1e9, 2e9, 4e9, 4e9}, false},
		{"as long as the server asks", []error{&StatusError{Code: 429, RetryAfter: 9e9}, busy, nil}, []time.Duration{9e9, 2e9}, false},
		{"no longer than For", []error{busy}, []time.Duration{1e9, 2e9, 4e9, 4e9, 4e9, 4e9}, true},
		{"not at all when the server asks for more than For", []error{&StatusError{Code: 503, RetryAfter: time.Hour}}, nil, true},
		{"for no answer", []error{&UnreachableError{Err: io.ErrUnexpectedEOF}, nil}, []time.Duration{1e9}, false},
		{"not for a refusal", []error{&StatusError{Code: http.StatusBadRequest}}, nil, true},
		{"not for an error of ours", []error{errors.New("encode")}, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			var waits []time.Duration
			r := Retry{For: 20 * time.Second, First: time.Second, Max: 4 * time.Second,
				Now:   func() time.Time { return now },
				Sleep: func(_ context.Context, d time.Duration) error { now = now.Add(d); waits = append(waits, d); return nil },
			}
			calls := 0
			err := r.Do(t.Context(), func() error {
				calls++
				return tc.errs[min(calls, len(tc.errs))-1]
			})
			if (err != nil) != tc.fails {
				t.Errorf("error %v", err)
			}
			if len(waits) != len(tc.waits) {
				t.Fatalf("waits %v, want %v", waits, tc.waits)
			}
			for i := range waits {
				if waits[i] != tc.waits[i] {
					t.Fatalf("waits %v, want %v", waits, tc.waits)
				}
			}
		})
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := Retry{For: time.Hour, First: time.Hour, Max: time.Hour, Notify: func(error, time.Duration) { cancel() }}.Do(ctx, func() error {
		calls++
		return &StatusError{Code: 503}
	})
	if err == nil || calls != 1 {
		t.Errorf("error %v after %d calls, want one", err, calls)
	}
}
