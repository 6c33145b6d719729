package tsdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// fullFS is a file system that gets full: after some more operations that need room each
// of them fails, until there is room again.
type fullFS struct {
	vfs.OS
	mu    sync.Mutex
	full  bool
	left  int // operations until there is no room
	fails int // how many have failed since it was set
}

func (f *fullFS) room(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.full {
		return nil
	}
	if f.left > 0 {
		f.left--
		return nil
	}
	f.fails++
	return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
}

// fill lets n operations pass before the disk is full.
func (f *fullFS) fill(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full, f.left, f.fails = true, n, 0
}

// empty makes room, and returns how many operations had none.
func (f *fullFS) empty() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = false
	return f.fails
}

func (f *fullFS) Create(name string) (vfs.File, error) {
	if err := f.room("open", name); err != nil {
		return nil, err
	}
	file, err := f.OS.Create(name)
	return &fullFile{file, f, name}, err
}

func (f *fullFS) MkdirAll(name string) error {
	if err := f.room("mkdir", name); err != nil {
		return err
	}
	return f.OS.MkdirAll(name)
}

// Rename needs room where a directory must grow.
func (f *fullFS) Rename(from, to string) error {
	if err := f.room("rename", to); err != nil {
		return err
	}
	return f.OS.Rename(from, to)
}

func (f *fullFS) Link(from, to string) error {
	if err := f.room("link", to); err != nil {
		return err
	}
	return f.OS.Link(from, to)
}

type fullFile struct {
	vfs.File
	fs   *fullFS
	name string
}

func (f *fullFile) Write(p []byte) (int, error) {
	if err := f.fs.room("write", f.name); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

// Reserve needs room too.
func (f *fullFile) Reserve(n int) error {
	if err := f.fs.room("write", f.name); err != nil {
		return err
	}
	return f.File.Reserve(n)
}

// fullDisk is a database before an operation: increments of 1 in a block of six days ago
// (env dev and prod), in two blocks of two days ago (prod) and in memory (mem).
type fullDisk struct {
	*testDB
	t   *testing.T
	ctx context.Context
}

func (d *fullDisk) store() *store { return d.mustStore(tenant.Default) }

// rest ends background work: what is done is what the test does.
func (d *fullDisk) rest() {
	d.stop()
	<-d.maintained
}

func (d *fullDisk) set(text string) {
	d.t.Helper()
	if _, err := d.ChangeSettings(tenant.Default, setting(text)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *fullDisk) deleteDev() error {
	_, err := d.Delete(d.ctx, tenant.Default, 0, testStart.UnixMilli(), equal("env", "dev"))
	return err
}

func (d *fullDisk) setup() {
	const day = 24 * time.Hour
	at := func(age time.Duration, envs ...string) {
		for _, env := range envs {
			d.mustAppend(tenant.Default, counterInc("c_total", testStart.Add(-age), 1, "env", env))
		}
	}
	for _, step := range []func(){
		func() { at(6*day, "dev", "prod") }, func() { at(2*day, "prod") }, func() { at(2*day+time.Hour, "prod") },
	} {
		step()
		if err := d.Flush(d.ctx, tenant.Default); err != nil {
			d.t.Fatal(err)
		}
	}
	at(0, "mem")
}

// restoreNewest restores the tenant from the newest snapshot.
func (d *fullDisk) restoreNewest() error {
	all, err := d.Snapshots()
	d.must(err)
	_, err = d.Restore(d.ctx, all[0].Name, tenant.Default, RestoreOptions{Replace: true})
	return err
}

// withID appends an increment with the id of an event.
func (d *fullDisk) withID() error {
	r, err := d.Reserve([][16]byte{eventID(1)})
	if err != nil {
		return err
	}
	_, err = d.Append(d.ctx, tenant.Default, &increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1, "env", "mem")}, Reservation: r})
	return err
}

