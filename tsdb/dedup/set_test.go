package dedup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/vfs"
)

const hour = 3_600_000

func open(t testing.TB, dir string, change func(*Options)) *Set {
	t.Helper()
	o := Options{Dir: dir, FS: vfs.OS{}, Logger: slog.New(slog.DiscardHandler), Window: 24 * time.Hour, IDsMax: 1_000_000}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closed twice where a test opens again
	return s
}

func number(n int) (id ID) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	binary.BigEndian.PutUint64(id[:], r.Uint64())
	binary.BigEndian.PutUint64(id[8:], r.Uint64())
	return id
}

func (s *Set) mustReserve(t testing.TB, now int64, ids ...ID) *Reservation {
	t.Helper()
	r, err := s.Reserve(ids, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *Set) mustFlush(t testing.TB) {
	t.Helper()
	s.Take()
	if err := s.Write(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is reserved, settled, given up, written, restored after a restart or
// expired: an id is a duplicate exactly while it was applied within the window.
func TestSetAgainstAMap(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 3))
		dir := t.TempDir()
		s := open(t, dir, nil)
		now := int64(100 * hour)
		applied := map[ID]int64{} // hour
		logged := map[ID]int64{}  // what a log would still have
		for op := range 400 {
			switch r.IntN(20) {
			case 0:
				s.mustFlush(t)
				clear(logged)
			case 1:
				now += int64(r.IntN(5 * hour))
				if err := s.Expire(now); err != nil {
					t.Fatal(err)
				}
			case 2:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, nil)
				for id, at := range logged {
					s.Restore([]ID{id}, at)
				}
			default:
				var ids []ID
				size := 1 + r.IntN(40)
				if r.IntN(4) == 0 {
					size += 2 * manyIDs
				}
				for range size {
					ids = append(ids, number(r.IntN(20_000)))
				}
				if r.IntN(5) == 0 {
					ids = append(ids, ID{}, ID{})
				}
				res := s.mustReserve(t, now, ids...)
				ok := r.IntN(4) > 0
				here := map[ID]bool{}
				for i, id := range ids {
					at, seen := applied[id]
					// Hours are forgotten whole: in the hour at the window's end either
					// answer is right, but in memory nothing is forgotten.
					edge := seen && hourOf(at)*1000 <= now-24*hour
					if got := res.Duplicate(i); got != (seen || here[id]) && !edge {
						t.Fatalf("seed %d, operation %d: id %d is a duplicate: %v, seen %v, in the batch %v", seed, op, i, got, seen, here[id])
					}
					here[id] = true
				}
				res.Settle(ok)
				for _, id := range res.Fresh() {
					if ok {
						applied[id], logged[id] = now, now
					}
				}
			}
		}
	}
}

// A batch that comes while another with the same id is under way learns how that one
// ended; batches with the same ids in any order do not wait for each other for ever.
func TestConcurrentDuplicatesWait(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	first := s.mustReserve(t, hour, number(1), number(2))
	got := make(chan bool)
	for range 2 {
		go func() {
			r, err := s.Reserve([]ID{number(2)}, hour)
			if err != nil {
				t.Error(err)
			}
			got <- r.Duplicate(0)
			r.Settle(true)
		}()
	}
	select {
	case <-got:
		t.Fatal("a duplicate did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	first.Settle(false)
	if a, b := <-got, <-got; a == b {
		t.Errorf("duplicates after the first batch failed: %v and %v, want one of each", a, b)
	}

	var counted [2000]atomic.Int32
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for range 300 {
				var ids []ID
				var ns []int
				size := 20
				if r.IntN(4) == 0 {
					size = 2 * manyIDs
				}
				for range size {
					ns = append(ns, r.IntN(len(counted)))
					ids = append(ids, number(1000+ns[len(ns)-1]))
				}
				res, err := s.Reserve(ids, hour)
				if err != nil {
					t.Error(err)
					return
				}
				ok := r.IntN(3) > 0
				for i, n := range ns {
					if ok && !res.Duplicate(i) {
						counted[n].Add(1)
					}
				}
				res.Settle(ok)
			}
		})
	}
	flushed := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(flushed)
		for {
			select {
			case <-stop:
				return
			default:
				s.mustFlush(t)
			}
		}
	}()
	all.Wait()
	close(stop)
	<-flushed
	for n := range counted {
		if got := counted[n].Load(); got != 1 {
			t.Errorf("id %d was counted %d times", n, got)
		}
	}
}

// Past the budget the oldest hour goes, and for how long ids are known says so.
func TestOldestHourGoesPastTheBudget(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.IDsMax = 250 })
	for h := range 4 {
		for i := range 100 {
			s.mustReserve(t, int64(100+h)*hour, number(h*100+i)).Settle(true)
		}
		s.mustFlush(t)
	}
	now := int64(103)*hour + hour/2
	if err := s.Expire(now); err != nil {
		t.Fatal(err)
	}
	if got := s.Len(); got != 200 {
		t.Errorf("%d ids, want 200", got)
	}
	if got := s.Remembered(now); got != 90*time.Minute {
		t.Errorf("remembered for %s, want 1h30m", got)
	}
	if r := s.mustReserve(t, now, number(50), number(350)); r.Duplicate(0) || !r.Duplicate(1) {
		t.Error("the oldest hour is known, or the newest forgotten")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if n, err := Check(vfs.OS{}, dir, func(path, what string) { t.Error(path, what) }); err != nil || n != 200 {
		t.Errorf("check: %d ids, %v", n, err)
	}
}

