package tsdb

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb/dedup"
)

// Problem is one thing that is wrong in a data directory.
type Problem struct {
	Path string // file or directory, below the data directory
	What string
}

func (p Problem) String() string { return p.Path + ": " + p.What }

// CheckSummary says what a check looked at.
type CheckSummary struct {
	Tenants, Blocks, Series, Chunks, Windows int
	Segments, Records                        int
	Keys, EventIDs                           int
	// Leftovers are what a crash left behind: they do no harm and go when the
	// directory is opened. A torn last log record is one.
	Leftovers []string
}

// Check verifies what a data directory holds, without changing it: checksums,
// order, index against chunks, manifests against blocks, the log, and that every
// record is of a known tenant. The error is of the check itself, such as a
// directory that a server has open; what is wrong with the data are problems. What State
// has saved, and what batches change of it, is for state to judge, where it is given.
func Check(ctx context.Context, dir string, state ...func(saved []byte) error) (CheckSummary, []Problem, error) {
	c := &checker{ctx: ctx, dir: dir, state: state, fs: vfs.OS{}, blocks: newBlockCache(1, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry())), generations: map[tenant.ID]*manifest{}, lost: map[tenant.ID]bool{}}
	_, lock, err := lockOffline(dir)
	if err != nil {
		return c.sum, nil, err
	}
	err = errors.Join(c.run(), lock.Release())
	return c.sum, c.problems, err
}

type checker struct {
	ctx      context.Context
	dir      string
	fs       vfs.FS
	sum      CheckSummary
	problems []Problem
	blocks   *blockCache
	state    []func(saved []byte) error

	generations map[tenant.ID]*manifest // nil: unreadable
	lost        map[tenant.ID]bool      // without a manifest, though they were in use if the log has records
}

func (c *checker) problem(path, format string, args ...any) {
	if rel, err := filepath.Rel(c.dir, path); err == nil {
		path = rel
	}
	c.problems = append(c.problems, Problem{path, fmt.Sprintf(format, args...)})
}

func (c *checker) leftover(path string) {
	if rel, err := filepath.Rel(c.dir, path); err == nil {
		path = rel
	}
	c.sum.Leftovers = append(c.sum.Leftovers, path)
}

func (c *checker) run() error {
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", c.dir, err)
	}
	for _, e := range entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(c.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), droppedPrefix), strings.HasPrefix(e.Name(), restoringPrefix), strings.HasPrefix(e.Name(), restoredPrefix):
			c.leftover(path)
		case e.Name() == snapshotDirName: // each is a directory to check of its own
			names, err := unfinishedSnapshots(c.fs, path)
			if err != nil {
				c.problem(path, "%v", err)
			}
			for _, name := range names {
				c.leftover(filepath.Join(path, name))
			}
		case strings.HasPrefix(e.Name(), "@"):
			// No tenant has such a name: the log and the ids, which are checked below, and
			// what other packages keep beside them.
		case !e.IsDir():
			c.problem(path, "does not belong here")
		default:
			id, err := tenant.Parse(e.Name())
			if err != nil {
				c.problem(path, "%v", err)
				continue
			}
			c.checkTenant(id, path)
		}
	}
	if err := c.checkIDs(); err != nil {
		return err
	}
	return c.checkWAL()
}

func (c *checker) checkIDs() (err error) {
	c.sum.EventIDs, err = dedup.Check(c.fs, filepath.Join(c.dir, idDirName), func(path, what string) { c.problem(path, "%s", what) })
	return err
}

func (c *checker) checkTenant(id tenant.ID, dir string) {
	c.sum.Tenants++
	c.generations[id] = nil
	m, err := readManifest(c.fs, dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := onlyPreparation(c.fs, dir); err != nil {
			c.problem(dir, "%v", err)
		} else {
			c.leftover(dir) // a crash came before the tenant was there
		}
		_, err := c.fs.ReadFile(filepath.Join(dir, idKeyName))
		c.lost[id] = err == nil
		delete(c.generations, id)
		return
	}
	if err != nil {
		c.problem(filepath.Join(dir, manifestName), "%v", err)
		return
	}
	c.generations[id] = m
	settings := c.checkSettings(dir, m)
	at := newHome(c.fs, dir)
	live := map[string]bool{manifestName: true, settingsName: true, tenant.EventRulesFile: true, tenant.RulesDir: true, idKeyName: true, idKeyNew: true}
	for _, b := range m.Blocks {
		live[b.ULID.String()] = true
		bc := blockChecker{checker: c, id: id, man: m, settings: settings, block: newBlock(c.blocks, at, b)}
		bc.run()
	}
	for _, k := range m.Keys {
		live[k.Name] = true
		c.checkKeys(filepath.Join(dir, k.Name), k)
	}
	if m.Exemplars != "" {
		live[m.Exemplars] = true
		if _, err := readExemplars(c.fs, filepath.Join(dir, m.Exemplars)); err != nil {
			c.problem(filepath.Join(dir, m.Exemplars), "%v", err)
		}
	}
	if m.State != "" {
		live[m.State] = true
		saved, err := readState(c.fs, filepath.Join(dir, m.State))
		if err = errors.Join(err, c.checkState(saved)); err != nil {
			c.problem(filepath.Join(dir, m.State), "%v", err)
		}
	}
	entries, err := c.fs.ReadDir(dir)
	if err != nil {
		c.problem(dir, "%v", err)
	}
	for _, e := range entries {
		if !live[e.Name()] {
			c.leftover(filepath.Join(dir, e.Name()))
		}
	}
}

