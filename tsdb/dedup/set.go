package dedup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quipudb/quipu/internal/vfs"
)

// Options of a Set. All but Logger are required.
type Options struct {
	Dir    string
	FS     vfs.FS // what is written; files are read from the operating system
	Logger *slog.Logger
	// Window is how long an id is remembered, at least; hours are forgotten whole.
	Window time.Duration
	// IDsMax is how many are remembered: past it the oldest hour goes.
	IDsMax int
}

// Set is the ids that were seen. Safe for concurrent use.
type Set struct {
	opts   Options
	shards [shardCount]shard
	live   atomic.Int64            // ids in memory
	files  atomic.Pointer[[]*file] // by ascending hour

	flushing sync.Mutex // one flush or expiry at a time
}

const shardCount = 64

// shard is the ids in memory whose hash is its number modulo their number.
type shard struct {
	mu      sync.Mutex
	hours   []hourTable
	written []hourTable // taken by a flush that is not done
	pending map[ID]*Reservation
}

type hourTable struct {
	hour int64
	ids  table
}

// hourOf is the start, in seconds, of the hour of a time in milliseconds.
func hourOf(ms int64) int64 { return ms / 3_600_000 * 3600 }

// Open opens or makes the directory. A file that cannot be read is an error: without
// it events could be counted twice.
func Open(o Options) (*Set, error) {
	s := &Set{opts: o}
	s.files.Store(&[]*file{})
	for i := range s.shards {
		s.shards[i].pending = map[ID]*Reservation{}
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, fmt.Errorf("open ids: %w", err)
	}
	// The log gives up what the files have: they must not lie in a directory that a
	// power loss takes away.
	if err := o.FS.SyncDir(filepath.Dir(filepath.Clean(o.Dir))); err != nil {
		return nil, fmt.Errorf("open ids: %w", err)
	}
	entries, err := o.FS.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open ids: %w", err)
	}
	var files []*file
	for _, e := range entries {
		path := filepath.Join(o.Dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") {
			if err := o.FS.Remove(path); err != nil {
				return nil, fmt.Errorf("remove leftover of a crash: %w", err)
			}
			continue
		}
		f, err := openFile(path)
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
		if name := fileName(f.hour); name != e.Name() {
			return nil, errors.Join(fmt.Errorf("ids %s are of the hour that belongs into %s", path, name), closeAll(files))
		}
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.hour, b.hour) })
	s.files.Store(&files)
	return s, nil
}

func closeAll(files []*file) error {
	var err error
	for _, f := range files {
		err = errors.Join(err, f.r.Close())
	}
	return err
}

// Close closes the files. What is in memory stays in the write-ahead log.
func (s *Set) Close() error { return closeAll(*s.files.Load()) }

// Reservation is the ids of one batch, from when they are looked up until the batch
// is applied or given up.
type Reservation struct {
	set       *Set
	time      int64
	fresh     []ID // reserved, ascending
	duplicate []bool
	done      chan struct{}
	read      byte // see readAhead
}

// Duplicate reports whether the i-th of the ids that were asked for was seen before,
// also earlier in the batch.
func (r *Reservation) Duplicate(i int) bool { return r.duplicate[i] }

// Fresh are the ids that were not seen before, ascending.
func (r *Reservation) Fresh() []ID { return r.fresh }

// Time is that of the reservation, milliseconds since 1970.
func (r *Reservation) Time() int64 { return r.time }

// Reserve looks ids up. Those that were not seen within the window before now, in
// milliseconds since 1970, are reserved until the reservation is settled; an id that
// another batch has reserved is waited for. An error reserves nothing.
func (s *Set) Reserve(ids []ID, now int64) (*Reservation, error) {
	r := &Reservation{set: s, time: now, duplicate: make([]bool, len(ids)), done: make(chan struct{})}
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	// I2. Of an id that comes twice the first event counts.
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(compare(ids[a], ids[b]), cmp.Compare(a, b)) })
	r.read = s.readAhead(ids)
	for at, i := range order {
		if at > 0 && ids[order[at-1]] == ids[i] {
			r.duplicate[i] = true
			continue
		}
		seen, err := s.reserve(ids[i], r)
		if err != nil {
			r.Settle(false)
			return nil, err
		}
		if r.duplicate[i] = seen; !seen {
			r.fresh = append(r.fresh, ids[i])
		}
	}
	return r, nil
}

// manyIDs is from how many ids on it is worth to go to shard after shard.
const manyIDs = 2 * shardCount

