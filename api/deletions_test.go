package api

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
)

// Deletions tell their ids and how far they are; what a rule made goes by the rule's name.
func TestDeletions(t *testing.T) {
	w, srv := newWorld(t, func(o *Options) {
		ingester, err := ingest.New(ingest.Options{Store: o.Storage.(*world), Rules: &keptRules{texts: map[tenant.ID]string{}}, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		o.Events, o.Rules = ingester, ingester
	})
	rules := `metrics: [{name: views_total, type: counter}, {name: site, type: session, key: user_id}]`
	if code, got, _ := call(t, srv, "PUT", "/api/v1/event-rules", rules, "X-Scope-OrgID", "a"); code != 200 {
		t.Fatal(got)
	}
	forever := fmt.Sprintf("from %d to %d", v1.MinTime.UnixMilli(), v1.MaxTime.UnixMilli())
	of := func(metric, span string) string { return fmt.Sprintf("delete of a %s [__name__=%q]", span, metric) }
	for _, tc := range []struct {
		method, path string
		code         int
		want         string   // in the body
		ids          string   // in the header
		asked        []string // of storage
	}{
		{"POST", "tsdb/delete_series?match[]=x&match[]=y", 204, "", "1, 2", []string{of("x", forever), of("y", forever)}},
		{"GET", "tsdb/deletions", 200, `{"deletions":[{"id":3,"state":"rewriting","left":2,"match":"{}"}]}`, "", []string{"deletions of a"}},
		{"GET", "tsdb/deletions/3", 200, `"data":{"id":3,"state":"done","left":0}`, "", []string{"deletion 3 of a"}},
		{"GET", "tsdb/deletions/4", 404, "there was no deletion 4", "", []string{"deletion 4 of a"}},
		{"GET", "tsdb/deletions/x", 400, `"x\" is not the id of a deletion`, "", nil},
		{"POST", "tsdb/deletions", 405, "takes GET, HEAD, not POST", "", nil},
		{"POST", "event-rules/views_total/delete_data?start=1&end=2", 200, `{"metrics":["views_total"],"deletions":[1]}`, "1", []string{of("views_total", "from 1000 to 2000")}},
		{"POST", "event-rules/site/delete_data", 200, `"metrics":["site_sessions_total","site_session_seconds","site_session_events","site_bounces_total"],"deletions":[1,2,3,4]`, "1, 2, 3, 4", []string{
			of("site_sessions_total", forever), of("site_session_seconds", forever), of("site_session_events", forever), of("site_bounces_total", forever),
		}},
		{"POST", "event-rules/none/delete_data", 404, `no event rule in force is named \"none\"`, "", nil},
		{"POST", "event-rules/site/delete_data?start=x", 400, `invalid parameter \"start\"`, "", nil},
		{"GET", "event-rules/site/delete_data", 405, "takes POST, not GET", "", nil},
		{"POST", "users/erase", 200, `"keys":2,"snapshots":[],"note":"Hashes of user ids that are stored cannot be told`, "", []string{"erase users of a"}},
		{"GET", "users/erase", 405, "takes POST, not GET", "", nil},
	} {
		w.asked = nil
		code, got, header := call(t, srv, tc.method, "/api/v1/admin/"+tc.path, "", "X-Scope-OrgID", "a")
		if code != tc.code || !strings.Contains(got, tc.want) || !reflect.DeepEqual(w.asked, tc.asked) || header.Get("Quipu-Deletion-Id") != tc.ids {
			t.Errorf("%s %s: %d %s, ids %q, asked for %q\nwant %d %s, %q, %q", tc.method, tc.path, code, got, header.Get("Quipu-Deletion-Id"), w.asked, tc.code, tc.want, tc.ids, tc.asked)
		}
	}
	w.broken = errors.New("no space")
	for _, path := range []string{"POST tsdb/delete_series?match[]=x", "GET tsdb/deletions", "GET tsdb/deletions/1", "POST event-rules/site/delete_data", "POST users/erase"} {
		method, path, _ := strings.Cut(path, " ")
		if code, got, _ := call(t, srv, method, "/api/v1/admin/"+path, "", "X-Scope-OrgID", "a"); code != 500 || !strings.Contains(got, "no space") {
			t.Errorf("%s of storage that fails: %d %s", path, code, got)
		}
	}
}

// Snapshots are the operator's, of all tenants or some, and restore one by its name.
func TestBackups(t *testing.T) {
	w, srv := newWorld(t, nil)
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string
		asked              []string
	}{
		{"GET", "", "", 200, `{"snapshots":[{"name":"s","time":"","tenants":[{"id":"a","blocks":1,"bytes":0}]}]}`, []string{"snapshots"}},
		{"POST", "", "", 201, `"data":{"name":"made"}`, []string{"snapshot of [], without head false"}},
		{"POST", "", `{"tenants":["a","b"],"skip_head":true}`, 201, `"made"`, []string{"snapshot of [a b], without head true"}},
		{"POST", "", `{"tenants":["a","../b"]}`, 400, `tenants[1]: `, nil},
		{"POST", "", `{"tenant":"a"}`, 400, `unknown field`, nil},
		{"PUT", "", "", 405, "snapshots are listed with GET and made with POST", nil},
		{"DELETE", "/s", "", 204, "", []string{"delete snapshot s"}},
		{"GET", "/s", "", 405, "a snapshot is deleted with DELETE", nil},
		{"POST", "/s/restore", `{"tenant":"a"}`, 200, `"data":{"tenant":"a","blocks":0,"bytes":0,"event_ids":0}`, []string{"restore a from s, replace false, without ids false"}},
		{"POST", "/s/restore", `{"tenant":"a","replace":true,"without_event_ids":true}`, 200, "", []string{"restore a from s, replace true, without ids true"}},
		{"POST", "/s/restore", `{}`, 400, `tenant: `, nil},
		{"POST", "/s/restore", ``, 400, `a JSON object is needed`, nil},
		{"GET", "/s/restore", "", 405, "a tenant is restored with POST", nil},
	} {
		w.asked = nil
		code, got, _ := call(t, srv, tc.method, "/api/v1/admin/snapshots"+tc.path, tc.body)
		if code != tc.code || !strings.Contains(got, tc.want) || !reflect.DeepEqual(w.asked, tc.asked) {
			t.Errorf("%s %s %s: %d %s, asked for %q\nwant %d %s, %q", tc.method, tc.path, tc.body, code, got, w.asked, tc.code, tc.want, tc.asked)
		}
	}
	for _, tc := range []struct {
		err  error
		code int
	}{
		{errors.New("no space"), 500}, {fmt.Errorf("snapshot s: %w", ErrNoSnapshot), 404}, {fmt.Errorf("it %w", tenant.ErrExists), 409},
	} {
		w.broken = tc.err
		if code, got, _ := call(t, srv, "POST", "/api/v1/admin/snapshots/s/restore", `{"tenant":"a"}`); code != tc.code || !strings.Contains(got, tc.err.Error()) {
			t.Errorf("%v is answered %d %s, want %d", tc.err, code, got, tc.code)
		}
	}
	_, none := newWorld(t, func(o *Options) { o.Backups, o.Admin = nil, nil })
	for _, path := range []string{"snapshots", "users/erase", "tsdb/deletions"} {
		if code, got, _ := call(t, none, "GET", "/api/v1/admin/"+path, ""); code != 404 {
			t.Errorf("%s where there is none: %d %s", path, code, got)
		}
	}
}
