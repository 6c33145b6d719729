package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/past"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

func patch(t *testing.T, object string) tenant.Patch {
	t.Helper()
	var p tenant.Patch
	if _, err := p.Merge([]byte(object)); err != nil {
		t.Fatal(err)
	}
	return p
}

func policyOf(t *testing.T, defaults string, overrides map[string]string) *tenant.Policy {
	t.Helper()
	o := tenant.Overrides{}
	for name, object := range overrides {
		o[name] = patch(t, object)
	}
	p, err := tenant.NewPolicy(tenant.DefaultSettings(), tenant.Defaults(patch(t, defaults)), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func setting(object string) func(*tenant.Patch) ([]string, error) {
	return func(own *tenant.Patch) ([]string, error) { return own.Merge([]byte(object)) }
}

var settingsTenant, _ = tenant.Parse("a")

// Settings are the defaults', then what a tenant says of itself, then what the operator
// decides; each change is in force at once and after a restart.
func TestSettingsInForce(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.Policy = policyOf(t, `{"retention": "30d"}`, nil) })
	if err := db.CreateTenant(settingsTenant, patch(t, `{"grid": "30s", "limits": {"series": 500}}`)); err != nil {
		t.Fatal(err)
	}
	expect := func(what, retention string, series int) {
		t.Helper()
		s, err := db.Settings(settingsTenant)
		if err != nil || s.Retention.String() != retention || s.Limits.Series != series || s.Grid.String() != "30s" {
			t.Errorf("%s: retention %s, series %d, grid %s, %v; want %s and %d", what, s.Retention, s.Limits.Series, s.Grid, err, retention, series)
		}
	}
	expect("made", "30d", 500)
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"retention": "10d", "limits": {"series": null}}`)); err != nil {
		t.Fatal(err)
	}
	expect("changed", "10d", 1_000_000)
	pin := policyOf(t, `{"retention": "20d", "limits": {"series": 700}}`, map[string]string{"a": `{"retention": "1d"}`})
	if err := db.SetPolicy(pin); err != nil {
		t.Fatal(err)
	}
	expect("pinned", "1d", 700)
	var pinned *PinnedError
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"retention": "9d"}`)); !errors.As(err, &pinned) || pinned.Fields[0] != "retention" {
		t.Errorf("a change of what is pinned: %v", err)
	}
	var wrong *SettingsError
	for _, object := range []string{`{"grid": "15s"}`, `{"limits": {"series": 1}}`, `{"limits": {"serie": 1}}`, `{"retention": 5}`} {
		if _, err := db.ChangeSettings(settingsTenant, setting(object)); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", object, err)
		}
	}
	if err := db.SetPolicy(policyOf(t, `{}`, map[string]string{"a": `{"grid": "1m"}`})); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "tenant a: grid is 1m, but the tenant was made with 30s") {
		t.Errorf("a policy with another grid: %v", err)
	}
	expect("refused", "1d", 700)
	db = db.reopen(func(o *Options) { o.Policy = pin })
	expect("reopened", "1d", 700)
	db = db.reopen(nil)
	expect("reopened without a policy", "10d", 1_000_000)
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); !errors.Is(err, tenant.ErrExists) {
		t.Errorf("made twice: %v", err)
	}
}

// What somebody wrote into the file is in force once it is read again; what is wrong
// leaves what was.
func TestSettingsReload(t *testing.T) {
	db := openTestDB(t, "", nil)
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(db.opts.Dir, "a", settingsName)
	for _, step := range []struct {
		text, wrong string
		exemplars   int
	}{
		{"limits: {exemplars: 5}\n", "", 5},
		{"limits: {exemplar: 6}\n", "settings of tenant a stay as they were", 5},
		{"grid: 1m\n", "made with 15s", 5},
		{"", "", 10_000},
	} {
		if err := os.WriteFile(name, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := db.ReloadSettings()
		if (err != nil) != (step.wrong != "") || err != nil && !strings.Contains(err.Error(), step.wrong) {
			t.Errorf("%q: %v, want %q", step.text, err, step.wrong)
		}
		if s, err := db.Settings(settingsTenant); err != nil || s.Limits.Exemplars != step.exemplars {
			t.Errorf("%q: %d exemplars, %v", step.text, s.Limits.Exemplars, err)
		}
	}
}

// A lower limit of series folds what comes next and loses nothing; a higher one is in
// force at once too.
func TestSeriesLimitAtRunTime(t *testing.T) {
	db := openTestDB(t, "", nil)
	post := func(n int) {
		t.Helper()
		b := &increment.Batch{}
		for i := range n {
			s := increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "hits", "n", string(rune('a'+i))), increment.Counter, nil)
			b.Increments = append(b.Increments, increment.Increment{Series: s, Time: 0, Value: 1})
		}
		if _, err := db.Append(context.Background(), settingsTenant, b); err != nil {
			t.Fatal(err)
		}
	}
	series := func() int {
		t.Helper()
		u, err := db.Usage(settingsTenant)
		if err != nil {
			t.Fatal(err)
		}
		return u.Series
	}
	post(12)
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"limits": {"series_per_metric": 14}}`)); err != nil {
		t.Fatal(err)
	}
	post(20)
	if got := series(); got != 14 {
		t.Errorf("%d series under a limit of 14", got)
	}
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"limits": {"series_per_metric": 100}}`)); err != nil {
		t.Fatal(err)
	}
	post(20)
	if got := series(); got != 21 { // all 20 and the one of the folded
		t.Errorf("%d series under a limit of 100", got)
	}
}

