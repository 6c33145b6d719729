package tenant

import (
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
	if got != want {
		t.Errorf("settings are %+v, want %+v", got, want)
	}
	if got, err := ParseSettings([]byte("# nothing\n"), defaults); err != nil || got != defaults {
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
	var shown strings.Builder
	for line := range strings.Lines(string(made.NewFile())) {
		if text, ok := strings.CutPrefix(line, "#   "); ok {
			line = text
		}
		shown.WriteString(line)
	}
	got, err := ParseSettings([]byte(shown.String()), Settings{})
	if err != nil || got != made {
		t.Errorf("%v: the file shows %+v, want %+v:\n%s", err, got, made, shown.String())
	}
}
