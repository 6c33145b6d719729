package tsdb

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// deletion is what one call of Delete deletes: of the series that the matchers select
// the windows that lie whole in [mint, maxt], and samples in it. It covers what was
// logged before it and nothing after.
//
// Deletions of a tenant are numbered. A block or memtable is clean up to a number:
// those up to it are not for what it holds, or have been applied when it was written;
// whoever reads it leaves out what the later ones select.
type deletion struct {
	Number   uint64           `json:"number"`
	Time     int64            `json:"time"` // when it was accepted, milliseconds since 1970
	MinTime  int64            `json:"minTime"`
	MaxTime  int64            `json:"maxTime"`
	Matchers deletionMatchers `json:"matchers"`
}

// deletionMatchers are matchers that the manifest can hold.
type deletionMatchers []*labels.Matcher

type matcherFields struct {
	Type  labels.MatchType `json:"type"` // 0 =, 1 !=, 2 =~, 3 !~
	Name  string           `json:"name"`
	Value string           `json:"value"`
}

// MarshalJSON writes the fields of each.
func (m deletionMatchers) MarshalJSON() ([]byte, error) {
	out := make([]matcherFields, len(m))
	for i := range m {
		out[i] = matcherFields{m[i].Type, m[i].Name, m[i].Value}
	}
	return json.Marshal(out)
}

// UnmarshalJSON compiles them again.
func (m *deletionMatchers) UnmarshalJSON(src []byte) error {
	var fields []matcherFields
	if err := json.Unmarshal(src, &fields); err != nil {
		return err
	}
	*m = nil
	for _, f := range fields {
		one, err := newMatcher(f.Type, f.Name, f.Value)
		if err != nil {
			return err
		}
		*m = append(*m, one)
	}
	return nil
}

func newMatcher(t labels.MatchType, name, value string) (*labels.Matcher, error) {
	if t < labels.MatchEqual || t > labels.MatchNotRegexp {
		return nil, fmt.Errorf("matcher of unknown type %d", t)
	}
	return labels.NewMatcher(t, name, value)
}

// span is the times from one to another, both included.
type span struct{ from, to int64 }

func (s span) has(t int64) bool { return t >= s.from && t <= s.to }

// span is where what begins is deleted: a window that is only partly in the range
// stays whole.
func (d *deletion) span(k increment.Kind, step int64) span {
	if k == increment.Sample {
		return span{d.MinTime, d.MaxTime}
	}
	return span{d.MinTime, d.MaxTime - (step - 1)}
}

// deletions are those of a tenant that not all of its blocks and memtables are clean
// of, by number. They are never changed.
type deletions struct {
	step int64 // the tenant's grid
	last uint64
	list []*deletion
}

// pending are those that what is clean up to a number, and has times in [mint, maxt),
// is to be read without.
func (d *deletions) pending(clean uint64, mint, maxt int64) []*deletion {
	var out []*deletion
	for _, one := range d.list {
		if one.Number > clean && one.MinTime < maxt && one.MaxTime >= mint {
			out = append(out, one)
		}
	}
	return out
}

// selecting are those of some that select a series.
func selecting(some []*deletion, ls labels.Labels) []*deletion {
	var out []*deletion
	for _, one := range some {
		if matchesAll(ls, one.Matchers) {
			out = append(out, one)
		}
	}
	return out
}

func spansOf(some []*deletion, k increment.Kind, step int64) []span {
	var out []span
	for _, one := range some {
		if s := one.span(k, step); s.from <= s.to {
			out = append(out, s)
		}
	}
	return out
}

// deadPart is what is deleted of a series in one block or memtable.
type deadPart struct {
	block *block
	mem   *memtable
	spans []span
}

// deadIn is what is deleted of a selection in a block or a memtable.
func (sel *selection) deadIn(b *block, m *memtable) []span {
	for i := range sel.dead {
		if d := &sel.dead[i]; d.block == b && d.mem == m {
			return d.spans
		}
	}
	return nil
}

// without leaves out the points from the n-th on that are deleted.
func (p *points) without(n int, spans []span) {
	if len(spans) == 0 {
		return
	}
	kept, gone := n, false
	for i := n; i < p.len(); i++ {
		last := p.win[i]
		if p.raw { // a coarse window goes when all of it does
			last = p.last[i]
		}
		if slices.ContainsFunc(spans, func(s span) bool { return s.has(p.win[i]) && s.has(last) }) {
			gone = true
			continue
		}
		if gone && len(p.native) > 0 {
			p.native[i] = unknownReset(p.native[i])
		}
		gone = false
		p.move(kept, i)
		kept++
	}
	p.cut(0, kept)
}

