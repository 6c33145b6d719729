package tsdb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// writtenUnions returns what is written of series, by hash.
func writtenUnions(t testing.TB, all map[uint64][]points) unionsContent {
	t.Helper()
	w := unionsWriter{fs: noSyncFS{}, path: filepath.Join(t.TempDir(), blockUnions), step: g}
	hashes := make([]uint64, 0, len(all))
	for h := range all {
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	for _, h := range hashes {
		for _, series := range all[h] {
			w.beginSeries(h)
			for day := dayStart(series.win[0]); day <= series.win[series.len()-1]; day += dayMillis {
				p := series
				p.between(day, day+dayMillis)
				if p.len() == 0 {
					continue
				}
				if err := w.addDay(&p); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.endSeries(); err != nil {
				t.Fatal(err)
			}
		}
	}
	size, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	if size == 0 {
		return unionsContent{}
	}
	src, err := os.ReadFile(w.path)
	if err != nil || int64(len(src)) != size {
		t.Fatalf("%d bytes of %d, %v", len(src), size, err)
	}
	f, err := decodeUnions(src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// distinctPoints are windows with n ids each of as many users.
func distinctPoints(r *rand.Rand, users uint64, n int, from, windows int64) points {
	p := points{kind: increment.Distinct}
	for i := range windows {
		s := new(sketch.Sketch)
		for range n {
			if err := s.Add((1 + r.Uint64N(users)) * 0x9e3779b97f4a7c15); err != nil {
				panic(err)
			}
		}
		p.win, p.ids = append(p.win, from+i*g), append(p.ids, s)
	}
	return p
}

// The format: a change of it needs a new version.
func TestUnionsGolden(t *testing.T) {
	day := dayStart(testStart.UnixMilli())
	p := distinctPoints(rand.New(rand.NewPCG(9, 9)), 3, 2, day, 400)
	f := writtenUnions(t, map[uint64][]points{0x0102030405060708: {p}})
	var s seriesUnions
	if err := s.read(&f, 0x0102030405060708); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range append(s.hours, s.days...) {
		cell, err := f.cell(&c)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %d %x\n", c.span(), c.start, cell)
	}
	fmt.Fprintf(&out, "file %x\ntable %x\n", f.src, f.table)
	var many sketch.Union
	big := distinctPoints(rand.New(rand.NewPCG(9, 10)), 1<<60, 1000, day, 200)
	for _, sk := range big.ids {
		if err := many.Add(sk); err != nil {
			t.Fatal(err)
		}
	}
	many.Settle()
	fmt.Fprintf(&out, "registers %x\n", sha256.Sum256(many.AppendCell(nil)))
	golden(t, "unions.golden", out.String())
}

// Two series of one hash would be taken for each other: neither has unions, also where
// only one of them would have had any.
func TestUnionsOfSeriesWithOneHash(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	day := dayStart(testStart.UnixMilli())
	dense, one := distinctPoints(r, 50, 4, day, 1000), distinctPoints(r, 50, 4, day, 1)
	f := writtenUnions(t, map[uint64][]points{1: {dense, one}, 2: {dense}, 3: {one}, 4: {one, dense}, 1 << 63: {dense}})
	for hash, want := range map[uint64]bool{0: false, 1: false, 2: true, 3: false, 4: false, 5: false, 1 << 63: true, 1<<64 - 1: false} {
		var s seriesUnions
		if err := s.read(&f, hash); err != nil || (len(s.days) == 1) != want || (len(s.hours) > 0) != want {
			t.Errorf("hash %x: %d days, %d hours, %v; want some: %v", hash, len(s.days), len(s.hours), err, want)
		}
	}
}

// Unions are there where they save half of what would be read, and so are never more
// than the windows.
func TestUnionsAreWorthTheirBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	day := dayStart(testStart.UnixMilli())
	for _, c := range []struct {
		name        string
		users       uint64
		perWindow   int
		windows     int64
		hours, days int
	}{
		{"one window", 10, 5, 1, 0, 0},
		{"few windows of different ids", 1 << 60, 1, 200, 0, 0},
		{"windows of the same ids", 10, 5, 20, 1, 0},
		{"hours of the same ids", 10, 5, 960, 4, 1},
		{"a day of different ids", 1 << 60, 1, 5760, 0, 1},
		{"registers", 1 << 60, 2000, 480, 2, 1},
	} {
		p := distinctPoints(r, c.users, c.perWindow, day, c.windows)
		f := writtenUnions(t, map[uint64][]points{7: {p}})
		var s seriesUnions
		if err := s.read(&f, 7); err != nil || len(s.hours) != c.hours || len(s.days) != c.days {
			t.Errorf("%s: %d hours and %d days, %v; want %d and %d", c.name, len(s.hours), len(s.days), err, c.hours, c.days)
		}
		windows, unions := 0, 0
		for _, sk := range p.ids {
			windows += sk.EncodedBytes()
		}
		for _, cell := range append(s.hours, s.days...) {
			unions += cell.length
		}
		if unions > windows {
			t.Errorf("%s: %d bytes of unions, %d of windows", c.name, unions, windows)
		}
	}
}

// A union that is not that of its windows is found though its checksum is right, and so
// are one of no windows and a series that the index does not have.
func TestCheckComparesUnionsWithWindows(t *testing.T) {
	for name, change := range map[string]struct {
		do   func(src []byte)
		want string
	}{
		"an id is another": {func(src []byte) {
			cell := src[len(unionsMagic)+1:]
			n := len(cell) // the length of the first cell: sealed anew below
			for size := 9; size < n; size += 8 {
				if crc32.Checksum(cell[:size], castagnoli) == binary.BigEndian.Uint32(cell[size:]) {
					cell[size-1] ^= 1
					binary.BigEndian.PutUint32(cell[size:], crc32.Checksum(cell[:size], castagnoli))
					return
				}
			}
		}, "is not that of its windows"},
		"a series is another": {func(src []byte) {
			table := src[len(src)-unionsEnd-unionsRow:]
			table[0] ^= 1
			binary.BigEndian.PutUint32(table[unionsRow+4:], crc32.Checksum(table[:unionsRow+4], castagnoli))
		}, "of which 0 are in the index"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := unionsDir(t)
			path, err := filepath.Glob(filepath.Join(dir, "default", "*", blockUnions))
			if err != nil || len(path) != 1 {
				t.Fatal(path, err)
			}
			src, err := os.ReadFile(path[0])
			if err != nil {
				t.Fatal(err)
			}
			change.do(src)
			if err := os.WriteFile(path[0], src, 0o600); err != nil {
				t.Fatal(err)
			}
			_, problems, err := Check(context.Background(), dir)
			if err != nil || len(problems) != 1 || !strings.Contains(problems[0].What, change.want) {
				t.Errorf("check: %v, %v", problems, err)
			}
		})
	}
}

// What decodes leads to nothing outside of the file.
func FuzzUnionsDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	day := dayStart(testStart.UnixMilli())
	c := writtenUnions(f, map[uint64][]points{5: {distinctPoints(r, 50, 4, day, 500)}, 1 << 60: {distinctPoints(r, 50, 4, day, 50)}})
	f.Add(append(slices.Clone(c.src), c.table...), uint32(2), uint64(5))
	f.Add(appendUnionCells(nil, []unionCell{{start: day, offset: 9, length: 20}, {day: true, start: day, offset: 33, length: 30}}), uint32(67), uint64(0))
	f.Fuzz(func(t *testing.T, body []byte, n uint32, hash uint64) {
		var d seriesUnions
		if d.decode(body, uint64(n)) == nil {
			for _, cell := range append(d.hours, d.days...) {
				if cell.offset < 0 || cell.length < 0 || uint64(cell.offset)+uint64(cell.length) > uint64(n) {
					t.Fatalf("%v of %d bytes", cell, n)
				}
			}
		}
		// The table's checksum is made right, those of sections must be.
		end := binary.BigEndian.AppendUint32(nil, n)
		first := max(0, len(body)-int(uint64(n)*unionsRow%(1<<20)))
		sum := crc32.Update(crc32.Checksum(body[first:], castagnoli), castagnoli, end)
		c, err := decodeUnions(slices.Concat(body, end, binary.BigEndian.AppendUint32(nil, sum)))
		if err != nil {
			return
		}
		var s seriesUnions
		if s.read(&c, hash) != nil {
			return
		}
		var u sketch.Union
		for _, cell := range append(s.hours, s.days...) {
			if src, err := c.cell(&cell); err == nil {
				_ = u.AddCell(src)
			}
		}
	})
}

// unionsFaultFS fails one operation on files of unions.
type unionsFaultFS struct {
	vfs.OS
	op string
}

type unionsFaultFile struct {
	vfs.File
	fs *unionsFaultFS
}

func (f *unionsFaultFS) Create(name string) (vfs.File, error) {
	if filepath.Base(name) != blockUnions {
		return f.OS.Create(name)
	}
	if f.op == "create" {
		return nil, errInjected
	}
	file, err := f.OS.Create(name)
	return unionsFaultFile{file, f}, err
}

func (f unionsFaultFile) Write(p []byte) (int, error) {
	switch f.fs.op {
	case "write":
		return 0, errInjected
	case "short write":
		return f.File.Write(p[:len(p)-1])
	}
	return f.File.Write(p)
}

func (f unionsFaultFile) Sync() error {
	if f.fs.op == "sync" {
		return errInjected
	}
	return f.File.Sync()
}

func (f unionsFaultFile) Close() error {
	err := f.File.Close()
	if f.fs.op == "close" {
		return errInjected
	}
	return err
}

// Where unions cannot be written there is no block: the flush says so, leaves nothing
// behind, and succeeds later.
func TestUnionsThatCannotBeWritten(t *testing.T) {
	fault := &unionsFaultFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	day := dayStart(testStart.UnixMilli())
	in := sketch.Interval{Lo: day, Hi: day + dayMillis}
	db.mustAppend(tenant.Default, visits(rand.New(rand.NewPCG(4, 4)), 400, 5, testStart.Add(-5*time.Hour), testStart.Add(-2*time.Hour))...)
	s, err := db.store(tenant.Default, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault.op = range []string{"create", "write", "short write", "sync", "close"} {
		err := db.Flush(context.Background(), tenant.Default)
		if !errors.Is(err, errInjected) && !errors.Is(err, io.ErrShortWrite) || !strings.Contains(err.Error(), blockUnions) {
			t.Errorf("%s: %v", fault.op, err)
		}
		mustHoldOnly(t, s)
		if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
			t.Errorf("%s: %v", fault.op, got)
		}
	}
	fault.op = ""
	if err := db.Flush(context.Background(), tenant.Default); err != nil || unionFiles(t, db) != 1 {
		t.Errorf("%d blocks with unions, %v", unionFiles(t, db), err)
	}
	if got := db.countIDs(tenant.Default, in.Hi, in, usersMatcher()); got != [2]float64{400, 1} {
		t.Errorf("%v", got)
	}
}
