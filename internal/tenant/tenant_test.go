package tenant

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

func TestParse(t *testing.T) {
	for _, s := range []string{"default", "a", "A-b_c.9", "..a", strings.Repeat("x", 64)} {
		if id, err := Parse(s); err != nil || id.String() != s || id.IsZero() {
			t.Errorf("Parse(%q) = %q, %v", s, id, err)
		}
	}
	for _, s := range []string{"", ".", "..", "a/b", "a b", "ä", "@wal", "a\x00", strings.Repeat("x", 65)} {
		if id, err := Parse(s); err == nil || !id.IsZero() {
			t.Errorf("Parse(%q) = %q, want an error", s, id)
		}
	}
}

// What a new tenant's file says reads back as the settings it was made with, and
// what it leaves out follows the defaults of the day.
func TestSettingsFile(t *testing.T) {
	made := DefaultSettings()
	made.Grid = model.Duration(30 * time.Second)
	defaults := DefaultSettings()
	defaults.Retention = model.Duration(48 * time.Hour)
	got, err := ParseSettings(made.NewFile(), defaults)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults
	want.Grid = made.Grid
	if !got.Equal(&want) {
		t.Errorf("settings are %+v, want %+v", got, want)
	}
	if got, err := ParseSettings([]byte("# nothing\n"), defaults); err != nil || !got.Equal(&defaults) {
		t.Errorf("an empty file: %+v, %v", got, err)
	}
}

// A tenant's idle timeout follows its own grid, whatever the server's is now.
func TestIdleTimeoutFollowsTheFilesGrid(t *testing.T) {
	coarse := DefaultSettings()
	coarse.Grid = model.Duration(2 * time.Hour)
	coarse.IdleTimeout = IdleTimeoutFor(coarse.Grid)
	for _, c := range []struct {
		file, defaults Settings
		want           time.Duration
	}{
		{coarse, DefaultSettings(), 2 * time.Hour},
		{DefaultSettings(), coarse, time.Hour},
	} {
		got, err := ParseSettings(c.file.NewFile(), c.defaults)
		if err != nil || time.Duration(got.IdleTimeout) != c.want || got.Grid != c.file.Grid {
			t.Errorf("grid %s made under %s: idle timeout %s, %v; want %s", got.Grid, c.defaults.Grid, got.IdleTimeout, err, c.want)
		}
	}
}

func TestSettingsErrorsNameTheField(t *testing.T) {
	for src, want := range map[string]string{
		"grid: 7s":                           "grid is 7s",
		"grid: 500ms":                        "grid is 500ms",
		"grid: 15s\nidle_timeout: 20s":       "idle_timeout is 20s",
		"grid: 15s\nidle_timeouts: {a: 20s}": "idle_timeouts.a is 20s, it must be a multiple of the grid (15s) and at most 1d",
		"idle_timeouts: {a: 0s}":             "idle_timeouts.a is 0s",
		"idle_timeouts: {a: 1d15s}":          "idle_timeouts.a is 1d15s",
		"idle_timeouts: {a: soon}":           `line 1: not a valid duration string: "soon"`,
		"idle_timeouts: {\"\": 1h}":          `idle_timeouts has "", which is no name of a metric`,
		"gird: 15s":                          "gird",
		"limits: {series_per_metric: 1}":     "limits.series_per_metric is 1",
		"retention: tomorrow":                "tomorrow",
		"limits: {series_per_metrics: 100}":  "series_per_metrics",
		"limits: {events_per_second: -1}":    "limits.events_per_second is -1, it must be from 0 to",
		"limits: {bytes_per_second: -1}":     "limits.bytes_per_second is -1",
		"limits: {body_bytes: -1}":           "limits.body_bytes is -1",
		"limits: {decoded_bytes: -1}":        "limits.decoded_bytes is -1",
		"limits: {json_depth: 2}":            "limits.json_depth is 2, it must be from 3 to 300",
		"limits: {json_depth: 301}":          "limits.json_depth is 301",
		"limits: {event_age: -1s}":           "duration",
		"limits: {event_age: 101y}":          "limits.event_age is 101y",
		"limits: {clock_skew: 2y}":           "limits.clock_skew is 2y, it must be from 0s to 1y",
		"limits: {labels_per_series: 0}":     "limits.labels_per_series is 0, it must be from 1 to 100",
		"limits: {labels_per_series: 101}":   "limits.labels_per_series is 101",
		"limits: {label_value_bytes: 0}":     "limits.label_value_bytes is 0",
		"limits: {label_value_bytes: 20000}": "limits.label_value_bytes is 20000",
		"limits: {series: 9}":                "limits.series is 9, it must be 0, for no limit, or at least 10",
		"limits: {exemplars: 1000001}":       "limits.exemplars is 1000001",
	} {
		if _, err := ParseSettings([]byte(src), DefaultSettings()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", src, err, want)
		}
	}
}

// What a new tenant's file shows in its comments is what could be set, each field with
// the value that is in force.
func TestSettingsFileShowsEveryLimit(t *testing.T) {
	made := DefaultSettings()
	made.Limits.EventsPerSecond, made.Limits.EventAge = 123, model.Duration(36*time.Hour)
	made.IdleTimeouts = IdleTimeouts{"orders_total": Duration(3 * time.Hour), "app:logins_total": Duration(24 * time.Hour)}
	var shown strings.Builder
	for line := range strings.Lines(string(made.NewFile())) {
		if text, ok := strings.CutPrefix(line, "#   "); ok {
			line = text
		}
		shown.WriteString(line)
	}
	got, err := ParseSettings([]byte(shown.String()), Settings{})
	if err != nil || !got.Equal(&made) {
		t.Errorf("%v: the file shows %+v, want %+v:\n%s", err, got, made, shown.String())
	}
}