// A damaged file is an error that names it, never a wrong answer.
func TestDamagedFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	var ids []ID
	for i := range 700 {
		ids = append(ids, number(i))
	}
	s.mustReserve(t, 100*hour, ids...).Settle(true)
	s.mustFlush(t)
	path := filepath.Join(dir, fileName(100*3600))
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(src); at += 97 {
		damaged := append([]byte(nil), src...)
		damaged[at] ^= 0x10
		to := t.TempDir()
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		problems := 0
		if _, err := Check(vfs.OS{}, to, func(string, string) { problems++ }); err != nil || problems == 0 {
			t.Errorf("byte %d flipped: check finds %d problems, %v", at, problems, err)
		}
		s, err := Open(Options{Dir: to, FS: vfs.OS{}, Logger: slog.New(slog.DiscardHandler), Window: 24 * time.Hour, IDsMax: 1e6})
		if err != nil {
			if !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("the error does not name the file: %v", err)
			}
			continue
		}
		for _, id := range ids {
			r, err := s.Reserve([]ID{id}, 100*hour)
			if err != nil {
				if !strings.Contains(err.Error(), filepath.Base(path)) {
					t.Errorf("the error does not name the file: %v", err)
				}
				continue
			}
			if !r.Duplicate(0) {
				t.Fatalf("byte %d flipped: an id is not known", at)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, cut := range []int{0, 10, len(src) / 2, len(src) - 1} {
		if err := os.WriteFile(path, src[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: dir, FS: vfs.OS{}, Window: time.Hour}); err == nil {
			t.Errorf("a file cut to %d bytes opens", cut)
		}
	}
}

// failingFS fails what is named.
type failingFS struct {
	vfs.OS
	fail string
}

var errInjected = errors.New("injected fault")

func (f *failingFS) Create(name string) (vfs.File, error) {
	if f.fail == "create" {
		return nil, errInjected
	}
	file, err := f.OS.Create(name)
	return &failingFile{file, f}, err
}

func (f *failingFS) Rename(from, to string) error {
	if f.fail == "rename" {
		return errInjected
	}
	return f.OS.Rename(from, to)
}

func (f *failingFS) SyncDir(dir string) error {
	if f.fail == "syncdir" {
		return errInjected
	}
	return f.OS.SyncDir(dir)
}

type failingFile struct {
	vfs.File
	fs *failingFS
}

func (f *failingFile) Write(p []byte) (int, error) {
	if f.fs.fail == "write" {
		return len(p) / 2, errInjected
	}
	return f.File.Write(p)
}

func (f *failingFile) Sync() error {
	if f.fs.fail == "sync" {
		return errInjected
	}
	return f.File.Sync()
}

// A write that fails forgets nothing, and the next one writes it all.
func TestFailedWriteForgetsNothing(t *testing.T) {
	for _, what := range []string{"create", "write", "sync", "rename", "syncdir"} {
		fs := &failingFS{}
		dir := t.TempDir()
		s := open(t, dir, func(o *Options) { o.FS = fs })
		for i := range 600 {
			s.mustReserve(t, 100*hour, number(i)).Settle(true)
			if i == 300 {
				s.mustFlush(t)
			}
		}
		fs.fail = what
		s.Take()
		if err := s.Write(); !errors.Is(err, errInjected) {
			t.Fatalf("%s fails: %v", what, err)
		}
		s.mustReserve(t, 101*hour, number(600)).Settle(true)
		fs.fail = ""
		for _, stage := range []string{"after a failure", "written", "opened again"} {
			for i := range 601 {
				r := s.mustReserve(t, 101*hour, number(i))
				if !r.Duplicate(0) {
					t.Fatalf("%s fails, %s: id %d is not known", what, stage, i)
				}
				r.Settle(false)
			}
			switch stage {
			case "after a failure":
				s.mustFlush(t)
				if n := s.Live(); n != 0 {
					t.Errorf("%s: %d ids in memory after a flush", what, n)
				}
			case "written":
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, nil)
			}
		}
		if s.Len() != 601 {
			t.Errorf("%s: %d ids, want 601", what, s.Len())
		}
	}
}

func FuzzOpenFile(f *testing.F) {
	dir := f.TempDir()
	if err := writeFile(vfs.OS{}, dir, 3600, []ID{{1}, {2}, {3}}, nil); err != nil {
		f.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(dir, fileName(3600)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Add([]byte(fileMagic))
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := os.WriteFile(path, src, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := openFile(path)
		if err != nil {
			return
		}
		defer file.r.Close()
		for _, id := range []ID{{}, {1}, {0xff}} {
			if _, err := file.has(id); err != nil && !strings.Contains(err.Error(), "checksum") {
				t.Fatal(err)
			}
		}
		file.check(func(string) {})
	})
}

// BenchmarkReserve looks up batches of new ids in a set with a day of files.
func BenchmarkReserve(b *testing.B) {
	for _, perHour := range []int{10_000, 400_000} {
		b.Run(fmt.Sprint(perHour, " an hour"), func(b *testing.B) {
			s := open(b, b.TempDir(), func(o *Options) { o.IDsMax = 100_000_000 })
			n := 0
			batch := func(size int, at int64) {
				ids := make([]ID, size)
				for i := range ids {
					n++
					ids[i] = number(n)
				}
				s.mustReserve(b, at, ids...).Settle(true)
			}
			for h := range 24 {
				for range perHour / 1000 {
					batch(1000, int64(100+h)*hour)
				}
				s.mustFlush(b)
			}
			ids := make([]ID, 1000)
			b.ResetTimer()
			for b.Loop() {
				b.StopTimer()
				for i := range ids {
					n++
					ids[i] = number(n)
				}
				b.StartTimer()
				s.mustReserve(b, 124*hour, ids...).Settle(true)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/id")
		})
	}
}
