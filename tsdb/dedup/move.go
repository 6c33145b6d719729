package dedup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// Tag begins the ids of one owner, so that they can be told from those of others; the
// zero Tag is nobody's.
type Tag [4]byte

// Link gives the files a second name in a directory, which is made and then durable. What
// is in memory is not in it: Take and Write come first. It waits for writes, and the other
// way round.
func (s *Set) Link(dir string) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	if err := s.opts.FS.MkdirAll(dir); err != nil {
		return fmt.Errorf("link ids: %w", err)
	}
	for _, f := range *s.files.Load() {
		if err := s.opts.FS.Link(f.path, filepath.Join(dir, filepath.Base(f.path))); err != nil {
			return fmt.Errorf("link ids: %w", err)
		}
	}
	if err := s.opts.FS.SyncDir(dir); err != nil {
		return fmt.Errorf("link ids: %w", err)
	}
	return nil
}

// Import takes in the ids in the files of another directory that are of an owner and were
// seen within the window before now, in milliseconds since 1970, as those of a new tag,
// durably; where from is zero, all of them. A directory that is not there has none. Where
// there are more than are remembered, none is taken in. An hour's ids are in memory at a
// time.
func (s *Set) Import(dir string, from, to Tag, now int64) (n int, err error) {
	files, err := openAll(s, dir, hourOf(now-s.opts.Window.Milliseconds()))
	if err != nil {
		return 0, fmt.Errorf("import ids: %w", err)
	}
	defer func() { err = errors.Join(err, closeAll(files)) }()
	s.flushing.Lock()
	defer s.flushing.Unlock()
	for _, f := range files {
		of, err := f.tagged(from)
		if err != nil {
			return 0, fmt.Errorf("import ids: %w", err)
		}
		n += len(of)
	}
	if has := s.Len(); has+n > s.opts.IDsMax {
		return 0, fmt.Errorf("import ids: %d event ids are remembered and %s has %d more, at most %d are", has, dir, n, s.opts.IDsMax)
	}
	for _, f := range files {
		ids, err := f.tagged(from)
		if err != nil {
			return 0, fmt.Errorf("import ids: %w", err)
		}
		if len(ids) == 0 {
			continue
		}
		for i := range ids {
			copy(ids[i][:], to[:])
		}
		slices.SortFunc(ids, compare)
		if err := s.writeHour(f.hour, slices.Compact(ids)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// openAll opens the files in a directory of hours from oldest on.
func openAll(s *Set, dir string, oldest int64) (files []*file, err error) {
	entries, err := s.opts.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if err != nil || !strings.HasSuffix(e.Name(), fileSuffix) {
			continue
		}
		var f *file
		if f, err = openFile(filepath.Join(dir, e.Name())); err == nil && f.hour >= oldest {
			files = append(files, f)
		} else if err == nil {
			err = f.r.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(files))
	}
	return files, nil
}

// tagged are the ids that begin with a tag, ascending; all where it is zero.
func (f *file) tagged(t Tag) (ids []ID, err error) {
	if t == (Tag{}) {
		for id, err := range f.all() {
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return ids, nil
	}
	tag := binary.BigEndian.Uint32(t[:])
	of := func(id ID) uint32 { return binary.BigEndian.Uint32(id[:]) }
	// The page before the first that begins with the tag may end with it.
	first := sort.Search(len(f.fences), func(i int) bool { return of(f.fences[i]) >= tag })
	var page [pageSize]byte
	for i := max(0, first-1); i < len(f.fences) && of(f.fences[i]) <= tag; i++ {
		n, err := f.readPage(i, &page)
		if err != nil {
			return nil, err
		}
		for j := range n {
			if id := ID(page[j*idSize : (j+1)*idSize]); of(id) == tag {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
