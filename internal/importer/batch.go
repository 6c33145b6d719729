package importer

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/quipudb/quipu/internal/accesslog"
	"github.com/quipudb/quipu/internal/client"
)

// keyFormat is part of every key. It changes when the same lines are to become
// other events, which a server must not take for those it has counted.
const keyFormat = "quipu accesslog 1"

// batch is a run of lines of one file, as one request.
type batch struct {
	file        string
	first, last int // line numbers
	events      []accesslog.Event
	numbers     []int // the line of each event
	key         string
	storedBytes int64 // what reading it took of the file as it is stored
}

// lines counts the lines of the batch, unparsed ones too.
func (b *batch) lines() int { return b.last - b.first + 1 }

// batcher cuts one input into batches of the same number of lines.
type batcher struct {
	in          *input
	lines       int
	shifted     bool
	shiftMillis int64
	// unparsed is told of each line that is no hit.
	unparsed func(file string, number int, err error)

	storedDone int64
}

var errTooLong = errors.New("longer than 1 MiB")

// next returns the next batch, or io.EOF. A batch may be without events.
func (r *batcher) next() (*batch, error) {
	b := &batch{file: r.in.name, first: r.in.number}
	key := newKeyHash(r.lines, r.shifted, r.in.offset)
	for n := 0; n < r.lines; n++ {
		l, err := r.in.next()
		if err == io.EOF && n > 0 {
			break
		}
		if err != nil {
			return nil, err // P2
		}
		b.last = l.number
		key.add(l)
		entry, err := accesslog.Parse(l.text)
		if l.tooLong() {
			err = errTooLong
		}
		if err != nil {
			r.unparsed(r.in.name, l.number, err)
			continue
		}
		b.events = append(b.events, entry.Event(r.shiftMillis))
		b.numbers = append(b.numbers, l.number)
	}
	b.key = key.sum()
	b.storedBytes = r.in.read.count - r.storedDone
	r.storedDone = r.in.read.count
	return b, nil
}

// encode returns the batch as it is posted.
func (b *batch) encode() (client.Batch, error) {
	var body bytes.Buffer
	zip := gzip.NewWriter(&body)
	lines := json.NewEncoder(zip)
	lines.SetEscapeHTML(false)
	for i := range b.events {
		if err := lines.Encode(&b.events[i]); err != nil {
			return client.Batch{}, fmt.Errorf("encode line %d of %s: %w", b.numbers[i], b.file, err)
		}
	}
	if err := zip.Close(); err != nil {
		return client.Batch{}, fmt.Errorf("compress lines %d to %d of %s: %w", b.first, b.last, b.file, err)
	}
	return client.Batch{NDJSON: body.Bytes(), Events: len(b.events), Key: b.key}, nil
}

// keyHash makes the idempotency key of a batch (P1).
type keyHash struct{ hash.Hash }

func newKeyHash(lines int, shifted bool, offset int64) keyHash {
	k := keyHash{sha256.New()}
	fmt.Fprintf(k, "%s lines=%d shifted=%t offset=%d\n", keyFormat, lines, shifted, offset)
	return k
}

// add takes a line. Its length goes first, so that no two runs of lines hash
// the same bytes.
func (k keyHash) add(l line) {
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(l.size))
	k.Write(size[:])
	k.Write(l.text)
}

func (k keyHash) sum() string { return hex.EncodeToString(k.Sum(nil)[:16]) }
