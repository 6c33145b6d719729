package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

func (w *world) ask(format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprintf(format, args...))
	return w.broken
}

func (w *world) SeriesStats(_ context.Context, id tenant.ID, limit int) (*SeriesStats, error) {
	out := &SeriesStats{TSDBStatus: v1.TSDBStatus{
		HeadStats:               v1.HeadStats{NumSeries: uint64(limit)},
		SeriesCountByMetricName: []v1.TSDBStat{{Name: "of_" + id.String(), Value: 1}},
	}}
	if limit == 77 {
		out.Warnings = []string{"there are more"}
	}
	return out, w.ask("stats of %s", id)
}

func (w *world) Blocks(_ context.Context, id tenant.ID) ([]tsdb.BlockMeta, error) {
	return []tsdb.BlockMeta{}, w.ask("blocks of %s", id)
}

func (w *world) Delete(_ context.Context, id tenant.ID, mint, maxt int64, matchers ...*labels.Matcher) (uint64, error) {
	err := w.ask("delete of %s from %d to %d %v", id, mint, maxt, matchers)
	return uint64(len(w.asked)), err
}

func (w *world) Deletions(id tenant.ID) ([]Deletion, error) {
	return []Deletion{{ID: 3, State: DeletionRewriting, Left: 2, Match: "{}"}}, w.ask("deletions of %s", id)
}

func (w *world) Deletion(id tenant.ID, number uint64) (Deletion, bool, error) {
	return Deletion{ID: number, State: DeletionDone}, number < 4, w.ask("deletion %d of %s", number, id)
}

func (w *world) EraseUsers(_ context.Context, id tenant.ID) (ErasedUsers, error) {
	return ErasedUsers{Time: "2026-01-01T00:00:00Z", Keys: 2}, w.ask("erase users of %s", id)
}

func (w *world) Snapshots() ([]SnapshotStatus, error) {
	return []SnapshotStatus{{Name: "s", Tenants: []SnapshotTenant{{ID: "a", Blocks: 1}}}}, w.ask("snapshots")
}

func (w *world) MakeSnapshot(_ context.Context, ids []tenant.ID, skipHead bool) (MadeSnapshot, error) {
	return MadeSnapshot{Name: "made"}, w.ask("snapshot of %v, without head %v", ids, skipHead)
}

func (w *world) DeleteSnapshot(_ context.Context, name string) error {
	return w.ask("delete snapshot %s", name)
}

func (w *world) Restore(_ context.Context, name string, id tenant.ID, how Restore) (RestoredTenant, error) {
	return RestoredTenant{Tenant: id.String()}, w.ask("restore %s from %s, replace %v, without ids %v", id, name, how.Replace, how.WithoutEventIDs)
}

func (w *world) CleanTombstones(_ context.Context, id tenant.ID) error {
	return w.ask("clean of %s", id)
}

func (w *world) Snapshot(_ context.Context, id tenant.ID, skipHead bool) (string, error) {
	return "snapshot-of-" + id.String(), w.ask("snapshot of %s, without head %v", id, skipHead)
}

func TestStatusTSDB(t *testing.T) {
	_, srv := newWorld(t, nil)
	for query, want := range map[string]string{
		"":             `200 {"status":"success","data":{"headStats":{"numSeries":10,"numLabelPairs":0,"chunkCount":0,"minTime":0,"maxTime":0},"seriesCountByMetricName":[{"name":"of_a","value":1}],`,
		"?limit=10000": `200 {"status":"success","data":{"headStats":{"numSeries":10000,`,
		"?limit=77":    `"churn":null}},"warnings":["there are more"]}`,
		"?limit=0":     `400 {"status":"error","errorType":"bad_data","error":"limit must be a positive number"}`,
		"?limit=x":     `400 {"status":"error","errorType":"bad_data","error":"limit must be a positive number"}`,
		"?limit=10001": `400 {"status":"error","errorType":"bad_data","error":"limit must not exceed 10000"}`,
	} {
		code, got, _ := call(t, srv, "GET", "/api/v1/status/tsdb"+query, "", "X-Scope-OrgID", "a")
		if got := fmt.Sprint(code, " ", got); !strings.Contains(got, want) {
			t.Errorf("%s: %s\nwant %s", query, got, want)
		}
	}
}

