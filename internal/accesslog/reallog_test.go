package accesslog

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"
)

// TestParseWholeLog recounts a real log with strings.Fields, which is right for
// it because its first ten fields never hold a space or an escape, and wants
// the parser to have seen the same.
func TestParseWholeLog(t *testing.T) {
	content, err := os.ReadFile("../../testdata/access_log_2015.log")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if len(lines) != 10_000 {
		t.Fatalf("the log has %d lines, want 10000", len(lines))
	}
	type counts map[string]int
	got := map[string]counts{"status": {}, "hour": {}, "page": {}, "address": {}, "method": {}, "bytes": {}}
	want := map[string]counts{"status": {}, "hour": {}, "page": {}, "address": {}, "method": {}, "bytes": {}}
	for i, line := range lines {
		e, err := Parse([]byte(line))
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		got["status"][e.Status]++
		got["hour"][time.UnixMilli(e.TimeMillis).UTC().Format("02/Jan/2006:15")]++
		got["page"][e.Target]++
		got["address"][e.Address]++
		got["method"][e.Method]++
		got["bytes"]["sum"] += int(max(e.Bytes, 0))

		f := strings.Fields(line)
		want["status"][f[8]]++
		want["hour"][f[3][1:15]]++
		want["page"][f[6]]++
		want["address"][f[0]]++
		want["method"][f[5][1:]]++
		want["bytes"]["sum"] += decimal(f[9])
	}
	for kind := range want {
		if !maps.Equal(got[kind], want[kind]) {
			t.Errorf("by %s: parsed %d values, the file has %d, or their counts differ", kind, len(got[kind]), len(want[kind]))
		}
	}
	if n := len(got["address"]); n != 1753 {
		t.Errorf("%d client addresses, want 1753", n)
	}
}

// decimal reads a number, and "-" as 0.
func decimal(s string) int {
	n := 0
	for _, c := range strings.TrimPrefix(s, "-") {
		n = n*10 + int(c-'0')
	}
	return n
}