// move puts the i-th point in the place of another.
func (p *points) move(to, i int) {
	p.win[to] = p.win[i]
	moveIn(p.value, to, i)
	moveIn(p.at, to, i)
	moveIn(p.hist, to, i)
	moveIn(p.ids, to, i)
	moveIn(p.native, to, i)
	moveIn(p.last, to, i)
}

func moveIn[T any](column []T, to, i int) {
	if len(column) > 0 {
		column[to] = column[i]
	}
}

// SelectorError says what is wrong with what is to be deleted.
type SelectorError struct{ Text string }

func (e *SelectorError) Error() string { return e.Text }

// Delete deletes, of the series that the matchers select, all that was acknowledged
// before: windows that lie whole in [mint, maxt] (milliseconds since 1970), samples and
// exemplars in it. A window that the range covers only in part stays whole, as
// increments have no times of their own; a range from one grid point to another has
// every window between them. The series are those that are stored: a histogram is deleted
// by its own name, and a selector of its classic series alone is a *SelectorError.
//
// When Delete returns its number, 0 where there is no such tenant, what is deleted is in no answer any more, whatever crash
// follows, and what is posted later counts, to the same series too. Batch keys and event
// ids stay known: what was deleted and is sent again is a duplicate. Disk, memory and
// places below the limits of series are given back, and label listings without a selector
// leave out what has nothing left, when background work has rewritten what holds it: see
// Deletions and CleanTombstones. An *overload.Error says that too many deletions wait for
// that.
func (db *DB) Delete(_ context.Context, id tenant.ID, mint, maxt int64, matchers ...*labels.Matcher) (number uint64, err error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return 0, err
	}
	// No data is past timeMax.
	d := &deletion{Time: db.opts.Now().UnixMilli(), MinTime: max(mint, -timeMax), MaxTime: min(maxt, timeMax), Matchers: matchers}
	if err := s.checkDeletion(d); err != nil {
		return 0, err
	}
	if err := s.delete(d); err != nil {
		return 0, fmt.Errorf("delete from tenant %s: %w", id, err)
	}
	select {
	case db.kickBlocks <- struct{}{}:
	default:
	}
	return d.Number, nil
}

// checkDeletion returns a *SelectorError where a deletion cannot mean what it says.
func (s *store) checkDeletion(d *deletion) error {
	if len(d.Matchers) == 0 {
		return &SelectorError{"nothing says which series to delete"}
	}
	if d.MinTime > d.MaxTime {
		return &SelectorError{fmt.Sprintf("the range to delete ends at %d, before it begins at %d", d.MaxTime, d.MinTime)}
	}
	var names []*labels.Matcher
	for _, m := range d.Matchers {
		if !utf8.ValidString(m.Name) || !utf8.ValidString(m.Value) {
			return &SelectorError{fmt.Sprintf("matcher %s is not valid UTF-8", m)}
		}
		if m.Name == model.MetricNameLabel {
			names = append(names, m)
		}
	}
	for _, q := range classicQueries(d.Matchers, s.admission.withBuckets()) {
		if base, _, _ := classicBase(q.name); !allMatch(names, base) {
			return &SelectorError{fmt.Sprintf("%q shows a part of the histogram %q, which is stored as one: delete that", q.name, base)}
		}
	}
	return nil
}

// delete logs a deletion and applies it.
func (s *store) delete(d *deletion) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.dropped {
		return nil // it is all gone
	}
	s.barrier.Lock()
	defer s.barrier.Unlock()
	if n := len(s.man.Deletions); n >= deletionsMax {
		return &overload.Error{Reason: overload.ReasonDeletions, Text: fmt.Sprintf("of %d deletions what they deleted has not been rewritten yet, and readers look at each", n)}
	}
	d.Number = s.man.Deleted + 1
	head := recordHead{tenant: s.id, generation: s.generation, step: s.grid()}
	payload := d.append(head.append([]byte{recordDeletion}))
	if len(payload) > deletionBytesMax {
		return &SelectorError{fmt.Sprintf("the selector takes %d bytes, at most %d are allowed", len(payload), deletionBytesMax)}
	}
	s.freeze()
	if _, err := s.db.wal.append(walWrite{frame: appendFrame(nil, payload), holds: []*logHold{&s.hold}, sync: true}); err != nil {
		return err
	}
	s.apply(d)
	return nil
}

// deletionsMax is how many deletions of a tenant may wait for what they deleted to be
// rewritten.
const deletionsMax = 1000

