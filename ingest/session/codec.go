package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A change, or a whole state, is bytes of one of three forms, by the first one:
//
//	1 events   what the events of a batch add
//	2 settled  which sessions were counted
//	3 state    all that a table has
//
// All go on with
//
//	rules     uvarint n, n times: name, uvarint gap ms, uvarint n and names of labels,
//	          uvarint n and names of those kept, uvarint n and bounds of 8 bytes, IEEE
//	          754, little endian. Names are uvarint length and bytes
//
// Events and state with
//
//	labels    uvarint n, n times: uvarint number of the rule, then the value of each of
//	          its labels, as uvarint length and bytes
//	sessions  uvarint n, n times: uvarint number of its labels, 8 bytes hash of the
//	          visitor, varint ms of the first event less that of the session before (the
//	          first: less 0), uvarint ms from the first to the last event, uvarint events
//
// Settled with
//
//	time      varint ms: when
//	sessions  uvarint n, n times: uvarint number of the rule, 8 bytes hash of the
//	          visitor, varint ms of the first event less that of the session before, uvarint
//	          ms from the first to the last event
//
// And state, after its sessions, with
//
//	visitors  uvarint n, n times: 8 bytes hash, uvarint s since 1970 of the last event of
//	          the last session that was counted, uvarint s when it was counted
const (
	formEvents  = 1
	formSettled = 2
	formState   = 3
)

// timeMax bounds times, milliseconds since 1970, as storage does.
const timeMax = 1 << 48

// labelsOf is the values of a rule's labels: each after its length.
type labelsOf struct {
	rule   int // position in the change's rules
	values string
}

// part is a session, or a part of one, of a change.
type part struct {
	of          int // position in the change's labels; of a settled one in its rules
	visitor     uint64
	first, last int64 // milliseconds since 1970
	events      uint32
}

// visitor is who had a session.
type visitor struct {
	hash uint64
	visit
}

// change is one that was decoded.
type change struct {
	form     byte
	rules    []*Rule
	labels   []labelsOf
	parts    []part
	at       int64 // of a settled one
	visitors []visitor
}

// decoder reads bytes; after a failure it returns zeros.
type decoder struct {
	src []byte
	err error
}

func (d *decoder) fail() { d.src, d.err = nil, errCutShort }

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.src)) {
		d.fail()
		return nil
	}
	out := d.src[:n]
	d.src = d.src[n:]
	return out
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.src)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.src = d.src[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.src)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.src = d.src[n:]
	return v
}

func (d *decoder) hash() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count reads the number of things that take at least size bytes each.
func (d *decoder) count(size uint64) uint64 {
	n := d.uvarint()
	if n > uint64(len(d.src))/size {
		d.fail()
		return 0
	}
	return n
}

// Check returns what is wrong with a saved state or a change; nil where it is right.
func Check(src []byte) error {
	if len(src) == 0 {
		return nil
	}
	_, err := decodeChange(src)
	return err
}

// decodeChange reads a change or a state. It keeps no reference to src.
func decodeChange(src []byte) (*change, error) {
	if len(src) == 0 {
		return nil, errors.New("is empty")
	}
	c, d := &change{form: src[0]}, &decoder{src: src[1:]}
	if c.form < formEvents || c.form > formState {
		return nil, fmt.Errorf("has the form %d, which is not known", c.form)
	}
	for n := d.count(6); n > 0; n-- {
		r, err := d.rule()
		if err != nil {
			return nil, err
		}
		c.rules = append(c.rules, r)
	}
	if c.form == formSettled {
		c.at = d.varint()
	} else if err := d.labels(c); err != nil {
		return nil, err
	}
	if err := d.parts(c); err != nil {
		return nil, err
	}
	if c.form == formState {
		for n := d.count(10); n > 0 && d.err == nil; n-- {
			v := visitor{hash: d.hash()}
			last, settled := d.uvarint(), d.uvarint()
			if last > math.MaxUint32 || settled > math.MaxUint32 {
				return nil, fmt.Errorf("a visitor was there at %d, counted at %d", last, settled)
			}
			v.last, v.settled = uint32(last), uint32(settled)
			c.visitors = append(c.visitors, v)
		}
	}
	if d.err == nil && len(d.src) > 0 {
		return nil, fmt.Errorf("has %d bytes too many", len(d.src))
	}
	return c, d.err
}

func (d *decoder) labels(c *change) error {
	for n := d.count(1); n > 0; n-- {
		of := d.uvarint()
		if d.err != nil {
			return d.err
		}
		if of >= uint64(len(c.rules)) {
			return fmt.Errorf("labels are of rule %d of %d", of, len(c.rules))
		}
		before := d.src
		for range c.rules[of].Labels {
			d.bytes(d.uvarint())
		}
		if d.err != nil {
			return d.err
		}
		c.labels = append(c.labels, labelsOf{int(of), string(before[:len(before)-len(d.src)])})
	}
	return d.err
}

func (d *decoder) parts(c *change) error {
	of, size, least := len(c.labels), uint64(12), uint64(1)
	if c.form == formSettled {
		of, size = len(c.rules), 11
	}
	n := d.count(size)
	c.parts = make([]part, 0, n)
	first := int64(0)
	for ; n > 0; n-- {
		p := part{events: 1}
		number := d.uvarint()
		p.visitor = d.hash()
		step, length := d.varint(), d.uvarint()
		if c.form != formSettled {
			events := d.uvarint()
			if events < least || events > math.MaxUint32 {
				return errors.Join(d.err, fmt.Errorf("a session has %d events", events))
			}
			p.events = uint32(events)
		}
		if d.err != nil {
			return d.err
		}
		if number >= uint64(of) {
			return fmt.Errorf("a session is of %d of %d", number, of)
		}
		if step > timeMax || step < -timeMax || length > timeMax {
			return fmt.Errorf("a session is %d after the one before and %d long", step, length)
		}
		first += step
		p.of, p.first, p.last = int(number), first, first+int64(length)
		if p.first < 0 || p.last > timeMax {
			return fmt.Errorf("a session is from %d to %d", p.first, p.last)
		}
		c.parts = append(c.parts, p)
	}
	return d.err
}

// appendPart appends a part that follows one whose first event was at before.
func appendPart(dst []byte, of int, p *part, before int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(of))
	dst = binary.BigEndian.AppendUint64(dst, p.visitor)
	dst = binary.AppendVarint(dst, p.first-before)
	return binary.AppendUvarint(dst, uint64(p.last-p.first))
}

// appendRules appends the head of a change.
func appendRules(dst []byte, form byte, rules []*Rule) []byte {
	dst = binary.AppendUvarint(append(dst, form), uint64(len(rules)))
	for _, r := range rules {
		dst = r.append(dst)
	}
	return dst
}