// The view depends on the idle timeout, so answers that readers keep are told of a
// change; of any other they are not.
func TestIdleTimeoutChangesThePast(t *testing.T) {
	db := openTestDB(t, "", nil)
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	ctx := scope.With(context.Background(), scope.Scope{Tenant: settingsTenant, Now: now.UnixMilli()})
	for _, step := range []struct {
		object  string
		changed bool
	}{
		{`{"limits": {"series": 100}}`, false},
		{`{"idle_timeout": "5m"}`, true},
		{`{"idle_timeouts": {"orders_total": "3h"}}`, true},
		{`{"idle_timeouts": {"orders_total": "3h"}}`, false},
	} {
		mark, err := db.Settle(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ChangeSettings(settingsTenant, setting(step.object)); err != nil {
			t.Fatal(err)
		}
		changed, err := db.Changed(ctx, mark)
		if err != nil || (len(changed) > 0) != step.changed {
			t.Errorf("%s: %v changed, %v", step.object, changed, err)
		}
		for _, at := range []int64{0, now.UnixMilli(), now.AddDate(80, 0, 0).UnixMilli()} {
			if step.changed && !changed[0].Overlaps(past.Interval{From: at, To: at}) {
				t.Errorf("%s: %d is not changed", step.object, at)
			}
		}
	}
}

// A suspended tenant takes nothing and keeps what it has, also after a restart.
func TestSuspendedTenantTakesNothing(t *testing.T) {
	db := openTestDB(t, "", nil)
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"suspended": true}`)); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil)
	if _, err := db.Tenant(settingsTenant); !errors.Is(err, tenant.ErrSuspended) {
		t.Errorf("the write path: %v", err)
	}
	if _, err := db.Append(context.Background(), settingsTenant, &increment.Batch{}); !errors.Is(err, tenant.ErrSuspended) {
		t.Errorf("a batch: %v", err)
	}
	if _, err := db.ChangeSettings(settingsTenant, setting(`{"suspended": null}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Tenant(settingsTenant); err != nil {
		t.Errorf("resumed: %v", err)
	}
}

// Where only an administrator makes tenants, no batch does.
func TestTenantsMadeByAdministrator(t *testing.T) {
	db := openTestDB(t, "", nil)
	p := policyOf(t, `{}`, nil)
	p.NoCreate = true
	if err := db.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Append(context.Background(), settingsTenant, &increment.Batch{}); !errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("a batch: %v", err)
	}
	if ids, err := db.Tenants(); err != nil || len(ids) != 0 {
		t.Errorf("there are %v, %v", ids, err)
	}
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	if ids, err := db.Tenants(); err != nil || len(ids) != 1 || ids[0] != settingsTenant {
		t.Errorf("there are %v, %v", ids, err)
	}
}

// dyingFS ends writing after some operations, as a process that dies does.
type dyingFS struct {
	vfs.OS
	left *int
}

var errDead = errors.New("the process is dead")

func (d dyingFS) spend() error {
	if *d.left--; *d.left < 0 {
		return errDead
	}
	return nil
}

func (d dyingFS) Create(name string) (vfs.File, error) {
	if err := d.spend(); err != nil {
		return nil, err
	}
	f, err := d.OS.Create(name)
	return dyingFile{f, d}, err
}