// fullDiskOps are the operations that write. A new one is a line: what there must be
// before, what is done, and how many increments are left of the 5 when it is.
var fullDiskOps = []struct {
	name    string
	prepare func(*fullDisk) // nil: nothing
	do      func(*fullDisk) error
	left    float64
	done    func(*fullDisk) bool // nil: what is left says it
	// logs: it writes to the log, which takes nothing more until a restart once a write
	// has failed.
	logs bool
}{
	{name: "append", do: func(d *fullDisk) error { return d.withID() }, left: 6, logs: true},
	{name: "flush", do: func(d *fullDisk) error { return d.Flush(d.ctx, tenant.Default) }, left: 5, done: func(d *fullDisk) bool { return d.store().memBytes() == 0 }},
	{name: "logging again", do: func(d *fullDisk) error { _, err := d.store().relog(d.ctx, nil); return err }, left: 5, logs: true},
	{name: "compaction", do: func(d *fullDisk) error { return d.store().compact(d.ctx, *d.now) }, left: 5, done: func(d *fullDisk) bool { return d.store().usage().Blocks == 2 }},
	{name: "retention by age", prepare: func(d *fullDisk) { d.set(`{"retention": "3d"}`) }, do: func(d *fullDisk) error { return d.store().retain(*d.now) }, left: 3},
	{name: "retention by size", prepare: func(d *fullDisk) { d.set(`{"retention_size": 1}`) }, do: func(d *fullDisk) error { return d.store().retain(*d.now) }, left: 2},
	{name: "retention by rule", prepare: func(d *fullDisk) { d.set(`{"retention_rules": [{"match": "{env=\"dev\"}", "retention": "1d"}]}`) }, do: func(d *fullDisk) error { return d.store().retainByRules(d.ctx, *d.now) }, left: 4},
	{name: "retention in memory", prepare: func(d *fullDisk) {
		d.inThreeDays(`{"retention_rules": [{"match": "{env=\"mem\"}", "retention": "1d"}]}`)
	}, do: func(d *fullDisk) error { return d.retainMemory() }, left: 4, logs: true},
	{name: "deletion", do: func(d *fullDisk) error { return d.deleteDev() }, left: 4, logs: true},
	{name: "clean", prepare: func(d *fullDisk) { d.must(d.deleteDev()) }, do: func(d *fullDisk) error { return d.CleanTombstones(d.ctx, tenant.Default) }, left: 4, done: func(d *fullDisk) bool { return len(d.store().man.Deletions) == 0 }},
	{name: "snapshot", do: func(d *fullDisk) error { _, err := d.Snapshot(d.ctx, tenant.Default, false); return err }, left: 5},
	{name: "drop", do: func(d *fullDisk) error { return d.DropTenant(d.ctx, tenant.Default) }, left: 0},
	{name: "making a tenant", do: func(d *fullDisk) error { return d.makeTenant() }, left: 5, done: func(d *fullDisk) bool { return d.has(settingsTenant) }},
	{name: "settings", do: func(d *fullDisk) error {
		_, err := d.ChangeSettings(tenant.Default, setting(`{"idle_timeout": "2h"}`))
		return err
	}, left: 5, done: func(d *fullDisk) bool { return time.Duration(d.store().settings().IdleTimeout) == 2*time.Hour }},
	{name: "erasing users", do: func(d *fullDisk) error { _, err := d.EraseUsers(d.ctx, tenant.Default); return err }, left: 5},
	{name: "downsampling", prepare: func(d *fullDisk) { d.set(`{"downsample": [{"after": "1d", "to": "5m"}]}`) }, do: func(d *fullDisk) error { return d.store().compact(d.ctx, *d.now) }, left: 5, done: func(d *fullDisk) bool {
		return !slices.ContainsFunc(d.store().man.Blocks, func(b blockInfo) bool { return b.Step != 300_000 })
	}},
	{name: "restore", prepare: func(d *fullDisk) { _, err := d.Snapshot(d.ctx, tenant.Default, false); d.must(err) }, do: func(d *fullDisk) error { return d.restoreNewest() }, left: 5},
	{name: "event ids", prepare: func(d *fullDisk) { d.must(d.withID()) }, do: func(d *fullDisk) error { return d.flushIDs() }, left: 6},
}

func (d *fullDisk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *fullDisk) has(id tenant.ID) bool {
	_, err := d.existing(id)
	return err == nil
}

func (d *fullDisk) inThreeDays(settings string) {
	d.set(settings)
	*d.now = d.now.Add(72 * time.Hour)
}

// makeTenant makes one, or opens the one that was made before its key got its name: from
// its manifest on it is there.
func (d *fullDisk) makeTenant() error {
	err := d.CreateTenant(settingsTenant, tenant.Patch{})
	if errors.Is(err, tenant.ErrExists) {
		_, err = d.existing(settingsTenant)
	}
	return err
}

// retainMemory goes by the rules that retainByRules has found in force.
func (d *fullDisk) retainMemory() error {
	s := d.store()
	return errors.Join(s.retainByRules(d.ctx, *d.now), s.retainMemory(d.ctx, *d.now))
}

// Wherever in an operation the disk gets full, it fails and says so, of which file; all
// data, settings and tenants are as they were, to readers and after a restart; and when
// there is room again it is done.
func TestFullDisk(t *testing.T) {
	for _, op := range fullDiskOps {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			disk := &fullFS{}
			options := func(o *Options) { o.FS = disk }
			d := &fullDisk{openTestDB(t, "", options), t, context.Background()}
			d.rest()
			d.setup()
			if op.prepare != nil {
				op.prepare(d)
			}
			reopen := func() {
				now := *d.now
				d.testDB = d.reopen(options)
				d.rest()
				*d.now = now
			}
			want, settings := d.stored(tenant.Default), d.mustSettings()
			asItWas := func(when string) {
				t.Helper()
				if err := diff(d.stored(tenant.Default), want); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				if got := d.mustSettings(); got != settings {
					t.Fatalf("%s: settings %s, were %s", when, got, settings)
				}
			}
			for n := 0; ; n++ {
				disk.fill(n)
				err := op.do(d)
				if fails := disk.empty(); fails == 0 {
					d.must(err)
					t.Logf("it has %d places at which the disk may be full", n)
					if n == 0 {
						t.Error("it needs no room: the file system here misses what it does")
					}
					break
				}
				when := fmt.Sprintf("full after %d operations", n)
				if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), d.dir) {
					t.Fatalf("%s: %v", when, err)
				}
				halted := errors.Is(err, ErrHalfRestored) // it says that a restart finds out
				if !halted {
					asItWas(when)
				}
				if n > 200 {
					t.Fatal("it fails at any number of operations")
				}
				if op.logs || halted || n%4 == 3 {
					reopen()
					asItWas(when + ", after a restart")
				}
				*d.now = d.now.Add(compactRetry)
			}
			for range 2 {
				if got := total(d.stored(tenant.Default)); got != op.left || op.done != nil && !op.done(d) {
					t.Errorf("%v increments when it is done, want %v", got, op.left)
				}
				reopen()
			}
			mustBeSoundAfter(t, d.testDB)
		})
	}
}

// mustSettings are the tenant's settings as text.
func (d *fullDisk) mustSettings() string {
	d.t.Helper()
	s, err := d.Settings(tenant.Default)
	d.must(err)
	return fmt.Sprintf("%+v", s)
}
