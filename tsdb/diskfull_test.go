//go:build unix

package tsdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

const diskFullChild = "QUIPU_TEST_DISK_FULL"

// Upstream's writers of chunks and index write to the operating system alone. Their
// writes fail here at a limit of file sizes, which a process of its own sets, at
// every stage of a block: the flush or merge says so, nothing is left behind,
// nothing is lost, reads go on, and it succeeds when there is room again.
func TestDiskFullWhileABlockIsWritten(t *testing.T) {
	if os.Getenv(diskFullChild) != "" {
		writeBlocksAtLimits(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), diskFullChild+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// withFileLimit calls f while no file may grow past n bytes.
func withFileLimit(t *testing.T, n uint64, f func() error) error {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = min(n, old.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
		t.Skip(err)
	}
	err := f()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	return err
}

func writeBlocksAtLimits(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	db := openQuiet(t, "", withState)
	s, err := db.store(tenant.Default, true)
	if err != nil {
		t.Fatal(err)
	}
	fill := func(round int) {
		// Long labels, so that the index is larger than what is allocated for chunks.
		long := strings.Repeat("x", 1000)
		b := &increment.Batch{HasKey: true, Key: [16]byte{byte(round)}, State: testChange(round)}
		for i := range 400 {
			b.Increments = append(b.Increments, counterInc("events_total", testStart, 1, "page", fmt.Sprint(long, i)))
		}
		if dup, err := db.Append(context.Background(), tenant.Default, b); err != nil || dup {
			t.Fatal(dup, err)
		}
	}
	// What fails, at every limit up to the first that is enough.
	atLimits := func(what string, work func() error) {
		want := db.stored(tenant.Default)
		stages := map[string]bool{}
		for limit := uint64(1); ; limit = limit*3/2 + 1 {
			if limit > 64<<20 {
				t.Fatalf("%s fails at any limit", what)
			}
			err := withFileLimit(t, limit, work)
			if err := diff(db.stored(tenant.Default), want); err != nil {
				t.Fatalf("%s at a limit of %d: %v", what, limit, err)
			}
			mustHoldOnly(t, s)
			if err == nil {
				t.Logf("%s needs files of %d bytes; it fails in %d ways before", what, limit, len(stages))
				break
			}
			if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "tenant default: ") || !strings.Contains(err.Error(), s.dir) {
				t.Errorf("%s at a limit of %d: %v", what, limit, err)
			}
			first, _, _ := strings.Cut(strings.ReplaceAll(err.Error(), db.dir, ""), "\n")
			if len(first) > 1000 {
				first = first[:100] + "..." + first[len(first)-150:]
			}
			if !stages[first] {
				t.Logf("%s at a limit of %d: %s", what, limit, first)
			}
			stages[first] = true
		}
		if len(stages) < 2 {
			t.Errorf("%s fails in %d ways only: the limits miss stages", what, len(stages))
		}
	}
	flush := func() error { return s.flush(context.Background()) }
	fill(1)
	atLimits("flush", flush)
	deletesAtLimits(t, db, atLimits)
	fill(2)
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	retainsAtLimits(t, db)
	*db.now = testStart.Add(48 * time.Hour)
	atLimits("merge", func() error {
		s.compactAfter = time.Time{}
		return s.compact(context.Background(), *db.now)
	})
	if n := len(s.man.Blocks); n != 1 {
		t.Errorf("%d blocks after the merge", n)
	}
	// Upstream's writers leave files open when they fail, until they are collected.
	for i := 0; ; i++ {
		runtime.GC()
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil || len(open) < 30 {
			break
		}
		if i == 100 {
			t.Fatalf("%d files are open", len(open))
		}
		time.Sleep(10 * time.Millisecond)
	}
	want := db.stored(tenant.Default)
	dir := db.dir
	db = db.reopen(withState)
	if err := diff(db.stored(tenant.Default), want); err != nil || total(want) != 760 {
		t.Errorf("after reopening: %v", err)
	}
	db.mustHave(tenant.Default, 1, 1, 0)
	db.mustHave(tenant.Default, 2, 1, 0)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	mustBeSound(t, dir)
}

// retainsAtLimits removes by rule what is past of another tenant, whose block stays as it
// was until there is room.
func retainsAtLimits(t *testing.T, db *testDB) {
	ctx, id := context.Background(), tenantID(t, "ageing")
	if err := db.CreateTenant(id, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeSettings(id, setting(`{"retention_rules": [{"match": "{page=~\".*7\"}", "retention": "1d"}]}`)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1000)
	for i := range 100 {
		db.mustAppend(id, counterInc("events_total", testStart.Add(-72*time.Hour), 1, "page", fmt.Sprint(long, i)))
	}
	if err := db.Flush(ctx, id); err != nil {
		t.Fatal(err)
	}
	s, want := db.mustStore(id), db.stored(id)
	work := func() error {
		s.byRules.after = time.Time{}
		return s.retainByRules(ctx, *db.now)
	}
	for _, limit := range []uint64{1, 1000, 20_000, 100_000} {
		if err := withFileLimit(t, limit, work); !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "tenant ageing: ") {
			t.Errorf("retention at a limit of %d: %v", limit, err)
		}
		if err := diff(db.stored(id), want); err != nil {
			t.Errorf("retention at a limit of %d: %v", limit, err)
		}
		mustHoldOnly(t, s)
	}
	if err := work(); err != nil {
		t.Error(err)
	}
	if got := total(db.stored(id)); got != 90 {
		t.Errorf("%v events after retention, want 90", got)
	}
}

// deletesAtLimits deletes a series, which a record in the log does, and rewrites the block
// of it, takes a snapshot of the rest and drops another tenant: what has no room fails and
// leaves all as it was.
func deletesAtLimits(t *testing.T, db *testDB, atLimits func(what string, work func() error)) {
	ctx := context.Background()
	page := labels.MustNewMatcher(labels.MatchRegexp, "page", ".*7")
	if _, err := db.Delete(ctx, tenant.Default, 0, testStart.Add(time.Hour).UnixMilli(), page); err != nil {
		t.Fatal(err)
	}
	if got := total(db.stored(tenant.Default)); got != 360 {
		t.Fatalf("%v events after the deletion, want 360", got)
	}
	atLimits("rewriting", func() error { return db.CleanTombstones(ctx, tenant.Default) })
	if s := db.mustStore(tenant.Default); len(s.man.Deletions) > 0 || s.man.Blocks[0].Clean != 1 {
		t.Errorf("after the rewriting: %+v", s.man)
	}
	snapshot := func() error {
		_, err := db.Snapshot(ctx, tenant.Default, false)
		return err
	}
	if err := withFileLimit(t, 10, snapshot); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("snapshot at a limit of 10: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(db.dir, snapshotDirName)); err != nil || len(left) > 0 {
		t.Errorf("a snapshot that failed left %v, %v", left, err)
	}
	if err := snapshot(); err != nil {
		t.Error(err)
	}
	other := tenantID(t, "other")
	db.mustAppend(other, counterInc("events_total", testStart, 1))
	if err := withFileLimit(t, 1, func() error { return db.DropTenant(ctx, other) }); err != nil {
		t.Errorf("drop writes no file: %v", err)
	}
}
