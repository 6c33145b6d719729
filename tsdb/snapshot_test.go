package tsdb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/tenant"
)

func (d *testDB) mustSnapshot(id tenant.ID, skipHead bool) (dir string) {
	d.t.Helper()
	name, err := d.Snapshot(context.Background(), id, skipHead)
	if err != nil {
		d.t.Fatal(err)
	}
	return filepath.Join(d.dir, snapshotDirName, name)
}

// A snapshot is a data directory: it answers what its tenant answered, sound and whole,
// whatever becomes of that; without the head it has the blocks, and with the log beside it
// the rest too.
func TestSnapshot(t *testing.T) {
	db := openQuiet(t, "", nil)
	db.fillKinds()
	db.mustFlush(tenant.Default)
	db.mustDelete(tenant.Default, testStart.Add(-time.Hour), testStart, equal("page", "/a"))
	blocks, err := db.ask(tenant.Default)
	if err != nil {
		t.Fatal(err)
	}
	db.mustAppend(tenant.Default, everyKind("/later", testStart.Add(-time.Minute))...)
	if err := os.WriteFile(filepath.Join(db.dir, "default", tenant.EventRulesFile), []byte("metrics: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	recording := filepath.Join("default", tenant.RulesDir, "shop.yaml")
	if err := errors.Join(os.Mkdir(filepath.Join(db.dir, filepath.Dir(recording)), 0o700), os.WriteFile(filepath.Join(db.dir, recording), []byte("groups: []\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	all, err := db.ask(tenant.Default)
	if err != nil {
		t.Fatal(err)
	}
	headless := db.mustSnapshot(tenant.Default, true)
	withLog := filepath.Join(t.TempDir(), "with-log")
	if err := errors.Join(os.CopyFS(withLog, os.DirFS(headless)), os.CopyFS(filepath.Join(withLog, walDirName), os.DirFS(filepath.Join(db.dir, walDirName)))); err != nil {
		t.Fatal(err)
	}
	whole := db.mustSnapshot(tenant.Default, false)
	if headless == whole || !strings.HasPrefix(filepath.Base(whole), testStart.Format("20060102T150405Z-")) {
		t.Errorf("snapshots %s and %s", headless, whole)
	}
	rules := filepath.Join("default", tenant.EventRulesFile)
	if src, err := os.ReadFile(filepath.Join(whole, rules)); err != nil || string(src) != "metrics: []\n" {
		t.Errorf("event rules: %q, %v", src, err)
	}
	if src, err := os.ReadFile(filepath.Join(whole, recording)); err != nil || string(src) != "groups: []\n" {
		t.Errorf("recording rules: %q, %v", src, err)
	}
	// What is changed where it is must not change there.
	if err := os.WriteFile(filepath.Join(db.dir, rules), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	db.mustDrop(tenant.Default)
	for dir, want := range map[string]string{whole: all, headless: blocks, withLog: all} {
		mustBeSound(t, dir)
		for range 2 {
			then := openTestDB(t, dir, nil)
			got, err := then.ask(tenant.Default)
			if err != nil || got != want {
				t.Errorf("%s answers otherwise: %v", filepath.Base(dir), err)
			}
			if err := then.Close(); err != nil {
				t.Fatal(err)
			}
			then.DB = nil
		}
		mustBeSound(t, dir)
	}
	if src, err := os.ReadFile(filepath.Join(whole, rules)); err != nil || string(src) != "metrics: []\n" {
		t.Errorf("event rules after they were changed: %q, %v", src, err)
	}
}

// linkFS calls a hook before each link.
type linkFS struct {
	hookFS
	link func() error
}

func (f *linkFS) Link(from, to string) error {
	if f.link != nil {
		if err := f.link(); err != nil {
			return err
		}
	}
	return f.hookFS.Link(from, to)
}

// Whichever file is being linked, appends go on; and where one cannot be, nothing is left
// of the snapshot.
func TestSnapshotBesideAppends(t *testing.T) {
	fs := &linkFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fs })
	db.fillKinds()
	links := 0
	fs.link = func() error {
		links++
		db.mustAppend(tenant.Default, counterInc("events_total", testStart, 1, "page", "/beside"))
		return nil
	}
	want := db.stored(tenant.Default)
	dir := db.mustSnapshot(tenant.Default, false)
	if links < 3 {
		t.Errorf("%d links", links)
	}
	then := openTestDB(t, dir, nil)
	if err := diff(then.stored(tenant.Default), want); err != nil {
		t.Error(err)
	}
	fails := links
	fs.link = func() error {
		if fails--; fails == 0 {
			return errInjected
		}
		return nil
	}
	if _, err := db.Snapshot(context.Background(), tenant.Default, false); !errors.Is(err, errInjected) {
		t.Errorf("a link that fails: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(db.dir, snapshotDirName)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An unfinished snapshot goes at the next start.
func TestUnfinishedSnapshotsGo(t *testing.T) {
	db := openTestDB(t, "", nil)
	db.fillKinds()
	dir := db.mustSnapshot(tenant.Default, false)
	if err := os.Rename(dir, dir+".tmp"); err != nil {
		t.Fatal(err)
	}
	db.reopen(nil)
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
