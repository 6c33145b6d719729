package main

import (
	"strings"
	"testing"
)

func TestFigureLine(t *testing.T) {
	for _, tc := range []struct {
		f    figure
		want string // fields, one space between
	}{
		{figure{name: "a", value: 1.2, unit: "s", atMost: 1.2}, "a 1.2 s <= 1.2 ok"},
		{figure{name: "a", value: 1.21, unit: "s", atMost: 1.2}, "a 1.21 s <= 1.2 short"},
		{figure{name: "a", value: 25000, unit: "requests/s", atLeast: 25000}, "a 25000 requests/s >= 25000 ok"},
		{figure{name: "a", value: 24999, unit: "requests/s", atLeast: 25000}, "a 24999 requests/s >= 25000 short"},
		{figure{name: "a", value: 5, unit: "ms", note: "of two"}, "a 5 ms - - of two"},
	} {
		var b strings.Builder
		tc.f.write(&b)
		if got := strings.Join(strings.Fields(b.String()), " "); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
