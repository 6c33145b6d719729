package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// unionsFile is the mapped file of a block's unions.
type unionsFile struct {
	mapped *fileutil.MmapFile
	unionsContent
}

// unionsContent is what such a file holds: table is its end part, verified.
type unionsContent struct {
	src, table []byte
}

// openUnions maps the file of a block's unions and verifies its table.
func openUnions(dir string, size int64) (*unionsFile, error) {
	m, err := fileutil.OpenMmapFile(filepath.Join(dir, blockUnions))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", blockUnions, err)
	}
	f := &unionsFile{mapped: m}
	if int64(len(m.Bytes())) != size {
		err = fmt.Errorf("%s: has %d bytes, the manifest says %d", blockUnions, len(m.Bytes()), size)
	} else if f.unionsContent, err = decodeUnions(m.Bytes()); err != nil {
		err = fmt.Errorf("%s: %w", blockUnions, err)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return f, nil
}

// close unmaps the file; a nil one is none.
func (f *unionsFile) close() error {
	if f == nil {
		return nil
	}
	return f.mapped.Close()
}

// decodeUnions reads all but directories and cells.
func decodeUnions(src []byte) (unionsContent, error) {
	head := len(unionsMagic) + 1
	switch {
	case len(src) < head+unionsEnd || string(src[:head-1]) != unionsMagic:
		return unionsContent{}, errors.New("is no file of unions")
	case src[head-1] != unionsVersion:
		return unionsContent{}, fmt.Errorf("version %d, only %d is known", src[head-1], unionsVersion)
	}
	end := src[len(src)-unionsEnd:]
	n := uint64(binary.BigEndian.Uint32(end)) * unionsRow
	if n > uint64(len(src)-head-unionsEnd) {
		return unionsContent{}, errCutShort
	}
	first := len(src) - unionsEnd - int(n)
	if crc32.Checksum(src[first:len(src)-4], castagnoli) != binary.BigEndian.Uint32(end[4:]) {
		return unionsContent{}, errors.New("checksum of the table is wrong")
	}
	return unionsContent{src: src[:first], table: src[first : len(src)-unionsEnd]}, nil
}

// series is the number of series that have unions.
func (f *unionsContent) series() int { return len(f.table) / unionsRow }

// section returns length bytes from offset on, whose checksum follows them.
func (f *unionsContent) section(offset uint64, length uint64) ([]byte, error) {
	if offset > uint64(len(f.src)) || length > uint64(len(f.src)) || offset+length+4 > uint64(len(f.src)) {
		return nil, fmt.Errorf("%d bytes from %d on are not in the file", length, offset)
	}
	out, sum := f.src[offset:offset+length:offset+length], f.src[offset+length:]
	if crc32.Checksum(out, castagnoli) != binary.BigEndian.Uint32(sum) {
		return nil, fmt.Errorf("checksum of %d bytes from %d on is wrong", length, offset)
	}
	return out, nil
}

// cell returns an encoded union.
func (f *unionsContent) cell(c *unionCell) ([]byte, error) {
	return f.section(uint64(c.offset), uint64(c.length))
}

// seriesUnions are the unions that a block has of one series, each by ascending start.
type seriesUnions struct {
	days, hours []unionCell
}

func (s *seriesUnions) reset() { s.days, s.hours = s.days[:0], s.hours[:0] }

// find returns the one that starts then, nil where there is none.
func (s *seriesUnions) find(day bool, start int64) *unionCell {
	cells := s.hours
	if day {
		cells = s.days
	}
	i, ok := slices.BinarySearchFunc(cells, start, func(c unionCell, start int64) int {
		switch {
		case c.start < start:
			return -1
		case c.start > start:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &cells[i]
}

// read sets s to the unions of the series with this hash; there may be none.
func (s *seriesUnions) read(f *unionsContent, hash uint64) error {
	s.reset()
	n := f.series()
	row := func(i int) []byte { return f.table[i*unionsRow:] }
	i := sort.Search(n, func(i int) bool { return binary.BigEndian.Uint64(row(i)) >= hash })
	if i == n || binary.BigEndian.Uint64(row(i)) != hash {
		return nil
	}
	at := binary.BigEndian.Uint64(row(i)[8:])
	src, err := f.section(at, uint64(binary.BigEndian.Uint32(row(i)[16:])))
	if err == nil {
		if err = s.decode(src, at); err != nil {
			s.reset()
			err = fmt.Errorf("directory at %d: %w", at, err)
		}
	}
	return err
}

// decode appends what a directory says, whose cells end where it begins.
func (s *seriesUnions) decode(src []byte, end uint64) error {
	d := decoder{src: src}
	offset, n, hour := d.uvarint(), d.uvarint(), int64(0)
	for range n {
		level, gap, length := d.byte(), d.varint(), d.uvarint()
		if d.err != nil {
			return d.err
		}
		hour += gap
		if level > 1 || hour > windowMax(hourMillis) || hour < -windowMax(hourMillis) || offset > end || length > end-offset {
			return errors.New("a union is not in the file")
		}
		c := unionCell{day: level == 1, start: hour * hourMillis, offset: int64(offset), length: int(length)}
		cells := &s.hours
		if c.day {
			cells = &s.days
		}
		if k := len(*cells); k > 0 && (*cells)[k-1].start >= c.start || c.day && c.start%dayMillis != 0 {
			return fmt.Errorf("the union of %d is out of order", c.start)
		}
		*cells = append(*cells, c)
		offset += length + 4
	}
	if offset != end || d.err != nil || len(d.src) > 0 {
		return errCutShort
	}
	return nil
}
