package dedup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/quipudb/quipu/internal/vfs"
)

// A file of ids, integers big endian, checksums CRC-32C:
//
//	pages    each 4,096 bytes: 255 ids of 16 bytes, ascending, zeros in place of what
//	         the last page lacks; 12 bytes zero; checksum of all before it
//	filter   see filter.go
//	fences   the first id of each page
//	footer   "QUIPUIDS", version (1 byte), hour: its start in seconds since 1970 (8),
//	         number of ids (8), length of the filter (8), checksum of filter and
//	         fences (4), checksum of the footer before it (4)
const (
	fileMagic   = "QUIPUIDS"
	fileVersion = 1
	fileSuffix  = ".ids"
	idSize      = 16
	pageSize    = 4096
	pageIDs     = 255
	footerSize  = len(fileMagic) + 1 + 8 + 8 + 8 + 4 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// file is one hour's ids on disk. It does not change; safe for concurrent use.
type file struct {
	path   string
	hour   int64 // its start, seconds since 1970
	n      int
	r      *os.File
	filter filter
	fences []ID
}

func fileName(hour int64) string { return fmt.Sprintf("%d%s", hour, fileSuffix) }

// openFile opens a file and reads all but its pages.
func openFile(path string) (f *file, err error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open ids: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open ids %s: %w", path, err), r.Close())
		}
	}()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	f = &file{path: path, r: r}
	filterBytes, sum, err := f.readFooter(info.Size())
	if err != nil {
		return nil, err
	}
	pages := int64(f.n+pageIDs-1) / pageIDs
	if want := pages*(pageSize+idSize) + filterBytes + int64(footerSize); info.Size() != want {
		return nil, fmt.Errorf("%d bytes long, its footer says %d", info.Size(), want)
	}
	index := make([]byte, filterBytes+pages*idSize)
	if _, err := r.ReadAt(index, pages*pageSize); err != nil {
		return nil, err
	}
	if crc32.Checksum(index, castagnoli) != sum {
		return nil, errors.New("checksum of filter and fences is wrong")
	}
	f.filter = index[:filterBytes:filterBytes]
	f.fences = make([]ID, pages)
	for i := range f.fences {
		copy(f.fences[i][:], index[filterBytes+int64(i)*idSize:])
	}
	return f, nil
}

func (f *file) readFooter(size int64) (filterBytes int64, sum uint32, err error) {
	if size < int64(footerSize) {
		return 0, 0, errors.New("it is cut short")
	}
	foot := make([]byte, footerSize)
	if _, err := f.r.ReadAt(foot, size-int64(footerSize)); err != nil {
		return 0, 0, err
	}
	body := foot[:footerSize-4]
	switch {
	case !bytes.HasPrefix(foot, []byte(fileMagic)):
		return 0, 0, errors.New("not a file of ids")
	case crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(foot[footerSize-4:]):
		return 0, 0, errors.New("checksum of the footer is wrong")
	case foot[len(fileMagic)] != fileVersion:
		return 0, 0, fmt.Errorf("version %d, only %d is known", foot[len(fileMagic)], fileVersion)
	}
	foot = foot[len(fileMagic)+1:]
	f.hour = int64(binary.BigEndian.Uint64(foot))
	n := binary.BigEndian.Uint64(foot[8:])
	filterBytes = int64(binary.BigEndian.Uint64(foot[16:]))
	if n > uint64(size)/idSize || filterBytes < 0 || filterBytes > size || filterBytes%filterBlock != 0 || filterBytes == 0 {
		return 0, 0, fmt.Errorf("its footer says %d ids and a filter of %d bytes", n, filterBytes)
	}
	f.n = int(n)
	return filterBytes, binary.BigEndian.Uint32(foot[24:]), nil
}

// has reports whether the file has an id.
func (f *file) has(id ID) (bool, error) {
	if !f.filter.may(id) {
		return false, nil
	}
	i := sort.Search(len(f.fences), func(i int) bool { return compare(f.fences[i], id) > 0 }) - 1
	if i < 0 {
		return false, nil
	}
	var page [pageSize]byte
	n, err := f.readPage(i, &page)
	if err != nil {
		return false, err
	}
	_, found := sort.Find(n, func(j int) int { return bytes.Compare(id[:], page[j*idSize:(j+1)*idSize]) })
	return found, nil
}

