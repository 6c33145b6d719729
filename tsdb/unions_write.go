package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/vfs"
)

// The file of a block's unions: "QUIPUUNI" and the version (1 byte); for each series
// of kind distinct that has unions its cells and their directory; the table of series;
// the end. A cell is the union of an hour or a day of UTC, as package sketch encodes
// it, and a directory
//
//	offset of the first cell (uvarint), number of cells (uvarint), then for each:
//	0 hour, 1 day (1 byte); its start in hours since 1970 less that of the cell
//	before (varint, the first: less 0); length of the cell (uvarint)
//
// each followed by its CRC-32C (4 bytes); a cell follows the cell before. The table
// has, sorted by hash, 20 bytes a series: stable hash of the labels, offset (8) and
// length (4) of the directory. The end is the number of series (4) and the CRC-32C
// of table and number (4). All is big endian.
//
// Series are found by a hash because the index numbers them only when it is written.
// Where two of a block have one hash neither has unions.
const (
	unionsMagic   = "QUIPUUNI"
	unionsVersion = 1
	unionsRow     = 20
	unionsEnd     = 8
	unionsBuffer  = 1 << 20

	hourMillis = 60 * 60 * 1000
)

// unionsWriter writes the unions of a block: beginSeries, addDay for each day of
// the series in order, endSeries, and after the last series finish. It makes the file
// when there is something to write.
type unionsWriter struct {
	fs   vfs.FS
	path string
	step int64

	file   vfs.File // nil: there is no cell yet
	buf    []byte
	offset int64 // in the file, of the end of buf
	rows   []unionsSeries
	hashes []uint64 // of all distinct series, with unions or without

	hash      uint64
	cells     []unionCell
	hour, day sketch.Union
	encoded   []byte
}

type unionsSeries struct {
	hash      uint64
	directory int64
	length    int
}

// unionCell is where the union of an hour or a day is.
type unionCell struct {
	day    bool
	start  int64 // milliseconds since 1970
	offset int64
	length int
}

func (w *unionsWriter) beginSeries(hash uint64) {
	w.hash, w.cells = hash, w.cells[:0]
	w.hashes = append(w.hashes, hash)
}

// worthUnion reports whether a union of n bytes is worth having where else as many as
// instead would be read: half. So a block's unions are at most as large as its windows.
func worthUnion(n, instead int) bool { return 2*n <= instead }

// addDay writes the unions of one day of UTC that save something.
func (w *unionsWriter) addDay(p *points) error {
	w.day.Reset()
	instead := 0
	for i := 0; i < p.len(); {
		hour := floorTo(p.win[i], hourMillis)
		w.hour.Reset()
		windows := 0
		for ; i < p.len() && p.win[i] < hour+hourMillis; i++ {
			if err := w.hour.Add(p.ids[i]); err != nil {
				return err
			}
			windows += p.ids[i].EncodedBytes()
		}
		w.hour.Settle()
		if n := w.hour.CellBytes(); hourMillis%max(w.step, p.step) == 0 && worthUnion(n, windows) {
			windows = n
			if err := w.put(hour, false, &w.hour); err != nil {
				return err
			}
		}
		instead += windows
		w.day.AddUnion(&w.hour)
	}
	w.day.Settle()
	if worthUnion(w.day.CellBytes(), instead) {
		return w.put(dayStart(p.win[0]), true, &w.day)
	}
	return nil
}

func (w *unionsWriter) put(start int64, day bool, u *sketch.Union) error {
	w.encoded = u.AppendCell(w.encoded[:0])
	c := unionCell{day: day, start: start, length: len(w.encoded)}
	var err error
	c.offset, err = w.write(w.encoded)
	w.cells = append(w.cells, c)
	return err
}

// write appends src and its checksum, and returns where src begins.
func (w *unionsWriter) write(src []byte) (offset int64, err error) {
	if w.file == nil {
		if w.file, err = w.fs.Create(w.path); err != nil {
			return 0, fmt.Errorf("create %s: %w", blockUnions, err)
		}
		w.buf = append(append(w.buf, unionsMagic...), unionsVersion)
		w.offset = int64(len(w.buf))
	}
	offset = w.offset
	w.buf = append(w.buf, src...)
	w.buf = binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(src, castagnoli))
	w.offset += int64(len(src)) + 4
	if len(w.buf) < unionsBuffer {
		return offset, nil
	}
	return offset, w.flush()
}

func (w *unionsWriter) flush() error {
	if err := vfs.WriteAll(w.file, w.buf); err != nil {
		return fmt.Errorf("write %s: %w", blockUnions, err)
	}
	w.buf = w.buf[:0]
	return nil
}

func (w *unionsWriter) endSeries() error {
	if len(w.cells) == 0 {
		return nil
	}
	dir := appendUnionCells(nil, w.cells)
	at, err := w.write(dir)
	w.rows = append(w.rows, unionsSeries{w.hash, at, len(dir)})
	return err
}

// appendUnionCells encodes a directory.
func appendUnionCells(dst []byte, cells []unionCell) []byte {
	dst = binary.AppendUvarint(dst, uint64(cells[0].offset))
	dst = binary.AppendUvarint(dst, uint64(len(cells)))
	last := int64(0)
	for _, c := range cells {
		level := byte(0)
		if c.day {
			level = 1
		}
		hour := floorTo(c.start, hourMillis) / hourMillis
		dst = binary.AppendVarint(append(dst, level), hour-last)
		dst = binary.AppendUvarint(dst, uint64(c.length))
		last = hour
	}
	return dst
}

// finish makes the file durable and returns its size, 0 where there is none.
func (w *unionsWriter) finish() (size int64, err error) {
	if w.file == nil {
		return 0, nil
	}
	begin := len(w.buf)
	w.dropShared()
	for _, r := range w.rows {
		w.buf = binary.BigEndian.AppendUint64(w.buf, r.hash)
		w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(r.directory))
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(r.length))
	}
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(w.rows)))
	w.buf = binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(w.buf[begin:], castagnoli))
	size = w.offset + int64(len(w.buf)-begin)
	err = w.flush()
	if err == nil {
		if err = w.file.Sync(); err != nil {
			err = fmt.Errorf("sync %s: %w", blockUnions, err)
		}
	}
	return size, errors.Join(err, w.close())
}

// dropShared sorts the table and leaves out series that have a hash in common with
// another, which would be taken for them.
func (w *unionsWriter) dropShared() {
	slices.Sort(w.hashes)
	shared := map[uint64]bool{}
	for i := 1; i < len(w.hashes); i++ {
		if w.hashes[i] == w.hashes[i-1] {
			shared[w.hashes[i]] = true
		}
	}
	w.rows = slices.DeleteFunc(w.rows, func(r unionsSeries) bool { return shared[r.hash] })
	slices.SortFunc(w.rows, func(a, b unionsSeries) int {
		if a.hash < b.hash {
			return -1
		}
		return 1
	})
}

// close gives the file up; after finish it has nothing to do.
func (w *unionsWriter) close() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", blockUnions, err)
	}
	return nil
}
