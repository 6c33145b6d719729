package tenant

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestDownsampleRulesAreValidated(t *testing.T) {
	for text, want := range map[string]string{
		"[]": "",
		"[{after: 30d, to: 5m}, {after: 180d, to: 1h}]":            "",
		"[{after: 30d, to: 5m}, {after: 20d, to: 1h}]":             "downsample[1].after is 20d, it must be more than that of the rule before (30d)",
		"[{after: 1h, to: 5m}]":                                    "downsample[0].after is 1h, it must be at least 1d",
		"[{to: 5m}]":                                               "downsample[0].after is 0s",
		"[{after: 30d}]":                                           "downsample[0].to is 0s, it must be a multiple of the step before (15s)",
		"[{after: 30d, to: 15s}]":                                  "downsample[0].to is 15s, it must be a multiple of the step before (15s) and more",
		"[{after: 30d, to: 20s}]":                                  "downsample[0].to is 20s, it must be a multiple of the step before (15s)",
		"[{after: 30d, to: 5m}, {after: 60d, to: 8m}]":             "downsample[1].to is 8m, it must be a multiple of the step before (5m)",
		"[{after: 30d, to: 1h}, {after: 60d, to: 2h}]":             "downsample[1].to is 2h, it must be at most the idle_timeout (1h)",
		"[{after: 30d, to: 7m}]":                                   "downsample[0].to is 7m, it must divide a day",
		"[{after: 30d, to: 5m, from: 1m}]":                         "line 1: field from not found",
		"[" + strings.Repeat("{after: 30d, to: 5m},", 9) + "]":     "downsample has 9 rules, it may have at most 8",
		"[{after: 30d, to: 5m}]\nidle_timeout: 1m":                 "downsample[0].to is 5m, it must be at most the idle_timeout (1m)",
		"[{after: 30d, to: 6h}]\nidle_timeout: 12h\ngrid: 1h":      "",
		"[{after: 30d, to: 5m}, {after: 180d, to: 3h}]\ngrid: 10m": "downsample[0].to is 5m, it must be a multiple of the step before (10m)",
	} {
		_, err := ParseSettings([]byte("downsample: "+text), DefaultSettings())
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

func TestDownsampleIsMergedAsOneField(t *testing.T) {
	var p Patch
	if _, err := p.Merge([]byte(`{"downsample": [{"after": "30d", "to": "5m"}]}`)); err != nil {
		t.Fatal(err)
	}
	s, err := (&Policy{Defaults: DefaultSettings()}).Settings(ID{}, &p, 0)
	if err != nil || len(s.Downsample) != 1 || s.Downsample.String() != `[{"after":"30d","to":"5m"}]` {
		t.Fatalf("settings have %v, error %v", s.Downsample, err)
	}
	again, err := ParsePatch(p.File(s))
	if err != nil || again.Downsample == nil || again.Downsample.String() != s.Downsample.String() {
		t.Fatalf("the file says %+v, error %v", again.Downsample, err)
	}
	if _, err := p.Merge([]byte(`{"downsample": [{"after": "30d", "to": "5m", "at": 1}]}`)); err == nil || !strings.Contains(err.Error(), "downsample") {
		t.Errorf("an unknown field gives error %v", err)
	}
	if got, err := FieldJSON("downsample", `[{after: 30d, to: 5m}]`); err != nil || string(got) != `[{"after":"30d","to":"5m"}]` {
		t.Errorf("as YAML: %s, %v", got, err)
	}
	if got, err := FieldJSON("downsample", `[{after: 30d`); err == nil || !strings.Contains(err.Error(), "downsample") {
		t.Errorf("half of it: %s, %v", got, err)
	}
	value, err := FieldJSON("downsample", `[{"after":"30d","to":"5m"}]`)
	if err != nil || !json.Valid(value) {
		t.Errorf("as a command has it: %s, error %v", value, err)
	}
	if _, err := p.Merge([]byte(`{"downsample": null}`)); err != nil || p.Downsample != nil {
		t.Errorf("after null it is %v, error %v", p.Downsample, err)
	}
}

// A default that a tenant's grid or idle timeout does not allow is not its.
func TestDefaultDownsampleFollowsTheGrid(t *testing.T) {
	grid, rules := Duration(10*time.Minute), DownsampleRules{{After: Duration(48 * time.Hour), To: Duration(5 * time.Minute)}, {After: Duration(72 * time.Hour), To: Duration(time.Hour)}}
	p, err := NewPolicy(DefaultSettings(), Defaults{Downsample: &rules}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Settings(ID{}, &Patch{Grid: &grid}, 0)
	if err != nil || len(s.Downsample) != 1 || s.Downsample[0] != rules[1] {
		t.Fatalf("on a grid of 10m it is %v, error %v", s.Downsample, err)
	}
	if err := (Plans{"gold": {Downsample: &DownsampleRules{{After: Duration(48 * time.Hour), To: Duration(6 * time.Hour)}}}}).Validate(); err != nil {
		t.Errorf("a plan of which a tenant may be that has the idle timeout for it: %v", err)
	}
}

func TestDownsampleStepByAge(t *testing.T) {
	day := 24 * time.Hour
	s := Settings{Downsample: DownsampleRules{{After: Duration(30 * day), To: Duration(5 * time.Minute)}, {After: Duration(180 * day), To: Duration(time.Hour)}}}
	now := time.UnixMilli(1_700_000_000_000)
	for age, want := range map[time.Duration]time.Duration{
		0: 0, 30*day - 1: 0, 30 * day: 5 * time.Minute, 179 * day: 5 * time.Minute, 180 * day: time.Hour, 1000 * day: time.Hour,
	} {
		if got := s.DownsampleStep(now.Add(-age), now); got != want.Milliseconds() {
			t.Errorf("after %s the step is %d ms, want %s", age, got, want)
		}
	}
}
