package dedup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tagged is the n-th id of an owner.
func tagged(t Tag, n int) ID {
	id := number(n)
	copy(id[:], t[:])
	return id
}

// Files that were linked go on as they were; another set takes in what one owner has there
// within the window, under a new tag, and nobody else's.
func TestLinkAndImport(t *testing.T) {
	const many = 5000 // some pages
	a, b, c := Tag{0, 0, 0, 1}, Tag{1, 2, 3, 4}, Tag{255, 255, 255, 255}
	s := open(t, filepath.Join(t.TempDir(), "old"), nil)
	for at, from := range map[int64]int{1 * hour: 0, 30 * hour: many, 31 * hour: 2 * many} {
		var ids []ID
		for n := from; n < from+many; n++ {
			ids = append(ids, tagged([]Tag{a, b, c}[n%3], n))
		}
		s.mustReserve(t, at, ids...).Settle(true)
	}
	s.mustFlush(t)
	linked := filepath.Join(t.TempDir(), "linked")
	if err := s.Link(linked); err != nil {
		t.Fatal(err)
	}
	s.mustReserve(t, 31*hour, tagged(b, 3*many)).Settle(true) // comes too late
	s.mustFlush(t)
	to := Tag{9, 9, 9, 9}
	for _, from := range []Tag{a, b, c, {}} {
		next := open(t, filepath.Join(t.TempDir(), "new"), nil)
		next.mustReserve(t, 31*hour, tagged(a, 0)).Settle(true)
		next.mustFlush(t)
		n, err := next.Import(linked, from, to, 32*hour)
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for i := range 3*many + 1 {
			tag := []Tag{a, b, c}[i%3]
			known := i >= many && i < 3*many && (from == tag || from == Tag{})
			if known {
				want++
			}
			r := next.mustReserve(t, 32*hour, tagged(to, i))
			if r.Duplicate(0) != known {
				t.Fatalf("id %d of %v imported from %v: known %v, want %v", i, tag, from, !known, known)
			}
			r.Settle(false)
		}
		if n != want {
			t.Errorf("%d ids are imported from %v, want %d", n, from, want)
		}
		if r := next.mustReserve(t, 31*hour, tagged(a, 0)); !r.Duplicate(0) {
			t.Error("an import forgot what was there")
		}
		if _, err := Check(next.opts.FS, next.opts.Dir, func(path, what string) { t.Error(path, what) }); err != nil {
			t.Error(err)
		}
	}
}

// What does not fit into the budget or cannot be read is not taken in at all.
func TestImportRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "old"), nil)
	tag := Tag{1}
	var ids []ID
	for n := range 100 {
		ids = append(ids, tagged(tag, n))
	}
	s.mustReserve(t, hour, ids...).Settle(true)
	s.mustFlush(t)
	next := open(t, filepath.Join(t.TempDir(), "new"), func(o *Options) { o.IDsMax = 150 })
	if n, err := next.Import(filepath.Join(t.TempDir(), "none"), tag, Tag{2}, hour); n != 0 || err != nil {
		t.Errorf("a directory that is not there: %d, %v", n, err)
	}
	if n, err := next.Import(s.opts.Dir, tag, Tag{2}, hour); n != 100 || err != nil {
		t.Errorf("what fits: %d, %v", n, err)
	}
	const want = "100 event ids are remembered"
	if _, err := next.Import(s.opts.Dir, tag, Tag{3}, hour); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("what does not fit: %v, want %s", err, want)
	}
	name := filepath.Join(s.opts.Dir, fileName(hourOf(hour)))
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	src[10]++
	if err := os.WriteFile(name, src, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := open(t, filepath.Join(t.TempDir(), "empty"), nil)
	if _, err := empty.Import(s.opts.Dir, tag, Tag{2}, hour); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a damaged file: %v", err)
	}
	if got := fmt.Sprint(empty.Len(), next.Len()); got != "0 100" {
		t.Errorf("ids that are remembered: %s, want 0 100", got)
	}
}
