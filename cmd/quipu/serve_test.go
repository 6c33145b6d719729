package main

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

func TestIdleTimeoutFollowsTheGrid(t *testing.T) {
	for grid, want := range map[time.Duration]time.Duration{
		15 * time.Second: time.Hour,
		5 * time.Minute:  time.Hour,
		time.Hour:        time.Hour,
		40 * time.Minute: 80 * time.Minute,
		2 * time.Hour:    2 * time.Hour,
	} {
		s, err := (&serveDefaults{Grid: model.Duration(grid)}).settings()
		if err != nil || time.Duration(s.IdleTimeout) != want {
			t.Errorf("grid %s: idle timeout %s, %v; want %s", grid, s.IdleTimeout, err, want)
		}
	}
}

// What is refused is refused before anything is made or listened on, and the
// message names the flag that was given.
func TestServeNamesTheFlagThatItRefuses(t *testing.T) {
	for _, tc := range []struct{ flag, want string }{
		{"--grid=7s", "--grid: grid is 7s"},
		{"--grid=0s", "--grid: grid is 0s"},
		{"--grid=500ms", "--grid: grid is 500ms"},
		{"--grid=3h", "--grid: grid is 3h"},
		{"--wal.fsync=interval --wal.fsync-interval=2m", "--wal.fsync-interval is 2m, it must be"},
		{"--tenant.header=bad header", `--tenant.header="bad header" is not the name of a header`},
		{"--tenant.header=X-Scope-OrgID:", `--tenant.header="X-Scope-OrgID:" is not the name of a header`},
		{"--tenant.header=host", "--tenant.header=host: the host is a part"},
	} {
		args := []string{"serve", "--data.dir=" + t.TempDir(), "--listen=127.0.0.1:0", tc.flag}
		if first, second, ok := strings.Cut(tc.flag, " --"); ok {
			args = append(args[:3], first, "--"+second)
		}
		got := runCommand(t, "", args...)
		if got.status != 1 || !strings.HasPrefix(got.err, "quipu: "+tc.want) {
			t.Errorf("serve %s left %+v, want %q", tc.flag, got, tc.want)
		}
	}
	if err := (&serveCmd{TenantHeader: "X-Scope-OrgID"}).checkTenantHeader(); err != nil {
		t.Error(err)
	}
	if _, err := (&serveDefaults{Grid: model.Duration(15 * time.Second), Retention: -1}).settings(); err == nil || !strings.HasPrefix(err.Error(), "--retention: ") {
		t.Errorf("a negative retention: %v", err)
	}
}

// The cache has a least size, below which fastcache would take that much all the same.
func TestCacheFlag(t *testing.T) {
	for text, want := range map[string]cacheFlag{"0": 0, "32MiB": 32 << 20, "1GiB": 1 << 30, "31MiB": -1, "0MiB": -1, "much": -1} {
		var got cacheFlag
		err := got.UnmarshalText([]byte(text))
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("--query.cache=%s is %d, %v, want %d", text, got, err, want)
		}
	}
}