// byShard are the ids, those of one shard after the other.
func (s *Set) byShard(ids []ID) (sorted []ID, ends [shardCount]int) {
	for _, id := range ids {
		ends[s.shardOf(id)]++
	}
	starts, at := ends, 0
	for i, n := range ends {
		starts[i], at = at, at+n
		ends[i] = at
	}
	sorted = make([]ID, len(ids))
	for _, id := range ids {
		to := &starts[s.shardOf(id)]
		sorted[*to] = id
		*to++
	}
	return sorted, ends
}

// readAhead reads where the newest tables have their places for ids. With millions of
// ids none is in a cache, and a lock before each look-up lets the processor wait for one
// at a time: those of a shard, under one lock, it waits for together. What is returned
// means nothing, but that it was read.
func (s *Set) readAhead(ids []ID) (read byte) {
	if len(ids) < manyIDs {
		return 0
	}
	sorted, ends := s.byShard(ids)
	from := 0
	for i, end := range ends {
		if from == end {
			continue
		}
		sh := &s.shards[i]
		sh.mu.Lock()
		if n := len(sh.hours); n > 0 {
			read ^= sh.hours[n-1].ids.readAhead(sorted[from:end])
		}
		sh.mu.Unlock()
		from = end
	}
	return read
}

// reserve makes id pending for r, unless it was seen.
func (s *Set) reserve(id ID, r *Reservation) (seen bool, err error) {
	sh := s.shard(id)
	for {
		sh.mu.Lock()
		if sh.has(id) {
			sh.mu.Unlock()
			return true, nil
		}
		other := sh.pending[id]
		if other == nil {
			sh.pending[id] = r
			sh.mu.Unlock()
			break
		}
		sh.mu.Unlock()
		<-other.done
	}
	// A flush publishes its files before it clears what it took (I1), so an id that
	// has left memory by now is in one of these.
	oldest := hourOf(r.time - s.opts.Window.Milliseconds())
	files := *s.files.Load()
	for i := len(files) - 1; i >= 0 && files[i].hour >= oldest && !seen && err == nil; i-- {
		seen, err = files[i].has(id)
	}
	if seen || err != nil {
		sh.mu.Lock()
		delete(sh.pending, id)
		sh.mu.Unlock()
		// Who waits for r's end would wait for what r does not have: they look again
		// when r is settled, which is soon.
	}
	return seen, err
}

// REQUIRES: sh.mu
func (sh *shard) has(id ID) bool {
	for _, tables := range [2][]hourTable{sh.hours, sh.written} {
		for i := range tables {
			if tables[i].ids.has(id) {
				return true
			}
		}
	}
	return false
}

func (*Set) shardOf(id ID) int { return int(hash(id) >> 48 % shardCount) }

func (s *Set) shard(id ID) *shard { return &s.shards[s.shardOf(id)] }

// Settle ends a reservation: where the batch was applied, its ids were seen.
func (r *Reservation) Settle(applied bool) {
	if len(r.fresh) < manyIDs {
		for i := range r.fresh {
			r.settle(r.set.shard(r.fresh[i]), r.fresh[i:i+1], applied)
		}
	} else {
		sorted, ends := r.set.byShard(r.fresh)
		from := 0
		for i, end := range ends {
			r.settle(&r.set.shards[i], sorted[from:end], applied)
			from = end
		}
	}
	close(r.done)
}

// settle ends the reservation of ids of one shard.
func (r *Reservation) settle(sh *shard, ids []ID, applied bool) {
	if len(ids) == 0 {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, id := range ids {
		delete(sh.pending, id)
	}
	if applied {
		sh.add(ids, hourOf(r.time))
		r.set.live.Add(int64(len(ids)))
	}
}

// add puts ids, which are not there, into the table of an hour.
//
// REQUIRES: sh.mu
func (sh *shard) add(ids []ID, hour int64) {
	i := slices.IndexFunc(sh.hours, func(h hourTable) bool { return h.hour == hour })
	if i < 0 {
		i = len(sh.hours)
		sh.hours = append(sh.hours, hourTable{hour: hour})
	}
	for _, id := range ids {
		sh.hours[i].ids.add(id)
	}
}

// Restore takes in ids that a record of the log has, seen at a time in milliseconds
// since 1970.
func (s *Set) Restore(ids []ID, at int64) {
	for i, id := range ids {
		sh := s.shard(id)
		sh.mu.Lock()
		if !sh.has(id) {
			sh.add(ids[i:i+1], hourOf(at))
			s.live.Add(1)
		}
		sh.mu.Unlock()
	}
}

// Live is how many ids are in memory.
func (s *Set) Live() int { return int(s.live.Load()) }

// Len is how many ids there are in memory and on disk.
func (s *Set) Len() int {
	n := s.Live()
	for _, f := range *s.files.Load() {
		n += f.n
	}
	return n
}

// Take begins a flush: what is in memory is what Write will write. Call it while no
// reservation is between the log and its Settle.
func (s *Set) Take() {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.written = append(sh.written, sh.hours...)
		sh.hours = nil
		sh.mu.Unlock()
	}
}

