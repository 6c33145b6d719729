package tsdb

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
)

// memSeries is one series of one memtable.
type memSeries struct {
	loggedSeries
	hash uint64
	next *memSeries // with the same hash

	mu   sync.Mutex
	data points
	undo []undo // by ascending cut
}

// memtable holds the increments of one tenant and one block range that no block
// holds yet. It has an index of its own, so that dropping it returns all memory
// of its series. Safe for concurrent use.
type memtable struct {
	start, end int64 // window starts are in [start, end), milliseconds since 1970
	bytes      atomic.Int64
	lastAppend atomic.Int64 // milliseconds since 1970

	dropped bool // while the log is replayed: a tenant's record came after it

	mu       sync.RWMutex
	series   []*memSeries // a posting is the position here plus one
	byHash   map[uint64]*memSeries
	postings *index.MemPostings // nil while there are few series
}

// seriesBytes is about what a series without data takes beside its labels.
const seriesBytes = 400

// scanMax is how many series a memtable has at most without postings: looking at
// each is as fast, and upstream's empty postings take 80 KiB, too much for 10,000
// small tenants.
const scanMax = 128

func newMemtable(start, end int64) *memtable {
	return &memtable{start: start, end: end, byHash: map[uint64]*memSeries{}}
}

// get returns the series with these labels, nil where there is none.
func (m *memtable) get(hash uint64, ls labels.Labels) *memSeries {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.find(hash, ls)
}

// REQUIRES: m.mu
func (m *memtable) find(hash uint64, ls labels.Labels) *memSeries {
	for s := m.byHash[hash]; s != nil; s = s.next {
		if labels.Equal(s.labels, ls) {
			return s
		}
	}
	return nil
}

// getOrCreate returns the series with these labels; a new one gets ref for the
// log. It keeps ls.
func (m *memtable) getOrCreate(hash uint64, ls labels.Labels, kind increment.Kind, ref func() uint64) *memSeries {
	if s := m.get(hash, ls); s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.find(hash, ls); s != nil {
		return s
	}
	s := &memSeries{
		loggedSeries: loggedSeries{ref: ref(), kind: kind, labels: ls}, hash: hash, next: m.byHash[hash], data: points{kind: kind},
	}
	m.series = append(m.series, s)
	m.byHash[hash] = s
	switch n := len(m.series); {
	case m.postings != nil:
		m.postings.Add(storage.SeriesRef(n), ls)
	case n > scanMax:
		m.postings = index.NewMemPostings()
		for i, s := range m.series {
			m.postings.Add(storage.SeriesRef(i+1), s.labels)
		}
	}
	m.bytes.Add(int64(ls.ByteSize()) + seriesBytes)
	return s
}

// apply adds one increment to s, a series of m. Where keep is set, readers with a
// cut up to after must not see it.
func (m *memtable) apply(s *memSeries, inc *increment.Increment, after cut, keep bool) error {
	grown, err := s.add(inc, after, keep)
	m.bytes.Add(int64(grown))
	return err
}

func (s *memSeries) add(inc *increment.Increment, after cut, keep bool) (grown int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !keep {
		s.undo = nil
	} else if s.undo, err = s.data.remember(s.undo, after, inc.Time); err != nil {
		return 0, err
	}
	return s.data.add(inc)
}

// snapshot sets dst to copies of s's points that start in [mint, maxt), as they
// were at a cut.
func (s *memSeries) snapshot(dst *points, mint, maxt int64, at cut) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst.reset(s.kind)
	if err := dst.appendRange(&s.data, mint, maxt); err != nil {
		return err
	}
	return dst.revert(s.undo, at, mint, maxt)
}

// overlaps reports whether s has a window that starts in [mint, maxt).
func (s *memSeries) overlaps(mint, maxt int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearch(s.data.win, mint)
	return i < len(s.data.win) && s.data.win[i] < maxt
}

