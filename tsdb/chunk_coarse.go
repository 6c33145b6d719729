package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
)

// A chunk of coarse windows. Each is in one step of a grid that is a multiple of the
// tenant's and keeps, beside what its windows of the tenant's grid held together, which of
// them were the first and the last: so it is known where runs begin and end.
//
// After the header, whose step is the coarse one:
//
//	grid    uvarint: the tenant's, seconds
//	form    1 byte: placesEnd, placesShared
//	gaps    packed (pack.go): steps from the one before to that of each window but the
//	        first; less one, unless placesShared
//	first   packed: the windows of the grid before the first, in its step
//	last    packed: those from the first to the last; of placesEnd those after the last
//	values  of a counter base and values, as chunk_counter.go has them; else for each
//	        window what its kind's chunk has (histograms after schema or bounds)

// coarseBase is added to a kind to give the encoding of its coarse chunks: 0x79 counter,
// 0x7a histogram, 0x7b distinct, 0x7e histogram with buckets.
const coarseBase chunkenc.Encoding = 0x78

const (
	placesEnd    = 1 << 0 // last is told from the end of the step
	placesShared = 1 << 1 // several windows may be in one step: buckets changed in it
)

// coarseKind reports whether windows of a kind are merged to coarse ones.
func coarseKind(k increment.Kind) bool {
	switch k {
	case increment.Counter, increment.Histogram, increment.Distinct, increment.Buckets:
		return true
	}
	return false
}

func isCoarse(e chunkenc.Encoding) bool {
	return e > coarseBase && coarseKind(increment.Kind(e-coarseBase))
}

// coarseHeader opens a chunk of coarse windows.
type coarseHeader struct {
	chunkHeader
	grid int64 // milliseconds; divides the step
}

func (h *coarseHeader) append(dst []byte) []byte {
	return binary.AppendUvarint(h.chunkHeader.append(dst), uint64(h.grid/1000))
}

func (h *coarseHeader) decode(src []byte) (rest []byte, err error) {
	if src, err = h.chunkHeader.decode(src); err != nil {
		return src, err
	}
	d := decoder{src: src}
	grid := d.uvarint()
	switch {
	case d.err != nil:
		return src, errChunkShort
	case dayMillis%h.step != 0:
		return src, fmt.Errorf("coarse chunk has a step of %d ms, which does not divide a day", h.step)
	case grid == 0 || grid >= uint64(h.step/1000) || h.step%(int64(grid)*1000) != 0:
		return src, fmt.Errorf("chunk has a step of %d ms and a grid of %d s", h.step, grid)
	case h.n > packBlock*len(d.src): // a block of numbers takes a byte
		return src, errChunkShort
	}
	h.grid = int64(grid) * 1000
	return d.src, nil
}

// encodeCoarse encodes the coarse windows i..j of p in steps of ms on a grid.
func encodeCoarse(p *points, grid, step int64, i, j int) ([]byte, error) {
	win, last := p.win[i:j], p.last[i:j]
	for k := range win {
		from := floorTo(win[k], step)
		if win[k]%grid != 0 || last[k]%grid != 0 || last[k] < win[k] || last[k] >= from+step || k > 0 && win[k] <= last[k-1] {
			return nil, fmt.Errorf("encode chunk: windows %d to %d are not in a step of %d ms", win[k], last[k], step)
		}
	}
	h := coarseHeader{chunkHeader{step: step, n: j - i, first: floorTo(win[0], step) / step}, grid}
	dst := appendPlaces(h.append(make([]byte, 0, 64)), win, last, &h)
	switch p.kind {
	case increment.Counter:
		return appendValues(dst, p.value[i:j]), nil
	case increment.Histogram:
		dst = append(dst, increment.Schema)
	case increment.Buckets:
		dst = appendBounds(dst, p.hist[i].Bounds)
	case increment.Distinct:
		var err error
		for _, s := range p.ids[i:j] {
			if dst, err = s.Append(dst); err != nil {
				return nil, err
			}
		}
		return dst, nil
	default:
		return nil, fmt.Errorf("encode coarse chunk of a %s", p.kind)
	}
	for _, hist := range p.hist[i:j] {
		dst = appendHist(dst, hist)
	}
	return dst, nil
}

// appendPlaces appends where windows are, in the smaller of two forms.
func appendPlaces(dst []byte, win, last []int64, h *coarseHeader) []byte {
	form := byte(0)
	gaps, first := make([]uint64, len(win)-1), make([]uint64, len(win))
	after, before := make([]uint64, len(win)), make([]uint64, len(win))
	for i, w := range win {
		from := floorTo(w, h.step)
		first[i] = uint64((w - from) / h.grid)
		after[i] = uint64((last[i] - w) / h.grid)
		before[i] = uint64((from+h.step-last[i])/h.grid) - 1
		if i > 0 {
			gaps[i-1] = uint64((from - floorTo(win[i-1], h.step)) / h.step)
			if gaps[i-1] == 0 {
				form |= placesShared
			}
		}
	}
	if form&placesShared == 0 {
		for i := range gaps {
			gaps[i]--
		}
	}
	ends := appendPacked(nil, after)
	if other := appendPacked(nil, before); len(other) < len(ends) {
		ends = other
		form |= placesEnd
	}
	dst = appendPacked(append(dst, form), gaps)
	return append(appendPacked(dst, first), ends...)
}