// Each route of administration does what Prometheus's does, with its parameters in the
// query or in a form.
func TestAdmin(t *testing.T) {
	w, srv := newWorld(t, nil)
	forever := fmt.Sprintf("from %d to %d", v1.MinTime.UnixMilli(), v1.MaxTime.UnixMilli())
	for _, tc := range []struct {
		method, path, form string
		code               int
		want               string   // in the body
		asked              []string // of storage
	}{
		{"POST", "delete_series?match[]=x", "", 204, "", []string{`delete of a ` + forever + ` [__name__="x"]`}},
		{"PUT", "delete_series", `match[]=x{l="v"}&match[]={m=~"a|b"}&start=1.5&end=2001-02-03T04:05:06Z`, 204, "", []string{
			`delete of a from 1500 to 981173106000 [l="v" __name__="x"]`, `delete of a from 1500 to 981173106000 [m=~"a|b"]`,
		}},
		{"POST", "delete_series?match[]=x&start=" + url.QueryEscape(v1.MinTime.Format("2006-01-02T15:04:05.999999999Z07:00")) + "&end=%2BInf", "", 204, "", []string{`delete of a ` + forever + ` [__name__="x"]`}},
		{"POST", "delete_series", "", 400, "no match[] parameter provided", nil},
		{"POST", "delete_series?match[]=x&match[]=)", "", 400, `invalid parameter \"match[]\"`, nil},
		{"POST", "delete_series?match[]={}", "", 400, "match[]={} selects everything", nil},
		{"POST", "delete_series?match[]=x&start=yesterday", "", 400, `invalid parameter \"start\": cannot parse \"yesterday\" to a valid timestamp`, nil},
		{"POST", "delete_series?match[]=x&end=NaN", "", 400, `invalid parameter \"end\"`, nil},
		{"POST", "clean_tombstones", "", 204, "", []string{"clean of a"}},
		{"POST", "snapshot", "", 200, `{"status":"success","data":{"name":"snapshot-of-a"}}`, []string{"snapshot of a, without head false"}},
		{"PUT", "snapshot?skip_head=1", "", 200, `snapshot-of-a`, []string{"snapshot of a, without head true"}},
		{"POST", "snapshot?skip_head=perhaps", "", 400, `invalid parameter \"skip_head\": unable to parse boolean`, nil},
		{"GET", "clean_tombstones", "", 405, "takes POST, PUT, not GET", nil},
	} {
		w.asked = nil
		code, got, _ := call(t, srv, tc.method, "/api/v1/admin/tsdb/"+tc.path, tc.form, "X-Scope-OrgID", "a", "Content-Type", "application/x-www-form-urlencoded")
		if code != tc.code || !strings.Contains(got, tc.want) || !reflect.DeepEqual(w.asked, tc.asked) {
			t.Errorf("%s %s %s: %d %s, asked for %q\nwant %d %s, %q", tc.method, tc.path, tc.form, code, got, w.asked, tc.code, tc.want, tc.asked)
		}
	}
}

func TestErrorsOfStorage(t *testing.T) {
	w, srv := newWorld(t, nil)
	for _, tc := range []struct {
		err   error
		code  int
		types string // of errors
	}{
		{errors.New("a block is torn"), 500, "internal"},
		{&overload.Error{Reason: overload.ReasonDeletions}, 503, "unavailable"},
		{fmt.Errorf("tenant a %w", tenant.ErrUnknown), 404, "not_found"},
		{fmt.Errorf("tenant a %w", tenant.ErrDropped), 409, "conflict"},
		{fmt.Errorf("%w: the range ends before it begins", ErrBadSelector), 400, "bad_data"},
	} {
		w.broken = tc.err
		for _, request := range []string{"POST delete_series?match[]=x", "POST clean_tombstones", "PUT snapshot"} {
			method, path, _ := strings.Cut(request, " ")
			code, got, header := call(t, srv, method, "/api/v1/admin/tsdb/"+path, "")
			if again := header.Get("Retry-After") != ""; again != (tc.code == 503) {
				t.Errorf("%s with %v: Retry-After is %q", request, tc.err, header.Get("Retry-After"))
			}
			var f failure
			if err := json.Unmarshal([]byte(got), &f); err != nil || code != tc.code || f.ErrorType != tc.types || !strings.Contains(f.Error, tc.err.Error()) {
				t.Errorf("%s with %v: %d %s", request, tc.err, code, got)
			}
		}
	}
	if _, got, _ := call(t, srv, "GET", "/metrics", ""); !strings.Contains(got, `quipu_ingest_shed_requests_total{reason="deletions"} 3`) {
		t.Error("what is refused for want of room for deletions is not counted")
	}
	w.broken = context.Canceled
	for _, path := range []string{"/api/v1/status/tsdb", "/api/v1/status/tsdb/blocks"} {
		if code, got, _ := call(t, srv, "GET", path, ""); code != 499 || !strings.Contains(got, `"errorType":"canceled"`) {
			t.Errorf("%s of who is gone: %d %s", path, code, got)
		}
	}
}

// A server that nobody can delete on says so.
func TestNoAdmin(t *testing.T) {
	_, srv := newWorld(t, func(o *Options) { o.Admin = nil })
	for _, path := range []string{"delete_series?match[]=x", "clean_tombstones", "snapshot"} {
		if code, got, _ := call(t, srv, "POST", "/api/v1/admin/tsdb/"+path, ""); code != 404 || !strings.Contains(got, "is not available") {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
	if _, got, _ := call(t, srv, "GET", "/api/v1/features", ""); !strings.Contains(got, `"admin":false`) {
		t.Errorf("features: %s", got)
	}
}

// What has been asked for is known to be there: every route that a handler says it has
// answers, and the rest is not found.
func TestHandlerKnowsItsRoutes(t *testing.T) {
	var handler *Handler
	newWorld(t, func(o *Options) {
		h, err := New(*o)
		if err != nil {
			t.Fatal(err)
		}
		handler = h
		*o = Options{Events: o.Events, Rules: o.Rules, Engine: o.Engine, Parser: o.Parser, Storage: o.Storage, Exemplars: o.Exemplars, Tenants: o.Tenants, Inventory: o.Inventory, Registry: prometheus.NewRegistry()}
	})
	found := map[string]bool{}
	for _, r := range handler.Routes() {
		found[r.Path] = true
		if r.Below {
			continue
		}
		method := "GET"
		if len(r.Methods) > 0 {
			method = r.Methods[0]
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequest(method, strings.ReplaceAll(r.Path, "{name}", "x"), nil))
		if strings.Contains(rec.Body.String(), "there is nothing at") {
			t.Errorf("%s %s: %d %s", method, r.Path, rec.Code, rec.Body)
		}
	}
	for _, path := range []string{"/api/v1/query", "/api/v1/label/{name}/values", "/federate", "/metrics", "/api/v1/events", "/api/v1/admin/tsdb/snapshot"} {
		if !found[path] {
			t.Errorf("%s is not among %v", path, found)
		}
	}
}
