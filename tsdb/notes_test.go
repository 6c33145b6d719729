package tsdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// exemplarsOf lists a tenant's exemplars of a metric as series, trace and time.
func (d *testDB) exemplarsOf(id tenant.ID, metric string) string {
	d.t.Helper()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: id, Now: d.now.UnixMilli()})
	q, err := d.ExemplarQuerier(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	found, err := q.Select(0, never, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, metric)})
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, r := range found {
		for _, e := range r.Exemplars {
			out = append(out, fmt.Sprintf("%s %s %d", r.SeriesLabels.Get("page"), e.Labels.Get("trace_id"), e.Ts))
		}
	}
	return strings.Join(out, ", ")
}

// The newest exemplars are kept, up to the tenant's limit, with the metadata that was
// said last: in memory, in the log, with a flush, and when the log was written again.
func TestExemplarsAndMetadataStay(t *testing.T) {
	change := func(o *Options) {
		o.Defaults = tenant.DefaultSettings()
		o.Defaults.Limits.Exemplars = 3
	}
	db := openTestDB(t, "", change)
	add := func(page, trace string, at int64, help string) {
		t.Helper()
		inc := counterInc("c_total", testStart, 1, "page", page)
		b := &increment.Batch{
			Increments: []increment.Increment{inc},
			Exemplars:  []increment.Exemplar{{Series: inc.Labels, Labels: labels.FromStrings("trace_id", trace), Time: at, Value: 1}},
			Metadata:   []increment.Metadata{{Metric: "c_total", Type: model.MetricTypeCounter, Help: help, Unit: "clicks"}},
		}
		if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
			t.Fatal(err)
		}
	}
	check := func(stage, want, help string) {
		t.Helper()
		if got := db.exemplarsOf(tenant.Default, "c_total"); got != want {
			t.Errorf("%s: exemplars %q, want %q", stage, got, want)
		}
		m, err := db.Metadata(tenant.Default)
		if err != nil || len(m) != 1 || m[0].Help != help || m[0].Unit != "clicks" {
			t.Errorf("%s: metadata %v, %v", stage, m, err)
		}
	}
	add("/b", "1", 10, "old")
	add("/a", "2", 30, "old")
	add("/a", "3", 20, "old")
	check("memory", "/a 3 20, /a 2 30, /b 1 10", "old")
	db = db.reopen(change)
	check("log", "/a 3 20, /a 2 30, /b 1 10", "old")
	add("/c", "4", 40, "new") // in place of the oldest
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		t.Fatal(err)
	}
	check("flush", "/a 3 20, /a 2 30, /c 4 40", "new")
	db = db.reopen(change)
	check("file", "/a 3 20, /a 2 30, /c 4 40", "new")
	add("/d", "5", 50, "new")
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	if did, err := s.relog(context.Background(), nil); !did || err != nil {
		t.Fatal(did, err)
	}
	if err := db.releaseSegments(); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(change)
	check("logged again", "/a 3 20, /c 4 40, /d 5 50", "new")
	if got := db.exemplarsOf(tenantID(t, "other"), "c_total"); got != "" {
		t.Errorf("another tenant has exemplars %q", got)
	}
}

// What cannot be kept is left out and counted; the batch counts all the same.
func TestNotesHaveLimits(t *testing.T) {
	db := openTestDB(t, "", nil)
	inc := counterInc("c_total", testStart, 1)
	b := &increment.Batch{
		Increments: []increment.Increment{inc},
		Exemplars:  []increment.Exemplar{{Series: inc.Labels, Labels: labels.FromStrings("trace_id", strings.Repeat("x", exemplar.ExemplarMaxLabelSetLength)), Time: 1}},
		Metadata: []increment.Metadata{
			{Metric: "c_total", Help: strings.Repeat("x", metadataBytesMax+1)}, {Help: "of no metric"}, {Metric: strings.Repeat("x", metadataBytesMax+1)},
		},
	}
	large := labels.FromStrings(model.MetricNameLabel, "c_total", "page", strings.Repeat("x", labelsBytesMax))
	b.Exemplars = append(b.Exemplars, increment.Exemplar{Series: large, Labels: labels.FromStrings("trace_id", "1"), Time: 1})
	for i := range metadataMax + 5 {
		b.Metadata = append(b.Metadata, increment.Metadata{Metric: fmt.Sprint("m", i)})
	}
	if _, err := db.Append(context.Background(), tenant.Default, b); err != nil {
		t.Fatal(err)
	}
	if got := db.exemplarsOf(tenant.Default, "c_total"); got != "" {
		t.Errorf("exemplars %q", got)
	}
	if m, err := db.Metadata(tenant.Default); err != nil || len(m) > metadataMax || slices.ContainsFunc(m, func(m increment.Metadata) bool { return len(m.Metric) > 8 }) {
		t.Errorf("%d metrics have metadata, %v", len(m), err)
	}
	if got := total(db.stored(tenant.Default)); got != 1 {
		t.Errorf("%v events, want 1", got)
	}
}