// A patch can say every setting, by the same name.
func TestPatchHasEverySetting(t *testing.T) {
	var said, all []string
	for _, f := range settingFields {
		said = append(said, f.name)
	}
	eachField(reflect.TypeFor[Settings](), "", nil, func(name string, _ []int) { all = append(all, name) })
	if !slices.Equal(said, all) {
		t.Errorf("a patch says\n%q\nsettings are\n%q", said, all)
	}
}

// What a patch says it says again after it was written to a file.
func TestPatchFile(t *testing.T) {
	var p Patch
	object := `{"plan": "gold", "grid": "30s", "idle_timeout": "2h", "idle_timeouts": {"a:b": "3h"}, "retention": "30d", "exact_counts": true, "suspended": true,
		"limits": {"series": 100, "event_age": "1d", "query_samples": 5}}`
	fields, err := p.Merge([]byte(object))
	if err != nil || !slices.Equal(fields, []string{"plan", "grid", "idle_timeout", "idle_timeouts", "retention", "exact_counts", "suspended", "limits.series", "limits.event_age", "limits.query_samples"}) {
		t.Errorf("merged %q, %v", fields, err)
	}
	got, err := ParsePatch(p.File(DefaultSettings()))
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%v: read back as\n%s\nwant\n%s", err, got.yaml(), p.yaml())
	}
}

// A merge changes what the object names, forgets what is null, and leaves all as it was
// where anything is wrong.
func TestPatchMerge(t *testing.T) {
	const before = `{"retention": "30d", "limits": {"series": 100, "exemplars": 7}}`
	for _, tc := range []struct{ object, want, err string }{
		{`{}`, "retention: 30d\nlimits:\n  series: 100\n  exemplars: 7\n", ""},
		{`{"retention": "1d"}`, "retention: 1d\nlimits:\n  series: 100\n  exemplars: 7\n", ""},
		{`{"retention": null, "limits": {"series": null, "query_steps": 5}}`, "limits:\n  exemplars: 7\n  query_steps: 5\n", ""},
		{`{"limits": null}`, "retention: 30d\n", ""},
		{`{"retention": "1d", "limit": {}}`, "", "limit is no setting"},
		{`{"limits": {"serie": 1}}`, "", "limits.serie is no setting"},
		{`{"limits": {"limits": null}}`, "", "limits.limits is no setting"},
		{`{"limits": 5}`, "", "limits: a JSON object is needed"},
		{`{"limits": {"series": 1.5}}`, "", "limits.series: 1.5 is not right"},
		{`{"retention": "soon"}`, "", `retention: "soon" is not right`},
		{`[]`, "", "settings: a JSON object is needed"},
		{`{"idle_timeouts": {"a": "soon"}}`, "", `idle_timeouts: {"a": "soon"} is not right`},
		{`{"idle_timeouts": "3h"}`, "", `idle_timeouts: "3h" is not right: a JSON object is needed`},
		{`{} {}`, "", "there is more after the JSON object"},
	} {
		var p Patch
		if _, err := p.Merge([]byte(before)); err != nil {
			t.Fatal(err)
		}
		_, err := p.Merge([]byte(tc.object))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %s", tc.object, err, tc.err)
			}
			tc.want = "retention: 30d\nlimits:\n  series: 100\n  exemplars: 7\n"
		} else if err != nil {
			t.Errorf("%s: %v", tc.object, err)
		}
		if got := string(p.yaml()); got != tc.want {
			t.Errorf("%s: left is\n%s\nwant\n%s", tc.object, got, tc.want)
		}
	}
}

// Each layer is over the one before: flags, defaults, plan, the tenant's own, the
// operator's. The plan is that of the last layer that names one.
func TestPolicyLayers(t *testing.T) {
	patch := func(object string) Patch {
		t.Helper()
		var p Patch
		if _, err := p.Merge([]byte(object)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	flags := DefaultSettings()
	flags.Retention = model.Duration(24 * time.Hour)
	p, err := NewPolicy(flags, Defaults(patch(`{"limits": {"series": 20, "exemplars": 2, "query_steps": 2}, "plan": "free"}`)),
		Plans{"free": patch(`{"limits": {"exemplars": 3, "query_steps": 3}}`), "gold": patch(`{"limits": {"series": 50}}`)},
		Overrides{"pinned": patch(`{"limits": {"query_steps": 5}, "plan": "gold"}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		id, own                  string
		series, exemplars, steps int
		retention                time.Duration
	}{
		{"plain", `{}`, 20, 3, 3, 24 * time.Hour},
		{"own", `{"limits": {"query_steps": 4}, "retention": "2d"}`, 20, 3, 4, 48 * time.Hour},
		{"upgraded", `{"plan": "gold"}`, 50, 2, 2, 24 * time.Hour},
		{"pinned", `{"plan": "free", "limits": {"query_steps": 4, "exemplars": 9}}`, 50, 9, 5, 24 * time.Hour},
		{"none", `{"plan": ""}`, 20, 2, 2, 24 * time.Hour},
	} {
		id, err := Parse(tc.id)
		if err != nil {
			t.Fatal(err)
		}
		own := patch(tc.own)
		s, err := p.Settings(id, &own, 0)
		if l := s.Limits; err != nil || l.Series != tc.series || l.Exemplars != tc.exemplars || l.QuerySteps != int64(tc.steps) || time.Duration(s.Retention) != tc.retention {
			t.Errorf("%s: %+v, %v", tc.id, s, err)
		}
	}
}
