package tsdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// blockDirs are the directories of a tenant's blocks, the oldest first.
func (d *testDB) blockDirs(id tenant.ID) (out []string) {
	d.t.Helper()
	found, err := filepath.Glob(filepath.Join(d.dir, id.String(), "*", blockMetaName))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range found {
		out = append(out, filepath.Dir(f))
	}
	return out
}

// With a file of a block missing, what needs it fails and names it, while the block
// of another range answers, the tenant takes new series, and others go on.
func TestMissingFileOfABlock(t *testing.T) {
	index, first := blockIndex, filepath.Join(blockChunks, chunkFileName(0))
	for _, c := range []struct {
		missing        string
		more           bool // a second chunk file is there
		selects, lists string
	}{
		{missing: index, selects: index, lists: index},
		{missing: first, selects: first, lists: first},
		{missing: first, more: true, selects: first, lists: first},
		{missing: blockChunks, selects: blockChunks, lists: blockChunks},
		{missing: blockMetaName}, // only merging needs it
	} {
		t.Run(fmt.Sprint(c.missing, " ", c.more), func(t *testing.T) {
			db := openTestDB(t, "", nil)
			other := tenantID(t, "other")
			db.blockOf(tenant.Default, "page", "/old")
			db.blockOf(other)
			dir := db.blockDirs(tenant.Default)[0]
			*db.now = testStart.Add(96 * time.Hour)
			db.mustAppend(tenant.Default, counterInc("events_total", *db.now, 1, "page", "/new"))
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			now := *db.now
			db.DB = nil
			path := filepath.Join(dir, c.missing)
			if c.more {
				if err := os.Rename(path, filepath.Join(dir, blockChunks, chunkFileName(1))); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			_, problems, err := Check(context.Background(), db.dir)
			if err != nil || len(problems) == 0 || !strings.Contains(fmt.Sprint(problems), c.missing) {
				t.Errorf("check: %v, %v", problems, err)
			}
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			db = openTestDB(t, db.dir, func(o *Options) {
				o.Logger, o.Registerer = slog.New(slog.NewTextHandler(&log, nil)), reg
			})
			*db.now = now
			says := func(what string, err error, want string) {
				t.Helper()
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), filepath.Join(dir, want)) {
					t.Errorf("%s: %v, want an error with %q", what, err, want)
				}
			}
			for range 2 {
				q := db.querier(t, tenant.Default, testStart.Add(-time.Hour), testStart.Add(time.Hour))
				says("select", q.Select(q.ctx, false, nil, everyEvent()).Err(), c.selects)
				_, _, err = q.LabelValues(q.ctx, "page", nil)
				says("label values", err, c.lists)
				_, _, err = q.LabelNames(q.ctx, nil)
				says("label names", err, c.lists)
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}
			q := db.querier(t, tenant.Default, now.Add(-time.Hour), now.Add(time.Hour))
			if n := countSamples(t, q.Select(q.ctx, false, nil, everyEvent())); n == 0 {
				t.Error("no samples of the block that is whole")
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			db.mustAppend(tenant.Default, counterInc("events_total", now, 1, "page", "/newer"))
			if _, err := db.Append(context.Background(), tenant.Default, &increment.Batch{Increments: []increment.Increment{histInc(now, 1)}}); err != nil {
				t.Error(err)
			}
			if got := total(db.stored(other)); got != 1 {
				t.Errorf("%v events of the other tenant, want 1", got)
			}
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Error(err)
			}
			if n := strings.Count(log.String(), "a block is damaged"); n != 1 || gauge(t, reg, "quipu_tsdb_block_damage_total") != 1 {
				t.Errorf("it was logged %d times: %s", n, log.String())
			}
		})
	}
}

// A lack of descriptors is no damage: it is not taken for one, and passes.
func TestLackOfDescriptorsIsNoDamage(t *testing.T) {
	for err, want := range map[error]bool{
		errors.New("invalid checksum"): true,
		os.ErrNotExist:                 true,
		&os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}: true,
		&os.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}: false,
		fmt.Errorf("mmap: %w", syscall.ENOMEM):                    false,
		fmt.Errorf("mmap, size 0: %w", syscall.EINVAL):            true,
		context.Canceled: false,
		errReaderClosed:  false,
	} {
		if got := isDamage(err); got != want {
			t.Errorf("%v: damage %v, want %v", err, got, want)
		}
	}
}

