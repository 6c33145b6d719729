package tsdb

import (
	"encoding/binary"
	"fmt"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// A chunk of sketches, after its header: per window the gap to the window before
// less one (uvarint, absent for the first), then the sketch as package sketch
// encodes it.

func appendSketches(dst []byte, win []int64, sketches []*sketch.Sketch, step int64) ([]byte, error) {
	var err error
	for i, s := range sketches {
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64((win[i]-win[i-1])/step)-1)
		}
		if dst, err = s.Append(dst); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func decodeSketches(src []byte, h chunkHeader, p *points) error {
	d := decoder{src: src}
	win := h.first
	for i := range h.n {
		if i > 0 {
			gap := d.uvarint()
			if gap > 1<<40 {
				return fmt.Errorf("distinct chunk has a gap of %d windows", gap)
			}
			win += int64(gap) + 1
		}
		if d.err != nil {
			return d.err
		}
		s := new(sketch.Sketch)
		var err error
		if d.src, err = s.Decode(d.src); err != nil {
			return err
		}
		p.win = append(p.win, win*h.step)
		p.ids = append(p.ids, s)
	}
	return nil
}

// encodedWindow is a window of a chunk that was not decoded further.
type encodedWindow struct {
	start       int64
	first, last int64  // of the windows of the grid that it has: of one that is not coarse itself
	sketch      []byte // in the chunk
}

// appendEncodedWindows appends the windows of a chunk, which stay in it. To decode
// them into sketches takes ten times as long as to find them.
func appendEncodedWindows(dst []encodedWindow, e chunkenc.Encoding, src []byte) ([]encodedWindow, error) {
	if e == coarseBase+chunkenc.Encoding(increment.Distinct) {
		return appendEncodedCoarse(dst, src)
	}
	if e != encodingOf(increment.Distinct) {
		return dst, fmt.Errorf("chunk encoding %#x among those of a distinct series", byte(e))
	}
	var h chunkHeader
	src, err := h.decode(src)
	if err != nil {
		return dst, err
	}
	win := h.first
	for i := range h.n {
		if i > 0 {
			gap, k := binary.Uvarint(src)
			if k <= 0 || gap > 1<<40 {
				return dst, errChunkShort
			}
			src = src[k:]
			win += int64(gap) + 1
		}
		t := win * h.step
		w := encodedWindow{start: t, first: t, last: t}
		if w.sketch, src, err = sketch.Encoded(src); err != nil {
			return dst, err
		}
		dst = append(dst, w)
	}
	return dst, nil
}
