package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// parseInstant reads an instant as it is written on the command line: RFC 3339,
// seconds since 1970, "now", or "now-1h30m" and "now+5m".
func parseInstant(s string, now time.Time) (time.Time, error) {
	if rest, ok := strings.CutPrefix(s, "now"); ok {
		if rest == "" {
			return now, nil
		}
		if d, err := parseDuration(rest[1:]); err == nil && rest[0] == '-' {
			return now.Add(-d), nil
		} else if err == nil && rest[0] == '+' {
			return now.Add(d), nil
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	// Out to the year 9999; beyond it milliseconds and nanoseconds overflow.
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 253402300800 {
		return time.UnixMilli(int64(math.Round(seconds * 1000))), nil
	}
	return time.Time{}, fmt.Errorf("time %q is not RFC 3339 (2015-05-20T22:00:00Z), not seconds since 1970, and not like now-1h", s)
}

// parseDuration reads "1h30m" or "1d" as PromQL does, or seconds.
func parseDuration(s string) (time.Duration, error) {
	if d, err := model.ParseDuration(s); err == nil {
		return time.Duration(d), nil
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return 0, fmt.Errorf("duration %q is not like 30s, 5m, 1h30m or 1d, and not seconds", s)
}

// steps are the round steps that a range query takes when none is given.
var steps = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// stepFor returns a round step of which a range has about a hundred.
func stepFor(span time.Duration) time.Duration {
	const stepsMax = 120
	for _, step := range steps {
		if span/step <= stepsMax {
			return step
		}
	}
	day := 24 * time.Hour
	return (span/stepsMax/day + 1) * day
}