func (c *checker) checkState(saved []byte) (err error) {
	for _, judge := range c.state {
		if len(saved) > 0 {
			err = errors.Join(err, judge(saved))
		}
	}
	return err
}

func (c *checker) checkSettings(dir string, m *manifest) tenant.Settings {
	path := filepath.Join(dir, settingsName)
	settings := tenant.DefaultSettings()
	src, err := c.fs.ReadFile(path)
	if err == nil {
		settings, err = tenant.ParseSettings(src, settings)
	}
	if err != nil {
		c.problem(path, "%v", err)
	}
	path = filepath.Join(dir, idKeyName)
	if key, _, err := readIDKey(c.fs, dir, m); err != nil {
		c.problem(path, "%v", err)
	} else if len(key) != len(tenant.Profile{}.IDKey) {
		c.problem(path, "has %d bytes, want %d", len(key), len(tenant.Profile{}.IDKey))
	} else if m.IDKeySum != 0 && crc32.Checksum(key, castagnoli) != m.IDKeySum {
		c.problem(path, "is not the key that the tenant was made with: checksum is wrong")
	}
	if n := len(m.EventKey); n != 0 && n != len(tenant.Profile{}.EventKey) || (n == 0) != (len(m.UserEpochs) == 0) {
		c.problem(filepath.Join(dir, manifestName), "the key of event ids has %d bytes where the users were erased %d times", n, len(m.UserEpochs))
	}
	if !slices.IsSorted(m.UserEpochs) {
		c.problem(filepath.Join(dir, manifestName), "the times when users were erased are not in order")
	}
	return settings
}

func (c *checker) checkKeys(path string, kf keyFile) {
	keys, err := readKeys(c.fs, path)
	if err != nil {
		c.problem(path, "%v", err)
		return
	}
	c.sum.Keys += len(keys)
	newest := int64(0)
	for i, k := range keys {
		newest = max(newest, k.time)
		if i > 0 && string(keys[i-1].hash[:]) >= string(k.hash[:]) {
			c.problem(path, "key %d is out of order", i)
		}
	}
	if newest != kf.MaxTime {
		c.problem(path, "newest key is of %d, the manifest says %d", newest, kf.MaxTime)
	}
}

// checkWAL reads the log as opening would, with the one difference that it cuts
// nothing off.
func (c *checker) checkWAL() error {
	dir := filepath.Join(c.dir, walDirName)
	if _, err := c.fs.ReadDir(dir); errors.Is(err, fs.ErrNotExist) {
		return c.ctx.Err()
	}
	segments, err := listSegments(c.fs, dir)
	if err != nil {
		c.problem(dir, "%v", err)
		return nil
	}
	c.sum.Segments = len(segments)
	r := walReader{
		fs: c.fs, dir: dir, metrics: newMetrics(prometheus.NewRegistry()), logger: slog.New(slog.DiscardHandler),
		check: &walCheck{
			damaged: func(segment uint64, offset int64, cause error) {
				c.problem(filepath.Join(dir, segmentName(segment)), "at byte %d: %v", offset, cause)
			},
			torn: func(segment uint64, offset int64) {
				c.leftover(fmt.Sprintf("%s from byte %d", filepath.Join(dir, segmentName(segment)), offset))
			},
		},
	}
	end, err := r.replay(func(pos position, rec *walRecord) error {
		c.sum.Records++
		return c.checkRecord(dir, pos, rec)
	})
	if err != nil {
		c.problem(dir, "%v", err)
		return nil
	}
	for id, m := range c.generations {
		if m != nil && m.Watermark.WAL == end.id && m.Watermark.Segment >= end.nextSegment && end.id != (ulid.ULID{}) {
			c.problem(filepath.Join(c.dir, id.String(), manifestName), "watermark is in segment %d, the log ends before %d", m.Watermark.Segment, end.nextSegment)
		}
	}
	return c.ctx.Err()
}

func (c *checker) checkRecord(dir string, pos position, rec *walRecord) error {
	path := filepath.Join(dir, segmentName(pos.Segment))
	if _, ok := c.generations[rec.tenant]; !ok {
		// A deleted tenant's records stay until their segment goes.
		if c.lost[rec.tenant] {
			c.problem(filepath.Join(c.dir, rec.tenant.String(), manifestName), "is missing, but the log has records of the tenant, the first in %s", segmentName(pos.Segment))
			delete(c.lost, rec.tenant) // said once
		}
		return nil
	}
	if err := c.checkState(rec.state); err != nil {
		c.problem(path, "at byte %d: %v", pos.Offset, err)
	}
	for i := range rec.runs {
		run := &rec.runs[i]
		if run.kind != increment.Sample && run.time%rec.step != 0 {
			c.problem(path, "at byte %d: a window starts at %d, which is not on a grid of %d ms", pos.Offset, run.time, rec.step)
		}
	}
	return c.ctx.Err()
}

// Write prints problems and a summary for a person.
func (s CheckSummary) Write(w io.Writer, problems []Problem) {
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
	fmt.Fprintf(w, "%d tenants, %d blocks with %d series, %d chunks and %d windows, %d batch keys, %d event ids, %d log segments with %d records\n",
		s.Tenants, s.Blocks, s.Series, s.Chunks, s.Windows, s.Keys, s.EventIDs, s.Segments, s.Records)
	if n := len(s.Leftovers); n > 0 {
		fmt.Fprintf(w, "%d leftovers of a crash, which do no harm: %s\n", n, strings.Join(s.Leftovers, ", "))
	}
}