// deletionBytesMax is the most that a deletion takes in the log, and so in the manifest.
const deletionBytesMax = 64 << 10

// freeze hands all memtables to the next flush: what is appended from here on goes to
// new ones.
//
// REQUIRES: s.flushMu, and s.barrier exclusively
func (s *store) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.routing {
		s.frozen = append(s.frozen, m)
	}
	clear(s.routing)
	s.hold.freeze()
}

// apply makes a logged deletion seen. All memtables are frozen, and have what was logged
// before it.
//
// REQUIRES: s.flushMu, and s.barrier exclusively
func (s *store) apply(d *deletion) {
	next := *s.man
	i, there := slices.BinarySearchFunc(next.Deletions, d.Number, func(o *deletion, n uint64) int { return int(int64(o.Number - n)) })
	if !there {
		next.Deletions = slices.Insert(slices.Clone(next.Deletions), i, d)
	}
	next.Deleted = max(next.Deleted, d.Number)
	s.man, s.unsaid = &next, true
	s.deleted.Store(next.Deleted)
	s.jobs.accept(d)
	s.cuts.applying.Lock()
	defer s.cuts.applying.Unlock()
	v := s.versions.pin()
	defer s.versions.unpin(v)
	if mint, maxt, ok := v.times(); ok {
		if from, to := max(mint, d.MinTime), min(maxt, d.MaxTime); from <= to {
			s.changed(from, to)
		}
	}
	s.notes.delete(d)
	s.showDeletions()
}

// showDeletions makes the next version have the manifest's deletions.
//
// REQUIRES: s.flushMu
func (s *store) showDeletions() {
	s.versions.setDeletions(deletions{step: s.grid(), last: s.man.Deleted, list: s.man.Deletions})
	s.jobs.done(s.man.Deletions)
}

// replayDeletion applies a deletion that was read.
func (s *store) replayDeletion(d *deletion) {
	v := s.versions.pin()
	defer s.versions.unpin(v)
	for _, m := range v.mems {
		// They were given the number of the manifest, which may know of this one and not
		// have what they have.
		m.clean = min(m.clean, d.Number-1)
		m.closed = true
	}
	s.freeze()
	s.apply(d)
}

// prune leaves out of a manifest the deletions that all its blocks, and the memtables
// that are left, are clean of.
func (m *manifest) prune(left []*memtable) {
	clean := m.Deleted
	for _, b := range m.Blocks {
		clean = min(clean, b.Clean)
	}
	for _, mem := range left {
		clean = min(clean, mem.clean)
	}
	m.Deletions = slices.DeleteFunc(slices.Clone(m.Deletions), func(d *deletion) bool { return d.Number <= clean })
	if len(m.Deletions) == 0 {
		m.Deletions = nil
	}
}

// checkDeletions returns what is wrong with those of a manifest.
func (m *manifest) checkDeletions() error {
	last := uint64(0)
	for _, d := range m.Deletions {
		switch {
		case d == nil:
			return errors.New("a deletion is missing")
		case d.Number <= last || d.Number > m.Deleted:
			return fmt.Errorf("deletion %d follows %d, of %d that there were", d.Number, last, m.Deleted)
		case d.MinTime > d.MaxTime || d.MinTime < -timeMax || d.MaxTime > timeMax || len(d.Matchers) == 0:
			return fmt.Errorf("deletion %d is of nothing", d.Number)
		}
		last = d.Number
	}
	for _, b := range m.Blocks {
		if b.Clean > m.Deleted {
			return fmt.Errorf("block %s is clean of %d deletions, there were %d", b.ULID, b.Clean, m.Deleted)
		}
	}
	return nil
}

// append encodes what follows the head of a deletion's record.
func (d *deletion) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, d.Number)
	for _, t := range [...]int64{d.Time, d.MinTime, d.MaxTime} {
		dst = binary.AppendVarint(dst, t)
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Matchers)))
	for _, m := range d.Matchers {
		dst = append(dst, byte(m.Type))
		dst = appendString(appendString(dst, m.Name), m.Value)
	}
	return dst
}

func (d *decoder) deletion() (*deletion, error) {
	out := &deletion{Number: d.uvarint(), Time: d.varint(), MinTime: d.varint(), MaxTime: d.varint()}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		m, err := newMatcher(labels.MatchType(d.byte()), d.string(), d.string())
		if err != nil {
			return nil, errors.Join(d.err, err)
		}
		out.Matchers = append(out.Matchers, m)
	}
	if d.err != nil {
		return nil, d.err
	}
	return out, (&manifest{Deleted: out.Number, Deletions: []*deletion{out}}).checkDeletions()
}