// readPage reads the i-th page and returns how many ids it has.
func (f *file) readPage(i int, page *[pageSize]byte) (int, error) {
	if _, err := f.r.ReadAt(page[:], int64(i)*pageSize); err != nil {
		return 0, fmt.Errorf("read ids %s: %w", f.path, err)
	}
	if crc32.Checksum(page[:pageSize-4], castagnoli) != binary.BigEndian.Uint32(page[pageSize-4:]) {
		return 0, fmt.Errorf("read ids %s: checksum of page %d is wrong", f.path, i)
	}
	return min(pageIDs, f.n-i*pageIDs), nil
}

// all yields every id in order; an error ends it.
func (f *file) all() iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		var page [pageSize]byte
		for i := range f.fences {
			n, err := f.readPage(i, &page)
			if err != nil {
				yield(ID{}, err)
				return
			}
			for j := range n {
				if !yield(ID(page[j*idSize:(j+1)*idSize]), nil) {
					return
				}
			}
		}
	}
}

// writeFile writes the union of sorted ids and of old, which may be nil, in place of
// the file of that hour.
func writeFile(fsys vfs.FS, dir string, hour int64, ids []ID, old *file) error {
	room := len(ids)
	if old != nil {
		room += old.n
	}
	path := filepath.Join(dir, fileName(hour))
	tmp := path + ".tmp"
	out, err := fsys.Create(tmp)
	if err != nil {
		return fmt.Errorf("write ids: %w", err)
	}
	w := fileWriter{out: out, filter: newFilter(room), buf: make([]byte, 0, 64*pageSize)}
	err = merge(ids, old, w.add)
	if err == nil {
		err = w.finish(hour)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		if e := fsys.Remove(tmp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return fmt.Errorf("write ids %s: %w", path, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("write ids %s: %w", path, err)
	}
	return nil
}

// merge calls add with every id of either, once, in order.
func merge(ids []ID, old *file, add func(ID) error) error {
	i := 0
	below := func(limit ID) error { // those before limit
		for ; i < len(ids) && compare(ids[i], limit) < 0; i++ {
			if err := add(ids[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if old != nil {
		for id, err := range old.all() {
			if err == nil {
				err = below(id)
			}
			if err == nil {
				err = add(id)
			}
			if err != nil {
				return err
			}
			for i < len(ids) && ids[i] == id {
				i++
			}
		}
	}
	for ; i < len(ids); i++ {
		if err := add(ids[i]); err != nil {
			return err
		}
	}
	return nil
}

// fileWriter writes ids, which are added in order.
type fileWriter struct {
	out    vfs.File
	buf    []byte // whole pages and the one that is being filled
	filter filter
	fences []byte
	n      int
}

func (w *fileWriter) add(id ID) error {
	if w.n%pageIDs == 0 {
		if err := w.endPage(); err != nil {
			return err
		}
		w.fences = append(w.fences, id[:]...)
	}
	w.n++
	w.filter.add(id)
	w.buf = append(w.buf, id[:]...)
	return nil
}

// endPage completes the page that is being filled, if one is.
func (w *fileWriter) endPage() error {
	used := len(w.buf) % pageSize
	if used > 0 {
		page := len(w.buf) - used
		w.buf = append(w.buf, make([]byte, pageSize-4-used)...)
		w.buf = binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(w.buf[page:], castagnoli))
	}
	if len(w.buf)+pageSize <= cap(w.buf) {
		return nil
	}
	return w.flush()
}

func (w *fileWriter) flush() error {
	err := vfs.WriteAll(w.out, w.buf)
	w.buf = w.buf[:0]
	return err
}

func (w *fileWriter) finish(hour int64) error {
	if err := w.endPage(); err != nil {
		return err
	}
	index := slices.Concat(w.filter, w.fences)
	foot := append([]byte(fileMagic), fileVersion)
	foot = binary.BigEndian.AppendUint64(foot, uint64(hour))
	foot = binary.BigEndian.AppendUint64(foot, uint64(w.n))
	foot = binary.BigEndian.AppendUint64(foot, uint64(len(w.filter)))
	foot = binary.BigEndian.AppendUint32(foot, crc32.Checksum(index, castagnoli))
	foot = binary.BigEndian.AppendUint32(foot, crc32.Checksum(foot, castagnoli))
	if err := w.flush(); err != nil {
		return err
	}
	return vfs.WriteAll(w.out, append(index, foot...))
}
