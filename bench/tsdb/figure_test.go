package main

import (
	"errors"
	"strings"
	"testing"
)

func TestFigureLine(t *testing.T) {
	run := func(probe string) (results, error) {
		if probe == "broken" {
			return nil, errors.New("disk full")
		}
		return results{"cpu_ns": 150, "wall_s": 0.25}, nil
	}
	for _, tc := range []struct {
		name string
		f    figure
		want string // fields, one space between
	}{
		{"within its bound", figure{name: "a", unit: "ns", ours: source{"p", "cpu_ns"}, atMost: 150}, "a 150 ns <= 150 ok"},
		{"past its bound", figure{name: "a", unit: "ns", ours: source{"p", "cpu_ns"}, atMost: 149}, "a 150 ns <= 149 short"},
		{"bound of less work", figure{name: "a", unit: "s", ours: source{"p", "wall_s"}, atMost: 1, scaled: true}, "a 0.25 s <= 0.2 short"},
		{"only reported", figure{name: "a", unit: "s", ours: source{"p", "wall_s"}}, "a 0.25 s - -"},
		{"beside upstream", figure{name: "a", unit: "ns", ours: source{"p", "cpu_ns"}, upstr: source{"p", "cpu_ns"}}, "a 150 ns - - 150, ratio 1.00"},
		{"upstream failed", figure{name: "a", unit: "ns", ours: source{"p", "cpu_ns"}, upstr: source{"broken", "x"}}, "a 150 ns - - upstream not measured: disk full"},
		{"failed", figure{name: "a", ours: source{"broken", "x"}, atMost: 1}, "a not measured: disk full"},
		{"no such result", figure{name: "a", ours: source{"p", "x"}}, `a not measured: probe p has no result "x"`},
	} {
		var b strings.Builder
		tc.f.write(&b, 0.2, run)
		if got := strings.Join(strings.Fields(b.String()), " "); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// TestFiguresHaveProbes: each figure names a probe that there is.
func TestFiguresHaveProbes(t *testing.T) {
	for _, f := range figures() {
		for _, s := range []source{f.ours, f.upstr} {
			if _, ok := probes[s.probe]; !ok && s != (source{}) {
				t.Errorf("figure %s is measured by probe %q, which does not exist", f.name, s.probe)
			}
		}
	}
}