// Files that cannot be read, though they are there, are named; what does not need
// them goes on, and nothing of them is removed.
func TestReadErrorsAreNamed(t *testing.T) {
	errRead := syscall.EIO
	for _, c := range []struct{ name, opens, merges string }{
		{manifestName, manifestName, manifestName},
		{settingsName, settingsName, settingsName},
		{idKeyName, idKeyName, idKeyName},
		{keySuffix, keySuffix, keySuffix},
		{blockMetaName, "", blockMetaName},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, other := smallBlocks(t)
			fault := &hookFS{hook: func(op, name string) error {
				if op == "read" && strings.HasSuffix(name, c.name) && strings.Contains(name, "/default/") {
					return &os.PathError{Op: "read", Path: name, Err: errRead}
				}
				return nil
			}}
			db := openTestDB(t, dir, func(o *Options) { o.FS = fault })
			s, err := db.store(tenant.Default, false)
			if (err == nil) != (c.opens == "") || err != nil && (!errors.Is(err, errRead) || !strings.Contains(err.Error(), c.opens)) {
				t.Fatalf("open tenant: %v", err)
			}
			if s != nil {
				*db.now = testStart.Add(48 * time.Hour)
				if err := s.compact(context.Background(), *db.now); !errors.Is(err, errRead) || !strings.Contains(err.Error(), c.merges) {
					t.Errorf("merge: %v", err)
				}
				mustKeepBlocks(t, db, 2)
			}
			if got := total(db.stored(other)); got != 2 {
				t.Errorf("%v events of the other tenant, want 2", got)
			}
			fault.setHook(nil)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db.DB = nil
			mustBeSound(t, dir)
		})
	}
}

func mustKeepBlocks(t *testing.T, db *testDB, n int) {
	t.Helper()
	if dirs := db.blockDirs(tenant.Default); len(dirs) != n {
		t.Errorf("%d blocks are there, want %d", len(dirs), n)
	}
}

// A file that is cut short, or whose disk fails, while it is mapped ends no process:
// what reads it is told, and all others go on.
func TestMappedFileThatIsCutShort(t *testing.T) {
	for _, file := range []string{blockIndex, filepath.Join(blockChunks, chunkFileName(0))} {
		t.Run(file, func(t *testing.T) {
			dir, other := smallBlocks(t)
			db, err := openLax(t, dir, flipsNow)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			for _, id := range []tenant.ID{tenant.Default, other} {
				if _, err := db.ask(id); err != nil { // they are open now
					t.Fatal(err)
				}
			}
			q := db.querier(t, tenant.Default, testStart.Add(-2*time.Hour), flipsNow)
			set := q.Select(q.ctx, false, nil, everyEvent())
			for _, b := range db.blockDirs(tenant.Default) {
				if err := os.Truncate(filepath.Join(b, file), 0); err != nil {
					t.Fatal(err)
				}
			}
			failed := 0
			for set.Next() {
				if set.At().Iterator(nil).Err() != nil {
					failed++
				}
			}
			if (failed > 0) != (file != blockIndex) {
				t.Errorf("%d series could not be read on", failed)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			if _, err := db.ask(tenant.Default); err == nil || !strings.Contains(err.Error(), "mapped file") {
				t.Errorf("query: %v", err)
			}
			s, err := db.store(tenant.Default, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.compactOnce(context.Background(), testStart.Add(48*time.Hour)); err == nil || !strings.Contains(err.Error(), "mapped file") {
				t.Errorf("merge: %v", err)
			}
			mustKeepBlocks(t, db, 2)
			db.mustAppend(tenant.Default, counterInc("new_total", testStart, 1))
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Error(err)
			}
			if _, err := db.ask(other); err != nil {
				t.Error(err)
			}
		})
	}
}