// span returns the starts of the first and last window of all series; ok is
// false where there is none.
func (m *memtable) span() (first, last int64, ok bool) {
	for _, s := range m.all() {
		s.mu.Lock()
		if n := len(s.data.win); n > 0 {
			if !ok || s.data.win[0] < first {
				first = s.data.win[0]
			}
			if !ok || s.data.win[n-1] > last {
				last = s.data.win[n-1]
			}
			ok = true
		}
		s.mu.Unlock()
	}
	return first, last, ok
}

// matching calls f with every series that the matchers select.
func (m *memtable) matching(ctx context.Context, matchers []*labels.Matcher, f func(*memSeries)) error {
	m.mu.RLock()
	series, postings := m.series[:len(m.series):len(m.series)], m.postings
	m.mu.RUnlock()
	if postings == nil {
		for _, s := range series {
			if matchesAll(s.labels, matchers) {
				f(s)
			}
		}
		return nil
	}
	p, err := tsdb.PostingsForMatchers(ctx, memIndex{m, postings}, matchers...)
	if err != nil {
		return err
	}
	for p.Next() {
		if ref := int(p.At()); ref <= len(series) { // else made after series was taken
			f(series[ref-1])
		}
	}
	return p.Err()
}

func matchesAll(ls labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// addStrings adds the names of all labels to set, or the values of one where name is
// set.
func (m *memtable) addStrings(ctx context.Context, name string, set map[string]struct{}) {
	m.mu.RLock()
	series, postings := m.series[:len(m.series):len(m.series)], m.postings
	m.mu.RUnlock()
	if postings == nil {
		for _, s := range series {
			s.labels.Range(func(l labels.Label) {
				if name == "" {
					set[l.Name] = struct{}{}
				} else if l.Name == name {
					set[l.Value] = struct{}{}
				}
			})
		}
		return
	}
	found := postings.LabelNames()
	if name != "" {
		found = postings.LabelValues(ctx, name, nil)
	}
	for _, s := range found {
		set[s] = struct{}{}
	}
}

// all returns the series there are now.
func (m *memtable) all() []*memSeries {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.series[:len(m.series):len(m.series)]
}

// memIndex is a memtable with postings as upstream's matcher evaluation wants it.
type memIndex struct {
	*memtable
	postings *index.MemPostings
}

func (m memIndex) Symbols() index.StringIter { return m.postings.Symbols() }

func (m memIndex) LabelValues(ctx context.Context, name string, h *storage.LabelHints, _ ...*labels.Matcher) ([]string, error) {
	return m.postings.LabelValues(ctx, name, h), nil
}

func (m memIndex) SortedLabelValues(ctx context.Context, name string, h *storage.LabelHints, _ ...*labels.Matcher) ([]string, error) {
	out := m.postings.LabelValues(ctx, name, h)
	slices.Sort(out)
	return out, nil
}

func (m memIndex) Postings(ctx context.Context, name string, values ...string) (index.Postings, error) {
	return m.postings.Postings(ctx, name, values...), nil
}

func (m memIndex) PostingsForLabelMatching(ctx context.Context, name string, match func(string) bool) index.Postings {
	return m.postings.PostingsForLabelMatching(ctx, name, match)
}

func (m memIndex) PostingsForAllLabelValues(ctx context.Context, name string) index.Postings {
	return m.postings.PostingsForAllLabelValues(ctx, name)
}

func (m memIndex) SortedPostings(p index.Postings) index.Postings { return p }

func (m memIndex) ShardedPostings(p index.Postings, _, _ uint64) index.Postings { return p }

func (m memIndex) Series(storage.SeriesRef, *labels.ScratchBuilder, *[]chunks.Meta) error {
	return storage.ErrNotFound // series of a memtable are taken from it, not from an index
}

func (m memIndex) LabelNames(context.Context, ...*labels.Matcher) ([]string, error) {
	return m.postings.LabelNames(), nil
}

func (m memIndex) LabelNamesFor(context.Context, index.Postings) ([]string, error) {
	return nil, storage.ErrNotFound
}

func (m memIndex) Close() error { return nil }