func (d dyingFS) Rename(from, to string) error { return errors.Join(d.spend(), d.renamed(from, to)) }
func (d dyingFS) renamed(from, to string) error {
	if *d.left < 0 {
		return errDead
	}
	return d.OS.Rename(from, to)
}
func (d dyingFS) Remove(string) error { return d.spend() }
func (d dyingFS) SyncDir(name string) error {
	if err := d.spend(); err != nil {
		return err
	}
	return d.OS.SyncDir(name)
}

type dyingFile struct {
	vfs.File
	fs dyingFS
}

func (f dyingFile) Write(p []byte) (int, error) {
	if err := f.fs.spend(); err != nil {
		n, _ := f.File.Write(p[:len(p)/2]) // torn
		return n, err
	}
	return f.File.Write(p)
}

// Wherever a process dies while settings change, the next one finds the old ones or the
// new ones, whole.
func TestSettingsSurviveDeath(t *testing.T) {
	dir := t.TempDir()
	first := tenant.Patch{}
	grid := tenant.Duration(15 * time.Second)
	first.Grid = &grid
	second := patch(t, `{"grid": "15s", "limits": {"series": 777}}`)
	name := filepath.Join(dir, settingsName)
	outcomes := map[bool]int{}
	for died, steps := true, 0; died; steps++ {
		if err := os.WriteFile(name, first.File(tenant.DefaultSettings()), 0o600); err != nil {
			t.Fatal(err)
		}
		left := steps
		died = vfs.WriteFile(dyingFS{left: &left}, name, second.File(tenant.DefaultSettings())) != nil
		got, err := readSettings(vfs.OS{}, dir)
		if err != nil {
			t.Fatalf("died after %d steps: %v", steps, err)
		}
		isNew := got.Limits.Series != nil
		if isNew && *got.Limits.Series != 777 || !died && !isNew {
			t.Errorf("after %d steps: %+v", steps, got)
		}
		outcomes[isNew]++
		if err := os.Remove(name + ".tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if outcomes[false] == 0 || outcomes[true] == 0 {
		t.Errorf("old and new were found %v times", outcomes)
	}
}

// Fewer exemplars keep the newest, none keeps none, and more let more come.
func TestExemplarLimitAtRunTime(t *testing.T) {
	db := openTestDB(t, "", nil)
	n := 0
	add := func(count int) {
		t.Helper()
		for range count {
			n++
			inc := counterInc("c_total", testStart, 1, "page", "/")
			b := &increment.Batch{
				Increments: []increment.Increment{inc},
				Exemplars:  []increment.Exemplar{{Series: inc.Labels, Labels: labels.FromStrings("trace_id", string(rune('a'+n-1))), Time: int64(n)}},
			}
			if _, err := db.Append(context.Background(), settingsTenant, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(what, want string) {
		t.Helper()
		got := strings.NewReplacer("/ ", "", ", ", " ").Replace(db.exemplarsOf(settingsTenant, "c_total"))
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	limit := func(object string) {
		t.Helper()
		if _, err := db.ChangeSettings(settingsTenant, setting(object)); err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	limit(`{"limits": {"exemplars": 3}}`)
	add(4) // the ring has turned
	expect("at most 3", "c 3 d 4 e 5")
	limit(`{"limits": {"exemplars": 2}}`)
	expect("at most 2", "d 4 e 5")
	add(1)
	expect("one more", "e 5 f 6")
	limit(`{"limits": {"exemplars": 0}}`)
	add(1)
	expect("none", "")
	limit(`{"limits": {"exemplars": 4}}`)
	add(2)
	expect("at most 4", "h 8 i 9")
	db = db.reopen(nil)
	expect("reopened", "e 5 f 6 h 8 i 9") // the log has them still, but what was refused
}

// A new policy for 10,000 tenants in memory takes no file and little time.
func BenchmarkSetPolicy(b *testing.B) {
	const tenants = 10_000
	db := openTestDB(b, "", func(o *Options) { o.FS = noSyncFS{} })
	for i := range tenants {
		id, err := tenant.Parse(fmt.Sprint("t", i))
		if err != nil {
			b.Fatal(err)
		}
		if err := db.CreateTenant(id, tenant.Patch{}); err != nil {
			b.Fatal(err)
		}
	}
	defaults := tenant.DefaultSettings()
	for b.Loop() {
		defaults.Limits.Series++ // all of them change
		if err := db.SetPolicy(&tenant.Policy{Defaults: defaults}); err != nil {
			b.Fatal(err)
		}
	}
}
