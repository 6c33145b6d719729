package importer

import (
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/accesslog"
)

func TestProgress(t *testing.T) {
	step := func(terminal bool, total int64) string {
		clock := &fakeClock{at: logStart}
		var out strings.Builder
		p := NewProgress(&out, terminal, clock.now)
		p.expect(total)
		b := &batch{first: 1, last: 1000, events: make([]accesslog.Event, 990), storedBytes: 250}
		clock.at = clock.at.Add(10 * time.Second)
		p.add(b)
		p.add(b) // too soon for another look
		p.Printf("access.log:%d: not counted", 7)
		p.finish()
		return out.String()
	}
	for _, tc := range []struct {
		name     string
		terminal bool
		total    int64
		want     string
	}{
		{"terminal", true, 1000, "[######..................]  25%  1,000 lines  99 events/s\r\x1b[Kaccess.log:7: not counted\n"},
		{"terminal, size unknown", true, 0, "1,000 lines  99 events/s\r\x1b[Kaccess.log:7: not counted\n"},
		{"log file", false, 1000, " 25%  1,000 lines  99 events/s\naccess.log:7: not counted\n"},
	} {
		if got := step(tc.terminal, tc.total); got != tc.want {
			t.Errorf("%s\n got %q\nwant %q", tc.name, got, tc.want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}
