package importer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func shiftOptions(o *Options, dir string, now time.Time, files ...string) {
	o.Files, o.ShiftToNow, o.Now, o.StateDir, o.Target = files, true, now, dir, "http://server\x00tenant"
}

func TestShiftMovesTheNewestLineToNow(t *testing.T) {
	s := newFakeServer(t)
	// The newest line, 40, is not the last one.
	file := writeFile(t, "access.log", logLines(11, 40)+logLines(1, 10))
	now := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	if _, err := importInto(t.Context(), s, io.Discard, func(o *Options) { shiftOptions(o, dir, now, file) }); err != nil {
		t.Fatalf("Run: %v", err)
	}
	s.wantEachOnce(t, 40)
	for i := 1; i <= 40; i++ {
		want := now.Add(time.Duration(i-40) * time.Second).UnixMilli()
		if got := s.times[fmt.Sprintf("/%d", i)]; got != want {
			t.Errorf("line %d is of %d, want %d", i, got, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the completed import leaves %v, %v", left, err)
	}
}

func TestShiftIsTheSameWhenResumed(t *testing.T) {
	s := newFakeServer(t)
	file := writeFile(t, "access.log", logLines(1, 60))
	dir := t.TempDir()
	ctx, interrupt := context.WithCancel(t.Context())
	s.fault = func(w http.ResponseWriter, n int, _ bool) bool {
		if n < 3 {
			return false
		}
		interrupt()
		hangUp(w)
		return true
	}
	first := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	if _, err := importInto(ctx, s, io.Discard, func(o *Options) { shiftOptions(o, dir, first, file) }); err == nil {
		t.Fatal("the interrupted import reports no error")
	}
	s.mu.Lock()
	s.fault = nil
	s.mu.Unlock()
	later := first.Add(3 * time.Hour)
	var stderr strings.Builder
	if _, err := importInto(t.Context(), s, &stderr, func(o *Options) { shiftOptions(o, dir, later, file) }); err != nil {
		t.Fatalf("Run again: %v", err)
	}
	if !strings.Contains(stderr.String(), "resuming") {
		t.Errorf("stderr does not say that the import is resumed: %q", stderr.String())
	}
	s.wantEachOnce(t, 60)
	for i := 1; i <= 60; i++ {
		want := first.Add(time.Duration(i-60) * time.Second).UnixMilli()
		if got := s.times[fmt.Sprintf("/%d", i)]; got != want {
			t.Errorf("line %d is of %d, want %d", i, got, want)
		}
	}
}

func TestShiftIsKeptPerServerTenantAndContent(t *testing.T) {
	base := newShiftState("dir", "http://a\x00t", "content")
	for name, other := range map[string]shiftState{
		"server":  newShiftState("dir", "http://b\x00t", "content"),
		"tenant":  newShiftState("dir", "http://a\x00u", "content"),
		"content": newShiftState("dir", "http://a\x00t", "other"),
	} {
		if other == base {
			t.Errorf("another %s has the same state", name)
		}
	}
}

func TestShiftReadsStandardInputTwice(t *testing.T) {
	s := newFakeServer(t)
	_, err := importInto(t.Context(), s, io.Discard, func(o *Options) {
		shiftOptions(o, t.TempDir(), logStart.Add(time.Hour), stdinName)
		o.Stdin = strings.NewReader(logLines(1, 20))
	})
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	s.wantEachOnce(t, 20)
	if got, want := s.times["/20"], logStart.Add(time.Hour).UnixMilli(); got != want {
		t.Errorf("the newest line is of %d, want %d", got, want)
	}
}

func TestShiftOfALogWithoutTimesIsAnError(t *testing.T) {
	s := newFakeServer(t)
	file := writeFile(t, "error.log", "no\nhits\n")
	if _, err := importInto(t.Context(), s, io.Discard, func(o *Options) { shiftOptions(o, t.TempDir(), logStart, file) }); err == nil {
		t.Error("a log without a time was shifted")
	}
}
