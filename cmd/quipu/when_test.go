package main

import (
	"testing"
	"time"
)

func TestParseInstant(t *testing.T) {
	now := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"now":                       now,
		"now-1h":                    now.Add(-time.Hour),
		"now-1d12h":                 now.Add(-36 * time.Hour),
		"now+90":                    now.Add(90 * time.Second),
		"2015-05-20T22:00:00Z":      time.Date(2015, time.May, 20, 22, 0, 0, 0, time.UTC),
		"2015-05-20T22:00:00+02:00": time.Date(2015, time.May, 20, 20, 0, 0, 0, time.UTC),
		"1432159200":                time.Date(2015, time.May, 20, 22, 0, 0, 0, time.UTC),
		"1432159200.25":             time.Date(2015, time.May, 20, 22, 0, 0, 250e6, time.UTC),
		"-1":                        time.Date(1969, time.December, 31, 23, 59, 59, 0, time.UTC),
	} {
		if got, err := parseInstant(s, now); err != nil || !got.Equal(want) {
			t.Errorf("parseInstant(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yesterday", "now-", "now1h", "now-x", "now*1h", "2015-05-20", "1e300", "NaN", "nowhere"} {
		if got, err := parseInstant(s, now); err == nil {
			t.Errorf("parseInstant(%q) = %v, want an error", s, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"15s": 15 * time.Second, "1h30m": 90 * time.Minute, "1d": 24 * time.Hour, "60": time.Minute, "0.5": 500 * time.Millisecond,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "-5m", "-1", "1x", "NaN", "Inf"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func TestStepForGivesAboutAHundredSteps(t *testing.T) {
	for span, want := range map[time.Duration]time.Duration{
		0:                    time.Second,
		time.Minute:          time.Second,
		time.Hour:            30 * time.Second,
		24 * time.Hour:       15 * time.Minute,
		83 * time.Hour:       time.Hour,
		365 * 24 * time.Hour: 4 * 24 * time.Hour,
	} {
		if got := stepFor(span); got != want {
			t.Errorf("stepFor(%s) = %s, want %s", span, got, want)
		}
	}
	for hours := range 10_000 {
		span := time.Duration(hours) * time.Hour
		if n := span / stepFor(span); n > 120 {
			t.Fatalf("%s has %d steps of %s", span, n, stepFor(span))
		}
	}
}