// Write makes what was taken durable in files, those of a Write that failed with it.
func (s *Set) Write() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	hours := map[int64][]ID{}
	var taken [shardCount]int
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		written := slices.Clone(sh.written)
		sh.mu.Unlock()
		taken[i] = len(written)
		for j := range written { // does not change any more
			hours[written[j].hour] = written[j].ids.appendTo(hours[written[j].hour])
		}
	}
	total := 0
	for hour, ids := range hours {
		total += len(ids)
		if err := s.writeHour(hour, ids); err != nil {
			return err
		}
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.written = slices.Clone(sh.written[taken[i]:])
		sh.mu.Unlock()
	}
	s.live.Add(-int64(total))
	return nil
}

// REQUIRES: s.flushing
func (s *Set) writeHour(hour int64, ids []ID) error {
	slices.SortFunc(ids, compare)
	files := slices.Clone(*s.files.Load())
	i, found := slices.BinarySearchFunc(files, hour, func(f *file, h int64) int { return cmp.Compare(f.hour, h) })
	var old *file
	if found {
		old = files[i]
	}
	if err := writeFile(s.opts.FS, s.opts.Dir, hour, ids, old); err != nil {
		return err
	}
	f, err := openFile(filepath.Join(s.opts.Dir, fileName(hour)))
	if err != nil {
		return err
	}
	if found {
		files[i] = f
	} else {
		files = slices.Insert(files, i, f)
	}
	s.files.Store(&files)
	// Who looks into the old file now goes on with it: the garbage collector closes
	// it when nobody does.
	return nil
}

// Expire removes files that are older than the window before now, in milliseconds
// since 1970, and the oldest ones where there are too many ids.
func (s *Set) Expire(now int64) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	files := slices.Clone(*s.files.Load())
	n := s.Len()
	oldest := hourOf(now - s.opts.Window.Milliseconds())
	for len(files) > 0 && (files[0].hour < oldest || n > s.opts.IDsMax) {
		f := files[0]
		if f.hour >= oldest {
			s.opts.Logger.Warn("there are more event ids than are remembered: the oldest hour is forgotten, its events would count again",
				"hour", time.Unix(f.hour, 0).UTC(), "ids", f.n, "most", s.opts.IDsMax)
		}
		if err := s.opts.FS.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget ids: %w", err)
		}
		files = files[1:]
		n -= f.n
		s.files.Store(&files)
	}
	return nil
}

// Remembered is for how long before now, in milliseconds since 1970, ids are known:
// the window, or less where the oldest had to go.
func (s *Set) Remembered(now int64) time.Duration {
	if s.Len() <= s.opts.IDsMax/2 {
		return s.opts.Window
	}
	oldest := int64(math.MaxInt64)
	for _, f := range *s.files.Load() {
		oldest = min(oldest, f.hour*1000)
	}
	return min(s.opts.Window, time.Duration(max(0, now-oldest))*time.Millisecond)
}

// Check verifies every checksum and the order of all files in a directory, and calls
// problem with what is wrong.
func Check(fsys vfs.FS, dir string, problem func(path, what string)) (ids int, err error) {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list ids: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		stem, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if _, err := strconv.ParseInt(stem, 10, 64); !ok || err != nil {
			if !strings.HasSuffix(e.Name(), ".tmp") { // a leftover
				problem(path, "does not belong here")
			}
			continue
		}
		f, err := openFile(path)
		if err != nil {
			problem(path, err.Error())
			continue
		}
		ids += f.n
		f.check(func(what string) { problem(path, what) })
		if err := f.r.Close(); err != nil {
			return ids, err
		}
	}
	return ids, nil
}

func (f *file) check(problem func(what string)) {
	n, prev := 0, ID{}
	for id, err := range f.all() {
		switch {
		case err != nil:
			problem(err.Error())
			return
		case n > 0 && compare(prev, id) >= 0:
			problem(fmt.Sprintf("id %d is out of order", n))
		case n%pageIDs == 0 && f.fences[n/pageIDs] != id:
			problem(fmt.Sprintf("the fence of page %d is not its first id", n/pageIDs))
		case !f.filter.may(id):
			problem(fmt.Sprintf("the filter lacks id %d", n))
		}
		n++
		prev = id
	}
	if name := fileName(f.hour); filepath.Base(f.path) != name {
		problem("is of the hour that belongs into " + name)
	}
}
