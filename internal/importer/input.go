package importer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// lineBytesMax bounds a line; a longer one is reported and skipped.
const lineBytesMax = 1 << 20

// stdinName stands for standard input where a file is named.
const stdinName = "-"

// input is one open log, uncompressed as it is read.
type input struct {
	name    string
	file    io.ReadCloser
	read    *countingReader // counts the bytes of the file as it is stored
	lines   *bufio.Reader
	offset  int64 // of the next line, in the uncompressed file
	number  int   // of the next line, from 1
	gzipped bool
}

// line is one line of an input.
type line struct {
	// text is without line end, at most lineBytesMax of it; it is valid until
	// the next line is read.
	text   []byte
	offset int64
	number int
	// size counts all bytes, the line end too.
	size int64
}

// tooLong reports whether text may be less than the whole line.
func (l line) tooLong() bool { return l.size > lineBytesMax }

func openInput(name string, stdin io.Reader) (*input, error) {
	in := &input{name: name, number: 1}
	if name == stdinName {
		in.file = io.NopCloser(stdin)
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		in.file = file
	}
	in.read = &countingReader{from: in.file}
	in.lines = bufio.NewReaderSize(in.read, 256<<10)
	// Compression is known by its first bytes, not by the name: standard input
	// has none, and rotated logs are often named otherwise.
	if magic, err := in.lines.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unzipped, err := gzip.NewReader(in.lines)
		if err != nil {
			in.file.Close()
			return nil, fmt.Errorf("open log %s: %w", name, err)
		}
		in.lines, in.gzipped = bufio.NewReaderSize(unzipped, 256<<10), true
	}
	return in, nil
}

func (in *input) close() error { return in.file.Close() }

// next returns the next line, or io.EOF. The last line may lack its line end.
func (in *input) next() (line, error) {
	l := line{offset: in.offset, number: in.number}
	for {
		part, err := in.lines.ReadSlice('\n')
		l.size += int64(len(part))
		switch {
		case err == nil && l.text == nil:
			l.text = part // the usual case: no copy
		case len(l.text) < lineBytesMax:
			l.text = append(l.text, part[:min(len(part), lineBytesMax-len(l.text))]...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == io.EOF && l.size > 0 {
			err = nil
		}
		if err == io.EOF {
			return line{}, io.EOF
		}
		if err != nil {
			return line{}, fmt.Errorf("read line %d of %s: %w", in.number, in.name, err)
		}
		break
	}
	l.text = bytes.TrimSuffix(bytes.TrimSuffix(l.text, []byte{'\n'}), []byte{'\r'})
	in.offset += l.size
	in.number++
	return l, nil
}

// countingReader counts what passes through it.
type countingReader struct {
	from  io.Reader
	count int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.count += int64(n)
	return n, err
}