// appendCoarseChunk is appendChunk of a chunk of coarse windows.
func appendCoarseChunk(src []byte, dead []span, p *points) (step int64, err error) {
	if p.raw {
		h, err := appendCoarse(src, p)
		p.step = max(p.step, h.step)
		return h.grid, err
	}
	if p.coarse == nil {
		p.coarse = &points{raw: true}
	}
	p.coarse.reset(p.kind)
	h, err := appendCoarse(src, p.coarse)
	if err != nil {
		return 0, err
	}
	p.coarse.without(0, dead)
	return h.grid, p.expand(p.coarse, &h)
}

// appendCoarse appends the coarse windows of a chunk to p, whose kind is the chunk's.
func appendCoarse(src []byte, p *points) (h coarseHeader, err error) {
	if src, err = h.decode(src); err != nil {
		return h, err
	}
	n := p.len()
	if src, err = appendDecodedPlaces(src, &h, p); err == nil {
		err = decodeCoarseValues(src, &h, p, n)
	}
	if err != nil {
		p.win, p.last = p.win[:n], p.last[:n]
	}
	return h, err
}

func appendDecodedPlaces(src []byte, h *coarseHeader, p *points) (rest []byte, err error) {
	if len(src) == 0 || src[0] > placesEnd|placesShared {
		return nil, errors.New("coarse chunk is of an unknown form")
	}
	form := src[0]
	i := len(p.win)
	p.win, p.last = slices.Grow(p.win, h.n)[:i+h.n], slices.Grow(p.last, h.n)[:i+h.n]
	win, last := p.win[i:], p.last[i:]
	gaps := make([]int64, h.n)
	less := int64(1)
	if form&placesShared != 0 {
		less = 0
	}
	if src, err = unpack(gaps[1:], src[1:], less); err != nil {
		return nil, err
	}
	if src, err = unpack(win, src, 0); err != nil {
		return nil, err
	}
	if src, err = unpack(last, src, 0); err != nil {
		return nil, err
	}
	each, number := h.step/h.grid, h.first
	for k := range win {
		if number += gaps[k]; gaps[k] > windowMax(h.step) || number > windowMax(h.step) {
			return nil, fmt.Errorf("coarse chunk has step %d", number)
		}
		first, end := win[k], win[k]+last[k]
		if form&placesEnd != 0 {
			end = each - 1 - last[k]
		}
		if first > each || end < first || end >= each {
			return nil, fmt.Errorf("coarse chunk has windows %d to %d in a step of %d", first, end, each)
		}
		win[k], last[k] = number*h.step+first*h.grid, number*h.step+end*h.grid
		if k > 0 && win[k] <= last[k-1] {
			return nil, fmt.Errorf("coarse chunk has window %d in or before one that ends with %d", win[k], last[k-1])
		}
	}
	if end := last[h.n-1]; dayStart(win[0]) != dayStart(end) { // it would be expanded without bounds
		return nil, fmt.Errorf("coarse chunk begins at %d and ends on another day, at %d", win[0], end)
	}
	return src, nil
}

// decodeCoarseValues appends the values of a chunk's windows, which are p's from the n-th
// on.
func decodeCoarseValues(src []byte, h *coarseHeader, p *points, n int) (err error) {
	d := decoder{src: src}
	var bounds []float64
	switch p.kind {
	case increment.Counter:
		p.value = slices.Grow(p.value, h.n)[:n+h.n]
		if p.fractions, err = decodeValues(p.value[n:], src, p.fractions); err != nil {
			p.value = p.value[:n]
		}
		return err
	case increment.Distinct:
		for range h.n {
			s := new(sketch.Sketch)
			if d.src, err = s.Decode(d.src); err != nil {
				p.ids = p.ids[:n]
				return err
			}
			p.ids = append(p.ids, s)
		}
		return nil
	case increment.Histogram:
		if schema := int8(d.byte()); d.err == nil && schema != increment.Schema {
			return fmt.Errorf("histogram chunk has schema %d, only %d is known", schema, increment.Schema)
		}
	case increment.Buckets:
		if bounds, err = d.readBounds(); err != nil {
			return err
		}
	}
	for range h.n {
		var hist *increment.Hist
		if bounds != nil {
			hist, err = d.histWith(bounds)
		} else {
			hist, err = d.hist()
		}
		if err != nil {
			p.hist = p.hist[:n]
			return err
		}
		p.hist = append(p.hist, hist)
	}
	return nil
}

// appendEncodedCoarse appends the windows of a chunk of a coarse distinct series, each
// once at its first window of the grid and, where that is another, at its last.
func appendEncodedCoarse(dst []encodedWindow, src []byte) ([]encodedWindow, error) {
	var h coarseHeader
	src, err := h.decode(src)
	if err != nil {
		return dst, err
	}
	var p points
	if src, err = appendDecodedPlaces(src, &h, &p); err != nil {
		return dst, err
	}
	for i := range p.win {
		w := encodedWindow{start: p.win[i], first: p.win[i], last: p.last[i]}
		if w.sketch, src, err = sketch.Encoded(src); err != nil {
			return dst, err
		}
		dst = append(dst, w)
		if w.last > w.first {
			w.start = w.last
			dst = append(dst, w)
		}
	}
	return dst, nil
}
